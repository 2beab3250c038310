"""From a searcher's suggestions to the configurations of trials. Pure; asked off the event loop.

What a searcher is told waits in a queue until it is asked again, so it is never told and asked at the same
time, and each suggestion is a function of how much of the queue it knew. That number is in the journal.
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

_MANY_DUPLICATES = 100


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A variant that a searcher suggested.

    Args:
        variant: The variant.
        known: How much the searcher had been told.
    """

    variant: Variant
    known: int


@dataclass(frozen=True, slots=True)
class _Telling:
    """Something to tell the searcher: a result, or the end of a trial."""

    trial_id: str
    row: Row | None
    is_end: bool = False
    error: bool = False


class AskTell:
    """Asks a searcher for trials, and tells it what became of them.

    Attributes:
        total: How many there will be, None for no end.
        num_drawn: How many there were.
        known: How much the searcher has been told.
        noted: How much there was to tell, told or not.
        notices: What the user should know.

    Args:
        searcher: The searcher, bound to the space.
        space: The space.
        num_samples: How many suggestions there are at each point of the grid; -1: without end.
        seed: What is drawn that the searcher does not suggest comes from here.
        lag: For suggestions that do not depend on timing: the n-th knows the first n - lag trials, whole
            and in order, and nothing else. None: each knows all that has happened.
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
        self.known = 0
        self.noted = 0
        self.notices: list[str] = []
        self._finished = False
        self._repeats = searcher.repeats
        self._queue: list[_Telling] = []
        self._listens = type(searcher).on_trial_result is not Searcher.on_trial_result
        self._ids: dict[str, str] = {}  # trial -> what the searcher knows it as
        self._of: dict[str, list[_Telling]] = {}  # with a lag: what waits until its trial has ended
        self._ended: set[str] = set()
        self._seen: dict[str, str] = {}
        self._last: dict[str, Row | None] = {}

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing more will come."""
        return self._finished or (self.total is not None and self.num_drawn >= self.total)

    @property
    def num_waiting(self) -> int:
        """How much there is to tell."""
        return len(self._queue)

    def note_result(self, trial_id: str, flat: Row) -> None:
        """A trial reported. On the event loop; the searcher hears of it when it is asked again."""
        if self._listens and trial_id in self._ids:
            self._note(_Telling(self._ids[trial_id], flat))

    def note_end(self, trial_id: str, flat: Row, *, error: bool) -> None:
        """A trial has ended. As above."""
        if trial_id in self._ids:
            self._note(_Telling(self._ids[trial_id], flat or None, is_end=True, error=error))

    def ask(self, trial_id: str) -> Suggestion | Finished | None:
        """Tell the searcher what is waiting, and ask it. Takes a while; call it in a thread.

        Args:
            trial_id: The trial that is to be; the same again after None.

        Returns:
            A variant; FINISHED; None: not now.
        """
        if self.is_exhausted:
            return FINISHED
        if not self._may_ask():
            return None
        self._tell(len(self._queue))
        known = self.known
        asked, variant = self._ask(trial_id)
        if isinstance(variant, Variant):
            self._taken(trial_id, asked, variant)
            return Suggestion(variant, known)
        self._finished = variant is FINISHED
        return variant

    def flush(self) -> None:
        """Tell the searcher all that is waiting. Takes a while; call it in a thread."""
        self._tell(len(self._queue))

    def replay(self, event: ev.TrialAdded, config: Mapping[str, Any] | None) -> None:
        """Go through a suggestion that an earlier driver got.

        Args:
            event: What it recorded.
            config: The trial's configuration, None if it could not be made again.
        """
        self._may_ask()
        self._tell(event.known - self.known)
        if self._repeats:
            asked, again = self._ask(event.trial_id)
            if isinstance(again, Variant) and (
                again.drawn == event.drawn
                and dict(again.others) == (decode_config(event.given) or {})
            ):
                self._taken(event.trial_id, asked, again)
                return
            self._repeats = False
            if asked != event.trial_id:
                self._searcher.on_trial_complete(asked)  # it is none of ours
            self.notices.append(
                f"{type(self._searcher).__name__} does not suggest again what it suggested for "
                f"{event.trial_id}; it is told the history instead, and goes on from there"
            )
        elif not self.num_drawn:
            self.notices.append(
                f"{type(self._searcher).__name__} is told what earlier drivers tried; what it suggests "
                "next may differ from what it would have suggested then"
            )
        if config is not None:
            drawn, others = event.drawn or {}, decode_config(event.given) or {}
            values = self._space.values_of(config, drawn) | others
            self._searcher.adopt(event.trial_id, values)
            variant = Variant(dict(config), drawn, event.tag, others)
            self._taken(event.trial_id, event.trial_id, variant)

    def _note(self, telling: _Telling) -> None:
        self.noted += 1
        if self._lag is None:
            self._queue.append(telling)
            return
        self._of.setdefault(telling.trial_id, []).append(telling)
        if telling.is_end:
            self._ended.add(telling.trial_id)

    def _may_ask(self) -> bool:
        """With a lag: queue the trials that this suggestion is to know; tell whether they have ended."""
        if self._lag is None:
            return True
        needed = list(self._ids.values())[: max(0, self.num_drawn - self._lag)]
        if not self._ended.issuperset(needed):
            return False
        for trial_id in needed:
            self._queue += self._of.pop(trial_id, ())
        return True

    def _tell(self, count: int) -> None:
        told, self._queue[:count] = self._queue[:count], []
        for telling in told:
            if telling.is_end:
                self._last.setdefault(telling.trial_id, telling.row)
                self._searcher.on_trial_complete(telling.trial_id, telling.row, telling.error)
            elif telling.row is not None:
                self._searcher.on_trial_result(telling.trial_id, telling.row)
            self.known += 1

    def _ask(self, trial_id: str) -> tuple[str, Variant | Finished | None]:
        """Ask until there is something that no earlier trial had, if duplicates are not allowed.

        Returns:
            The id that was asked for, and what was suggested.
        """
        asked = trial_id
        for number in range(1, _MANY_DUPLICATES + 1):
            suggestion = self._searcher.suggest(asked)
            if suggestion is None or suggestion is FINISHED:
                return asked, suggestion
            variant = self._variant(suggestion)
            before = self._seen.get(_key(variant))
            if before is None:
                return asked, variant
            known = self._last.get(before) if self._searcher.duplicates == "reuse" else None
            self._searcher.on_trial_complete(asked, known)
            asked = f"{trial_id}.{number}"
        self.notices.append(
            f"{type(self._searcher).__name__} suggested {_MANY_DUPLICATES} times in a row what had been "
            "tried before, so no more trials are drawn"
        )
        return asked, FINISHED

    def _variant(self, suggestion: Any) -> Variant:
        name = type(self._searcher).__name__
        if not isinstance(suggestion, Mapping):
            raise TuneError(
                f"{name}.suggest() answered {safe_repr(suggestion)}; a dict of values, None or FINISHED is "
                "wanted"
            )
        try:
            return self._space.variant(self.num_drawn, self._seed, suggestion)
        except TuneError as exc:
            raise TuneError(f"{name}.suggest(): {safe_str(exc)}") from exc

    def _taken(self, trial_id: str, asked: str, variant: Variant) -> None:
        self._ids[trial_id] = asked
        self.num_drawn += 1
        if self._searcher.duplicates != "allow":
            self._seen.setdefault(_key(variant), asked)


def _key(variant: Variant) -> str:
    return json.dumps([variant.drawn, variant.others], sort_keys=True, default=safe_repr)
