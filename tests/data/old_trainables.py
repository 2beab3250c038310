"""What the experiments of ``old_journals`` train, and with what arguments.

The generator and the test import it. It uses public names only, and imports nothing that is slow.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from pathlib import Path
from typing import Any, ClassVar

import asynctune as tune
from asynctune.schedulers import ASHAScheduler, PopulationBasedTraining

SECRET = "ASYNCTUNE_OLD_JOURNALS_SECRET"
"""The environment variable that a configuration of ``cancelled`` names."""


class Sums(tune.Trainable):
    """Its totals are a function of its configuration and iteration; its token lives on in checkpoints.

    A trial that begins anew draws another token, and counts from 1.
    """

    holds_at: ClassVar[int | None] = None
    """After so many iterations it does not return any more. For the generator."""
    fails_at: ClassVar[int | None] = None
    """After so many iterations it fails. For the generator."""

    def _setup(self, config):
        self.state = {"total": 0.0, "trained": 0, "token": uuid.uuid4().hex}

    def _train(self):
        if self.state["trained"] == self.fails_at:
            raise ValueError("it was to fail here")
        self.state["trained"] += 1
        self.state["total"] += self.config["x"]
        return dict(self.state)

    def _save(self, directory):
        Path(directory, "state.json").write_text(json.dumps(self.state))
        return directory

    def _restore(self, checkpoint):
        self.state = json.loads(Path(checkpoint, "state.json").read_text())


class DictSums(Sums):
    """The same with pickled checkpoints, in which is its configuration; asynchronous, so it can be held."""

    async def _train(self):
        if self.state["trained"] == self.holds_at:
            await asyncio.Event().wait()
        return super()._train()

    def _save(self, directory):
        return {"state": dict(self.state), "config": self.config}

    def _restore(self, checkpoint):
        self.state = dict(checkpoint["state"])
        self.state["saved_config"] = {key: repr(item) for key, item in checkpoint["config"].items()}


class DurableSums(tune.DurableTrainable, Sums):
    pass


class Climbs(DictSums):
    """One of a population: its total tells whose state it has taken over."""

    def reset_config(self, new_config):
        return new_config["x"] > 0.5  # one way or the other


def sums(config):
    """The same as a function."""
    state = tune.get_checkpoint() or {"total": 0.0, "trained": 0, "token": uuid.uuid4().hex}
    state = {key: state[key] for key in ("total", "trained", "token")}
    while True:
        state["total"] += config["x"]
        state["trained"] += 1
        tune.report(state, checkpoint=dict(state) if state["trained"] % 2 == 0 else None)


def _asha(*, promote: bool) -> ASHAScheduler:
    return ASHAScheduler(max_t=9, grace_period=1, reduction_factor=3, promote=promote)


def arguments(kind: str) -> tuple[Any, dict[str, Any]]:
    """Return the trainable of a kind, and the arguments of ``tune.run`` that are always the same."""
    common: dict[str, Any] = {
        "config": {"x": tune.uniform(0, 1), "kind": kind},
        "metric": "total", "mode": "max", "seed": 7, "verbose": 0, "grace_s": 1,
        "num_samples": 5, "stop": {"training_iteration": 6}, "checkpoint_freq": 2,
    }  # fmt: skip
    often = {"checkpoint_freq": 1, "stop": {"training_iteration": 9}}
    match kind:
        case "plain" | "failed":
            return Sums, common
        case "cancelled":
            space = common["config"] | {
                "key": tune.Secret(f"env:{SECRET}"),
                "deep": {"y": (1, [2])},
            }
            return DictSums, common | {"config": space, "resources_per_trial": {"cpu": 1}}
        case "budget":
            return DictSums, common
        case "function":
            del common["checkpoint_freq"]
            return sums, common
        case "asha" | "asha_promote":
            scheduler = _asha(promote=kind == "asha_promote")
            return Sums, common | often | {"num_samples": 12, "scheduler": scheduler}
        case "pbt":
            scheduler = PopulationBasedTraining(
                time_attr="training_iteration", perturbation_interval=2,
                hyperparam_mutations={"x": tune.uniform(0, 1)},
                quantile_fraction=0.5,
            )  # fmt: skip
            return Climbs, common | often | {"num_samples": 4, "scheduler": scheduler}
        case "optuna":
            from asynctune.suggest import OptunaSearch

            space = {"x": tune.uniform(0, 1), "c": tune.choice(["a", "b"]), "kind": kind}
            searcher = OptunaSearch(seed=3)
            # One after the other: what is suggested depends on what was told before.
            few = {"num_samples": 14, "max_concurrent_trials": 1, "stop": {"training_iteration": 3}}
            return Sums, common | {"config": space, "search_alg": searcher} | few
        case "durable":
            return DurableSums, common | {"checkpoint_freq": 1, "upload_interval_s": 0.05}
    raise ValueError(kind)
