"""Functions as trainables: every form, stand-alone, through train(), save(), restore() and stop()."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import json
import os
import threading
import traceback
from pathlib import Path

import pytest

import asynctune as tune
from asynctune import track
from asynctune.errors import ConfigError, TrialError, TrialStopped, TuneError
from asynctune.function_runner import StatusReporter, wrap_function
from asynctune.trainable.context import SyncHookCaller, TrainableContext, current_context, step

WAIT_S = 2.0


class Probe:
    """What a function did; passes through the copying of a config as itself."""

    def __init__(self, **attributes):
        self.log, self.release = [], threading.Event()
        self.__dict__.update(attributes)

    def __deepcopy__(self, memo):
        return self


# Each form reports x = 0, 1, 2 and notes that its finally block ran.


def plain(config):
    try:
        for x in range(3):
            track.log(x=x)
    finally:
        config["p"].log.append("finally")


def with_reporter(config, reporter):
    assert isinstance(reporter, StatusReporter)
    try:
        for x in range(3):
            reporter(x=x)
    finally:
        config["p"].log.append("finally")


async def asynchronous(config):
    try:
        for x in range(3):
            await tune.report({"x": x})
            await asyncio.sleep(0)
    finally:
        await asyncio.sleep(0)
        config["p"].log.append("finally")


async def async_reporter(config, *, reporter):
    assert isinstance(reporter, StatusReporter)
    try:
        for x in range(3):
            await reporter(x=x)
    finally:
        config["p"].log.append("finally")


def generator(config):
    try:
        for x in range(3):
            yield {"x": x}
    finally:
        config["p"].log.append("finally")


async def async_generator(config):
    try:
        for x in range(3):
            await asyncio.sleep(0)
            yield {"x": x}
    finally:
        await asyncio.sleep(0)
        config["p"].log.append("finally")


class Methods:
    def bound(self, config):
        return plain(config)

    async def async_bound(self, config, reporter):
        await async_reporter(config, reporter=reporter)

    def generates(self, config):
        yield from generator(config)

    __call__ = bound


class AsyncCallable:
    async def __call__(self, config):
        await asynchronous(config)


def bound_first(n, config, reporter, *, scale):
    assert (n, scale) == (3, 1)
    with_reporter(config, reporter)


def decorated(function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        return function(*args, **kwargs)

    return call


@functools.wraps(plain)
async def async_around_sync(config):
    await asynchronous(config)


def returning(function):
    def call(config):
        return function(config)

    return call


@functools.wraps(asynchronous)
def sync_around_async(config):
    plain(config)


@functools.wraps(generator)
def loop_around_generator(config):
    for row in generator(config):
        tune.report(row)


LAMBDAS = {
    "lambda": lambda config: plain(config) or None,
    "foo": lambda config, foo: with_reporter(config, foo) or None,
    "keyword": lambda config, *, reporter=None: with_reporter(config, reporter),
    "positional only": lambda config, foo, /: with_reporter(config, foo) or None,
    "optional": lambda config, reporter=None, other=5: with_reporter(config, reporter),
    "star": lambda *args: plain(*args) or None,
}
FORMS = {
    **LAMBDAS,
    "def": plain,
    "def reporter": with_reporter,
    "async": asynchronous,
    "async reporter": async_reporter,
    "generator": generator,
    "async generator": async_generator,
    "partial": functools.partial(bound_first, 3, scale=1),
    "partial of partial": functools.partial(functools.partial(bound_first, 3), scale=1),
    "async partial": functools.partial(async_reporter),
    "generator partial": functools.partial(generator),
    "bound method": Methods().bound,
    "async bound method": Methods().async_bound,
    "generator method": Methods().generates,
    "partial of method": functools.partial(Methods().bound),
    "callable": Methods(),
    "async callable": AsyncCallable(),
    "partial of callable": functools.partial(AsyncCallable()),
    "decorated": decorated(with_reporter),
    "decorated async": decorated(asynchronous),
    "decorated generator": decorated(generator),
    "async around sync": async_around_sync,
}
MISLEADING = {
    "sync around async": sync_around_async,
    "loop around generator": loop_around_generator,
    "def of async": returning(asynchronous),
    "def of generator": returning(generator),
    "def of async generator": returning(async_generator),
}
four = pytest.mark.parametrize("form", ["def", "async", "generator", "async generator"])


@pytest.fixture(autouse=True)
def results(tmp_path, monkeypatch):
    monkeypatch.setenv("ASYNCTUNE_RESULTS_DIR", str(tmp_path / "results"))


@pytest.fixture
def make(tmp_path):
    """Build the trainable of a function, in a host if a place is given; stop it at the end."""
    made, probes = [], []

    def build(function, config=None, **place):
        config = {"p": Probe()} if config is None else config
        probes.extend(value for value in config.values() if isinstance(value, Probe))
        context = contextvars.copy_context()
        if place:
            logdir = tmp_path / f"trial_{len(made)}"
            logdir.mkdir()
            context.run(
                current_context.set,
                TrainableContext(logdir=str(logdir), hooks=SyncHookCaller(), **place),
            )
        made.append(context.run(wrap_function(function), config))
        return made[-1]

    yield build
    for probe in probes:
        probe.release.set()
    for trainable in made:
        if inspect.iscoroutine(value := getattr(getattr(trainable, "_end", None), "value", None)):
            value.close()  # that it was never awaited would be a warning in another test
        within(WAIT_S, trainable.stop)


def reporting(form, body):
    """A function of a form that calls ``body(config, i)`` for i = 0, 1... and reports what it gives."""

    def plainly(config):
        for i in range(99):
            tune.report(body(config, i))

    async def asynchronously(config):
        for i in range(99):
            await tune.report(body(config, i))

    def generates(config):
        for i in range(99):
            yield body(config, i)

    async def generates_asynchronously(config):
        for i in range(99):
            yield body(config, i)

    return {"def": plainly, "async": asynchronously, "generator": generates,
            "async generator": generates_asynchronously}[form]  # fmt: skip


def catching(form, caught, then):
    """A function of a form that reports once and calls ``then(config, stop)`` when it is stopped."""

    def plainly(config):
        try:
            tune.report(x=1)
        except caught as stop:
            then(config, stop)

    async def asynchronously(config):
        try:
            await tune.report(x=1)
        except caught as stop:
            then(config, stop)

    def generates(config):
        try:
            yield {"x": 1}
        except caught as stop:
            then(config, stop)

    async def generates_asynchronously(config):
        try:
            yield {"x": 1}
        except caught as stop:
            then(config, stop)

    return {"def": plainly, "async": asynchronously, "generator": generates,
            "async generator": generates_asynchronously}[form]  # fmt: skip


def within(seconds, function):
    """Run in a thread, so that what hangs fails one test only; return what it raised."""
    raised = []

    def run():
        try:
            function()
        except BaseException as exc:
            raised.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), f"{function.__qualname__} hangs"
    return raised[0] if raised else None


def stopped_with_note(t):
    return step(t._run_stop())  # as executors call it, who write the note down


# -- running and ending -------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_rows_and_then_its_last_as_a_duplicate(make, name):
    t = make(FORMS[name])
    rows = [t.train() for _ in range(3)]
    assert [row["x"] for row in rows] == [0, 1, 2]
    assert [row["training_iteration"] for row in rows] == [1, 2, 3]
    assert not any(row["done"] for row in rows)
    assert all(row["time_this_iter_s"] >= 0 and row["config"] is t.config for row in rows)
    for _ in range(2):
        last = t.train()
        assert (last["x"], last["done"], last["__duplicate__"]) == (2, True, True)
    assert t.iteration == 3
    assert t.config["p"].log == ["finally"]
    t.stop()
    lines = Path(t.logdir, "result.json").read_text().splitlines()
    assert [json.loads(line)["x"] for line in lines] == [0, 1, 2]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("after", [1, 3])
def test_every_form_is_stopped_at_its_report_and_its_finally_block_runs(make, name, after):
    t = make(FORMS[name])
    for _ in range(after):
        t.train()
    assert t.config["p"].log == []
    t.stop()
    assert t.config["p"].log == ["finally"]
    assert t.train()["__duplicate__"] is True
    t.stop()


@pytest.mark.parametrize("name", MISLEADING)
def test_what_does_not_look_like_what_it_is_works_or_is_an_error_but_never_nothing(make, name):
    try:
        row = make(MISLEADING[name]).train()
    except (TuneError, TypeError):
        return
    assert row.get("x") == 0


@four
def test_a_function_that_never_began_is_stopped_without_running(make, form):
    t = make(reporting(form, lambda config, i: config["p"].log.append(i)))
    t.stop()
    assert t.config["p"].log == []


async def returns_async(config):
    await tune.report(x=1)
    return config["answer"]


def returns_plain(config):
    tune.report(x=1)
    return config["answer"]


def returns_from_generator(config):
    yield {"x": 1}
    return config["answer"]


@pytest.mark.parametrize("function", [returns_plain, returns_async, returns_from_generator])
def test_a_returned_dict_is_the_last_result_and_anything_else_is_ignored(make, function):
    t = make(function, {"answer": {"x": 2, "checkpoint": {"s": 1}}})
    assert [t.train()["x"], t.train()["x"]] == [1, 2]
    assert t.iteration == 2
    assert {"x": 2, "done": True, "__duplicate__": True}.items() <= t.train().items()
    assert "checkpoint" not in t.train()
    for answer in (None, 5, "text"):
        t = make(function, {"answer": answer})
        assert t.train()["x"] == 1
        assert t.train()["__duplicate__"] is True


async def does_not_report(config):
    await asyncio.sleep(0)


@pytest.mark.parametrize("function", [lambda c: None, lambda c, reporter: 5, does_not_report])
def test_a_function_that_never_reports_ends_at_once(make, function):
    assert make(function, {}).train() == {"done": True, "__duplicate__": True}


def test_reporting_done_marks_that_result(make):
    def function(config, reporter):
        reporter(x=1, done=True)
        config["p"].log.append("went on")

    t = make(function)
    assert (t.train()["done"], t.config["p"].log) == (True, [])
    t.stop()
    assert t.config["p"].log == []


@four
@pytest.mark.parametrize("bad", [5, [1], "x"])
def test_a_result_that_is_no_dict_is_refused_by_every_form(make, form, bad):
    t = make(reporting(form, lambda config, i: bad if i else {"x": 1}))
    t.train()
    with pytest.raises(TypeError, match="dict"):
        t.train()


@four
def test_keys_that_are_no_strings_are_alike_in_every_form(make, form):
    t = make(reporting(form, lambda config, i: {"self": i, "nested": {1: 2}, 3: 4}))
    row = t.train()
    assert (row["self"], row["nested"], row.get(3, row.get("3"))) == (0, {1: 2}, 4)


# -- errors -------------------------------------------------------------------------------------


class OwnBase(BaseException):
    pass


ERRORS = [ValueError("mine"), StopIteration(1), StopAsyncIteration(1), SystemExit(3), KeyboardInterrupt(),
          GeneratorExit(), OwnBase("mine"), asyncio.CancelledError("mine"), TrialStopped("mine"),
          BaseExceptionGroup("mine", [SystemExit(1)]), ExceptionGroup("mine", [ValueError(1)])]  # fmt: skip


@four
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_an_error_comes_after_the_results_before_it_with_its_traceback_and_ends_no_process(
    make, form, error
):
    def guilty(config, i):
        if i == 1:
            raise error
        return {"x": i}

    t = make(reporting(form, guilty))
    assert t.train()["x"] == 0
    raised = within(WAIT_S, t.train)
    assert isinstance(raised, Exception), f"{raised!r} would end more than the trial"
    text = "".join(traceback.format_exception(raised))
    assert "in guilty" in text
    assert type(error).__name__ in text
    if form == "def" or type(error) is ValueError:
        assert error in (raised, raised.__cause__)
    within(WAIT_S, t.stop)


@pytest.mark.parametrize("how", ["reporter", "tune", "track"])
@pytest.mark.parametrize("then", ["returns", "sleeps", "reports"])
def test_a_report_that_is_not_awaited_is_an_error_of_the_trial(make, how, then):
    async def function(config, reporter):
        call = {"reporter": reporter, "tune": tune.report, "track": track.log}[how]
        call(x=1)
        if then != "returns":
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        if then == "reports":
            await call(x=2)

    t = make(function)
    with pytest.raises(TuneError, match="await"):
        t.train()


def test_reports_of_several_threads_are_one_result_each(make):
    def function(config, reporter):
        threads = [threading.Thread(target=reporter, kwargs={"x": i}) for i in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    t = make(function)
    assert sorted(t.train()["x"] for _ in range(3)) == [0, 1, 2]
    assert t.train()["__duplicate__"] is True


# -- the stop -----------------------------------------------------------------------------------


@pytest.mark.parametrize("caught", [TrialStopped, StopIteration, StopAsyncIteration, TuneError])
@pytest.mark.parametrize("form", ["def", "async"])
def test_the_stop_is_trial_stopped_and_the_iteration_of_its_form(make, form, caught):
    t = make(catching(form, caught, lambda config, stop: config["p"].log.append("caught")))
    t.train()
    t.stop()
    own = StopIteration if form == "def" else StopAsyncIteration
    assert t.config["p"].log == (["caught"] if caught in (TrialStopped, own) else [])


@pytest.mark.parametrize("form", ["def", "async"])
def test_a_swallowed_stop_is_raised_again_at_each_report_and_after_the_grace_it_is_an_error(
    make, form
):
    def function(config):
        while not config["p"].release.is_set():
            try:
                tune.report(x=1)
            except TrialStopped:
                config["p"].log.append("swallowed")

    async def async_function(config):
        try:
            while True:
                with contextlib.suppress(TrialStopped):
                    await tune.report(x=1)
                config["p"].log.append("swallowed")
                await asyncio.sleep(0)
        finally:
            config["p"].log.append("finally")

    t = make(function if form == "def" else async_function, grace_s=0.05)
    t.train()
    with pytest.raises(TrialError, match="function"):
        t.stop()
    assert t.config["p"].log[:3] == ["swallowed"] * 3
    if form == "async":
        assert t.config["p"].log[-1] == "finally"


def test_a_coroutine_that_swallows_even_its_cancellation_does_not_make_stop_hang(make):
    async def function(config):
        while not config["p"].release.is_set():
            with contextlib.suppress(TrialStopped, asyncio.CancelledError):
                await tune.report(x=1)
                continue
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0.01)

    t = make(function, grace_s=0.05)
    t.train()
    raised = within(WAIT_S, t.stop)
    assert isinstance(raised, TrialError)


@pytest.mark.parametrize(
    ("ending", "noted"),
    [("returns", False), ("goes on", False), ("raises", True), ("from", False), ("group", False),
     ("group of others", True), ("exits", True)],
)  # fmt: skip
@four
def test_once_a_stop_was_ordered_any_ending_is_a_stop_and_others_are_noted(
    make, form, ending, noted
):
    def end(config, stop):
        match ending:
            case "goes on":
                raise stop
            case "raises":
                raise ValueError("own trouble") from None
            case "from":
                raise ValueError("while stopping") from stop
            case "group":
                raise BaseExceptionGroup("g", [ValueError("while stopping"), stop])
            case "group of others":
                raise ExceptionGroup("g", [ValueError("own trouble")])
            case "exits":
                raise SystemExit("own trouble")

    t = make(catching(form, (TrialStopped, GeneratorExit), end))
    t.train()
    note = stopped_with_note(t)
    assert bool(note) == noted
    assert not noted or "own trouble" in note


@pytest.mark.parametrize("form", ["generator", "async generator"])
def test_a_generator_that_goes_on_after_close_is_noted(make, form):
    def generates(config):
        for swallowed in (GeneratorExit, ()):
            with contextlib.suppress(swallowed):
                yield {"x": 1}

    async def generates_async(config):
        for swallowed in (GeneratorExit, ()):
            with contextlib.suppress(swallowed):
                yield {"x": 1}

    t = make(generates if form == "generator" else generates_async)
    t.train()
    assert "ignored GeneratorExit" in stopped_with_note(t)


# -- signatures ---------------------------------------------------------------------------------


class NotATrainable:
    def __init__(self, config):
        raise AssertionError("was called")


@pytest.mark.parametrize(
    ("function", "name"),
    [(lambda: None, "lambda"), (lambda reporter: None, "lambda"), (lambda a, b, c: None, "lambda"),
     (lambda config, x, reporter: None, "lambda"), (lambda config, *, key: None, "lambda"),
     (lambda **kw: None, "lambda"), (lambda reporter, config: None, "lambda"),
     (functools.partial(plain, {}), "plain"), (5, "int"), (None, "NoneType"),
     (object(), "object"), (NotATrainable, "NotATrainable"), ("plain", "str")],
)  # fmt: skip
def test_what_cannot_be_called_is_refused_before_it_is_called_and_named(function, name):
    with pytest.raises(ConfigError, match=name):
        wrap_function(function)


def test_a_reporter_is_given_only_to_an_argument_of_that_name_or_to_a_second_required_one(make):
    seen = []
    make(lambda config, x=5: seen.append(x), {}).train()
    make(lambda config, x=5, *args, y=1, **kw: seen.append((x, args, kw)), {}).train()
    make(lambda config, foo, x=5: seen.append((isinstance(foo, StatusReporter), x)), {}).train()
    assert seen == [5, (5, (), {}), (True, 5)]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_generator_with_a_reporter_is_refused_or_gets_one(make, asynchronous):
    def generates(config, reporter):
        yield {"checkpoint_at_first": reporter.checkpoint}

    async def generates_async(config, reporter):
        yield {"checkpoint_at_first": reporter.checkpoint}

    try:
        t = make(generates_async if asynchronous else generates)
    except ConfigError:
        return
    assert t.train()["checkpoint_at_first"] is None


@four
def test_a_generator_that_reports_is_told_to_yield(make, form):
    t = make(reporting(form, lambda config, i: tune.report(x=1) or {"x": 1}))
    if "generator" in form:
        with pytest.raises(TuneError, match="yield"):
            t.train()


# -- checkpoints --------------------------------------------------------------------------------


def counting(form, checkpoint):
    """Counts on from its checkpoint; reports it as ``checkpoint(config, x)`` makes it."""

    def body(config, i):
        if i == 0:
            found = tune.get_checkpoint()
            config["p"].log.append(found)
            if isinstance(found, str):
                found = {"x": int(Path(found, "sub/x").read_text())}
            config["p"].x = found["x"] if found else 0
        config["p"].x += 1
        return {"x": config["p"].x, "checkpoint": checkpoint(config, config["p"].x)}

    return reporting(form, body)


def as_directory(config, x):
    path = Path(config["p"].folder)
    (path / "sub").mkdir(parents=True, exist_ok=True)
    (path / "sub/x").write_text(str(x))
    return path if x % 2 else str(path)


@four
@pytest.mark.parametrize("kind", ["dict", "directory"])
@pytest.mark.parametrize("way", ["path", "object"])
def test_a_function_goes_on_from_its_checkpoint(make, tmp_path, form, kind, way):
    def state(config, x):
        return {"x": x, "f": lambda: x}

    make_checkpoint = state if kind == "dict" else as_directory
    a, b = (make(counting(form, make_checkpoint), {"p": Probe(folder=tmp_path / n)}) for n in "ab")
    rows = [a.train(), a.train()]
    assert all("checkpoint" not in row for row in rows)
    if way == "path":
        b.restore(a.save())
    else:
        b.restore_from_object(a.save_to_object())
    assert b.iteration == 2
    row = b.train()
    assert (row["x"], row["training_iteration"], row["iterations_since_restore"]) == (3, 3, 1)
    assert (a.config["p"].log, len(b.config["p"].log)) == ([None], 1)
    assert kind == "directory" or set(b.config["p"].log[0]) == {"x", "f"}


def test_a_directory_is_saved_with_everything_below_it(make, tmp_path):
    inner = tmp_path / "state/inner"
    inner.mkdir(parents=True)
    (inner / ".manifest.json").write_text("the user's own")
    t = make(reporting("def", lambda config, i: {"checkpoint": tmp_path / "state"}))
    t.train()
    assert Path(t.save(), "inner/.manifest.json").read_text() == "the user's own"


def test_the_reporter_has_the_checkpoint_too(make):
    def function(config, reporter):
        config["p"].log.append(reporter.checkpoint)
        reporter(checkpoint={"s": 1})

    a, b = make(function), make(function)
    a.train()
    b.restore(a.save())
    b.train()
    assert (a.config["p"].log, b.config["p"].log) == ([None], [{"s": 1}])


@four
def test_restoring_a_function_that_already_runs_takes_it_back(make, form):
    t = make(counting(form, lambda config, x: {"x": x}))
    t.train()
    path = t.save()
    t.train()
    t.train()
    t.restore(path)
    row = t.train()
    assert (row["training_iteration"], row["x"]) == (2, 2)


def test_a_function_without_a_checkpoint_cannot_be_saved_and_says_how(make):
    t = make(plain)
    t.train()
    for save in (t.save, t.save_to_object):
        with pytest.raises(TuneError, match=r"plain.*checkpoint"):
            save()
    assert t.reset_config({}) is False


@pytest.mark.parametrize("bad", [5, [1], b"bytes", True])
def test_a_checkpoint_of_another_type_is_refused(make, bad):
    with pytest.raises(TypeError, match=r"checkpoint.*dict"):
        make(reporting("def", lambda config, i: {"checkpoint": bad})).train()


def test_a_checkpoint_that_is_no_directory_is_refused_when_it_is_saved(make, tmp_path):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "nowhere"):
        t = make(reporting("def", lambda config, i, path=path: {"checkpoint": path}))
        t.train()
        with pytest.raises(TuneError, match=path.name):
            t.save()


# -- sessions -----------------------------------------------------------------------------------


def session_now():
    return track.trial_id(), track.trial_name(), track.trial_dir()


@pytest.mark.parametrize("second", ["def", "async", "generator", "async generator"])
@four
def test_two_trials_in_one_process_never_share_a_session(make, form, second):
    def body(config, i):
        return {"session": session_now()}

    trials = [make(reporting(f, body), trial_id=f"id{n}", trial_name=f"name{n}")
              for n, f in enumerate((form, second))]  # fmt: skip
    for _ in range(3):
        for n, t in enumerate(trials):
            assert t.train()["session"] == (f"id{n}", f"name{n}", t.logdir)


@four
def test_the_session_is_still_there_when_a_stopped_function_cleans_up(make, form):
    function = catching(
        form, BaseException, lambda config, stop: config["p"].log.append(session_now())
    )
    t = make(function, trial_id="id0", trial_name="name0")
    t.train()
    t.stop()
    assert t.config["p"].log == [("id0", "name0", t.logdir)]


def alone(function):
    """Call in a context of its own, so that no other test sees the session that it opens."""
    return contextvars.copy_context().run(function)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_outside_of_a_run_reports_go_to_a_directory_of_their_own(tmp_path, asynchronous):
    def function():
        track.log(loss=0.5)
        tune.report({"loss": float("nan")}, more=1, checkpoint={"s": 1})
        return session_now(), tune.get_checkpoint()

    async def async_function():
        await track.log(loss=0.5)
        await tune.report({"loss": float("nan")}, more=1, checkpoint={"s": 1})
        return session_now(), tune.get_checkpoint()

    call = (lambda: asyncio.run(async_function())) if asynchronous else function
    ((trial_id, trial_name, trial_dir), checkpoint), other = alone(call), alone(call)
    assert trial_id == trial_name
    assert checkpoint is None
    assert trial_dir != other[0][2]
    assert os.path.dirname(trial_dir.rstrip("/")) == str(tmp_path / "results")
    rows = [json.loads(line) for line in Path(trial_dir, "result.json").read_text().splitlines()]
    assert rows == [
        {"loss": 0.5, "training_iteration": 1, "trial_id": trial_id},
        {"loss": None, "more": 1, "training_iteration": 2, "trial_id": trial_id},
    ]
