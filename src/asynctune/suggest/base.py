"""The interface of a searcher: a pure object that suggests values and is notified of their results."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar, Final, Literal, TypeAlias

from asynctune._checks import bind_objective, check_choice, check_metric_and_mode
from asynctune.result import Row
from asynctune.space.space import Space

Duplicates: TypeAlias = Literal["allow", "skip", "reuse"]


class Finished(Enum):
    """The answer of a searcher that has nothing more to suggest."""

    FINISHED = "FINISHED"


FINISHED: Final = Finished.FINISHED

Suggestion: TypeAlias = Mapping[str, Any] | Finished | None
"""Values by path (``{"lr": 0.1, "model/layers": 2}``) or as nested dicts; FINISHED; or None for not now."""


class Searcher:
    """Base class of all searchers: suggests the values of trials and is notified of their results.

    A searcher need not be thread-safe or quick: the run calls it off the event loop, one call at a time.
    The journal holds each suggestion and every result that the searcher was notified of, in their order. A
    resume repeats these calls on a new instance if the searcher :attr:`repeats`; otherwise it calls
    :meth:`adopt` with the trials of the previous runs.

    Args:
        metric: The objective; by default that of the run.
        mode: ``"min"`` or ``"max"``; by default that of the run.
        duplicates: The policy for a suggestion that an earlier trial had. ``"allow"`` tries it again;
            ``"skip"`` asks for another; ``"reuse"`` notifies the searcher of the earlier result and asks
            for another.

    Raises:
        ConfigError: An argument is wrong.
    """

    FINISHED: ClassVar[Finished] = Finished.FINISHED

    needs_metric: ClassVar[bool] = True
    """Whether the searcher cannot work without an objective."""

    duplicates: Duplicates = "allow"

    def __init__(
        self,
        metric: str | None = None,
        mode: str | None = None,
        *,
        duplicates: Duplicates = "allow",
    ) -> None:
        name = type(self).__name__
        check_metric_and_mode(name, metric, mode)
        check_choice(name, "duplicates", duplicates, "allow", "skip", "reuse")
        self.metric = metric
        self.mode = mode
        self.duplicates = duplicates
        self._used = False

    @property
    def repeats(self) -> bool:
        """Whether an equal instance makes the same suggestions in the same order of calls, and quickly."""
        return False

    @property
    def is_slow(self) -> bool:
        """Whether the run asks for a suggestion ahead, while all slots are busy, to hide a slow answer.

        Such a suggestion misses the results that come in before a slot is free.
        """
        return False

    def bind(self, space: Space, metric: str | None, mode: str | None, seed: int) -> None:
        """Take over the space and objective of a run; called once, before anything else.

        Args:
            space: The space; the searcher suggests values for its :attr:`Space.samplers`.
            metric: The objective of the run, for a searcher without its own.
            mode: The mode of the run, for a searcher without its own.
            seed: The seed of everything random, for a searcher without its own.

        Raises:
            ConfigError: Another run has used this instance, the searcher cannot search this space, or it
                needs an objective and has none.
        """
        bind_objective(self, metric, mode)

    def suggest(self, trial_id: str) -> Suggestion:
        """Suggest the values of a trial.

        Args:
            trial_id: The id of the trial; the same one again after None.

        Returns:
            Values for any of the space's samplers (the others are drawn) and for any other key of the
            config; :data:`FINISHED`; or None for not now: the run asks again after the next notification.
        """
        raise NotImplementedError(f"{type(self).__qualname__} must override suggest(trial_id)")

    def adopt(self, trial_id: str, values: Mapping[str, Any]) -> None:
        """Take over a trial of a previous run, which this instance did not suggest.

        Args:
            trial_id: The id of the trial.
            values: The values of the trial by path: for every sampler of the space, and for the other keys
                that the searcher had set.
        """

    def on_trial_result(self, trial_id: str, result: Row) -> None:
        """Notify the searcher of a result.

        Args:
            trial_id: The id of the trial.
            result: The flattened row.
        """

    def on_trial_complete(
        self, trial_id: str, result: Row | None = None, error: bool = False
    ) -> None:
        """Notify the searcher of the end of a trial.

        Args:
            trial_id: The id of the trial. A resume may continue the trial, so results may still follow.
            result: The last flattened row; None if the trial had none, or never ran.
            error: Whether the trial failed, with no retry left.
        """
