"""Twenty secrets in one configuration, and whether any of them comes out somewhere."""

from __future__ import annotations

import json
import os
import pickle
import traceback
from pathlib import Path
from urllib.parse import quote

import pytest
import secret_trainables as given

import asynctune as tune
from asynctune.errors import ConfigError, TrialError
from asynctune.executors import InlineExecutor, ProcessExecutor
from asynctune.secret import Secret
from asynctune.storage.checkpoints.manifest import DICT_FILE

pytestmark = pytest.mark.asyncio
CANARIES = {
    f"CANARY_{n:02}": f"c{n:02}-{text}"
    for n, text in enumerate(
        [
            "plain-and-simple", "with blanks in it", "it's 'quoted'", 'some "double" ones', "both ' and \"",
            "back\\slash\\n", "two\nlines-of-a-value", "tab\tbed", "grün-über", "\u4f60\u597d-text",
            "a/b?c=d&e", "100%-sure+more", "%s{}%d{x}", "<b>&amp;</b>", "[.*]+(?:x)$", "x" * 300,
            "eyJhbGciOi.JIUzI1.NiJ9" * 20, "-----BEGIN-----\nMIIEvQIBADANBg\n-----END-----",
            "\U0001f600-smile", "trailing-blank ",
        ]
    )
}  # fmt: skip
FAILING = [given.by_report, given.by_reporter, given.asynchronously, given.generator, given.ByClass,
           given.AsyncClass, given.LogsItself]  # fmt: skip


@pytest.fixture(autouse=True)
def canaries(monkeypatch):
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)


def executor(kind):
    return ProcessExecutor(2) if kind == "process" else InlineExecutor(2)


def space(kind, *, fails):
    """Place every canary, in two trials that hold all of them together."""
    secrets = [Secret(f"env:{name}") for name in CANARIES]
    return {
        "captured": kind == "process",
        "fails": fails,
        "num_tokens": 17,
        "control": given.CONTROL,
        "top": secrets[0],
        "nested": {"deep": {"deeper": secrets[1]}},
        "list": [secrets[2], [secrets[3]]],
        "tuple": (secrets[4], {"x": secrets[5]}),
        "grid": tune.grid_search([secrets[6:9], {"api": secrets[9:12]}]),
        "choice": tune.choice([secrets[12]]),
        "choice_of_many": {"a": tune.choice([{"b": secrets[13]}])},
        "function": tune.sample_from(lambda spec: [secrets[14], spec.config.top]),
        "many": dict(zip("abcde", secrets[15:], strict=True)),
    }


def held(kind, trial):
    """The values that a trial should have found in its configuration."""
    secrets = set()

    def look(node):
        if isinstance(node, Secret):
            secrets.add(CANARIES[node.reference.removeprefix("env:")])
        for item in node.values() if isinstance(node, dict) else node if (
            isinstance(node, list | tuple)
        ) else ():  # fmt: skip
            look(item)

    look(trial.config)
    return set(given.digests(secrets))


def notations(value):
    """How a value might have been written."""
    lines = [line for line in value.splitlines() if len(line) > 4]
    texts = {value, value.strip(), *lines, value[:100]}
    texts |= {repr(text)[1:-1] for text in texts} | {json.dumps(text)[1:-1] for text in texts}
    return texts | {quote(value), quote(value, safe="")}


def hits(text):
    text = text if isinstance(text, str) else text.decode("utf-8", "backslashreplace")
    return [name for name, value in CANARIES.items() if any(n in text for n in notations(value))]


def files_below(path):
    found = {str(file): file.read_bytes() for file in Path(path).rglob("*") if file.is_file()}
    return found | {"names of files": "\n".join(found)}


def chain(error):
    """An exception and all that it came from, as texts."""
    texts = traceback.format_exception(error)
    seen = []
    while error is not None and error not in seen:
        seen.append(error)
        texts += [str(error), repr(error), repr(error.args), repr(vars(error))]
        error = error.__cause__ or error.__context__
    return "\n".join(texts)


async def everything(experiment, analysis, capfd, caplog, error=None):
    """Collect every place where a value could be seen, by name."""
    trials = experiment.trials
    seen = files_below(analysis.path)
    seen |= dict(zip(("stdout", "stderr"), capfd.readouterr(), strict=True)) | {"log": caplog.text}
    seen["events"] = "\n".join([f"{e!r} {e}" async for e in experiment.events()])
    seen["rows"] = repr([trial.results for trial in trials])
    seen["configs"] = repr([(trial.config, str(trial), trial.tag) for trial in trials])
    seen["state"] = repr([(t.note, t.exported, t.checkpoint, t.last_result) for t in trials])
    seen["pickles"] = pickle.dumps([trial.config for trial in trials])
    seen["errors"] = "\n".join(chain(t.error) for t in trials if t.error is not None)
    seen["raised"] = chain(error) if error is not None else ""
    for source in (analysis, tune.Analysis(analysis.path)):
        frame = source.dataframe()
        seen[f"frame {source!r}"] = frame.to_json() + frame.to_csv() + repr(frame.to_dict())
        seen[f"all {source!r}"] = repr(source.get_all_configs()) + repr(source.trials)
        seen[f"stats {source!r}"] = repr(source.stats()) + repr(source.errors)
    return seen


def assert_only_the_control_is_seen(seen, *controls):
    assert {place: hits(text) for place, text in seen.items() if hits(text)} == {}
    # What is not hidden is seen there, so that the search can find something.
    for place in controls:
        texts = [text for name, text in seen.items() if name.endswith(place)]
        assert texts, place
        for text in texts:
            assert given.CONTROL in (
                text if isinstance(text, str) else text.decode(errors="replace")
            )


@pytest.mark.parametrize("kind", ["process", "inline"])
@pytest.mark.parametrize("trainable", FAILING)
async def test_no_secret_of_a_trial_that_fails_is_seen_anywhere(
    trainable, kind, capfd, caplog, results_dir
):
    async with executor(kind) as pool:
        experiment = await tune.start(
            trainable,
            config=space(kind, fails=True),
            executor=pool,
            checkpoint_freq=1,
            log_to_driver=True,
            verbose=1,
            seed=1,
        )
        with pytest.raises(TrialError) as caught:
            await experiment
        await experiment.aclose()
    error = caught.value
    seen = await everything(experiment, error.analysis, capfd, caplog, error)
    places = ["stdout", "events", "rows", "configs", "pickles", "errors", "raised", "journal", "error.txt",
              "params.json", "result.json", "progress.csv", DICT_FILE]  # fmt: skip
    if kind == "process":
        places.append("output.log")
    assert_only_the_control_is_seen(seen, *places)
    assert len(experiment.trials) == 2
    for trial in experiment.trials:
        (row,) = trial.results
        assert set(row["digests"]) == held(kind, trial)  # they were there
        assert row["num_tokens"] == 17
        assert row["config"]["top"] == "Secret('env:CANARY_00')" == repr(trial.config["top"])
        assert trial.config["top"] == Secret("env:CANARY_00")
        assert "Secret('env:CANARY_00')" in row["text"]
        assert "Secret('env:CANARY_00')" in trial.error.traceback
        (saved,) = Path(trial.logdir).rglob(DICT_FILE)
        restored = pickle.loads(saved.read_bytes())["config"]
        assert set(given.digests(given.values(restored))) == held(kind, trial)


@pytest.mark.parametrize("kind", ["process", "inline"])
@pytest.mark.parametrize("trainable", [given.ByClass, given.LogsItself])
async def test_no_secret_of_a_trial_that_ends_well_is_seen_anywhere(trainable, kind, capfd, caplog):
    async with executor(kind) as pool:
        experiment = await tune.start(
            trainable,
            config=space(kind, fails=False),
            executor=pool,
            checkpoint_at_end=True,
            export_formats=["a"],
            log_to_driver=True,
            verbose=1,
            seed=1,
        )
        analysis = await experiment
    seen = await everything(experiment, analysis, capfd, caplog)
    assert_only_the_control_is_seen(seen, "events", "rows", "journal", "state", "result.json")
    for trial in experiment.trials:
        assert trial.status == "TERMINATED"
        assert "Secret('env:CANARY_00')" in trial.exported["a"]
        assert trial.note is None  # what _stop() returns goes nowhere


@pytest.mark.parametrize("kind", ["process", "inline"])
async def test_what_a_stopped_function_ends_with_shows_no_secret(kind, capfd, caplog):
    async with executor(kind) as pool:
        experiment = await tune.start(
            given.ends_badly_when_stopped,
            config=space(kind, fails=False),
            executor=pool,
            stop={"training_iteration": 2},
            log_to_driver=True,
            seed=1,
        )
        analysis = await experiment
    seen = await everything(experiment, analysis, capfd, caplog)
    assert_only_the_control_is_seen(seen, "state", "error.txt", "journal")
    assert all("Secret('env:CANARY_00')" in trial.note for trial in experiment.trials)


@pytest.mark.parametrize("kind", ["process", "inline"])
async def test_an_actor_mirrors_references(kind):
    first, second = Secret("env:CANARY_00"), Secret("env:CANARY_01")
    base = {"captured": True, "fails": False, "num_tokens": 1} if kind == "process" else {
        "captured": False, "fails": False, "num_tokens": 1}  # fmt: skip
    async with executor(kind) as pool, pool.actor(given.ByClass, base | {"key": first}) as actor:
        answers = [await actor.get_config()]
        assert answers[0]["key"] == repr(first)
        assert answers[0]["url"] == [f"<{first!r}>"]
        saved = await actor.save()
        assert await actor.reset_config(base | {"key": [second]})
        answers += [await actor.get_config(), await actor.train()]
        assert answers[1]["key"] == [repr(second)]
        assert answers[2]["digests"] == given.digests([CANARIES["CANARY_01"]])
        await actor.restore(saved)
        answers.append(await actor.train())
        assert answers[3]["digests"] == given.digests([CANARIES["CANARY_00"]])
        state = await actor.save_to_object()
        assert await actor.stop() is None
    assert hits(repr(answers)) == []
    assert hits(state) == []


@pytest.mark.parametrize("kind", ["process", "inline"])
async def test_a_secret_that_only_a_checkpoint_brings_is_hidden_too(kind):
    base = {"captured": False, "fails": False, "num_tokens": 1}
    async with executor(kind) as pool:
        async with pool.actor(given.ByClass, base | {"key": Secret("env:CANARY_02")}) as actor:
            saved = await actor.save()
        async with pool.actor(given.AsyncClass, base) as actor:
            await actor.restore(saved)
            row = await actor.train()
    assert row["digests"] == given.digests([CANARIES["CANARY_02"]])
    assert hits(repr(row)) == []


@pytest.mark.parametrize("kind", ["process", "inline"])
async def test_what_becomes_a_text_only_in_the_row_is_hidden_too(kind):
    secret = Secret("env:CANARY_02")
    async with executor(kind) as pool:
        async with pool.actor(given.ByObjects, {"key": secret}) as actor:
            row = await actor.train()
        async with pool.actor(given.reports_once, {"key": secret}) as actor:
            reported, again = await actor.train(), await actor.train()
    assert row["array"] == [repr(secret)]
    assert row["scalar"] == repr(secret)
    assert repr(secret) in row["config"]["bytes"][0]
    assert reported["text"] == again["text"] == repr(secret)
    assert hits(repr([row, reported, again])) == []


@pytest.mark.parametrize("kind", ["process", "inline"])
async def test_a_variable_that_is_missing_fails_the_trial_and_is_named(kind, monkeypatch):
    monkeypatch.delenv("CANARY_03")
    config = {"fine": Secret("env:CANARY_02"), "gone": [Secret("env:CANARY_03")]}
    async with executor(kind) as pool:
        with pytest.raises(TrialError, match="environment variable 'CANARY_03'") as caught:
            await tune.run(given.by_report, config=config, executor=pool, verbose=0)
    (failure,) = caught.value.failures.values()
    assert hits(chain(failure)) == []
    if kind == "process":
        assert isinstance(failure.__cause__, ConfigError)


async def test_a_logger_that_a_worker_keeps_from_another_trial_writes_no_secret():
    async with ProcessExecutor(1) as pool:
        keys = [given.CONTROL, Secret("env:CANARY_04"), given.CONTROL, CANARIES["CANARY_04"]]
        analysis = await tune.run(
            given.speaks, config={"key": tune.grid_search(keys)}, executor=pool, verbose=0,
            max_concurrent_trials=1,
        )  # fmt: skip
        pids = {trial.last_result["pid"] for trial in analysis.trials}
    assert len(pids) == 1
    logs = [Path(trial.logdir, "output.log").read_text() for trial in analysis.trials]
    shown = "Secret('env:CANARY_04')"
    assert logs == [
        f"kept {text}\nprinted {text}\n" for text in (given.CONTROL, shown, given.CONTROL, shown)
    ]


async def test_a_secret_that_was_set_for_one_trial_is_what_a_worker_finds_that_is_used_again(
    monkeypatch,
):
    found = []
    async with ProcessExecutor(1) as pool:
        for value in ("first-value", "second-value"):
            monkeypatch.setitem(os.environ, "CANARY_05", value)
            config = {"captured": False, "fails": False, "num_tokens": 1}
            config["key"] = Secret("env:CANARY_05")
            async with pool.actor(given.ByClass, config) as actor:
                found += (await actor.train())["digests"]
    assert found == [*given.digests(["first-value"]), *given.digests(["second-value"])]
