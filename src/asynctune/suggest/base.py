"""What a searcher is: a pure object that suggests values, and is told what became of them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar, Final, Literal, TypeAlias

from asynctune._checks import safe_repr
from asynctune.errors import ConfigError
from asynctune.result import Row
from asynctune.space.space import Space

Duplicates: TypeAlias = Literal["allow", "skip", "reuse"]


class Finished(Enum):
    """What a searcher answers that has nothing more to suggest, ever."""

    FINISHED = "FINISHED"


FINISHED: Final = Finished.FINISHED

Suggestion: TypeAlias = Mapping[str, Any] | Finished | None
"""Values by path (``{"lr": 0.1, "model/layers": 2}``) or as nested dicts; FINISHED; None: not now."""


class Searcher:
    """Suggests the values of trials, and is told what became of each.

    It need not be thread-safe or quick: it is called off the event loop, one call at a time. All that it
    is told is in the journal, and each suggestion is recorded together with what it knew: a resume asks a
    new instance the same again, if it :attr:`repeats`, or tells it the history.

    Args:
        metric: The objective; by default that of the run.
        mode: ``"min"`` or ``"max"``; by default that of the run.
        duplicates: What becomes of a suggestion that an earlier trial had: ``"allow"``: it is tried
            again; ``"skip"``: another is asked for; ``"reuse"``: the earlier result is told again, and
            another is asked for.
    """

    FINISHED: ClassVar[Finished] = Finished.FINISHED

    needs_metric: ClassVar[bool] = True
    """Whether it cannot work without an objective."""

    duplicates: Duplicates = "allow"

    def __init__(
        self,
        metric: str | None = None,
        mode: str | None = None,
        *,
        duplicates: Duplicates = "allow",
    ) -> None:
        name = type(self).__name__
        if mode is not None and not (isinstance(mode, str) and mode in ("min", "max")):
            raise ConfigError(f"mode of {name} is {safe_repr(mode)}; 'min' or 'max' is wanted")
        if metric is not None and not (isinstance(metric, str) and metric):
            raise ConfigError(f"metric of {name} is {safe_repr(metric)}; a metric's name is wanted")
        if metric is not None and mode is None:
            raise ConfigError(f"metric of {name} is {metric!r} but mode is not given; min or max?")
        if not (isinstance(duplicates, str) and duplicates in ("allow", "skip", "reuse")):
            raise ConfigError(
                f"duplicates of {name} is {safe_repr(duplicates)}; 'allow', 'skip' or 'reuse' is wanted"
            )
        self.metric = metric
        self.mode = mode
        self.duplicates = duplicates
        self._used = False

    @property
    def repeats(self) -> bool:
        """Whether an equal instance, told and asked the same again, suggests the same, and soon."""
        return False

    @property
    def is_slow(self) -> bool:
        """Whether it is asked ahead, while all slots are busy, since it takes long to answer.

        What such a suggestion does not know is what happens until a slot is free.
        """
        return False

    def bind(self, space: Space, metric: str | None, mode: str | None, seed: int) -> None:
        """Take over the space and objective of a run; called once, before anything else.

        Args:
            space: The space; :attr:`Space.samplers` is what may be suggested.
            metric: The run's objective, for a searcher that has none.
            mode: Its mode.
            seed: What everything random is derived from, unless the searcher was given a seed itself.

        Raises:
            ConfigError: Another run has used this instance, it cannot search this space, or there is no
                objective and it needs one.
        """
        name = type(self).__name__
        if getattr(self, "_used", False):
            raise ConfigError(f"this {name} was already used by another run; make a new one")
        self._used = True
        if getattr(self, "metric", None) is None:
            self.metric, self.mode = metric, getattr(self, "mode", None) or mode
        if self.needs_metric and (self.metric is None or self.mode is None):
            raise ConfigError(f"{name} needs an objective; give metric and mode to it or to run()")

    def suggest(self, trial_id: str) -> Suggestion:
        """Suggest the values of a trial.

        Args:
            trial_id: Its id; the same again after None.

        Returns:
            Values for any of the space's samplers (the others are drawn), and for any other key of the
            config; :data:`FINISHED`; or None: not now, ask again when something was told.
        """
        raise NotImplementedError(f"{type(self).__qualname__} does not define suggest()")

    def adopt(self, trial_id: str, values: Mapping[str, Any]) -> None:
        """An earlier driver's trial had these values, which this instance is not asked for.

        Args:
            trial_id: The trial.
            values: Values by path, for every sampler of the space, and what else it had set.
        """

    def on_trial_result(self, trial_id: str, result: Row) -> None:
        """A trial reported; ``result`` is its flattened row."""

    def on_trial_complete(
        self, trial_id: str, result: Row | None = None, error: bool = False
    ) -> None:
        """A trial has ended.

        Args:
            trial_id: The trial. A resume may go on with it, so results may follow all the same.
            result: Its last flattened row, None if there was none, or it was never run.
            error: Whether it failed for good.
        """
