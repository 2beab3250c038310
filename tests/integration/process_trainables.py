"""The trainables of the tests of worker processes. Workers import this module, so it imports little."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from pathlib import Path

from asynctune import track
from asynctune.trainable.base import Trainable

THREAD_COUNTS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)


def pid(config):
    while True:
        track.log()


def environ(config):
    while True:
        track.log(
            **{name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", *THREAD_COUNTS)}
        )


# Trainables that leave a worker in some state.


def fails(config):
    track.log()
    raise ValueError


def changes_environment(config):
    track.log(seen=[os.environ.get(name) for name in ("KEPT", "REMOVED", "ADDED")])
    os.environ.update(KEPT="1", ADDED="1")
    del os.environ["REMOVED"]


def leaves_child(config):
    child = subprocess.Popen(["sleep", "600"])
    track.log(child=child.pid)


def leaves_thread(config):
    track.log()
    threading.Thread(target=threading.Event().wait, daemon=True).start()


# Trainables that never return. Each writes its pid into a FIFO first.


def sleeps(config):
    Path(config["fifo"]).write_text(f"{os.getpid()} ")
    time.sleep(600)


def stops_itself(config):
    Path(config["fifo"]).write_text(f"{os.getpid()} ")
    os.kill(os.getpid(), signal.SIGSTOP)


class Idle(Trainable):
    def _train(self):
        return {}


class SleepsAmongChildren(Trainable):
    def _train(self):
        subprocess.Popen(["sleep", "600"])
        subprocess.Popen(["sleep", "600"], start_new_session=True)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        sleeps(self.config)


class Clings(Idle):
    def __del__(self):
        time.sleep(600)


# Trainables whose worker dies.


def by_signal(config):
    os.kill(os.getpid(), signal.SIGKILL)


def by_exit(config):
    os._exit(3)


def by_segfault(config):
    import ctypes
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.string_at(0)


class InSetup(Idle):
    def _setup(self, config):
        os._exit(4)


def after_starting_a_child(config):
    if config["how"] == "fork":  # the child keeps the channel to the driver open
        child = os.fork()
        if child == 0:
            time.sleep(600)
    else:
        away = config["how"] == "session"
        child = subprocess.Popen(["sleep", "600"], start_new_session=away).pid
    track.log(child=child)
    by_signal(config)
