"""Checks of the plan with the trainable and the executor, before anything starts."""

from __future__ import annotations

import json
import math
from typing import Any

from asynctune._checks import naming_argument, safe_str
from asynctune.errors import ConfigError
from asynctune.executors.base import Executor
from asynctune.executors.serialization import SerializedTrainable
from asynctune.resources import Resources
from asynctune.result import shown
from asynctune.runner.plan.plan import Plan
from asynctune.trainable.base import defines_hook

_MANY_AT_ONCE = 16


class Preflight:
    """Checks the first configuration in the driver, so that a wrong one fails before a worker starts.

    Args:
        plan: The plan of the run.
        serialized: The trainable.
        executor: The executor that trains the trials.
    """

    def __init__(self, plan: Plan, serialized: SerializedTrainable, executor: Executor) -> None:
        self._plan = plan
        self._cls = serialized.cls
        self._is_durable = serialized.is_durable
        self._executor = executor
        self.usual = plan.options.resources_per_trial or Resources()
        """The resources of the first trial, once :meth:`check` has determined them."""

    @property
    def most_at_once(self) -> int:
        """The number of trials that may run at once, hence of suggestions before the first result."""
        most = self._executor.pool.fits(self._plan.options.resources_per_trial or Resources())
        limit = self._plan.options.max_concurrent_trials or math.inf
        return int(min(most, limit, _MANY_AT_ONCE))

    @property
    def why_not_pausable(self) -> str:
        """The reason why trials cannot be paused, "" if they can."""
        if defines_hook(self._cls, "_save"):
            return ""
        return f"{self._cls.__name__} defines neither _save nor save_checkpoint"

    def resources_of(self, config: dict[str, Any]) -> Resources:
        """Return the resources of a trial with this configuration.

        Raises:
            ConfigError: The executor can never provide them; the message holds ``resource_help``.
        """
        cls = self._cls
        requested = self._call("default_resource_request", config)
        given = self._plan.options.resources_per_trial
        if requested is not None and given is not None:
            raise ConfigError(
                "resources_per_trial must be None with a trainable that defines "
                f"default_resource_request(), as {cls.__name__} does"
            )
        if requested is None:
            what, resources = "resources_per_trial", given or Resources()
        else:
            what = f"{cls.__name__}.default_resource_request()"
            resources = Resources.from_mapping(requested, what)
        advice = self._call("resource_help", config)
        self._executor.pool.check(resources, what=what, advice=advice)
        return resources

    def _call(self, method: str, config: dict[str, Any]) -> Any:
        """Call a class method of the user."""
        try:
            return getattr(self._cls, method)(config)
        except Exception as exc:
            name = f"{self._cls.__name__}.{method}()"
            raise ConfigError(
                f"{name} must be a class method of (cls, config), got the exception {safe_str(exc)}"
            ) from exc

    def check(self) -> None:
        """Raise if the run would certainly fail. Blocks, and calls code of the user.

        Raises:
            ConfigError: An argument does not fit the trainable or the executor.
        """
        cls, options = self._cls, self._plan.options
        with naming_argument("config"):
            config = self._plan.space.variant(0, self._plan.seed).config
            json.dumps(shown(config))
        self.usual = self.resources_of(config)
        self._executor.check_config(config)
        if self._is_durable and self._plan.remote is None:
            raise ConfigError(
                f"upload_dir must be a storage, such as 's3://bucket/path', got None; {cls.__name__} is a "
                "DurableTrainable, which keeps its checkpoints there (a remote storage_path does as well)"
            )
        if options.export_formats and not defines_hook(cls, "_export_model"):
            raise ConfigError(
                f"export_formats must be empty, got {', '.join(options.export_formats)}; {cls.__name__} "
                "defines no _export_model"
            )
        if (options.checkpoint_freq or options.checkpoint_at_end) and not defines_hook(
            cls, "_save"
        ):
            raise ConfigError(
                "checkpoint_freq must be 0 and checkpoint_at_end False, since "
                f"{cls.__name__} defines neither _save nor save_checkpoint"
            )
        if self._plan.scheduler.needs_checkpoints and self.why_not_pausable:
            raise ConfigError(
                f"scheduler must not pause or clone trials, got {type(self._plan.scheduler).__name__}; "
                f"{self.why_not_pausable}"
            )
