"""The executor of simulated runs: its actors read results and durations from a table of curves."""

from __future__ import annotations

import asyncio
import functools
import json
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from asynctune import result as _result
from asynctune._checks import argument_error, check_int, check_number
from asynctune.errors import CheckpointCorrupt, ConfigError
from asynctune.executors.actor import Actor, ActorSpec, Step
from asynctune.executors.base import Executor
from asynctune.executors.pool import ResourcePool
from asynctune.executors.serialization import SerializedTrainable, serialize
from asynctune.result import Row
from asynctune.simulate.curves import Curves, TabulatedTrainable
from asynctune.trainable.counters import Counters
from asynctune.trainable.worker.calls import Answer, AnswerKind, describe

SIMULATED_S = "simulated_s"
"""The key of each row for its virtual time: a float, in seconds since the start of the loop."""

_NULL = Answer(AnswerKind.VALUE, b"null")
_NAME = "SimulatedExecutor"


class SimulatedExecutor(Executor):
    """Leases actors that step through a table of curves in the time of the event loop.

    In a :class:`VirtualLoop` the steps take no real time; in any other loop they take the seconds of the
    table. Checkpoints stay in memory until the executor is closed, so a simulated run cannot be resumed. A
    trial that starts from another trial's checkpoint continues its own curve at the step of the checkpoint.

    Args:
        curves: The table; runs tune its :attr:`Curves.trainable`.
        workers: The number of trials that train at once.
        setup_s: The seconds that building a trial takes.
        save_s: The seconds that saving a checkpoint takes.
        restore_s: The seconds that restoring a checkpoint takes.

    Raises:
        ConfigError: An argument is wrong; the message names it.
    """

    def __init__(
        self,
        curves: Curves,
        workers: int = 4,
        *,
        setup_s: float = 0,
        save_s: float = 0,
        restore_s: float = 0,
    ) -> None:
        if not isinstance(curves, Curves):
            raise argument_error(_NAME, "curves", "a Curves object", curves)
        workers = check_int(_NAME, "workers", workers, 1)
        self._seconds = {
            "_setup": check_number(_NAME, "setup_s", setup_s, least=0),
            "save": check_number(_NAME, "save_s", save_s, least=0),
            "restore": check_number(_NAME, "restore_s", restore_s, least=0),
        }
        self._curves = curves
        self._checkpoints: dict[str, _Saved] = {}
        super().__init__(ResourcePool(math.inf, slots=workers))

    def prepare(self, trainable: Any) -> SerializedTrainable:
        serialized = serialize(trainable, pickled=False)
        cls = serialized.cls
        if not issubclass(cls, TabulatedTrainable) or cls.curves is not self._curves:
            raise ConfigError(
                "trainable must be that of the SimulatedExecutor's table, got "
                f"{serialized.name}; pass curves.trainable"
            )
        return serialized

    async def _start(self, spec: ActorSpec) -> Actor:
        return _CurveActor(spec, self._curves, self._seconds, self._checkpoints)

    async def _close(self) -> None:
        self._checkpoints.clear()


@dataclass(frozen=True, slots=True)
class _Saved:
    """A checkpoint: the step of a trial on its curve, and the state of its counters."""

    step: int
    counters: dict[str, Any]


class _CurveActor(Actor):
    """A position on a curve. Each call takes its seconds, and has its effect at the end of them."""

    def __init__(
        self,
        spec: ActorSpec,
        curves: Curves,
        seconds: dict[str, float],
        checkpoints: dict[str, _Saved],
    ) -> None:
        super().__init__(spec)
        self._loop = asyncio.get_running_loop()
        self._curves = curves
        self._seconds = seconds
        self._checkpoints = checkpoints
        self._counters = Counters()
        self._counters.experiment_id = spec.trial_id or "simulated"
        self._step_number = 0
        self._row: Row = {}
        self._timer: asyncio.Handle | None = None

    async def _kill(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._pending is not None and not self._pending.done():
            self._pending.cancel()

    def _begin(self, method: str, args: tuple[Any, ...]) -> asyncio.Future[Answer]:
        future: asyncio.Future[Answer] = self._loop.create_future()
        if method == "train":
            seconds = self._curve.seconds[min(self._step_number, len(self._curve) - 1)]
        else:
            seconds = self._seconds.get(method, 0.0)
        perform: Callable[..., Answer] = getattr(self, f"_do_{method.lstrip('_')}")
        self._timer = self._loop.call_later(seconds, self._answer, future, perform, args)
        return future

    @staticmethod
    def _answer(
        future: asyncio.Future[Answer], perform: Callable[..., Answer], args: tuple[Any, ...]
    ) -> None:
        if future.done():
            return
        try:
            future.set_result(perform(*args))
        except Exception as exc:
            future.set_result(describe(exc))

    def _parse_step(self, answer: Answer) -> Step:
        # The row itself, which saves the time of parsing JSON.
        return Step(self._row, answer.body, ended=False, checkpoint=False)

    # -- the effects of calls ---------------------------------------------------------------------

    def _do_setup(self) -> Answer:
        self._set_config(self.spec.config)
        return _NULL

    def _do_train(self) -> Answer:
        row = self._curve.at(self._step_number)
        self._step_number += 1
        self._counters.fill(row, row[_result.TIME_THIS_ITER_S])
        now = self._loop.time()
        row |= {
            SIMULATED_S: now,
            _result.TIMESTAMP: int(now),
            _result.DATE: _date(int(now)),
            _result.PID: 0,
            _result.HOSTNAME: "simulated",
            _result.CONFIG: self._shown,
        }
        if self.spec.trial_id is not None:
            row[_result.TRIAL_ID] = self.spec.trial_id
            row[_result.EXPERIMENT_TAG] = self.spec.tag or ""
        self._row = row
        return Answer(AnswerKind.ROW, _result.encode(row))

    def _do_save(self, checkpoint_dir: str | None = None) -> Answer:
        name = os.path.join(checkpoint_dir or self.logdir, f"checkpoint_{self._counters.iteration}")
        path, attempt = name, 0
        while path in self._checkpoints:
            attempt += 1
            path = f"{name}.{attempt}"
        self._checkpoints[path] = self._saved()
        return Answer(AnswerKind.VALUE, json.dumps(path).encode())

    def _do_restore(self, checkpoint_path: str) -> Answer:
        saved = self._checkpoints.get(checkpoint_path)
        if saved is None:
            raise CheckpointCorrupt(
                f"{checkpoint_path} is no checkpoint of this executor; a SimulatedExecutor keeps its "
                "checkpoints in memory and can restore no others"
            )
        self._restore(saved)
        return _NULL

    def _do_save_to_object(self) -> Answer:
        saved = self._saved()
        body = json.dumps({"step": saved.step, "counters": saved.counters}).encode()
        return Answer(AnswerKind.BYTES, body)

    def _do_restore_from_object(self, obj: bytes) -> Answer:
        self._restore(_Saved(**json.loads(obj)))
        return _NULL

    def _do_delete_checkpoint(self, checkpoint_path: str) -> Answer:
        self._checkpoints.pop(checkpoint_path, None)
        return _NULL

    def _do_export_model(self, export_formats: Any, export_dir: str | None = None) -> Answer:
        return Answer(AnswerKind.VALUE, b"{}")

    def _do_reset_config(self, new_config: dict[str, Any]) -> Answer:
        self._set_config(new_config)
        self._step_number = 0
        return Answer(AnswerKind.VALUE, b"true")

    def _do_get_config(self) -> Answer:
        return Answer(AnswerKind.VALUE, json.dumps(self._shown).encode())

    def _do_stop(self) -> Answer:
        return _NULL

    # -- small helpers --------------------------------------------------------------------------

    def _set_config(self, config: dict[str, Any]) -> None:
        self._curve = self._curves[self._curves.find(config)]
        self._shown = _result.shown(config)

    def _saved(self) -> _Saved:
        return _Saved(self._step_number, self._counters.state())

    def _restore(self, saved: _Saved) -> None:
        self._step_number = saved.step
        self._counters.restore(saved.counters)


@functools.lru_cache(maxsize=64)
def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d_%H-%M-%S")
