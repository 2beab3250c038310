"""Slots: a free one goes to the run that holds the fewest, and none is ever lost."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import weakref

import anyio
import pytest

from asynctune.executors.base import Slots
from asynctune.executors.pool import ResourcePool
from asynctune.resources import Resources

pytestmark = pytest.mark.asyncio

ONE = Resources(cpu=1)


class Run:
    """An owner of leases."""


class Borrower:
    """Holds a lease in a task of its own, until :meth:`give_back`."""

    def __init__(self, slots: Slots, owner: object, resources: Resources = ONE) -> None:
        self.share = None
        self._enough = asyncio.Event()
        self.task = asyncio.ensure_future(self._borrow(slots, owner, resources))

    async def _borrow(self, slots: Slots, owner: object, resources: Resources) -> None:
        with await slots.lease(resources, owner) as lease:
            self.share = lease.share
            await self._enough.wait()

    @property
    def holds(self) -> bool:
        return self.share is not None and not self.task.done()

    async def give_back(self) -> None:
        self._enough.set()
        await self.task
        await settled()

    async def cancel(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])
        assert self.task.cancelled()
        await settled()


async def settled() -> None:
    """Let all tasks run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def borrowers(slots: Slots, *wanted) -> list[Borrower]:
    """Start borrowers one after the other: of an owner, or an owner and resources."""
    made = []
    for each in wanted:
        made.append(Borrower(slots, *(each if isinstance(each, tuple) else (each,))))
        await settled()
    return made


async def end(slots: Slots, *left: Borrower) -> None:
    for each in left:
        assert each.holds
        await each.give_back()
    assert slots.pool.leased == 0


async def test_a_free_slot_goes_to_the_owner_that_holds_fewest():
    slots = Slots(ResourcePool(3))
    a1, a2, a3, a4, b1, b2 = await borrowers(slots, "a", "a", "a", "a", "b", "b")
    assert [each.holds for each in (a1, a2, a3, a4, b1, b2)] == [True] * 3 + [False] * 3
    await a1.give_back()
    assert b1.holds, "b held none, though a asked before it"
    assert not a4.holds
    await a2.give_back()
    assert (a4.holds, b2.holds) == (True, False), "both held one, and a had waited longer"
    await a3.give_back()
    assert b2.holds
    await end(slots, a4, b1, b2)


async def test_one_owner_is_served_in_the_order_in_which_it_asked():
    slots = Slots(ResourcePool(1))
    first, *others = await borrowers(slots, "a", "a", "a", "a")
    for following in others:
        assert not following.holds
        await first.give_back()
        first = following
        assert first.holds
    await end(slots, first)


async def test_an_owner_whose_next_trial_does_not_fit_holds_up_nobody_else():
    slots = Slots(ResourcePool(3))
    holding, big, small = await borrowers(slots, "a", ("b", Resources(cpu=3)), ("c", ONE))
    assert (holding.holds, big.holds, small.holds) == (True, False, True)
    await small.give_back()
    await holding.give_back()
    await end(slots, big)


async def test_a_waiter_that_is_cancelled_is_passed_over():
    slots = Slots(ResourcePool(1))
    first, cancelled, last = await borrowers(slots, "a", "a", "b")
    await cancelled.cancel()
    await first.give_back()
    await end(slots, last)


async def test_when_a_waiter_that_did_not_fit_is_cancelled_those_behind_it_go_on():
    slots = Slots(ResourcePool(2))
    first, big, small = await borrowers(slots, "a", ("a", Resources(cpu=2)), "a")
    assert not small.holds, "an owner's own trials start in order"
    await big.cancel()
    await end(slots, small, first)


async def test_a_grant_that_meets_a_cancellation_is_passed_on():
    slots = Slots(ResourcePool(1))
    first, unlucky, last = await borrowers(slots, "a", "b", "c")
    first._enough.set()
    while slots.pool.leased and first.holds:
        await asyncio.sleep(0)
    # The slot has been granted to the second by now; it has not run since.
    assert slots.pool.leased == 1
    assert not unlucky.holds
    unlucky.task.cancel()
    await settled()
    assert unlucky.task.cancelled()
    await end(slots, last)


async def test_a_cancel_scope_around_the_wait_ends_it():
    slots = Slots(ResourcePool(1))
    (first,) = await borrowers(slots, "a")
    with anyio.move_on_after(0) as scope:
        with await slots.lease(ONE, "a"):
            pytest.fail("there was no slot")
    assert scope.cancelled_caught
    await end(slots, first)


async def test_an_exception_in_the_block_gives_the_slot_back():
    slots = Slots(ResourcePool(1))
    with pytest.raises(LookupError), await slots.lease(ONE, "a"):
        raise LookupError
    with await slots.lease(ONE, "b"):
        assert slots.pool.leased == 1
    assert slots.pool.leased == 0


async def test_gpus_and_a_bound_on_trials_count_too():
    slots = Slots(ResourcePool(math.inf, slots=2))
    first, second, third = await borrowers(slots, "a", "b", "c")
    assert (second.holds, third.holds) == (True, False)
    await first.give_back()
    await end(slots, second, third)

    slots = Slots(ResourcePool(9, gpus=["5"]))
    half, other_half, whole = await borrowers(
        slots, *(("a", Resources(gpu=gpu)) for gpu in (0.5, 0.5, 1))
    )
    assert (half.share.gpu_ids, other_half.share.gpu_ids, whole.holds) == (("5",), ("5",), False)
    await half.give_back()
    assert not whole.holds
    await other_half.give_back()
    assert whole.share.gpu_ids == ("5",)
    await end(slots, whole)


async def test_an_owner_that_is_served_is_forgotten():
    slots = Slots(ResourcePool(1))
    run = Run()
    gone = weakref.ref(run)
    first, second, third = await borrowers(slots, run, run, run)
    await second.cancel()
    await first.give_back()
    await third.give_back()
    del run, first, second, third
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_no_slot_is_lost_or_lent_twice(seed):
    rng = random.Random(seed)
    slots = Slots(ResourcePool(4))
    there: list[Borrower] = []
    for _ in range(200):
        move = rng.random()
        if move < 0.5 or not there:
            resources = Resources(cpu=rng.choice([1, 1, 2, 4]))
            there.append(Borrower(slots, rng.choice("abc"), resources))
        elif move < 0.75:
            there.pop(rng.randrange(len(there))).task.cancel()
        else:
            holding = [each for each in there if each.holds]
            if holding:
                done = rng.choice(holding)
                there.remove(done)
                done._enough.set()
        for _ in range(rng.randrange(3)):
            await asyncio.sleep(0)
    await settled()
    held = [each for each in there if each.holds]
    assert sum(each.share.resources.cpu for each in held) <= 4
    assert slots.pool.leased == len(held)
    while there:  # whoever waits is served in the end, so nobody was forgotten
        holding = [each for each in there if each.holds]
        assert holding
        await holding[0].give_back()
        there.remove(holding[0])
    assert slots.pool.leased == 0
    assert slots.pool.acquire(Resources(cpu=4)) is not None
