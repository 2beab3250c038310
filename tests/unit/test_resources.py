"""What a trial may ask for, what is refused, and which share it is lent."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest

from asynctune.errors import ConfigError
from asynctune.executors.pool import ResourcePool
from asynctune.resources import Resources


def test_a_trial_that_says_nothing_asks_for_one_cpu():
    for resources in (Resources(), Resources.from_mapping({}, "resources_per_trial")):
        assert (resources.cpu, resources.gpu, resources.cpu_total, resources.gpu_total) == (
            1,
            0,
            1,
            0,
        )
    assert Resources.from_mapping({"gpu": 1}, "x").cpu == 1


def test_the_totals_include_what_is_held_for_processes_of_the_trials_own():
    r = Resources(cpu=0, extra_cpu=3, gpu=0.5, extra_gpu=2, custom_resources={"tpu": 0.5})
    assert (r.cpu_total, r.gpu_total, r.threads) == (3, 2.5, 1)
    assert [Resources(cpu=cpu).threads for cpu in (0, 0.5, 1, 2.9, 8)] == [1, 1, 1, 2, 8]
    assert str(r) == "3 CPU, 2.5 GPU, 0.5 tpu"


def test_amounts_are_rounded_so_that_shares_add_up():
    pool = ResourcePool(0.99)
    shares = [pool.acquire(Resources(cpu=0.33)) for _ in range(4)]
    assert [share is not None for share in shares] == [True, True, True, False]
    assert Resources(cpu=0.1 + 0.2) == Resources(cpu=0.3)
    assert type(Resources(cpu=np.float64(2)).cpu) is int
    assert type(Resources(cpu=np.int64(2)).cpu) is int


def test_resources_travel_and_are_values():
    r = Resources(cpu=2, gpu=0.5, extra_cpu=1, extra_gpu=1, custom_resources={"tpu": 1})
    assert pickle.loads(pickle.dumps(r)) == copy.deepcopy(r) == r != Resources()
    assert Resources.from_mapping(r, "x") is r
    with pytest.raises(AttributeError):
        r.cpu = 5
    with pytest.raises(TypeError):
        r.custom_resources["tpu"] = 5
    given = {"tpu": 1}
    r = Resources(custom_resources=given)
    given["tpu"] = 5
    assert r.custom_resources == {"tpu": 1}


AMOUNTS = [None, "1", -1, -0.001, math.nan, math.inf, True, 1j, [], 10**400]


@pytest.mark.parametrize("amount", AMOUNTS, ids=lambda amount: repr(amount)[:10])
@pytest.mark.parametrize("name", ["cpu", "gpu", "extra_cpu", "extra_gpu"])
def test_what_is_no_amount_is_refused_by_its_name(name, amount):
    with pytest.raises(ConfigError, match=name):
        Resources.from_mapping({name: amount}, "resources_per_trial")


@pytest.mark.parametrize("amount", AMOUNTS, ids=lambda amount: repr(amount)[:10])
def test_what_is_no_amount_of_a_custom_resource_is_refused_by_its_name(amount):
    with pytest.raises(ConfigError, match="tpu"):
        Resources(custom_resources={"tpu": amount})


@pytest.mark.parametrize(
    ("given", "culprit"),
    [({"cpus": 1}, "cpus"), ({"memory": 1}, "memory"), ({"driver_cpu_limit": 1}, "driver_cpu_limit"),
     ({1: 1}, "1"), (5, "resources_per_trial"), (None, "resources_per_trial"),
     ([("cpu", 1)], "resources_per_trial"), ({"custom_resources": 5}, "custom_resources"),
     ({"custom_resources": None}, "custom_resources"), ({"gpu": 1.5}, "gpu"),
     ({"extra_gpu": 1.5}, "extra_gpu"), ({"gpu": 2.01}, "gpu")],
)  # fmt: skip
def test_a_wrong_request_names_its_culprit(given, culprit):
    with pytest.raises(ConfigError, match=culprit):
        Resources.from_mapping(given, "resources_per_trial")


# -- the pool -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "culprit"),
    [({"cpu": 3}, "3 cpu.*2 in all"), ({"cpu": 1, "extra_cpu": 2}, "cpu"), ({"gpu": 2}, "gpu"),
     ({"gpu": 1, "extra_gpu": 0.5}, "gpu"), ({"gpu": 0.5, "extra_gpu": 0.5}, "gpu"),
     ({"custom_resources": {"tpu": 2}}, "tpu"), ({"custom_resources": {"fpga": 1}}, "fpga")],
)  # fmt: skip
def test_what_the_empty_pool_could_not_give_is_refused_with_advice(asked, culprit):
    pool = ResourcePool(2, ["0"], {"tpu": 1})
    resources = Resources.from_mapping(asked, "x")
    assert pool.acquire(resources) is None
    with pytest.raises(
        ConfigError, match=f"resources_per_trial.*{culprit}.*Ask for less"
    ) as caught:
        pool.check(resources, what="resources_per_trial", advice="Ask for less")
    assert str(caught.value).endswith("Ask for less")


def test_fractions_share_a_gpu_and_leave_whole_ones_whole():
    pool = ResourcePool(99, ["a", "b"])
    half, third, whole = (Resources(gpu=gpu) for gpu in (0.5, 0.33, 1))
    first = pool.acquire(half)
    assert pool.acquire(half).gpu_ids == first.gpu_ids
    assert {*pool.acquire(whole).gpu_ids, *first.gpu_ids} == {"a", "b"}
    assert pool.acquire(third) is None
    pool.release(first)
    assert pool.acquire(third).gpu_ids == first.gpu_ids


def test_a_share_says_which_gpus_are_its_own_and_they_are_different_ones():
    pool = ResourcePool(9, ["GPU-x", "GPU-y", "GPU-z"])
    share = pool.acquire(Resources(gpu=2, extra_gpu=0.5))
    assert len(set(share.gpu_ids)) == 3
    assert pool.acquire(Resources(gpu=1)) is None
    assert pool.acquire(Resources(gpu=0.5)).gpu_ids == share.gpu_ids[2:]
    assert pool.acquire(Resources()).gpu_ids == ()


def test_slots_bound_the_shares_whatever_they_hold():
    pool = ResourcePool(99, slots=2)
    shares = [pool.acquire(Resources(cpu=0)) for _ in range(3)]
    assert [share is not None for share in shares] == [True, True, False]
    pool.release(shares[0])
    assert pool.acquire(Resources(cpu=0)) is not None
    assert pool.leased == 2


def test_a_pool_without_limit_counts_only_its_slots():
    pool = ResourcePool(math.inf, slots=1)
    greedy = Resources(cpu=10**6, gpu=8, custom_resources={"tpu": 1})
    pool.check(greedy, what="x")
    share = pool.acquire(greedy)
    assert share.gpu_ids == ()
    assert pool.acquire(greedy) is None
    pool.release(share)
    assert pool.acquire(greedy) is not None


def test_none_of_a_resource_that_the_pool_does_not_have_is_no_demand():
    pool = ResourcePool(1)
    nothing = Resources(custom_resources={"fpga": 0})
    pool.check(nothing, what="x")
    pool.release(pool.acquire(nothing))
    assert pool.acquire(Resources()) is not None


def test_what_does_not_fit_takes_nothing():
    pool = ResourcePool(4, ["0"], {"tpu": 1})
    for asked in ({"cpu": 5}, {"cpu": 4, "gpu": 2}, {"cpu": 4, "custom_resources": {"tpu": 2}},
                  {"gpu": 1, "extra_gpu": 1}):  # fmt: skip
        assert pool.acquire(Resources.from_mapping(asked, "x")) is None
    assert pool.leased == 0
    assert pool.acquire(Resources(cpu=4, gpu=1, custom_resources={"tpu": 1})) is not None
