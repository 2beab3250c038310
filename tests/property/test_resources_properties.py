"""The book of a pool stays right, whatever is taken and given back in whatever order."""

from __future__ import annotations

import pickle
from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asynctune.errors import ConfigError
from asynctune.executors.pool import ResourcePool
from asynctune.resources import Resources

hundredths = st.integers(0, 400).map(lambda n: n / 100)
gpus = st.one_of(st.integers(0, 3), st.integers(0, 100).map(lambda n: n / 100),
                 st.sampled_from([0.33, 0.34, 0.5, 0.25, 0.1]))  # fmt: skip
requests = st.builds(
    Resources,
    cpu=hundredths,
    extra_cpu=hundredths,
    gpu=gpus,
    extra_gpu=gpus,
    custom_resources=st.dictionaries(st.sampled_from(["tpu", "disk"]), hundredths, max_size=2),
)
pools = st.builds(
    ResourcePool,
    st.integers(0, 1600).map(lambda n: n / 100),
    st.integers(0, 4).map(lambda n: [f"GPU-{i}" for i in range(n)]),
    st.fixed_dictionaries({"tpu": hundredths}),
    st.one_of(st.none(), st.integers(1, 5)),
)
steps = st.lists(st.tuples(st.booleans(), requests, st.integers(0, 99)), max_size=30)


def exact(amount):
    return Decimal(str(amount))


def per_gpu(share):
    """GPU id -> what a share holds of it: a fraction of one, or whole ones, those of extra_gpu last."""
    ids, held = list(share.gpu_ids), Counter()
    for amount in (share.resources.gpu, share.resources.extra_gpu):
        if amount:
            parts = [exact(amount)] if amount < 1 else [Decimal(1)] * int(amount)
            for part in parts:
                held[ids.pop(0)] += part
    assert not ids
    return held


def assert_within(pool, lent):
    assert sum(exact(share.resources.cpu_total) for share in lent) <= exact(pool.cpus)
    for name in ("tpu", "disk"):
        held = sum(exact(share.resources.custom_resources.get(name, 0)) for share in lent)
        assert held <= exact(pool.custom.get(name, 0))
    on_gpus = sum((per_gpu(share) for share in lent), Counter())
    assert set(on_gpus) <= set(pool.gpus)
    assert all(amount <= 1 for amount in on_gpus.values())
    assert pool.slots is None or len(lent) <= pool.slots
    assert pool.leased == len(lent)


def assert_whole(pool):
    """All that a pool has can be had in one share, and then there is nothing left."""
    everything = Resources(cpu=pool.cpus, gpu=len(pool.gpus), custom_resources=pool.custom)
    assert pool.leased == 0
    share = pool.acquire(everything)
    for more in ({"cpu": 0.01}, {"gpu": 0.01}, {"custom_resources": {"tpu": 0.01}}):
        assert pool.acquire(Resources(**{"cpu": 0, **more})) is None
    pool.release(share)


@given(pools, steps)
def test_a_pool_never_lends_more_than_it_has_and_ends_as_it_began(pool, steps):
    assert_whole(pool)
    lent = []
    for take, request, which in steps:
        if take or not lent:
            share = pool.acquire(request)
            if share is not None:
                assert share.resources == request
                lent.append(share)
        else:
            pool.release(lent.pop(which % len(lent)))
        assert_within(pool, lent)
    for share in lent:
        pool.release(share)
    assert_whole(pool)


@given(pools, requests)
def test_what_passes_the_check_fits_the_empty_pool_and_what_does_not_never_fits(pool, request):
    try:
        pool.check(request, what="resources_per_trial")
    except ConfigError:
        assert pool.acquire(request) is None
    else:
        assert pool.acquire(request) is not None


@given(pools, st.lists(requests, max_size=8), requests)
def test_what_is_refused_now_fits_once_all_is_given_back(pool, others, request):
    fits = pool.acquire(request)
    if fits is not None:
        pool.release(fits)
    lent = [share for share in map(pool.acquire, others) if share is not None]
    for share in reversed(lent):
        pool.release(share)
    assert (pool.acquire(request) is None) == (fits is None)


@given(st.integers(1, 99), st.integers(1, 4))
def test_as_many_fractions_fit_as_the_arithmetic_of_hundredths_allows(hundredth, count):
    pool = ResourcePool(0, [str(i) for i in range(count)])
    lent = 0
    while pool.acquire(Resources(cpu=0, gpu=hundredth / 100)) is not None:
        lent += 1
    assert lent == count * (100 // hundredth)


@given(requests)
def test_resources_survive_pickling_and_their_own_mapping(resources):
    assert pickle.loads(pickle.dumps(resources)) == resources
    mapping = {name: getattr(resources, name) for name in
               ("cpu", "gpu", "extra_cpu", "extra_gpu", "custom_resources")}  # fmt: skip
    assert Resources.from_mapping(mapping, "x") == resources


@given(st.floats(0.005, 1e6) | st.just(0.0), st.floats(0.011, 1))
def test_any_amount_that_is_accepted_is_held_to_the_hundredth_and_never_lost(amount, share):
    assert abs(Resources(cpu=amount).cpu - amount) <= 0.005 + amount * 1e-9
    assert Resources(gpu=share).gpu > 0
    for refused in (-amount - 0.01, 0.004):
        with pytest.raises(ConfigError):
            Resources(cpu=refused)
