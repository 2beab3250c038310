"""Ray Tune as the driver that is killed: ``python ray_tune.py run|record DIR``."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
import tempfile
import time
from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray
from ray import tune
from work import NAME, STORAGE, TrialRecord, Work, note, save_record, value

CHECKPOINT = "state.json"


class Sleeper(tune.Trainable):
    def setup(self, config):
        self.done_iterations = 0

    def step(self):
        time.sleep(self.config["seconds"])
        self.done_iterations += 1
        index, iteration = self.config["index"], self.done_iterations
        note(self.config["folder"], "ran", index, iteration)
        return {
            "value": value(index, iteration),
            "at": iteration,
            "done": iteration >= self.config["iterations"],
        }

    def save_checkpoint(self, checkpoint_dir):
        Path(checkpoint_dir, CHECKPOINT).write_text(json.dumps(self.done_iterations))

    def load_checkpoint(self, checkpoint_dir):
        self.done_iterations = json.loads(Path(checkpoint_dir, CHECKPOINT).read_text())


class Deliveries(tune.Callback):
    def __init__(self, folder):
        self.folder = folder

    def on_trial_result(self, iteration, trials, trial, result, **info):
        note(self.folder, "delivered", trial.config["index"], result["at"])


def leave_the_network() -> None:
    """Enter a network namespace with a loopback of its own and no other interface.

    Ray resolves ``_node_ip_address="127.0.0.1"`` to an address of the machine and listens on all of
    them; anyone who reaches these ports can run code in its processes.
    """
    new_user, new_net = 0x10000000, 0x40000000
    user, group = os.getuid(), os.getgid()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(new_net if user == 0 else new_user | new_net):
        reason = os.strerror(ctypes.get_errno())
        sys.exit(f"Ray listens on all interfaces, and a network namespace is refused: {reason}")
    if user:
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
    set_flags, up = 0x8914, 0x1  # SIOCSIFFLAGS, IFF_UP
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, set_flags, struct.pack("16sH14x", b"lo", up))


def run(folder: Path) -> None:
    work = Work.load(folder)
    leave_the_network()
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as temp:
        ray.init(
            address="local",
            num_cpus=work.at_once,
            include_dashboard=False,
            object_store_memory=100_000_000,
            _node_ip_address="127.0.0.1",
            _temp_dir=temp,
            log_to_driver=False,
        )
        path = str(folder / STORAGE / NAME)
        if tune.Tuner.can_restore(path):
            tuner = tune.Tuner.restore(path, trainable=Sleeper, resume_errored=True)
        else:
            tuner = tune.Tuner(
                Sleeper,
                param_space={
                    "index": tune.grid_search(list(range(work.trials))),
                    "folder": str(folder),
                    "iterations": work.iterations,
                    "seconds": work.seconds,
                },
                run_config=tune.RunConfig(
                    name=NAME,
                    storage_path=str(folder / STORAGE),
                    checkpoint_config=tune.CheckpointConfig(num_to_keep=2, checkpoint_frequency=1),
                    callbacks=[Deliveries(str(folder))],
                    verbose=0,
                ),
            )
        tuner.fit()
        ray.shutdown()


def record(folder: Path) -> None:
    """Return the trials of Tune's experiment state, with the rows of their ``result.json``."""
    work = Work.load(folder)
    path = folder / STORAGE / NAME
    trials = []
    for trial in tune.ExperimentAnalysis(str(path)).trials:
        lines = path / Path(trial.path).name / "result.json"
        rows = []
        if lines.exists():
            rows = [json.loads(line)["at"] for line in lines.read_text().splitlines()]
        finished = trial.status == "TERMINATED" and trial.last_result.get("at") == work.iterations
        trials.append(
            TrialRecord(
                trial=trial.config["index"],
                rows=tuple(rows),
                status=trial.status,
                finished=finished,
                running=trial.status == "RUNNING",
                error=str(trial.get_error()) if trial.get_error() else None,
            )
        )
    save_record(folder, trials)


if __name__ == "__main__":
    {"run": run, "record": record}[sys.argv[1]](Path(sys.argv[2]))
