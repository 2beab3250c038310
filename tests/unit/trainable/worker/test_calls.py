"""Answers of a trainable, as executors of other processes send them."""

from __future__ import annotations

import pickle
import threading

from asynctune.trainable.worker.calls import AnswerKind, describe


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("boom")
        self.lock = threading.Lock()


def test_a_pickled_answer_leaves_the_exception_out_and_keeps_its_text():
    error = Unpicklable()
    answer = describe(error)
    assert answer.error is error
    copy = pickle.loads(pickle.dumps(answer))
    assert (copy.kind, copy.body, copy.error) == (AnswerKind.ERROR, answer.body, None)
    assert b"boom" in copy.body
