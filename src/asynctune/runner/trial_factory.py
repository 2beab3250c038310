"""Makes the trials of a run: ids, configurations, and the event that records each."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import anyio.to_thread

from asynctune.executors.serialization import SerializedTrainable
from asynctune.experiment import events as ev
from asynctune.experiment.retention import Retention
from asynctune.resources import Resources
from asynctune.result import Row, shown
from asynctune.runner.live_trial import LiveTrial
from asynctune.runner.plan.plan import Plan
from asynctune.runner.plan.preflight import Preflight
from asynctune.space.codec import decode_config, encode_config
from asynctune.space.sampling import Variant
from asynctune.space.space import Space
from asynctune.suggest.ask_tell import AskTell, DrawnVariant


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trial that was drawn, or added by the user, and waits for a slot.

    Args:
        trial_id: The id of the trial.
        index: The number of the trial.
        variant: The configuration, and the draws behind it.
        resources: The resources of the trial.
        shown: The configuration as JSON, for the journal and the user.
        known: The number of notifications that the searcher had received; None for a trial of the user.
    """

    trial_id: str
    index: int
    variant: Variant
    resources: Resources
    shown: dict[str, Any]
    known: int | None


class TrialFactory:
    """Makes the trials of a run.

    Args:
        plan: The plan of the run.
        serialized: The trainable.
        preflight: The source of the resources of a configuration.
        ask_tell: The source of configurations.
        read_rows: Reads rows of the journal at their offsets.
    """

    def __init__(
        self,
        plan: Plan,
        serialized: SerializedTrainable,
        preflight: Preflight,
        ask_tell: AskTell,
        read_rows: Callable[[Sequence[int]], list[Row]],
    ) -> None:
        self._plan = plan
        self._serialized = serialized
        self._preflight = preflight
        self._ask_tell = ask_tell
        self._read_rows = read_rows
        self._prefix = secrets.token_hex(3)[:5]
        self._next = 0
        self._reserved: tuple[str, int] | None = None
        self._configs: dict[str, dict[str, Any]] = {}

    def continue_ids(self, trials: Sequence[LiveTrial]) -> None:
        """Continue the id prefix and numbering of the resumed experiment."""
        for trial in trials:
            self._prefix = trial.trial_id.rpartition("_")[0]
            self._next = max(self._next, trial.index + 1)

    async def draw(self) -> Candidate | None:
        """Draw the next trial; None if there is none now."""
        if self._reserved is None:
            self._reserved = self._new_id()
        # In a thread: searchers and sample_from are the user's code, a configuration may be large.
        candidate = await anyio.to_thread.run_sync(self._draw, *self._reserved)
        if candidate is not None:
            self._reserved = None
        return candidate

    def from_user(self, config: Mapping[str, Any]) -> Candidate:
        """Return the candidate for a configuration of the user."""
        trial_id, index = self._new_id()
        variant = Space(config).variant(index, self._plan.seed)
        variant = replace(variant, tag=variant.tag or "by hand")
        return self._candidate(trial_id, index, variant, None)

    def event(self, candidate: Candidate) -> ev.TrialAdded:
        """Return the event that adds a trial. Keeps the configuration with its objects for :meth:`make`."""
        trial_id, variant = candidate.trial_id, candidate.variant
        is_users = candidate.known is None
        self._configs[trial_id] = variant.config
        given = variant.config if is_users else dict(variant.others)
        event = ev.TrialAdded(
            trial_id=trial_id,
            index=candidate.index,
            name=f"{self._serialized.name}_{trial_id}",
            tag=variant.tag,
            config=candidate.shown,
            drawn=None if is_users else variant.drawn,
            resources=candidate.resources.to_dict(),
            wall_time=time.time(),
            given=encode_config(given) if given else None,
            known=candidate.known or 0,
        )
        creator = self._plan.options.trial_name_creator
        if creator is not None:
            event = replace(event, name=str(creator(self._trial(event, variant.config))))
        return event

    def make(self, event: ev.TrialAdded) -> LiveTrial:
        """Construct the trial of an event, from :meth:`event` or from the journal of a previous run."""
        config = self._configs.pop(event.trial_id, None)
        if config is None:
            config = decode_config(event.given)
            if event.drawn is not None:
                config = self._plan.space.rebuild(event.drawn, config)
        return self._trial(event, config)

    def _trial(self, event: ev.TrialAdded, config: dict[str, Any] | None) -> LiveTrial:
        options = self._plan.options
        return LiveTrial(
            event,
            directory=self._plan.directory,
            read_rows=self._read_rows,
            config=config,
            kept=Retention(options.keep_checkpoints_num, options.checkpoint_score_attr),
        )

    def _new_id(self) -> tuple[str, int]:
        index = self._next
        self._next += 1
        return f"{self._prefix}_{index:05d}", index

    def _draw(self, trial_id: str, index: int) -> Candidate | None:
        drawn = self._ask_tell.ask(trial_id)
        if not isinstance(drawn, DrawnVariant):
            return None
        return self._candidate(trial_id, index, drawn.variant, drawn.num_delivered)

    def _candidate(
        self, trial_id: str, index: int, variant: Variant, known: int | None
    ) -> Candidate:
        """Return a candidate with the resources and the JSON form of a variant."""
        resources = self._preflight.resources_of(variant.config)
        return Candidate(trial_id, index, variant, resources, shown(variant.config), known)
