"""Room for unproven bodies: never more than there is, and a fair share of it cannot be taken away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.gate import Crowded
from miner.unproven import Unproven

ROOM, PLACES = 1000, 5


@given(st.lists(st.tuples(st.integers(1, PLACES - 1), st.integers(1, ROOM)), max_size=40), st.integers(0, 40))
def test_a_fair_share_is_never_refused_and_the_room_never_overrun(parts: list[tuple[int, int]], turn: int) -> None:
    """Whatever the others send, in whatever order, before and after."""
    asyncio.run(_race(parts, turn))


async def _race(parts: list[tuple[int, int]], turn: int) -> None:
    room = Unproven(ROOM)
    sizes = [asyncio.Queue[int]() for _ in range(PLACES)]

    async def body(number: int) -> bool:
        try:
            async with room.share() as take:
                while size := await sizes[number].get():
                    take(size)
        except Crowded:
            return False
        return True

    bodies = [asyncio.create_task(body(number)) for number in range(PLACES)]
    for number, size in [*parts[:turn], (0, ROOM // PLACES), *parts[turn:]]:
        sizes[number].put_nowait(size)
        await asyncio.sleep(0)
        assert room.taken <= ROOM
    for queue in sizes:
        queue.put_nowait(0)
    fair, *_ = await asyncio.gather(*bodies)
    assert fair
    assert room.taken == 0


async def test_what_comes_in_the_moment_in_which_a_body_gives_way_is_refused() -> None:
    room = Unproven(100)

    async def give_way(small: Callable[[int], None]) -> None:
        async with room.share() as large:
            large(80)
            small(30)
            large(1)

    async with room.share() as small:
        with pytest.raises(Crowded):
            await give_way(small)
        assert room.taken == 30
