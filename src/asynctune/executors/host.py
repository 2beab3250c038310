"""The host of one trainable: builds it, performs the calls of its actor, and returns answers."""

from __future__ import annotations

import contextvars
from typing import Any

from asynctune.executors.actor import ActorSpec
from asynctune.trainable.base import Trainable
from asynctune.trainable.context import HookCaller, SyncHookCaller, TrainableContext, step
from asynctune.trainable.session import ProcessSession, session
from asynctune.trainable.worker.calls import (
    EXTRA_GRACE_S,
    Answer,
    AnswerKind,
    build,
    class_session,
    describe,
    perform,
)


class TrainableHost:
    """Serves the requests of one actor where its trainable lives, in a thread or a process.

    An :class:`Actor` sends its requests to :meth:`perform` and returns the answers. For another process or
    machine, pickle the specification with cloudpickle, create the host there, and send the answers back
    with pickle. All calls must come from one thread that runs no event loop; a trainable with asynchronous
    hooks gets an event loop of its own.

    Args:
        spec: The arguments to build the trainable from.
        own_process: Whether no other trial uses this process. Then threads that the trainable starts may
            report, too.
    """

    def __init__(self, spec: ActorSpec, *, own_process: bool = False) -> None:
        self._spec = spec
        self._own_process = own_process
        self._hooks = SyncHookCaller()
        self._trainable: Trainable | None = None
        # The session and the secrets of the trial, which must not reach other trials in this thread.
        self._variables = contextvars.copy_context()

    def perform(self, method: str, args: tuple[Any, ...] = ()) -> Answer:
        """Perform a request of an actor. Exceptions of the trainable are returned as answers.

        Args:
            method: ``"_setup"`` in the first request, afterwards the name of a method of the Trainable.
            args: The arguments of the method.
        """
        return self._variables.run(self._perform, method, args)

    def close(self) -> None:
        """Release the event loop of asynchronous hooks. Call it in the thread of :meth:`perform`."""
        if self._own_process:
            ProcessSession.current = None
        self._trainable = None
        self._hooks.close()

    def _perform(self, method: str, args: tuple[Any, ...]) -> Answer:
        try:
            if method != "_setup":
                assert self._trainable is not None, "an actor builds its trainable first"
                return step(perform(self._trainable, method, args))
            context = trainable_context(
                self._spec, self._hooks, setup_later=False, own_process=self._own_process
            )
            session.set(class_session(context))
            if self._own_process:
                ProcessSession.current = class_session(context)
            try:
                self._trainable = build(self._spec.serialized.cls, self._spec.config, context)
            except BaseException:
                # In this request, which the caller can abandon: the loop waits for its threads.
                self._hooks.close()
                raise
            return Answer(AnswerKind.VALUE, b"null")
        except BaseException as exc:  # a SystemExit of the user ends the trial, not the thread
            return describe(exc)


def trainable_context(
    spec: ActorSpec, hooks: HookCaller, *, setup_later: bool, own_process: bool = False
) -> TrainableContext:
    """Return the context in which the trainable of a specification is built.

    Args:
        spec: The arguments to build the trainable from.
        hooks: The way in which the trainable calls its hooks.
        setup_later: Whether the caller awaits the setup after the constructor.
        own_process: Whether no other trial uses this process.
    """
    return TrainableContext(
        logdir=spec.logdir,
        hooks=hooks,
        trial_id=spec.trial_id,
        trial_name=spec.trial_name,
        experiment_tag=spec.tag,
        grace_s=spec.grace_s + EXTRA_GRACE_S,
        setup_later=setup_later,
        own_process=own_process,
        remote=spec.remote,
    )
