"""The contract of searchers, as test classes to subclass. Needs pytest.

::

    class TestMySearch(LearningSearcherContract):
        def make_searcher(self):
            return MySearch()
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest

from asynctune.errors import ConfigError, MetricMissing
from asynctune.space import Space, choice, randint
from asynctune.space.domains import Choice
from asynctune.suggest import FINISHED, RandomSearch, Searcher
from asynctune.suggest.ask_tell import AskTell
from asynctune.testing._searcher_driver import (
    BOWL,
    CATEGORIES,
    INTS,
    LIST,
    SAMPLERS,
    SPACE,
    STREAM,
    THING,
    SearcherDriver,
    bowl,
    run_trials,
    values_of,
)


class SearcherContract:
    """The promises of :class:`asynctune.suggest.Searcher`. Override :meth:`make_searcher`.

    Attributes:
        takes_run_seed: Whether the suggestions depend on the seed of the run.
        takes_duplicates: Whether the searcher works with each policy in :attr:`Searcher.duplicates`.
        loggers: The names of loggers of ``logging`` that the searcher must not change, besides the root.
    """

    takes_run_seed: ClassVar[bool] = True
    takes_duplicates: ClassVar[bool] = True
    loggers: ClassVar[tuple[str, ...]] = ()

    def make_searcher(self) -> Searcher:
        """Return a new searcher without an objective of its own, which suggests values for all samplers."""
        raise NotImplementedError(f"{type(self).__name__} must override make_searcher()")

    def bind(
        self, config: Mapping[str, Any] | None = None, seed: int = 3
    ) -> tuple[Searcher, Space]:
        """Return a new searcher that is bound to a space, and the space.

        Args:
            config: The config of the space; by default one with every kind of sampler.
            seed: The seed of the run.
        """
        space = Space(SPACE if config is None else config)
        searcher = self.make_searcher()
        searcher.bind(space, "loss", "min", seed)
        return searcher, space

    def test_equal_calls_give_equal_suggestions(self) -> None:
        suggestions = []
        for _ in range(2):
            searcher, space = self.bind()
            if not searcher.repeats:
                pytest.skip("this searcher does not repeat its suggestions")
            driver = SearcherDriver(searcher, space)
            for step in STREAM:
                driver.perform(*step)
            suggestions.append(driver.suggestions)
        assert suggestions[0] == suggestions[1]
        assert sum(suggestion is not None for suggestion in suggestions[0]) >= 5

    def test_the_seed_of_the_run_decides_unless_the_searcher_has_its_own(self) -> None:
        (one, space), (other, _) = self.bind(seed=1), self.bind(seed=2)
        drawn = [space.variant(0, 0, values_of(each, "a")).drawn for each in (one, other)]
        if one.repeats or self.takes_run_seed:
            assert (drawn[0] != drawn[1]) is self.takes_run_seed

    def test_an_instance_serves_one_run(self) -> None:
        searcher, space = self.bind()
        with pytest.raises(ConfigError, match=f"{type(searcher).__name__} was already used"):
            searcher.bind(space, "loss", "min", 0)

    def test_values_are_plain_within_bounds_and_on_their_step(self) -> None:
        searcher, space = self.bind()
        found: dict[str, set[Any]] = {kind: set() for kind in SAMPLERS}
        for number in range(24):
            trial_id = f"trial_{number}"
            values = values_of(searcher, trial_id)
            config = space.variant(number, 0, values).config
            for kind, (_, is_valid) in SAMPLERS.items():
                path = kind if kind == "choice" else f"flat/{kind}"
                value, sampler = values[path], space.samplers[path]
                assert is_valid(value), (kind, value)
                if isinstance(sampler, Choice):
                    assert any(value is category for category in sampler.categories)
                    continue
                assert type(value) is (int if kind in INTS else float)
                assert json.loads(json.dumps(value)) == value == config["flat"][kind]
                found[kind].add(value)
            assert 0 <= values["list/0"] <= 1
            assert values["list/1/inner"] in range(3)
            loss = math.nan if number % 5 == 4 else values["flat/uniform"] ** 2
            searcher.on_trial_complete(trial_id, {"loss": loss, "training_iteration": 1})
        assert len(found["uniform"]) > 2
        assert len(found["randint"]) > 1

    def test_elements_of_a_choice_are_returned_as_they_are(self) -> None:
        searcher, space = self.bind({"pick": choice(CATEGORIES)})
        kinds = set()
        for number in range(60):
            values = values_of(searcher, f"trial_{number}")
            pick = space.variant(number, 0, values).config["pick"]
            if isinstance(pick, dict):
                assert 2 <= pick["deep"] <= 3
            else:
                assert pick == LIST or any(pick is category for category in CATEGORIES)
            kinds.add((type(pick), repr(pick) if not isinstance(pick, dict) else ""))
            searcher.on_trial_complete(f"trial_{number}", {"loss": 1.0, "training_iteration": 1})
        assert (type(THING), repr(THING)) in kinds
        assert len(kinds) > 4

    def test_grids_and_functions_of_the_config_are_not_suggested(self) -> None:
        searcher, space = self.bind()
        values = values_of(searcher, "trial_0")
        assert not {"grid", "of", "fixed"} & values.keys()
        configs = [space.variant(number, 0, values).config for number in range(2)]
        assert [config["grid"] for config in configs] == [1, 2]
        assert configs[0]["of"] == 2

    def test_odd_notifications_are_no_errors(self) -> None:
        searcher, _ = self.bind(BOWL)
        row = {"loss": 1.0, "training_iteration": 1}
        searcher.on_trial_result("never heard of", row)
        searcher.on_trial_complete("never heard of", row)
        odd_values: list[Any] = [math.nan, math.inf, -math.inf, 10**400, -(10**400)]
        for number, odd in enumerate([*odd_values, "text", None, True, [1]]):
            trial_id = f"trial_{number}"
            searcher.suggest(trial_id)
            searcher.on_trial_result(trial_id, row)
            searcher.on_trial_result(trial_id, row)
            searcher.on_trial_result(trial_id, {"loss": 2.0})
            searcher.on_trial_result(trial_id, {"loss": odd, "training_iteration": odd})
            searcher.on_trial_complete(trial_id, {"loss": odd, "training_iteration": 1})
            searcher.on_trial_complete(trial_id, row)
            searcher.on_trial_complete(trial_id, None, error=True)
            searcher.on_trial_result(trial_id, row)
        for number in range(9, 30):
            assert searcher.suggest(f"trial_{number}")
            searcher.on_trial_complete(f"trial_{number}", row)

    def test_trials_that_all_fail_do_not_stop_the_search(self) -> None:
        searcher, _ = self.bind(BOWL)
        for number in range(30):
            assert searcher.suggest(f"trial_{number}")
            searcher.on_trial_complete(f"trial_{number}", None, error=True)

    def test_the_search_continues_from_trials_of_another_instance(self) -> None:
        searcher, space = self.bind()
        for number in range(8):
            variant = space.variant(number, 9)
            searcher.adopt(f"trial_{number}", space.values_of(variant.config, variant.drawn))
            row = {"loss": variant.config["flat"]["uniform"], "training_iteration": 1}
            searcher.on_trial_result(f"trial_{number}", row)
            searcher.on_trial_complete(f"trial_{number}", row)
        for number in range(8, 12):
            assert space.variant(number, 0, values_of(searcher, f"trial_{number}"))
            searcher.on_trial_complete(f"trial_{number}", {"loss": 1.0, "training_iteration": 1})

    def test_a_suggested_trial_may_turn_out_to_have_had_other_values(self) -> None:
        searcher, space = self.bind()
        searcher.suggest("trial_0")
        variant = space.variant(0, 9)
        searcher.adopt("trial_0", space.values_of(variant.config, variant.drawn))
        searcher.on_trial_complete("trial_0", {"loss": 1.0, "training_iteration": 1})
        assert searcher.suggest("trial_1")

    def test_a_trial_id_may_be_used_again_after_its_end(self) -> None:
        searcher, space = self.bind()
        drawn = []
        for _ in range(12):
            drawn.append(space.variant(0, 0, values_of(searcher, "trial_0")).drawn)
            searcher.on_trial_complete("trial_0", {"loss": 1.0, "training_iteration": 1})
        assert len({json.dumps(each) for each in drawn}) > 3

    @pytest.mark.parametrize("policy", ["skip", "reuse"])
    def test_a_policy_of_duplicates_tries_each_configuration_once(self, policy: Any) -> None:
        if not self.takes_duplicates:
            pytest.skip("this searcher has no such policy")
        searcher = self.make_searcher()
        searcher.duplicates = policy
        space = Space({"a": randint(0, 3), "b": choice(["x", "y"])})
        searcher.bind(space, "loss", "min", 0)
        ask_tell = AskTell(searcher, space, -1, 0)
        seen = []
        for number in range(5):
            answer = ask_tell.ask(f"trial_{number}")
            if answer is FINISHED:
                break
            assert answer is not None
            seen.append(json.dumps(answer.variant.drawn))
            row = {"loss": 1.0 + number, "training_iteration": 1}
            ask_tell.queue_end(f"trial_{number}", row, error=False)
        assert len(set(seen)) == len(seen) >= 4

    def test_nothing_is_printed_and_no_logger_is_changed(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        loggers = [logging.getLogger(name) for name in ("", *self.loggers)]
        before = [(log.level, log.propagate, log.filters[:], log.handlers[:]) for log in loggers]
        searcher, space = self.bind(BOWL)
        run_trials(searcher, space, 12, bowl)
        assert capfd.readouterr() == ("", "")
        assert before == [(log.level, log.propagate, log.filters, log.handlers) for log in loggers]


class LearningSearcherContract(SearcherContract):
    """The promises of searchers that learn from results: they need an objective, and beat random search.

    Attributes:
        advantage: The most that the mean loss of the last 20 of 60 trials may be, as a fraction of that of
            random search.
    """

    advantage: ClassVar[float] = 0.7

    @pytest.mark.parametrize("objective", [(None, None), ("loss", None)])
    def test_an_objective_is_needed(self, objective: tuple[str | None, None]) -> None:
        searcher = self.make_searcher()
        with pytest.raises(ConfigError, match=f"{type(searcher).__name__} needs an objective"):
            searcher.bind(Space(BOWL), *objective, 0)

    def test_a_metric_that_no_row_has_is_an_error_that_lists_the_metrics_of_the_row(self) -> None:
        searcher, _ = self.bind(BOWL)
        searcher.suggest("trial_0")
        with pytest.raises(MetricMissing, match=r"'loss'.*accuracy, training_iter"):
            searcher.on_trial_complete("trial_0", {"accuracy": 1.0, "training_iteration": 1})

    def test_the_search_learns(self) -> None:
        def mean_loss(searcher: Searcher, space: Space) -> float:
            last = run_trials(searcher, space, 60, bowl)[40:]
            return sum(map(bowl, last)) / len(last)

        by_chance, space = RandomSearch(), Space(BOWL)
        by_chance.bind(space, "loss", "min", 3)
        assert mean_loss(*self.bind(BOWL)) < self.advantage * mean_loss(by_chance, space)
