"""An executor that forks this process for each trial."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import cloudpickle

from asynctune import WorkerDied
from asynctune.executors import Actor, Executor, ResourcePool, TrainableHost, serialize

_fork = multiprocessing.get_context("fork")
_forking = threading.Lock()


class ForkExecutor(Executor):
    """Runs as many processes at once as the CPUs allow."""

    def __init__(self, cpus):
        super().__init__(ResourcePool(cpus))

    def prepare(self, trainable):
        return serialize(trainable, pickled=False)

    async def _start(self, spec):
        return ForkActor(spec)


class ForkActor(Actor):
    """A forked process, and a thread that waits for its answers."""

    def __init__(self, spec):
        super().__init__(spec)
        self._thread = ThreadPoolExecutor(1)
        self._starting = threading.Lock()
        self._is_killed = False
        self._process = None
        self._channel = None

    def _begin(self, method, args):
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._thread, self._exchange, method, args)

    async def _kill(self):
        # Scheduled before the await, which a cancellation may interrupt.
        ending = asyncio.get_running_loop().run_in_executor(None, self._end)
        await asyncio.wait([ending])

    def _exchange(self, method, args):
        try:
            with self._starting:
                if self._process is None and not self._is_killed:
                    self._start_process()
            self._channel.send_bytes(cloudpickle.dumps((method, args)))
            return pickle.loads(self._channel.recv_bytes())
        except (EOFError, OSError, AttributeError) as exc:
            trial_id = self.spec.trial_id
            raise WorkerDied(
                f"the process of trial {trial_id} ended in {method}()", trial_id=trial_id
            ) from exc

    def _start_process(self):
        # One fork at a time: a process that inherits another one's channel would keep it open.
        with _forking:
            self._channel, theirs = _fork.Pipe()
            self._process = _fork.Process(target=_serve, args=(theirs, self.spec), daemon=True)
            self._process.start()
            theirs.close()

    def _end(self):
        with self._starting:
            self._is_killed = True
            if self._process is not None:
                self._process.kill()
                self._process.join()
        self._thread.shutdown()  # the death of the process has ended its last request
        if self._channel is not None:
            self._channel.close()


def _serve(channel, spec):
    """Serve requests in the forked process."""
    os.makedirs(spec.logdir, exist_ok=True)
    os.chdir(spec.logdir)
    log = os.open(spec.log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout = sys.stderr = os.fdopen(1, "w", buffering=1, closefd=False)
    host = TrainableHost(spec, own_process=True)
    while True:
        try:
            method, args = pickle.loads(channel.recv_bytes())
        except EOFError:
            os._exit(0)
        answer = host.perform(method, args)
        channel.send_bytes(pickle.dumps(answer))
