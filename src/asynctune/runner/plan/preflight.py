"""What can be known to fail before anything starts, and what a trial asks for."""

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
from asynctune.runner.plan.options import Plan
from asynctune.trainable.base import defines_hook

_MANY_AT_ONCE = 16


class Preflight:
    """Looks at configurations before workers do.

    Args:
        plan: What to do.
        serialized: The trainable.
        executor: Where.
    """

    def __init__(self, plan: Plan, serialized: SerializedTrainable, executor: Executor) -> None:
        self._plan = plan
        self._cls = serialized.cls
        self._is_durable = serialized.is_durable
        self._executor = executor
        self.usual = plan.resources or Resources()
        """What the first trial asks for, once :meth:`check` has found out."""

    @property
    def most_at_once(self) -> int:
        """How many trials may run at once: so many suggestions come before anything is known."""
        most = self._executor.pool.fits(self._plan.resources or Resources())
        limit = self._plan.options.max_concurrent_trials or math.inf
        return int(min(most, limit, _MANY_AT_ONCE))

    @property
    def why_not_pausable(self) -> str:
        """Why trials cannot be paused, "" if they can."""
        if defines_hook(self._cls, "_save"):
            return ""
        return f"{self._cls.__name__} defines neither _save nor save_checkpoint"

    def resources_of(self, config: dict[str, Any]) -> Resources:
        """Find out what a trial with this configuration gets.

        Raises:
            ConfigError: It can never be had; the message has ``resource_help``.
        """
        cls = self._cls
        requested = self._asked("default_resource_request", config)
        if requested is not None and self._plan.resources is not None:
            raise ConfigError(
                f"resources_per_trial is given, and {cls.__name__}.default_resource_request() "
                "answers too; give one of them"
            )
        if requested is None:
            what, resources = "resources_per_trial", self._plan.resources or Resources()
        else:
            what = f"{cls.__name__}.default_resource_request()"
            resources = Resources.from_mapping(requested, what)
        advice = self._asked("resource_help", config)
        self._executor.pool.check(resources, what=what, advice=advice)
        return resources

    def _asked(self, method: str, config: dict[str, Any]) -> Any:
        """Ask a class method of the user's."""
        try:
            return getattr(self._cls, method)(config)
        except Exception as exc:
            name = f"{self._cls.__name__}.{method}()"
            raise ConfigError(
                f"{name} raised {safe_str(exc)}; a class method of (cls, config) is wanted that answers"
            ) from exc

    def check(self) -> None:
        """Refuse what can be known to fail before anything starts. Takes a while: user code runs.

        Raises:
            ConfigError: As the message says.
        """
        cls, options = self._cls, self._plan.options
        with naming_argument("config"):
            config = self._plan.space.variant(0, self._plan.seed).config
            json.dumps(shown(config))
        self.usual = self.resources_of(config)
        self._executor.check_config(config)
        if self._is_durable and self._plan.remote is None:
            raise ConfigError(
                f"{cls.__name__} is a DurableTrainable, which keeps its checkpoints in a storage, and "
                "neither upload_dir nor a remote storage_path is given; give one, such as "
                "upload_dir='s3://bucket/path'"
            )
        if self._plan.export_formats and not defines_hook(cls, "_export_model"):
            raise ConfigError(
                f"export_formats asks for {', '.join(self._plan.export_formats)}, but {cls.__name__} "
                "defines no _export_model"
            )
        if (options.checkpoint_freq or options.checkpoint_at_end) and not defines_hook(
            cls, "_save"
        ):
            raise ConfigError(
                f"checkpoints are asked for (checkpoint_freq, checkpoint_at_end), but {cls.__name__} "
                "defines neither _save nor save_checkpoint"
            )
        if self._plan.scheduler.needs_checkpoints and self.why_not_pausable:
            raise ConfigError(
                f"scheduler is a {type(self._plan.scheduler).__name__}, which pauses or clones trials, but "
                f"{self.why_not_pausable}"
            )
