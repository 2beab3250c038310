"""Arguments of a run that only some combinations make wrong, and what their errors may show."""

from __future__ import annotations

import pytest

from asynctune.errors import ConfigError
from asynctune.runner.plan.locations import resolve_locations
from asynctune.runner.plan.options import Options
from asynctune.schedulers.stoppers.base import CriteriaStopper
from asynctune.suggest import BasicVariantGenerator


class EndsAll(CriteriaStopper):
    def stop_all(self):
        return True


class Finite(BasicVariantGenerator):
    """Answers FINISHED some day."""


@pytest.mark.parametrize(
    "end", [{"stop": EndsAll({"loss": 1})}, {"search_alg": Finite()}, {"time_budget_s": 1}]
)
def test_a_run_without_a_last_sample_may_be_ended_by_any_class_that_can(end):
    assert Options(num_samples=-1, **end).num_samples == -1


@pytest.mark.parametrize("end", [{}, {"stop": {"loss": 1}}, {"search_alg": None}])
def test_a_run_without_a_last_sample_needs_an_end(end):
    with pytest.raises(ConfigError, match="num_samples must be a positive int, got -1"):
        Options(num_samples=-1, **end)


@pytest.mark.parametrize("options", ["secret-key", [("secret_access_key", "secret-key")]])
def test_wrong_storage_options_are_not_shown(options):
    with pytest.raises(ConfigError, match="storage_options must be a dict") as caught:
        Options(storage_options=options)
    assert "secret-key" not in str(caught.value)


def test_the_credentials_of_a_wrong_local_dir_are_not_shown(tmp_path):
    options = Options(storage_path=tmp_path, local_dir="s3://user:secret-key@bucket/path")
    with pytest.raises(ConfigError, match="local_dir must be None") as caught:
        resolve_locations(options, "name")
    assert "secret-key" not in str(caught.value)
