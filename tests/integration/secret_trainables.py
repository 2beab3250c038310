"""Trainables that tell everybody the secrets of their configuration, in every way that they can."""

from __future__ import annotations

import hashlib
import logging
import sys

import numpy as np

import asynctune as tune
from asynctune.secret import ResolvedSecret
from asynctune.trainable.base import Trainable

CONTROL = "control-that-is-no-secret"
log = logging.getLogger(__name__)


def values(node):
    """List the values of the secrets in a configuration, as plain texts."""
    if isinstance(node, ResolvedSecret):
        return [str(node)]
    if isinstance(node, dict):
        node = list(node.values())
    return [v for item in node for v in values(item)] if isinstance(node, list | tuple) else []


def digests(texts):
    return sorted(hashlib.sha256(text.encode()).hexdigest() for text in texts)


def tell(config):
    """Print what is there, and return it as metrics."""
    told = [*values(config), CONTROL]
    print(config, CONTROL, flush=True)
    print(config, CONTROL, file=sys.stderr, flush=True)
    if config["captured"]:  # what goes to the driver's own output is not asynctune's
        for text in told:
            print("out", text, flush=True)
            sys.stderr.writelines([f"err {text}\n"])
        logging.basicConfig(force=True)
        log.warning("logged %s and %r", told, config)
    return {
        "digests": digests(values(config)),
        "num_tokens": config["num_tokens"],
        "text": " ".join(told),
        "nested": {"list": [{"of": told}], "config": config},
        "keys": {f"key {text}": 1 for text in told},
        "url": [f"https://user:{text}@host/" for text in told],
        **{f"metric {text}": 1 for text in told},
    }


def fail(config):
    told = [*values(config), CONTROL]
    first = KeyError(*told)
    first.add_note(f"a note: {told}")
    group = ExceptionGroup("some", [ValueError(text) for text in told])
    group.__cause__ = first
    try:
        raise group
    except ExceptionGroup as exc:
        raise RuntimeError("; ".join(told), config) from exc


def checkpoint(config):
    return {"config": config, "control": CONTROL}


def by_report(config):
    tune.report(tell(config), checkpoint=checkpoint(config))
    if config["fails"]:
        fail(config)


def by_reporter(config, reporter):
    reporter(**tell(config), checkpoint=checkpoint(config))
    if config["fails"]:
        fail(config)


async def asynchronously(config):
    await tune.report(tell(config), checkpoint=checkpoint(config))
    if config["fails"]:
        fail(config)


def generator(config):
    yield tell(config) | {"checkpoint": checkpoint(config)}
    if config["fails"]:
        fail(config)


class ByClass(Trainable):
    def _setup(self, config):
        assert config == self.config
        self.copy = config

    def _train(self):
        if self.config["fails"] and self.iteration:
            fail(self.config)
        return tell(self.config) | {"done": not self.config["fails"]}

    def _save(self, tmp_checkpoint_dir):
        return checkpoint(self.config) | {"copy": self.copy}

    def _restore(self, checkpoint):
        self.config = checkpoint["config"]

    def _export_model(self, export_formats, export_dir):
        return {"a": f"{CONTROL}/{' '.join(values(self.config))}"}

    def get_config(self):
        return {**self.config, "url": [f"<{text}>" for text in values(self.config)]}

    def reset_config(self, new_config):
        self.config = new_config
        return True

    def _stop(self):
        return f"note: {CONTROL} {values(self.config)}"


class LogsItself(ByClass):
    def _setup(self, config):
        super()._setup(config)
        self.loggers = tune.loggers.UnifiedLogger(self.config, self.logdir + "own")

    def _log_result(self, result):
        self.loggers.on_result(result)
        self.loggers.flush()


class AsyncClass(ByClass):
    async def _train(self):
        return super()._train()


class ByObjects(ByClass):
    """Its values become texts only when the row is encoded."""

    def _train(self):
        told = values(self.config)
        self.config["bytes"] = [text.encode() for text in told]
        return {"array": np.array(told), "scalar": np.str_(told[0])}


def reports_once(config):
    tune.report(text=str(config["key"]))


def ends_badly_when_stopped(config):
    try:
        while True:
            tune.report(tell(config))
    finally:
        fail(config)


def speaks(config):
    """A handler that lives as long as the process writes to the stream of the first trial."""
    if not logging.getLogger("kept").handlers:
        logging.getLogger("kept").addHandler(logging.StreamHandler())
    logging.getLogger("kept").warning("kept %s", str(config["key"]))
    print("printed", config["key"])
    tune.report(loss=1)
