"""One model kept alive: breaker, canary, replacement within limits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import pytest
from cascade_helpers import PATIENT, QUICK, Clock, picture, until

from cascade.deadline import Deadline
from cascade.profile import Batching, Member
from cascade.queue import Job
from cascade.supervisor import Factory, Policy, Supervisor
from models.base import BadWeights, ModelCrashed, ModelError, ModelTimeout, ModelUnavailable, Opinion
from models.fake import Fake, crash, hang, slow

MEMBER = Member(model="m", timeout_ms=PATIENT)
IMPATIENT = Member(model="m", timeout_ms=250.0)


@asynccontextmanager
async def supervised(
    model: Fake, factory: Factory | None = None, policy: Policy = QUICK, member: Member = MEMBER, ticking: bool = True
) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(member, model, factory=factory, policy=policy)

    async def look() -> None:
        while True:
            await asyncio.sleep(policy.tick)
            supervisor.tick()

    with suppress(ModelError):
        await supervisor.start()
    looking = asyncio.create_task(look()) if ticking else None
    try:
        yield supervisor
    finally:
        if looking:
            looking.cancel()
        await supervisor.close()


async def ask(supervisor: Supervisor, seconds: float = 60.0) -> float:
    return (await supervisor.ask(picture(8, 8), Deadline.after(seconds), "someone")).logit


async def hanging(supervisor: Supervisor) -> asyncio.Task[float]:
    """A question that the model is at and will not answer; whoever asks from now on is impatient."""
    asking = asyncio.create_task(ask(supervisor))
    await until(lambda: supervisor._busy)
    supervisor.adopt(IMPATIENT)
    return asking


async def test_not_started_is_unavailable() -> None:
    supervisor = Supervisor(MEMBER, Fake("m"))
    with pytest.raises(ModelUnavailable, match="not loaded"):
        await ask(supervisor)
    assert not await supervisor.canary()
    assert supervisor.expected == 0.0
    assert not supervisor.can_examine
    assert supervisor.state().queued == 0
    await supervisor.close()


async def test_failures_in_a_row_open_the_breaker_and_a_canary_closes_it() -> None:
    async with supervised(Fake("m", 2.0, fault=crash(times=2))) as supervisor:
        for _ in range(2):
            with pytest.raises(ModelCrashed):
                await ask(supervisor)
        assert supervisor.state().breaker == "open"
        with pytest.raises(ModelUnavailable, match="told to crash"):
            await ask(supervisor)
        await until(lambda: supervisor.available)
        assert await ask(supervisor) == 2.0
        assert supervisor.state().restarts == 0


async def test_too_slow_counts_against_the_model_but_a_hurried_caller_does_not() -> None:
    released = threading.Event()
    model = Fake("m", 1.0, fault=hang(released))

    async def late(seconds: float, message: str) -> None:
        with pytest.raises(ModelTimeout, match=message):
            await ask(supervisor, seconds)
        released.set()
        await until(lambda: not supervisor._busy and not supervisor.state().queued)
        released.clear()

    async with supervised(model, member=Member(model="m", timeout_ms=1000.0), ticking=False) as supervisor:
        for _ in range(3):
            await late(0.01, "no opinion within 1?[0-9] ms")
        assert supervisor.available
        for _ in range(2):
            await late(60.0, "no opinion within 1000 ms")
        assert supervisor.state().reason == "too slow"


async def test_a_model_that_is_stuck_is_not_waited_for_by_the_next() -> None:
    released = threading.Event()
    async with supervised(Fake("m", 1.0, fault=hang(released)), ticking=False) as supervisor:
        asking = await hanging(supervisor)
        await until(lambda: supervisor._busy > 0.25)
        with pytest.raises(ModelUnavailable, match="busy with one batch since"):
            await ask(supervisor)
        released.set()
        assert await asking == 1.0


async def test_a_hanging_model_is_abandoned_and_replaced() -> None:
    released = threading.Event()
    fresh: list[Fake] = []

    def factory(key: str) -> Fake:
        fresh.append(Fake(key, 4.0))
        return fresh[-1]

    stuck = Fake("m", fault=hang(released))
    async with supervised(stuck, factory) as supervisor:
        asking = await hanging(supervisor)
        await until(lambda: supervisor.state().stuck == 1)
        supervisor.adopt(MEMBER)
        await until(lambda: supervisor.available)
        assert supervisor.state().restarts == 1
        assert await ask(supervisor) == 4.0
        assert supervisor.state().stuck == 1
        released.set()
        await until(lambda: supervisor.state().stuck == 0)
        assert stuck.closed
        await asking


async def test_an_answer_that_an_abandoned_thread_still_gives_does_not_close_the_breaker() -> None:
    released = threading.Event()
    policy = replace(QUICK, hang=1e-6, cooldown=60.0, longest=60.0)
    async with supervised(Fake("m", 1.0, fault=hang(released)), Fake, policy) as supervisor:
        asking = asyncio.create_task(ask(supervisor))
        await until(lambda: supervisor.state().stuck == 1)
        released.set()
        assert await asking == 1.0  # somebody was still waiting, and is served
        assert supervisor.state().breaker == "open"


async def test_no_more_than_three_replacements_in_the_window_and_no_heap_of_threads() -> None:
    released = threading.Event()
    made: list[Fake] = []

    def factory(key: str) -> Fake:
        made.append(Fake(key, fault=hang(released)))
        return made[-1]

    before = threading.active_count()
    async with supervised(factory("m"), factory, replace(QUICK, canary_limit=0.05, hang=1.0)) as supervisor:
        asking = await hanging(supervisor)
        await until(lambda: supervisor.state().restarts == 3)
        state = supervisor.state()
        for _ in range(3):  # trials go on, replacements do not
            opened = supervisor.breaker._until
            await until(lambda opened=opened: supervisor.breaker._until > opened)
        assert len(made) == 4
        assert supervisor.state().restarts == 3
        assert state.stuck <= 3
        assert threading.active_count() - before <= 4
        released.set()
        await asking


async def test_restarts_are_forgotten_after_the_window() -> None:
    clock = Clock()
    supervisor = Supervisor(MEMBER, Fake("m"), factory=Fake, policy=QUICK, clock=clock)
    supervisor._restarts.extend([0.0, 100.0])
    assert supervisor.state().restarts == 2
    clock.now = 650.0
    assert supervisor.state().restarts == 1


async def test_without_a_factory_a_broken_model_is_tried_as_it_is() -> None:
    async with supervised(Fake("m", 1.0, fault=crash(times=6))) as supervisor:
        for _ in range(2):
            with pytest.raises(ModelCrashed):
                await ask(supervisor)
        await until(lambda: supervisor.available)
        assert supervisor.state().restarts == 0


async def test_a_model_that_was_not_loaded_is_made_again() -> None:
    def missing(frames: object) -> None:
        raise BadWeights("not there yet")

    attempts = [Fake("m", load_fault=missing), Fake("m", 5.0)]
    async with supervised(Fake("m", load_fault=missing), lambda key: attempts.pop(0)) as supervisor:
        assert supervisor.state().reason == "not loaded: not there yet"
        await until(lambda: supervisor.available)
        assert await ask(supervisor) == 5.0
        assert supervisor.state().restarts == 2


def no_room(frames: object) -> None:
    raise BadWeights("no room on the card")


@pytest.mark.parametrize(
    ("fresh", "reason"),
    [(Fake("m", load_fault=no_room), "no room on the card"), (Fake("m", fault=crash()), "told to crash")],
)
async def test_a_replacement_that_fails_says_why_and_has_to_cool_down_first(fresh: Fake, reason: str) -> None:
    policy = replace(QUICK, failures=1, cooldown=0.25, longest=60.0)
    async with supervised(Fake("m", fault=crash()), lambda key: fresh, policy) as supervisor:
        with pytest.raises(ModelCrashed):
            await ask(supervisor)
        await until(lambda: supervisor.state().reason == f"replaced in vain: {reason}")
        assert supervisor.breaker._until > time.monotonic()


async def test_start_says_why_it_failed() -> None:
    def missing(frames: object) -> None:
        raise BadWeights("fetch it again")

    supervisor = Supervisor(MEMBER, Fake("m", load_fault=missing))
    with pytest.raises(BadWeights, match="fetch it again"):
        await supervisor.start()
    supervisor.tick()
    await supervisor.close()


async def test_an_idle_model_is_tried_with_a_canary() -> None:
    released = threading.Event()
    model = Fake("m")
    policy = replace(QUICK, canary_every=0.02, canary_limit=0.05, hang=1e6)
    async with supervised(model, policy=policy, member=IMPATIENT) as supervisor:
        await until(lambda: len(model.batches) >= 3)
        model._fault = hang(released)  # from now on it hangs, and nobody asks
        await until(lambda: not supervisor.available)
        assert supervisor.state().reason == "canary: no opinion within 250 ms"
        released.set()
        await until(lambda: supervisor.available)


async def test_another_profile_may_change_the_settings() -> None:
    model = Fake("m", fault=slow(0.3))
    async with supervised(model, member=IMPATIENT) as supervisor:
        supervisor.adopt(Member(model="m", timeout_ms=PATIENT, batching=Batching(max_size=2)))
        await ask(supervisor)
        assert await asyncio.gather(*(ask(supervisor) for _ in range(5))) == [0.0] * 5
    assert max(model.batches) == 2
    unloaded = Supervisor(MEMBER, Fake("m"))
    unloaded.adopt(Member(model="m", timeout_ms=1.0))
    assert unloaded._member.timeout_ms == 1.0


async def test_closing_while_it_loads_leaves_no_thread_behind() -> None:
    released = threading.Event()
    model = Fake("m", load_fault=hang(released))
    supervisor = Supervisor(MEMBER, model, policy=QUICK)
    starting = asyncio.create_task(supervisor.start())
    await until(lambda: model.loads)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await supervisor.close()
    released.set()
    await until(lambda: model.closed)


async def test_closing_during_a_trial_ends_the_trial() -> None:
    released = threading.Event()
    policy = replace(QUICK, canary_every=0.0, canary_limit=60.0, closing=0.05)
    supervisor = Supervisor(MEMBER, Fake("m", fault=hang(released)), policy=policy)
    await supervisor.start()
    supervisor.tick()
    await until(lambda: supervisor._busy)
    await supervisor.close()
    released.set()
    assert not supervisor.available


async def test_an_answer_in_the_last_moment_counts() -> None:
    """The timer may fire after the answer came and before the one who asked could take it."""
    async with supervised(Fake("m", 1.0), ticking=False) as supervisor:
        job = Job(picture(8, 8), Deadline.after(1.0), "", asyncio.get_running_loop().create_future(), started=True)
        job.future.set_result(Opinion("m", 1.0, 0.0))
        supervisor._expire(job, 1.0, own_fault=True)
        assert (await job.future).logit == 1.0
        assert supervisor.available
