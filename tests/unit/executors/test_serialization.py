"""What travels to a worker, who is named when it cannot, and how exceptions travel back."""

from __future__ import annotations

import asyncio
import functools
import json
import linecache
import math
import pickle
import threading

import pytest

from asynctune.errors import ConfigError, NotSerializable, TrialError
from asynctune.executors import InlineExecutor, ProcessExecutor
from asynctune.executors.serialization import check_trainable, dump_args, dump_config, serialize
from asynctune.trainable.base import Trainable
from asynctune.trainable.context import step
from asynctune.trainable.worker import calls as _hosted
from asynctune.trainable.worker.calls import AnswerKind, describe, perform

LOCK = threading.Lock()


class Good(Trainable):
    def _train(self):
        return {}


class Later(Trainable):
    def step(self):
        return {}


class Mixed(Trainable):
    def _setup(self, config):
        pass

    def step(self):
        return {}


class Callable:
    def __init__(self, **attributes):
        self.__dict__.update(attributes)

    def __call__(self, config):
        pass

    def method(self, config):
        pass


def plain(config):
    pass


def with_two(config, extra):
    pass


async def asynchronous(config):
    pass


def generator(config):
    yield {}


# -- what is a trainable -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trainable", "text"),
    [
        (7, "trainable must be a Trainable subclass or a function .*, got 7$"),
        (None, "trainable must be .*, got None$"),
        ("train", "trainable must be .*, got 'train'$"),
        (Good.__new__(Good), "got an instance of Good; pass the class"),
        (dict, "trainable must be a Trainable subclass .*, got the class dict$"),
        (Trainable, "Trainable defines neither _train nor step"),
        (
            Mixed,
            "Mixed defines neither _train nor step; its step is ignored, since it defines _setup",
        ),
    ],
)
def test_what_is_no_trainable_is_refused(trainable, text):
    with pytest.raises(ConfigError, match=text):
        check_trainable(trainable)


def test_a_function_that_was_called_is_refused_without_a_second_complaint():
    for called in (asynchronous({}), generator({})):
        with pytest.raises(
            ConfigError, match=r"got the result of (asynchronous|generator)\(\); pass"
        ):
            check_trainable(called)


@pytest.mark.parametrize("trainable", [Good, Later, plain, asynchronous, generator, Callable()])
def test_what_is_a_trainable_is_shipped(trainable):
    serialized = serialize(trainable, pickled=True)
    assert issubclass(serialized.cls, Trainable)
    assert serialized.is_async == (trainable is asynchronous)
    assert type(pickle.loads(serialized.code)) is type(trainable)


def test_a_wrong_signature_is_known_before_anything_travels():
    for pickled in (True, False):
        with pytest.raises(ConfigError, match="takes_nothing"):
            serialize(takes_nothing, pickled=pickled)


def takes_nothing():
    pass


# -- who is to blame -----------------------------------------------------------------------------


def uses_global(config):
    return LOCK


def calls_helper(config):
    return uses_global(config)


class OfClassAttribute(Good):
    lock = threading.Lock()


class OfMethod(Good):
    def _train(self):
        return {"x": LOCK}


def by_value(function):
    """Let a function travel as one of a notebook does."""
    function.__module__ = "__main__"
    return function


def closes_over(value):
    def train(config):
        return value

    return train


def local_class(base):
    return type("Local", (base,), {"__module__": "__main__", "lock": threading.Lock()})


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: closes_over(threading.Lock()), "the closed-over variable 'value', a _thread.lock"),
        (lambda: lambda config, lock=LOCK: lock, "the default of 'lock', a _thread.lock"),
        (lambda: closes_over({"a": [0, LOCK]}), r"the closed-over variable 'value'\['a'\]\[1\]"),
        (lambda: functools.partial(with_two, extra=LOCK), "the argument 'extra' of the partial"),
        (
            lambda: functools.partial(functools.partial(with_two, extra=LOCK)),
            "the argument 'extra' of the partial",
        ),
        (lambda: Callable(lock=LOCK).method, "the attribute self.lock"),
        (lambda: Callable(lock=LOCK), "the attribute 'lock'"),
        (lambda: by_value(_copy(uses_global)), "the global variable 'LOCK'"),
        (lambda: by_value(_copy(calls_helper, uses_global=by_value(_copy(uses_global)))), "'LOCK'"),
        (lambda: local_class(Good), "the class attribute 'lock'"),
    ],
)
def test_what_cannot_travel_is_named(make, text):
    trainable = make()
    with pytest.raises(NotSerializable, match=text) as caught:
        serialize(trainable, pickled=True)
    assert "_setup()" in str(caught.value), "it says what to do instead"
    assert "InlineExecutor" in str(caught.value)
    assert isinstance(caught.value.__cause__, TypeError)
    with pytest.raises(NotSerializable, match=text):
        ProcessExecutor(1).prepare(trainable)
    assert InlineExecutor().prepare(trainable).code == b"", "there nothing is pickled"


def _copy(function, **more):
    names = {"LOCK": LOCK, **more}
    return type(function)(function.__code__, names, function.__name__)


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"lock": LOCK}, r"config\['lock'\]"),
        ({"a": 1, "b": [2, ({"c": LOCK},)]}, r"config\['b'\]\[1\]\[0\]\['c'\]"),
        ({1: LOCK}, r"config\[1\]"),
        (LOCK, "config"),
    ],
)
def test_a_config_that_cannot_travel_names_its_key(config, name):
    with pytest.raises(NotSerializable, match=rf"^{name} cannot be sent to a worker"):
        dump_config(config)


def test_a_config_travels_by_value_where_it_must():
    local = type("Local", (), {"__module__": "__main__", "x": 3})
    assert pickle.loads(dump_config({"object": local()}))["object"].x == 3


def test_arguments_travel_and_none_are_nothing():
    assert dump_args("save", ()) == b""
    assert pickle.loads(dump_args("save", ("a", {"b": (1, 2)}))) == ("a", {"b": (1, 2)})
    assert pickle.loads(dump_args("reset_config", (lambda: 7,)))[0]() == 7
    with pytest.raises(NotSerializable, match=r"^config\['lock'\]"):
        dump_args("reset_config", ({"lock": LOCK},))
    with pytest.raises(NotSerializable, match=r"save\(\)"):
        dump_args("save", (LOCK,))


# -- which code it is ----------------------------------------------------------------------------


def test_two_functions_of_one_name_have_two_digests_and_the_same_one_has_one():
    one, two = closes_over(1), closes_over(2)
    assert serialize(one, pickled=True).name == serialize(two, pickled=True).name == "train"
    assert serialize(one, pickled=True).digest != serialize(two, pickled=True).digest
    assert serialize(one, pickled=True).digest == serialize(one, pickled=True).digest


def test_a_function_whose_closure_changed_is_another():
    state = {"x": 1}
    train = closes_over(state)
    before = serialize(train, pickled=True).digest
    state["x"] = 2
    assert serialize(train, pickled=True).digest != before


def test_the_lines_of_cells_travel_and_those_of_files_do_not(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("x = 1\n")
    cell = "/tmp/ipykernel_7/nowhere.py"
    linecache.cache[cell] = (6, None, ["x = 1\n"], cell)
    linecache.getlines(str(path))
    try:
        sources = serialize(plain, pickled=True).sources
    finally:
        del linecache.cache[cell], linecache.cache[str(path)]
    assert sources[cell] == ["x = 1\n"]
    assert str(path) not in sources


# -- how exceptions travel back ------------------------------------------------------------------


def raise_it(error: BaseException) -> None:
    raise error


def described(error: BaseException) -> dict:
    try:
        raise_it(error)
    except BaseException as exc:
        answer = describe(exc)
    assert answer.kind is AnswerKind.ERROR
    assert answer.error is error
    json.loads(answer.body)["traceback"].encode()  # it can be written to a file
    return json.loads(answer.body)


def test_an_exception_travels_as_text_with_its_chain_and_its_group():
    group = ExceptionGroup("several", [ValueError("one"), TypeError("two")])
    group.__cause__ = KeyError("first")
    body = described(group)
    assert body["type"] == "ExceptionGroup"
    for text in ("KeyError: 'first'", "direct cause", "ValueError: one", "TypeError: two"):
        assert text in body["traceback"]


class BadStr(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class Cyclic(Exception):
    def __init__(self):
        super().__init__("cyclic")
        self.__cause__ = self


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (BadStr(), "BadStr (whose str() raised RuntimeError)"),
        (Cyclic(), "Cyclic: cyclic"),
        (ValueError("a lone \ud800"), "ValueError: a lone \\ud800"),
        (SystemExit(3), "SystemExit: 3"),
        (SyntaxError("bad", ("nowhere.py", 1, 1, "x = ", 1, 5)), "SyntaxError: bad (nowhere.py, line 1)"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "odd"), "UnicodeDecodeError: 'utf-8' codec can't"),
    ],
)  # fmt: skip
def test_no_exception_is_too_odd_to_be_described(error, message):
    body = described(error)
    assert body["message"].startswith(message)
    assert type(error).__name__ in body["traceback"]


def test_a_huge_message_is_cut_in_its_middle():
    body = described(ValueError("begin" + "x" * (10 << 20) + "end"))
    assert "begin" in body["message"]
    assert body["message"].endswith("end")
    assert "characters left out" in body["message"]
    assert len(json.dumps(body)) < 1 << 20


def test_recursion_without_end_is_described():
    def recurse():
        recurse()

    try:
        recurse()
    except RecursionError as exc:
        body = json.loads(describe(exc).body)
    assert body["traceback"].count("recurse()") < 20
    assert "more times" in body["traceback"]


def test_our_own_frames_above_the_users_are_left_out_and_no_others():
    own = _hosted._PACKAGE
    for name, is_shown in (
        (f"{own}/executors/_new.py", False),
        (f"{own}_examples/mine.py", True),
        ("/home/me/asynctune/mine.py", True),
    ):
        source = "def outer(inner):\n    inner()\n"
        namespace: dict = {}
        exec(compile(source, name, "exec"), namespace)

        def inner():
            raise ValueError("boom")

        try:
            namespace["outer"](inner)
        except ValueError as exc:
            exc.__traceback__ = exc.__traceback__.tb_next  # without the frame of this test
            text = json.loads(describe(exc).body)["traceback"]
        assert (name in text) == is_shown
        assert "in inner" in text


def test_errors_of_our_own_say_so():
    assert described(NotSerializable("result['x'] is odd"))["own"]
    assert described(TrialError("odd"))["text"] == "odd"
    assert not described(ValueError("odd"))["own"]


# -- what a call comes back with -----------------------------------------------------------------


@pytest.fixture
def trainable(monkeypatch, tmp_path):
    monkeypatch.setenv("ASYNCTUNE_RESULTS_DIR", str(tmp_path))

    class Returns(Trainable):
        def _train(self):
            return self.config["row"]

    trainable = Returns({"row": {}, "object": LOCK})
    yield trainable
    trainable.stop()


def test_a_row_keeps_what_json_cannot_and_a_config_may_hold_anything(trainable):
    trainable.config["row"] = {"nan": math.nan, "inf": -math.inf, "pair": (1, 2), 3: True}
    answer = step(perform(trainable, "train", ()))
    assert answer.kind is AnswerKind.ROW
    row = json.loads(answer.body)
    assert math.isnan(row["nan"])
    assert (row["inf"], row["pair"], row["3"]) == (-math.inf, [1, 2], True)
    assert "lock" in row["config"]["object"], "an object in it is its repr"


def test_a_row_that_wants_a_checkpoint_says_so(trainable):
    for wanted in (True, False):
        trainable.config["row"] = {"should_checkpoint": wanted}
        assert step(perform(trainable, "train", ())).checkpoint is wanted


def test_a_value_that_is_none_of_jsons_is_named(trainable):
    for row, name in (
        ({"a": {"b": [1, asyncio.Event]}}, r"result\['a'\]\['b'\]\[1\]"),
        ({"a": b"bytes"}, r"result\['a'\]"),
        ({("a", "b"): 1}, "tuple"),
        ({"small": 1, "big": "x" * (17 << 20)}, r"result\['big'\]"),
    ):
        trainable._train = lambda row=row: row
        with pytest.raises(NotSerializable, match=name):
            step(perform(trainable, "train", ()))
