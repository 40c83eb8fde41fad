"""The cascade's figures of reliability: each test causes the fault with fakes and prints what it measured."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from cascade_helpers import PATIENT, QUICK, picture, profile_of, running, tier, until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cascade.deadline import Deadline
from cascade.profile import Batching, Member, Tier
from cascade.verdict import Source
from models.base import Model
from models.fake import Fake, crash, hang, out_of_memory, slow

KEYS = ("a", "b", "c")
BAND = (0.01, 0.99)
GRACE = 5.0  # seconds after its deadline by which an answer is there; what is late takes several times that here


def tiers(timeout_ms: float = PATIENT, **batching: float) -> tuple[Tier, ...]:
    policy = Batching.model_validate(batching)
    return tuple(tier(key, Member(model=key, timeout_ms=timeout_ms, batching=policy)) for key in KEYS)


def faulty(key: str, fault: str, released: threading.Event) -> Fake:
    faults = {
        "well": Fake(key, 0.3),
        "sure": Fake(key, 9.0),
        "slow": Fake(key, 0.3, fault=slow(0.04)),
        "late": Fake(key, 0.3, fault=lambda frames: released.wait(20.0)),
        "hangs": Fake(key, fault=hang(released)),
        "crashes": Fake(key, fault=crash()),
        "no memory": Fake(key, fault=out_of_memory(above=0)),
        "NaN": Fake(key, math.nan),
        "not loaded": Fake(key, load_fault=crash()),
    }
    return faults[fault]


FAULTS = ("well", "sure", "slow", "late", "hangs", "crashes", "no memory", "NaN", "not loaded")


@given(st.tuples(*[st.sampled_from(FAULTS)] * 3), st.booleans(), st.floats(0.02, 0.25), st.integers(1, 4))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_figure_10_any_mix_of_faults_gives_a_finite_answer_in_time(
    mix: tuple[str, ...], side_by_side: bool, seconds: float, requests: int
) -> None:
    """Finite, in [0, 1], and never waiting for a model after the deadline."""
    released = threading.Event()
    members = [Member(model=key, timeout_ms=100.0) for key in KEYS]
    shape = [tier("all", *members)] if side_by_side else [tier(member.model, member) for member in members]

    async def scenario() -> None:
        models: list[Model] = [faulty(key, fault, released) for key, fault in zip(KEYS, mix, strict=True)]
        async with running(profile_of(*shape, band=BAND), models, policy=replace(QUICK, closing=0.0)) as engine:
            due = Deadline.after(seconds)
            asked = [asyncio.create_task(engine.decide(picture(8, 8), due, str(i))) for i in range(requests)]
            await asyncio.sleep(due.remaining())  # what this is late by is the machine's fault, not the engine's
            async with asyncio.timeout(GRACE):
                verdicts = await asyncio.gather(*asked)
            released.set()
        for verdict in verdicts:
            assert math.isfinite(verdict.probability)
            assert 0.0 <= verdict.interval[0] <= verdict.probability <= verdict.interval[1] <= 1.0
            assert (verdict.source is Source.PRIOR) == (not verdict.opinions)

    asyncio.run(scenario())


@pytest.mark.parametrize("stuck", KEYS)
async def test_figure_11_each_tier_in_turn_hangs_for_ever(stuck: str) -> None:
    released = threading.Event()
    models = [Fake(key, 0.3, fault=hang(released) if key == stuck else None) for key in KEYS]
    members = [Member(model=key, timeout_ms=300.0 if key == stuck else PATIENT) for key in KEYS]
    profile = profile_of(*(tier(member.model, member) for member in members), band=BAND)
    async with running(profile, models) as engine:
        begun = time.monotonic()
        verdict = await engine.decide(picture(), Deadline.after(2 * PATIENT / 1e3))
        seconds = time.monotonic() - begun
        released.set()
    print(f"\nfigure 11: tier {stuck} hangs: answered in {seconds:.3f} s from {len(verdict.opinions)} opinions")
    assert seconds < PATIENT / 1e3
    assert {opinion.model for opinion in verdict.opinions} == set(KEYS) - {stuck}
    assert verdict.degraded


async def test_figure_13_a_model_that_dies_fifty_times() -> None:
    """In process: "b" dies 50 times; each time it is left out at once, and is back as soon as it answers a trial."""
    b = Fake("b", 0.5)
    policy = replace(QUICK, failures=1, cooldown=0.01, longest=0.02, tick=0.005)
    answered, deaths, unready, back = 0, 0, 0, []
    async with running(profile_of(*tiers()[:2], band=BAND), [Fake("a", 0.3), b], policy=policy) as engine:
        for _ in range(50):
            b._fault = crash()
            died = time.monotonic()
            verdict = await engine.decide(picture(), Deadline.after(60.0))
            unready += not engine.readiness()[1].ready
            answered += verdict.probability > 0.5
            deaths += verdict.failures[0].kind == "crashed"
            b._fault = None
            await until(lambda: engine.readiness()[1].ready)
            back.append(time.monotonic() - died)
    print(
        f"\nfigure 13: {deaths} deaths, {answered} of 50 answered; readiness showed {unready} of them at once, back "
        f"after at most {max(back):.3f} s (cool-down of 0.01 s here, 2 to 30 s as shipped)"
    )
    assert (answered, deaths, unready) == (50, 50, 50)


async def test_figure_14_a_model_that_stops_answering_is_found_by_its_canary() -> None:
    released = threading.Event()
    a, b = Fake("a", 0.3), Fake("b", 0.3)
    policy = replace(QUICK, canary_every=0.1, canary_limit=0.1)
    profile = profile_of(tier("a", "a"), tier("b", Member(model="b", timeout_ms=100.0)), band=BAND)
    async with running(profile, [a, b], policy=policy) as engine:
        b._fault = hang(released)
        stopped = time.monotonic()
        await until(lambda: engine.state()["b"].breaker == "open")
        found = time.monotonic() - stopped
        verdict = await engine.decide(picture(), Deadline.after(60.0))
        released.set()
    print(f"\nfigure 14: found after {found:.2f} s at a canary each 0.1 s + 0.1 s limit (15 + 10 s as shipped)")
    assert verdict.tiers == ("a",)
    assert [failure.kind for failure in verdict.failures] == ["unavailable"], "skipped, not waited for"


async def test_figure_15_out_of_memory() -> None:
    """Half a batch fits: all are answered. Nothing fits: the tier is dropped, and there is no restart loop."""
    half = Fake("a", 0.3, fault=out_of_memory(above=2))
    made: list[str] = []

    def factory(key: str) -> Fake:
        made.append(key)
        return Fake(key, fault=out_of_memory(above=0))

    async with running(profile_of(*tiers(max_size=8)[:2], band=BAND), [half, factory("b")], factory=factory) as engine:
        verdicts = await asyncio.gather(*(engine.decide(picture(), Deadline.after(60.0), str(i)) for i in range(16)))
        await until(lambda: engine.state()["b"].restarts == 3)
        opened = engine._plan.supervisors["b"].breaker._until
        await until(lambda: engine._plan.supervisors["b"].breaker._until > opened)  # one more trial has failed
        state = engine.state()["b"]
    answered = sum(v.source is not Source.PRIOR for v in verdicts)
    print(
        f"\nfigure 15: {answered} of 16 answered, batches of {sorted(set(half.batches))}; b: {state.breaker}, "
        f"{state.restarts} replacements"
    )
    assert answered == 16
    assert state.breaker != "closed"
    assert (state.restarts, len(made)) == (3, 4)


async def test_figure_16_all_tiers_down() -> None:
    models = [Fake(key, fault=crash()) for key in KEYS]
    profile = profile_of(*tiers(), band=BAND, prior=0.4)
    async with running(profile, models, policy=replace(QUICK, cooldown=60.0, longest=60.0)) as engine:
        verdicts = [await engine.decide(picture(), Deadline.after(60.0)) for _ in range(3)]
        readiness = engine.readiness()
    print(f"\nfigure 16: {[v.probability for v in verdicts]}, ready: {[r.ready for r in readiness]}")
    assert all(v.probability == 0.4 and v.source is Source.PRIOR and v.degraded for v in verdicts)
    assert [f.kind for f in verdicts[0].failures] == ["crashed"] * 3
    assert [f.kind for f in verdicts[2].failures] == ["unavailable"] * 3
    assert not any(r.ready for r in readiness)


async def test_figure_17_what_is_too_much_gets_the_cheap_tier_soon() -> None:
    """64 requests that wait for the dear tier do not slow down ten that are answered cheaply."""
    released = threading.Event()
    dear = Fake("b", 0.5, fault=hang(released))
    async with running(profile_of(*tiers()[:2], band=BAND), [Fake("a", 0.3), dear]) as engine:
        full = [asyncio.create_task(engine.decide(picture(8, 8), Deadline.after(60.0), str(i))) for i in range(64)]
        await until(lambda: dear.batches and dear.batches[0] + engine.state()["b"].queued == 64)
        rounds = []
        for _ in range(5):
            begun = time.monotonic()
            excess = await asyncio.gather(
                *(engine.decide_cheap(picture(8, 8), Deadline.after(60.0)) for _ in range(10))
            )
            rounds.append(time.monotonic() - begun)
            assert all(v.tiers == ("a",) for v in excess)
        assert not any(each.done() for each in full)
        released.set()
        accepted = await asyncio.gather(*full)
    middle = float(np.median(rounds))
    print(f"\nfigure 17: ten in excess answered cheaply in {middle * 1e3:.1f} ms; all 64 accepted answered in full")
    assert all(v.tiers == ("a", "b") and not v.degraded for v in accepted)


@pytest.mark.parametrize("concurrency", [1, 4, 16, 64])
async def test_figure_18_latency_at_concurrency(concurrency: int) -> None:
    """Two tiers of 2 ms and 10 ms per batch; batching keeps the answer time nearly flat; all are answered in full."""
    models = [Fake("a", 0.3, fault=slow(0.002)), Fake("b", 0.5, fault=slow(0.010))]
    times: list[float] = []
    async with running(profile_of(*tiers(max_size=16, max_wait_ms=1)[:2], band=BAND), models) as engine:

        async def caller(name: str) -> None:
            for _ in range(max(2, 64 // concurrency)):
                verdict = await engine.decide(picture(8, 8), Deadline.after(60.0), name)
                assert not verdict.degraded
                times.append(verdict.milliseconds)

        await asyncio.gather(*(caller(str(i)) for i in range(concurrency)))
    p50, p95, p99 = np.percentile(times, [50, 95, 99])
    print(f"\nfigure 18: concurrency {concurrency}: p50 {p50:.1f}, p95 {p95:.1f}, p99 {p99:.1f} ms over {len(times)}")
    assert len(times) == concurrency * max(2, 64 // concurrency)


async def test_figure_19_one_slow_request_beside_twenty_fast_ones() -> None:
    released = threading.Event()
    dear = Fake("b", 0.5, fault=hang(released))
    fast_or_not = Fake("a", lambda frame: 0.3 if frame.pixels[0, 0, 0] == 1 else 9.0)
    async with running(profile_of(*tiers()[:2], band=BAND), [fast_or_not, dear]) as engine:
        slow_one = asyncio.create_task(engine.decide(picture(8, 8, 1), Deadline.after(60.0), "slow"))
        await until(lambda: dear.batches)
        fast = await asyncio.gather(*(engine.decide(picture(8, 8, 2), Deadline.after(60.0), str(i)) for i in range(20)))
        assert all(v.tiers == ("a",) for v in fast)
        assert not slow_one.done()
        released.set()
        assert not (await slow_one).degraded
    p99 = float(np.percentile([v.milliseconds for v in fast], 99))
    print(f"\nfigure 19: p99 of 20 fast requests beside one that hangs in the dear tier: {p99:.1f} ms")
