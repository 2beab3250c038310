"""Tables of learning curves: what they hold, what is near, and what is refused."""

from __future__ import annotations

import gzip
import json
import math
import random
from pathlib import Path

import pytest

import asynctune as tune
from asynctune.errors import ConfigError
from asynctune.simulate import Curve, Curves

DIGITS = Path(__file__).parents[3] / "benchmarks" / "data" / "digits_curves.jsonl.gz"


def curve(lr=0.1, layers=1, solver="sgd", steps=3):
    losses = [lr * layers / (step + 1) for step in range(steps)]
    return Curve({"lr": lr, "layers": layers, "solver": solver}, [0.5] * steps, {"loss": losses})


TABLE = [curve(0.001), curve(0.01, 2), curve(0.1, 3, "adam"), curve(1.0, 1, "adam")]


def written(path, *lines):
    text = "\n".join(json.dumps(line) for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


LINE = {"config": {"lr": 0.1}, "seconds": [1.0, 2.0], "loss": [3.0, None]}
HEAD = {"about": "a test", "domains": {"lr": {"kind": "loguniform", "lower": 0.01, "upper": 1}}}


@pytest.mark.parametrize("name", ["table.jsonl", "table.jsonl.gz"])
def test_a_file_gives_its_curves_and_domains(tmp_path, name):
    curves = Curves.load(written(tmp_path / name, HEAD, LINE))
    assert len(curves) == 1
    assert curves[0].config == {"lr": 0.1}
    assert curves[0].seconds == (1.0, 2.0)
    assert curves.domains == {"lr": tune.loguniform(0.01, 1)}


def test_null_is_nan(tmp_path):
    curves = Curves.load(written(tmp_path / "table.jsonl", HEAD, LINE))
    assert curves[0].metrics["loss"][0] == 3.0
    assert math.isnan(curves[0].metrics["loss"][1])


@pytest.mark.parametrize(
    ("lines", "blamed"),
    [
        ([], "not enough values"),
        ([HEAD], "at least one curve"),
        ([HEAD, LINE | {"seconds": [1.0]}], "loss of curve 0 must have 1 values, .*, got 2"),
        ([HEAD, LINE | {"seconds": [1.0, -1.0]}], "seconds of curve 0 must be finite"),
        ([HEAD, LINE | {"loss": [1.0, "x"]}], "loss of curve 0 must have numbers as values"),
        ([HEAD, LINE, LINE | {"config": {"momentum": 1}}], "curve 1 must have the keys"),
        ([HEAD, {"seconds": []}], "config"),
        ([{"domains": {"lr": {"kind": "normal"}}}, LINE], "domain of 'lr' must be .*got 'normal'"),
        ([{"domains": {"momentum": {"kind": "choice", "values": [1]}}}, LINE], "domains of Curves must"),
        ([3, LINE], "get"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_table_is_refused_with_its_name_and_what_is_wrong(
    tmp_path, lines, blamed
):
    path = written(tmp_path / "table.jsonl", *lines)
    with pytest.raises(ConfigError, match=f"table.jsonl is not a table of curves: .*{blamed}"):
        Curves.load(path)


def test_a_step_has_its_metrics_its_seconds_and_says_which_is_the_last():
    curves = Curves(TABLE)
    rows = [curves[1].at(step) for step in range(4)]
    assert [row["done"] for row in rows] == [False, False, True, True]
    assert rows[0] == {"loss": 0.02, "time_this_iter_s": 0.5, "done": False}
    assert rows[3] == rows[2], "behind the end there is the end"


def test_without_domains_they_are_what_the_configurations_span():
    assert Curves(TABLE).domains == {
        "lr": tune.loguniform(0.001, 1.0),
        "layers": tune.randint(1, 4),
        "solver": tune.choice(["sgd", "adam"]),
    }
    spread = [Curve({"n": n, "x": x}, [1.0], {}) for n, x in ((1, -1.0), (500, 3))]
    assert Curves(spread).domains == {"n": tune.lograndint(1, 501), "x": tune.uniform(-1.0, 3)}


@pytest.mark.parametrize("number", range(4))
def test_a_configuration_of_the_table_finds_its_own_curve(number):
    curves = Curves(TABLE)
    assert curves.find(TABLE[number].config) == number
    assert curves.find({"curve": number}) == number


def test_another_finds_the_nearest_in_the_logarithm_where_the_domain_is_logarithmic():
    curves = Curves([curve(0.001), curve(0.1)])
    assert curves.find({"lr": 0.02, "layers": 1, "solver": "sgd"}) == 1, "linearly, 0 were nearer"
    assert curves.find({"lr": 0.005, "layers": 1, "solver": "sgd"}) == 0


def test_what_lies_outside_of_the_domains_counts_as_on_their_border():
    curves = Curves(TABLE)
    assert curves.find({"lr": 50.0, "layers": 1, "solver": "adam"}) == 3
    assert curves.find({"lr": 0, "layers": -7, "solver": "sgd"}) == 0


def test_the_nearest_is_the_nearest_of_all():
    rng = random.Random(1)
    spread = [curve(10 ** rng.uniform(-3, 0), rng.randint(1, 5), rng.choice(["a", "b"]))
              for _ in range(50)]  # fmt: skip
    curves = Curves(spread)

    def distance(one, other):
        lr = (math.log(one["lr"]) - math.log(other["lr"])) / math.log(high / low)
        word = float(one["solver"] != other["solver"])
        return math.hypot(lr, (one["layers"] - other["layers"]) / 5, word)

    low, high = (f(c.config["lr"] for c in spread) for f in (min, max))
    for _ in range(50):
        asked = dict(curve(10 ** rng.uniform(-3, 0), rng.randint(1, 5), rng.choice("ab")).config)
        asked["lr"] = min(max(asked["lr"], low), high)
        distances = [distance(asked, one.config) for one in spread]
        assert distances[curves.find(asked)] == pytest.approx(min(distances))


@pytest.mark.parametrize(
    ("config", "blamed"),
    [
        ({"curve": 4}, "config['curve'] must be an int from 0 to 3, got 4"),
        ({"curve": "x"}, "config['curve'] must be an int from 0 to 3, got 'x'"),
        ({"lr": 0.1, "layers": 1}, "config has no 'solver'"),
        (
            {"lr": "x", "layers": 1, "solver": "sgd"},
            "config['lr'] must be a finite number, got 'x'",
        ),
        (
            {"lr": 0.1, "layers": 1, "solver": "lbfgs"},
            "config['solver'] must be one of ['sgd', 'adam'], got 'lbfgs'",
        ),
    ],
)
def test_a_configuration_without_a_curve_is_refused_by_its_key(config, blamed):
    with pytest.raises(ConfigError) as caught:
        Curves(TABLE).find(config)
    assert blamed in str(caught.value)


def test_the_spaces_are_the_rows_the_grid_and_the_domains():
    curves = Curves(TABLE)
    assert curves.space() == {"curve": tune.randint(0, 4)}
    assert curves.space("grid") == {"curve": tune.grid_search([0, 1, 2, 3])}
    assert curves.space("domains") == curves.domains
    with pytest.raises(ConfigError, match=r"^kind of .*'domains', got 'all'"):
        curves.space("all")


def test_domains_that_cannot_be_measured_are_refused():
    with pytest.raises(ConfigError, match=r"^domains\['lr'\] of Curves must be .*got RandN"):
        Curves([Curve({"lr": 1.0}, [1.0], {})], {"lr": tune.randn()})


def test_the_trainable_is_a_trainable_that_saves_and_restores(results_dir):
    cls = Curves(TABLE).trainable
    one = cls({"curve": 1})
    assert one.train()["loss"] == 0.02
    path = one.save()
    second = one.train()
    other = cls({"curve": 1})
    other.restore(path)
    resumed = other.train()
    for trainable in (one, other):
        trainable.stop()
    assert (resumed["loss"], resumed["training_iteration"]) == (second["loss"], 2)
    assert resumed["time_total_s"] == 1.0, "the time is that of the table"


def test_the_table_of_digits_has_what_it_says():
    curves = Curves.load(DIGITS)
    assert DIGITS.stat().st_size < 1_000_000
    assert len(curves) >= 1000
    assert {len(curve) for curve in (curves[n] for n in range(len(curves)))} == {50}
    best = [max(curves[n].metrics["accuracy"]) for n in range(len(curves))]
    assert 0.97 < max(best) < 1
    assert min(best) < 0.2
    assert curves.find(curves[77].config) == 77
