"""Secrets as values: what they are equal to, what shows them, and how they are taken out of texts."""

from __future__ import annotations

import collections
import contextvars
import copy
import json
import os
import pickle
import pprint
import types
from typing import NamedTuple
from urllib.parse import quote

import cloudpickle
import numpy as np
import pytest

import asynctune as tune
from asynctune import result
from asynctune.errors import ConfigError
from asynctune.secret import (
    Redactor,
    ResolvedSecret,
    Secret,
    concealed,
    redacted,
    redactor,
    resolve,
)
from asynctune.space.space import Space
from asynctune.trainable.base import Trainable
from asynctune.trainable.context import SyncHookCaller, TrainableContext, step
from asynctune.trainable.worker.calls import build, describe, perform

VALUE = "correct-horse-battery"
SHOWN = "Secret('env:CANARY')"


class Pair(NamedTuple):
    left: object
    right: object


@pytest.fixture(autouse=True)
def canary(monkeypatch):
    monkeypatch.setenv("CANARY", VALUE)
    monkeypatch.setenv("OTHER", "another-value")
    monkeypatch.delenv("MISSING", raising=False)


@pytest.fixture(autouse=True)
def known():
    """Knows the secrets of this test alone."""
    token = redactor.set(Redactor())
    yield redactor.get()
    redactor.reset(token)


# The reference


def test_a_secret_is_equal_to_one_of_the_same_reference_and_shows_nothing_else():
    secret = Secret("env:CANARY")
    assert secret == Secret("env:CANARY") != Secret("env:OTHER")
    assert len({secret, Secret("env:CANARY"), Secret("env:OTHER")}) == 2
    assert repr(secret) == str(secret) == f"{secret}" == SHOWN
    for copied in (
        copy.copy(secret),
        copy.deepcopy(secret),
        pickle.loads(pickle.dumps(secret)),
        cloudpickle.loads(cloudpickle.dumps(secret)),
    ):
        assert copied == secret
    assert VALUE.encode() not in pickle.dumps(secret)
    with pytest.raises(AttributeError):
        secret.reference = "env:OTHER"


@pytest.mark.parametrize(
    "given",
    [
        "sk-a-value-itself",
        "env:",
        "env:sk a",
        "env:A=sk",
        "env:sk\n",
        "file:/sk",
        "ENV:sk",
        "",
        5,
        None,
    ],
)
def test_what_is_no_reference_is_refused_and_not_shown_since_it_may_be_the_value(given):
    with pytest.raises(ConfigError, match=r'Secret\("env:NAME"\)') as caught:
        Secret(given)
    assert "sk" not in str(caught.value)


def test_a_missing_variable_is_named():
    with pytest.raises(ConfigError, match=r"'MISSING', which Secret\('env:MISSING'\)"):
        resolve({"a": [Secret("env:MISSING")]})


# The value


def test_a_resolved_secret_is_a_str_whose_repr_is_the_reference():
    value = Secret("env:CANARY").resolve()
    assert isinstance(value, str)
    assert value == VALUE
    assert hash(value) == hash(VALUE)
    assert (f"{value}", "%s" % value, value + "", str(value)) == (VALUE,) * 4  # noqa: UP031
    assert (f"{value!r}", ascii([value])) == (SHOWN, f"[{SHOWN}]")
    assert VALUE not in pprint.pformat({"nested": [{"key": value}]}, width=10)
    assert not hasattr(value, "__dict__")


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy])
def test_a_copy_of_a_resolved_secret_is_still_one(again):
    copied = again({"key": [Secret("env:CANARY").resolve()]})
    assert repr(copied) == f"{{'key': [{SHOWN}]}}"
    assert copied["key"][0] == VALUE


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("module", [pickle, cloudpickle])
def test_a_pickle_holds_the_reference_and_is_resolved_where_the_variable_is(
    monkeypatch, module, protocol
):
    data = module.dumps({"key": Secret("env:CANARY").resolve()}, protocol)
    assert VALUE.encode() not in data
    monkeypatch.setenv("CANARY", "as it is elsewhere")
    loaded = pickle.loads(data)["key"]
    assert (loaded, type(loaded)) == ("as it is elsewhere", ResolvedSecret)
    monkeypatch.delenv("CANARY")
    assert pickle.loads(data)["key"] == Secret("env:CANARY")


def test_secrets_are_resolved_anywhere_in_the_containers_of_a_config():
    secret = Secret("env:CANARY")
    leaf = object()
    config = {
        "dict": {"a": secret, 1: leaf},
        "list": [1, [secret]],
        "tuple": (secret, "b"),
        "named": Pair(secret, leaf),
        "set": {secret},
        "ordered": collections.OrderedDict(x=secret),
        "default": collections.defaultdict(list, x=secret),
        "mapping": types.MappingProxyType({"x": secret}),
        "secret_tokens": "plain",
    }
    before = copy.copy(config)
    resolved = resolve(config)
    assert config == before
    assert resolved == {
        "dict": {"a": VALUE, 1: leaf},
        "list": [1, [VALUE]],
        "tuple": (VALUE, "b"),
        "named": Pair(VALUE, leaf),
        "set": {VALUE},
        "ordered": collections.OrderedDict(x=VALUE),
        "default": {"x": VALUE},
        "mapping": {"x": VALUE},
        "secret_tokens": "plain",
    }
    for key in ("named", "ordered", "default"):
        assert type(resolved[key]) is type(config[key])
    assert resolved["default"].default_factory is list


def test_a_config_without_secrets_is_the_same_object_after_it():
    inner = [1, (2, 3)]
    config = {"inner": inner, "set": {1}}
    config["itself"] = config
    config["fresh"] = collections.UserDict(a=MakesItsItems())
    assert resolve(config) is config


class MakesItsItems(collections.UserDict):
    def items(self):
        return [("key", [1])]


def test_a_space_draws_secrets_as_it_draws_anything():
    a, b = Secret("env:CANARY"), Secret("env:OTHER")
    space = Space(
        {
            "grid": tune.grid_search([a, b]),
            "choice": tune.choice([a, [b]]),
            "function": tune.sample_from(lambda spec: {"key": spec.config.grid}),
        }
    )
    for index, expected in enumerate([a, b]):
        variant = space.variant(index, seed=1)
        assert variant.config["grid"] == variant.config["function"]["key"] == expected
        assert space.rebuild(json.loads(json.dumps(variant.drawn))) == variant.config
        assert repr(expected) in variant.tag


# Rows and configurations


def test_json_shows_the_reference_of_a_secret_resolved_or_not():
    for secret in (Secret("env:CANARY"), Secret("env:CANARY").resolve()):
        for show in (result.jsonable, result.shown, result.normalise):
            shown = json.dumps(show({"a": secret, "b": [{"c": (secret,)}]}))
            assert json.loads(shown) == {"a": SHOWN, "b": [{"c": [SHOWN]}]}
        for show in (result.jsonable, result.shown):
            assert show({secret: 1}) == {SHOWN: 1}
    assert result.normalise({Secret("env:CANARY").resolve(): 1}) == {SHOWN: 1}


def test_a_value_too_short_to_be_looked_for_is_still_not_shown_where_it_stands(monkeypatch):
    monkeypatch.setenv("CANARY", "abc")
    value = Secret("env:CANARY").resolve()
    assert result.jsonable({value: [value]}) == {SHOWN: [SHOWN]}
    assert concealed({"a": value, "b": "abc abc"}) == {"a": SHOWN, "b": "abc abc"}


@pytest.mark.parametrize("cut", range(1, len(VALUE)))
def test_a_text_that_is_cut_is_looked_through_before(cut):
    value = str(Secret("env:CANARY").resolve())
    text = "x" * (10_000 - cut) + value + "y" * 100
    assert result.shown([text]) == [("x" * (10_000 - cut) + SHOWN)[:10_000] + "..."]
    start = "z" * (197 - len("b'") - cut)
    shown = result.jsonable(f"{start}{value}{'y' * 100}".encode())
    assert shown == f"b'{start}{SHOWN}yyy"[:197] + "..."


# Texts


def test_a_value_is_replaced_wherever_it_stands(known):
    known.add(Secret("env:CANARY").resolve())
    text = f"{VALUE} and ({VALUE}{VALUE})"
    assert redacted(text) == f"{SHOWN} and ({SHOWN}{SHOWN})"
    untouched = "num_tokens, password, correct-horse"
    assert redacted(untouched) is untouched


@pytest.mark.parametrize(
    "value",
    [
        "it's \"quoted\" \\ back", "it's", "a\ttab\nand a line", "grün-größer", "\u2028 odd \U0001f600",
        "a/b?c=d&e f%", "  blanks around  \n", "x" * 5_000, "bytes \udcff here", ".*+?[](){}^$|",
    ],
)  # fmt: skip
def test_a_value_is_found_as_other_notations_write_it(known, monkeypatch, value):
    monkeypatch.setenv("CANARY", value)
    known.add(Secret("env:CANARY").resolve())
    written = [
        value, repr(value), ascii(value), repr(value + '"'), json.dumps(value), value.strip(),
        json.dumps({"k": [value]}, ensure_ascii=False), quote(value, errors="surrogateescape"),
        quote(value, safe="", errors="surrogateescape"), str(KeyError(value)),
    ]  # fmt: skip
    for text in written:
        shown = redacted(f"<{text}>")
        assert SHOWN in shown
        assert len(shown) <= len(SHOWN) + 13, shown


def test_each_line_of_a_value_with_several_is_found_alone(known, monkeypatch):
    lines = ["-----BEGIN KEY-----", "MIIEvQIBADANBgkq", "zz", "hkiG9w0BAQEFAASC"]
    monkeypatch.setenv("CANARY", "\n".join(lines))
    known.add(Secret("env:CANARY").resolve())
    shown = redacted("".join(f"  | {line}\n" for line in lines))
    assert shown == "".join(f"  | {line}\n" for line in (SHOWN, SHOWN, "zz", SHOWN))


def test_of_a_long_value_the_part_that_somebody_left_is_found_too(known, monkeypatch):
    value = "".join(chr(ord("a") + i % 26) for i in range(700))
    monkeypatch.setenv("CANARY", value)
    known.add(Secret("env:CANARY").resolve())
    try:
        int(str(value))  # its message shows 200 characters
    except ValueError as exc:
        message = str(exc)
    assert value[:100] in message
    assert redacted(message) == f"invalid literal for int() with base 10: '{SHOWN}"


def test_the_longer_of_two_values_that_begin_alike_is_replaced(known, monkeypatch):
    for name, value in {
        "A": "abcd",
        "B": "abcdef",
        "C": "q" * 80 + "1",
        "D": "q" * 80 + "2",
    }.items():
        monkeypatch.setenv(name, value)
        known.add(Secret(f"env:{name}").resolve())
    assert redacted("abcdef abcde") == "Secret('env:B') Secret('env:A')e"
    assert redacted("q" * 80 + "2" + "q" * 80 + "1") == "Secret('env:D')Secret('env:C')"


def test_a_reference_that_was_put_in_is_not_looked_through_again(known, monkeypatch):
    monkeypatch.setenv("CANARY", "Secret")
    monkeypatch.setenv("OTHER", "CANARY")
    known.add(Secret("env:CANARY").resolve())
    known.add(Secret("env:OTHER").resolve())
    assert redacted("Secret CANARY") == "Secret('env:CANARY') Secret('env:OTHER')"


def test_a_row_is_looked_through_by_value_and_never_by_the_name_of_a_key(known):
    known.add(Secret("env:CANARY").resolve())
    row = {
        "num_tokens": 5, "password": "p", f"at {VALUE}": {VALUE: [f"<{VALUE}>", np.str_(VALUE)]},
        "pair": Pair(1, VALUE), "same": Pair(1, 2),
    }  # fmt: skip
    hidden = concealed(row)
    assert hidden == {
        "num_tokens": 5, "password": "p", f"at {SHOWN}": {SHOWN: [f"<{SHOWN}>", SHOWN]},
        "pair": (1, SHOWN), "same": (1, 2),
    }  # fmt: skip
    assert hidden["same"] is row["same"]


def test_what_contains_itself_does_not_let_a_value_through(known):
    known.add(Secret("env:CANARY").resolve())
    deep = VALUE
    for _ in range(100):
        deep = [deep]
    endless = {"deep": deep}
    endless["itself"] = endless
    assert VALUE not in repr(concealed({"a": endless}))


def test_the_names_that_asynctune_gives_stay_whatever_the_secrets_are(known, monkeypatch):
    monkeypatch.setenv("CANARY", "training")
    known.add(Secret("env:CANARY").resolve())
    assert list(result.without_secrets({"training_iteration": 1, "training": 2})) == [
        "training_iteration",
        SHOWN,
    ]


def test_it_is_told_once_that_there_is_a_first_value():
    told = []
    own = Redactor(lambda: told.append(bool(own)))
    assert not own
    own.add(Secret("env:CANARY").resolve())
    own.add(Secret("env:OTHER").resolve())
    assert told == [True]
    assert own.text(f"{VALUE} another-value") == f"{SHOWN} Secret('env:OTHER')"


def test_the_values_of_one_context_are_not_looked_for_in_another():
    other = contextvars.Context()
    other.run(redactor.set, Redactor())
    other.run(Secret("env:CANARY").resolve)
    assert other.run(redacted, VALUE) == SHOWN
    assert redacted(VALUE) == VALUE


# Where the trainable lives


class Holder(Trainable):
    def _setup(self, config):
        self.given = config

    def _train(self):
        return {"config_key": self.config["key"], "text": f"<{self.config['key']}>"}

    def _log_result(self, result):
        self.logged = json.dumps(result)

    def reset_config(self, new_config):
        self.config = new_config
        return True

    def get_config(self):
        return {**self.config, "url": f"https://{self.config['key']}@host"}

    def _export_model(self, export_formats, export_dir):
        return {"a": f"/{self.config['key']}"}

    def _stop(self):
        return f"the note {self.config['key']}"


def test_a_trainable_has_the_values_and_its_answers_the_references(tmp_path):
    place = TrainableContext(logdir=str(tmp_path), hooks=SyncHookCaller(), trial_id="t")
    given = {"key": Secret("env:CANARY"), "deep": {"a": [Secret("env:OTHER")]}}
    trainable = build(Holder, given, place)
    assert trainable.config == trainable.given == {"key": VALUE, "deep": {"a": ["another-value"]}}
    assert given["key"] == Secret("env:CANARY")
    answers = [
        step(perform(trainable, method, args)).body
        for method, args in [
            ("train", ()),
            ("get_config", ()),
            ("export_model", ("a",)),
            ("reset_config", ({"key": Secret("env:OTHER")},)),
        ]
    ]
    assert json.loads(answers[0])["config"] == {
        "key": SHOWN,
        "deep": {"a": ["Secret('env:OTHER')"]},
    }
    assert json.loads(answers[0])["text"] == f"<{SHOWN}>"
    assert json.loads(answers[1])["url"] == f"https://{SHOWN}@host"
    assert trainable.config == {"key": "another-value"}
    answers += [step(perform(trainable, method, ())).body for method in ("train", "stop")]
    for shown in (*answers, trainable.logged.encode()):
        assert VALUE.encode() not in shown
        assert b"another-value" not in shown


def test_an_exception_is_described_without_the_values():
    value = Secret("env:CANARY").resolve()

    cause = KeyError(f"{value}\n")
    cause.add_note(f"a note with {value}")
    error = ExceptionGroup("several", [ValueError(value), OSError(os.fsencode(value))])
    error.__cause__ = cause
    answer = describe(error)
    body = json.loads(answer.body)
    assert VALUE not in json.dumps(body)
    assert body["traceback"].count(SHOWN) >= 4
    assert answer.error is None
    own = describe(ConfigError("x" * 40_000 + value + "y" * 40_000))
    assert VALUE[:8] not in own.body.decode()


def test_without_secrets_the_exception_itself_is_handed_on():
    error = ValueError("x")
    assert describe(error).error is error


@pytest.mark.parametrize("cut", range(1, len(VALUE)))
def test_a_message_that_is_cut_within_a_value_shows_no_part_of_it(cut):
    Secret("env:CANARY").resolve()
    answer = describe(
        RuntimeError("x" * (32_768 - cut - len("RuntimeError: ")) + VALUE + "y" * 50_000)
    )
    for text in json.loads(answer.body).values():
        assert VALUE[:4] not in str(text)
        assert VALUE[-4:] not in str(text)
