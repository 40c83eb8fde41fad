"""Whatever happens, `answer` gives a finite float in [0, 1], in time, and what happened is observed."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.deadline import Deadline
from cascade.verdict import Source, Stop, Verdict
from miner.decode import decode
from miner.service import LONGEST, SHORTEST, Answered, Decide, Decode, Service, clamp_timeout
from models.base import Frame

FRAME = Frame.of(np.zeros((4, 4, 3), dtype=np.uint8))


def verdict(probability: float) -> Verdict:
    return Verdict(probability, (0.0, 1.0), (), (), ("first",), Stop.DECIDED, Source.CASCADE, False, 1.0)


async def says_0_8(frame: Frame, deadline: Deadline, caller: str) -> Verdict:
    return verdict(0.8)


def service(
    seen: list[Answered], decide: Decide = says_0_8, decode: Decode = lambda _: FRAME, reserve: float = 0.0
) -> Service:
    return Service(decide, decode, prior=lambda: 0.4, reserve=reserve, observers=[seen.append])


async def test_the_cascades_probability_leaves_and_is_observed() -> None:
    seen: list[Answered] = []
    assert await service(seen).answer("", 9.0, "caller", 1) == 0.8
    [told] = seen
    assert (told.caller, told.label, told.probability, told.source) == ("caller", 1, 0.8, Source.CASCADE)
    assert (told.fault, told.frame, told.verdict) == ("", FRAME, verdict(0.8))
    assert 0.0 <= told.seconds < 60.0


async def test_an_unreadable_picture_gets_the_prior_and_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[Answered] = []
    assert await service(seen, decode=decode).answer("%%%", 9.0, "a caller's key") == 0.4
    assert [(told.source, told.probability, told.fault) for told in seen] == [(Source.PRIOR, 0.4, "not-base64")]
    assert "a caller gets the prior 0.400: not-base64: expected plain base64" in caplog.text


async def test_a_cascade_that_raises_gets_the_prior_and_names_the_fault() -> None:
    async def broken(frame: Frame, deadline: Deadline, caller: str) -> Verdict:
        raise RuntimeError("boom")

    seen: list[Answered] = []
    assert await service(seen, decide=broken).answer("", 9.0, "caller") == 0.4
    assert [(told.source, told.probability, told.fault) for told in seen] == [(Source.PRIOR, 0.4, "RuntimeError")]
    assert (seen[0].label, seen[0].frame, seen[0].verdict) == (-1, FRAME, None), "no label, and what was known by then"


@pytest.mark.parametrize(("allowed", "reserve", "left"), [(9.0, 0.5, 8.5), (60.0, 0.5, 11.5), (2.0, 5.0, 0.5)])
async def test_the_cascade_has_the_callers_time_less_the_reserve_and_half_a_second_at_least(
    allowed: float, reserve: float, left: float
) -> None:
    told: list[Deadline] = []

    async def notes_its_deadline(frame: Frame, deadline: Deadline, caller: str) -> Verdict:
        told.append(deadline)
        return verdict(0.8)

    before = time.monotonic()
    await service([], decide=notes_its_deadline, reserve=reserve).answer("", allowed, "caller")
    assert before + left <= told[0].at <= time.monotonic() + left


async def test_an_observer_that_raises_costs_no_answer(caplog: pytest.LogCaptureFixture) -> None:
    def breaks(_: Answered) -> None:
        raise OSError("disk full")

    seen: list[Answered] = []
    two = Service(says_0_8, lambda _: FRAME, prior=lambda: 0.4, reserve=0.0, observers=[breaks, seen.append])
    assert await two.answer("", 9.0, "caller") == 0.8
    assert "disk full" in caplog.text
    assert len(seen) == 1


async def test_decoding_that_hangs_is_left_behind_at_the_deadline() -> None:
    free = asyncio.Event()
    loop = asyncio.get_running_loop()

    def hangs(_: str) -> Frame:
        asyncio.run_coroutine_threadsafe(free.wait(), loop).result()
        return FRAME

    seen: list[Answered] = []
    assert await service(seen, decode=hangs, reserve=5.0).answer("", 1.0, "caller") == 0.4
    assert [(told.source, told.probability, told.fault) for told in seen] == [(Source.PRIOR, 0.4, "TimeoutError")]
    free.set()


async def test_what_hangs_elsewhere_takes_no_thread_from_decoding() -> None:
    free, loop = threading.Event(), asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(1))
    hung = loop.run_in_executor(None, free.wait)  # a driver that is asked for metrics, a disk under a page
    try:
        assert await service([]).answer("", 1.0, "caller") == 0.8
    finally:
        free.set()
        await hung


async def test_the_event_loop_turns_while_a_picture_is_decoded() -> None:
    decoding, turned = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def slow(_: str) -> Frame:
        loop.call_soon_threadsafe(decoding.set)
        asyncio.run_coroutine_threadsafe(turned.wait(), loop).result()
        return FRAME

    answer = asyncio.create_task(service([], decode=slow).answer("", 9.0, "caller"))
    await decoding.wait()
    turned.set()
    assert await answer == 0.8


@given(st.floats())
def test_a_time_out_is_believed_within_bounds_only(seconds: float) -> None:
    assert SHORTEST <= clamp_timeout(seconds) <= LONGEST


@pytest.mark.parametrize(
    ("header", "meant"),
    [(0.0, SHORTEST), (-1.0, SHORTEST), (math.nan, SHORTEST), (math.inf, SHORTEST), (1e9, LONGEST), (9.0, 9.0)],
)
def test_time_outs_of_figure_12(header: float, meant: float) -> None:
    assert clamp_timeout(header) == meant
