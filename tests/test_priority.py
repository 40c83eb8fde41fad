"""The queue: stake orders work, and nobody waits without end."""

from __future__ import annotations

import asyncio

import pytest

from miner.priority import Lanes

FOREVER = 60.0


async def settle() -> None:
    """Let every ready task run."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_free_lane_is_taken_at_once() -> None:
    lanes = Lanes(in_flight=2, waiting=0)
    assert await lanes.enter((True, 1.0), FOREVER)
    assert await lanes.enter((True, 1.0), FOREVER)
    assert not await lanes.enter((True, 1.0), FOREVER)
    assert (lanes.taken, len(lanes)) == (2, 0)
    lanes.leave()
    assert lanes.taken == 1
    assert await lanes.enter((True, 1.0), FOREVER)


async def test_waiters_are_served_by_permit_then_stake_then_arrival() -> None:
    lanes = Lanes(in_flight=1, waiting=10)
    await lanes.enter((True, 0.0), FOREVER)
    served: list[str] = []

    async def ask(name: str, priority: tuple[bool, float]) -> None:
        assert await lanes.enter(priority, FOREVER)
        served.append(name)
        lanes.leave()

    callers = {
        "neighbour": (False, 9e9),
        "small": (True, 10.0),
        "whale": (True, 90_000.0),
        "second whale": (True, 90_000.0),
        "middle": (True, 5000.0),
    }
    tasks = [asyncio.create_task(ask(name, priority)) for name, priority in callers.items()]
    await settle()
    lanes.leave()
    await asyncio.gather(*tasks)
    assert served == ["whale", "second whale", "middle", "small", "neighbour"]


async def test_a_full_queue_turns_its_lowest_rank_away() -> None:
    lanes = Lanes(in_flight=1, waiting=2)
    await lanes.enter((True, 0.0), FOREVER)
    low, middle = (asyncio.create_task(lanes.enter((True, stake), FOREVER)) for stake in (1.0, 2.0))
    await settle()
    high = asyncio.create_task(lanes.enter((True, 3.0), FOREVER))
    assert await low is False
    lowest = await lanes.enter((True, 0.5), FOREVER)
    assert lowest is False
    lanes.leave()
    assert await high is True
    lanes.leave()
    assert await middle is True


@pytest.mark.parametrize("patience", [0.01, 0.0, -1.0])
async def test_nobody_waits_longer_than_its_patience(patience: float) -> None:
    lanes = Lanes(in_flight=1, waiting=5)
    await lanes.enter((True, 0.0), FOREVER)
    assert await lanes.enter((True, 1.0), patience) is False
    assert len(lanes) == 0


async def test_a_cancelled_waiter_leaves_no_trace() -> None:
    lanes = Lanes(in_flight=1, waiting=5)
    await lanes.enter((True, 0.0), FOREVER)
    waiter = asyncio.create_task(lanes.enter((True, 1.0), FOREVER))
    await settle()
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert len(lanes) == 0


async def test_a_waiter_cancelled_in_the_moment_its_turn_comes_gives_the_lane_on() -> None:
    lanes = Lanes(in_flight=1, waiting=5)
    await lanes.enter((True, 0.0), FOREVER)
    waiter = asyncio.create_task(lanes.enter((True, 1.0), FOREVER))
    await settle()
    lanes.leave()
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert await lanes.enter((True, 0.0), 0.0)


async def test_a_waiter_cancelled_in_the_moment_it_is_turned_away_gives_no_lane_on() -> None:
    lanes = Lanes(in_flight=1, waiting=1)
    await lanes.enter((True, 0.0), FOREVER)
    low = asyncio.create_task(lanes.enter((True, 1.0), FOREVER))
    await settle()
    high = asyncio.create_task(lanes.enter((True, 2.0), FOREVER))
    await asyncio.sleep(0)  # high has taken low's place, and low has not run since
    low.cancel()
    with pytest.raises(asyncio.CancelledError):
        await low
    assert not await lanes.enter((True, 0.5), 0.0)
    high.cancel()
