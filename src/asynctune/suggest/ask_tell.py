"""The queue in front of a searcher, which turns its suggestions into the configurations of trials.

Pure; the run asks for suggestions off the event loop. Notifications wait in the queue until the searcher is
asked again, so the searcher is never notified and asked at the same time, and each suggestion is a function
of the number of notifications delivered before. The journal holds that number.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from asynctune._checks import safe_repr, safe_str
from asynctune.errors import TuneError
from asynctune.experiment import events as ev
from asynctune.result import Row
from asynctune.space.codec import decode_config
from asynctune.space.sampling import Variant
from asynctune.space.space import Space
from asynctune.suggest.base import FINISHED, Finished, Searcher

_MAX_DUPLICATES = 100


@dataclass(frozen=True, slots=True)
class DrawnVariant:
    """A variant that a searcher suggested.

    Args:
        variant: The variant.
        num_delivered: The number of notifications that the searcher had received before.
    """

    variant: Variant
    num_delivered: int


@dataclass(frozen=True, slots=True)
class _Notification:
    """A result or the end of a trial, on the way to the searcher."""

    trial_id: str
    row: Row | None
    is_end: bool = False
    error: bool = False


class AskTell:
    """Asks a searcher for trials, and notifies it of their results.

    Attributes:
        total: The number of trials to draw, None for no limit.
        num_drawn: The number of trials drawn so far.
        num_delivered: The number of notifications that the searcher has received.
        num_queued: The number of notifications queued so far, delivered or not.
        notices: Messages for the user, oldest first.

    Args:
        searcher: The searcher, bound to the space.
        space: The space.
        num_samples: The number of suggestions at each point of the grid; -1 for no limit.
        seed: The seed of the values that the searcher does not suggest.
        lag: The distance between a suggestion and the newest trial that it depends on, so that
            suggestions do not depend on timing: before the n-th, the searcher is notified of the first
            n - lag trials, whole and in order, and of no others. None: of everything so far.
    """

    def __init__(
        self, searcher: Searcher, space: Space, num_samples: int, seed: int, lag: int | None = None
    ) -> None:
        self._searcher = searcher
        self._space = space
        self._seed = seed
        self._lag = lag
        self.total = None if num_samples == -1 else num_samples * space.grid_size
        self.num_drawn = 0
        self.num_delivered = 0
        self.num_queued = 0
        self.notices: list[str] = []
        self._finished = False
        self._repeats = searcher.repeats
        self._queue: list[_Notification] = []
        self._wants_results = type(searcher).on_trial_result is not Searcher.on_trial_result
        self._searcher_ids: dict[str, str] = {}  # trial -> its id in calls of the searcher
        self._held: dict[str, list[_Notification]] = {}  # with a lag: until their trial has ended
        self._ended: set[str] = set()
        self._seen: dict[str, str] = {}  # variant as text -> the id of the first trial that had it
        self._last_rows: dict[str, Row | None] = {}

    @property
    def is_exhausted(self) -> bool:
        """Whether no more trials will be drawn."""
        return self._finished or (self.total is not None and self.num_drawn >= self.total)

    @property
    def num_pending(self) -> int:
        """The number of notifications that the next question delivers."""
        return len(self._queue)

    def queue_result(self, trial_id: str, flat: Row) -> None:
        """Queue a result for the searcher; quick, for the event loop.

        Args:
            trial_id: The trial.
            flat: The flattened row.
        """
        if self._wants_results and trial_id in self._searcher_ids:
            self._enqueue(_Notification(self._searcher_ids[trial_id], flat))

    def queue_end(self, trial_id: str, flat: Row, *, error: bool) -> None:
        """Queue the end of a trial for the searcher; quick, for the event loop.

        Args:
            trial_id: The trial.
            flat: The last flattened row, ``{}`` if there was none.
            error: Whether the trial failed, with no retry left.
        """
        if trial_id in self._searcher_ids:
            asked = self._searcher_ids[trial_id]
            self._enqueue(_Notification(asked, flat or None, is_end=True, error=error))

    def ask(self, trial_id: str) -> DrawnVariant | Finished | None:
        """Deliver the queue to the searcher, and ask for a suggestion. Slow; call it in a thread.

        Args:
            trial_id: The id of the next trial; the same one again after None.

        Returns:
            A suggestion; FINISHED; or None for not now.
        """
        if self.is_exhausted:
            return FINISHED
        if not self._may_ask():
            return None
        self._deliver(len(self._queue))
        num_delivered = self.num_delivered
        asked, variant = self._ask(trial_id)
        if isinstance(variant, Variant):
            self._accept(trial_id, asked, variant)
            return DrawnVariant(variant, num_delivered)
        self._finished = variant is FINISHED
        return variant

    def flush(self) -> None:
        """Deliver the queue to the searcher. Slow; call it in a thread."""
        self._deliver(len(self._queue))

    def replay(self, event: ev.TrialAdded, config: Mapping[str, Any] | None) -> None:
        """Repeat a suggestion of a previous run, or let the searcher adopt it.

        Args:
            event: The record of the suggestion.
            config: The configuration of the trial, None if it could not be rebuilt.
        """
        self._may_ask()
        self._deliver(event.known - self.num_delivered)
        if self._repeats:
            asked, again = self._ask(event.trial_id)
            if isinstance(again, Variant) and (
                again.drawn == event.drawn
                and dict(again.others) == (decode_config(event.given) or {})
            ):
                self._accept(event.trial_id, asked, again)
                return
            self._repeats = False
            if asked != event.trial_id:
                self._searcher.on_trial_complete(asked)  # no trial will have this id
            self.notices.append(
                f"{type(self._searcher).__name__} did not repeat the suggestion that it made for "
                f"{event.trial_id}; it now gets the history instead, and continues from there"
            )
        elif not self.num_drawn:
            self.notices.append(
                f"{type(self._searcher).__name__} gets the history of the previous runs; its next "
                "suggestions may differ from those of an uninterrupted run"
            )
        if config is not None:
            drawn, others = event.drawn or {}, decode_config(event.given) or {}
            values = self._space.values_of(config, drawn) | others
            self._searcher.adopt(event.trial_id, values)
            variant = Variant(dict(config), drawn, event.tag, others)
            self._accept(event.trial_id, event.trial_id, variant)

    def _enqueue(self, notification: _Notification) -> None:
        self.num_queued += 1
        if self._lag is None:
            self._queue.append(notification)
            return
        self._held.setdefault(notification.trial_id, []).append(notification)
        if notification.is_end:
            self._ended.add(notification.trial_id)

    def _may_ask(self) -> bool:
        """Return whether the trials that the next suggestion depends on have ended; if so, queue them.

        Always True without a lag.
        """
        if self._lag is None:
            return True
        needed = list(self._searcher_ids.values())[: max(0, self.num_drawn - self._lag)]
        if not self._ended.issuperset(needed):
            return False
        for trial_id in needed:
            self._queue += self._held.pop(trial_id, ())
        return True

    def _deliver(self, count: int) -> None:
        """Notify the searcher of the oldest ``count`` notifications."""
        delivered, self._queue[:count] = self._queue[:count], []
        for notification in delivered:
            trial_id, row = notification.trial_id, notification.row
            if notification.is_end:
                self._last_rows.setdefault(trial_id, row)
                self._searcher.on_trial_complete(trial_id, row, notification.error)
            elif row is not None:
                self._searcher.on_trial_result(trial_id, row)
            self.num_delivered += 1

    def _ask(self, trial_id: str) -> tuple[str, Variant | Finished | None]:
        """Ask for a suggestion; where duplicates are not allowed, until no earlier trial had it.

        Returns:
            The id in the last call of the searcher, and the answer.
        """
        asked = trial_id
        for number in range(1, _MAX_DUPLICATES + 1):
            suggestion = self._searcher.suggest(asked)
            if suggestion is None or suggestion is FINISHED:
                return asked, suggestion
            variant = self._variant(suggestion)
            first = self._seen.get(_key(variant))
            if first is None:
                return asked, variant
            row = self._last_rows.get(first) if self._searcher.duplicates == "reuse" else None
            self._searcher.on_trial_complete(asked, row)
            # Another id, so that the searcher does not confuse this question with the refused one.
            asked = f"{trial_id}.{number}"
        self.notices.append(
            f"{type(self._searcher).__name__} suggested {_MAX_DUPLICATES} configurations in a row that "
            "earlier trials had, so no more trials are drawn"
        )
        return asked, FINISHED

    def _variant(self, suggestion: Any) -> Variant:
        name = type(self._searcher).__name__
        if not isinstance(suggestion, Mapping):
            raise TuneError(
                f"{name}.suggest() must return a dict of values, None or FINISHED, got "
                f"{safe_repr(suggestion)}"
            )
        try:
            return self._space.variant(self.num_drawn, self._seed, suggestion)
        except TuneError as exc:
            raise TuneError(f"{name}.suggest(): {safe_str(exc)}") from exc

    def _accept(self, trial_id: str, asked: str, variant: Variant) -> None:
        self._searcher_ids[trial_id] = asked
        self.num_drawn += 1
        if self._searcher.duplicates != "allow":
            self._seen.setdefault(_key(variant), asked)


def _key(variant: Variant) -> str:
    return json.dumps([variant.drawn, variant.others], sort_keys=True, default=safe_repr)
