"""One thread per model, micro-batches of concurrent callers, results to the right one."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from cascade_helpers import picture, until

from cascade.batching import Worker
from cascade.deadline import Deadline
from cascade.profile import Batching
from cascade.queue import FairQueue, Job
from models.base import BadWeights, Frame, ModelCrashed, ModelError, ModelUnavailable, NotFinite, Opinion, OutOfMemory
from models.fake import Fake, FakeExaminer, crash, out_of_memory, slow


def value(frame: Frame) -> float:
    """The number a test painted into the picture."""
    return float(frame.pixels[0, 0, 0])


def job(number: int = 0, caller: str = "", seconds: float = 60.0) -> Job:
    return Job(picture(8, 8, number), Deadline.after(seconds), caller, asyncio.get_running_loop().create_future())


@asynccontextmanager
async def working(
    model: Fake, batching: Batching | None = None, on_batch: Callable[[Exception | None], None] = lambda error: None
) -> AsyncIterator[Worker]:
    loop = asyncio.get_running_loop()
    worker = Worker("fake", model, batching or Batching(), "cpu", loop, on_batch)
    worker.start()
    await worker.loaded
    try:
        yield worker
    finally:
        worker.stop("test over")
        await asyncio.wait_for(worker.ended, 60.0)


class Gate:
    """A fault that holds the first batch until told, so that more jobs can queue up behind it."""

    def __init__(self) -> None:
        self.entered, self.open = threading.Event(), threading.Event()

    def __call__(self, frames: object) -> None:
        self.entered.set()
        self.open.wait(60.0)


async def held(worker: Worker, gate: Gate) -> Job:
    """A job that the worker has begun and that waits at the gate."""
    first = job()
    worker.put(first)
    assert await asyncio.to_thread(gate.entered.wait, 60.0)
    return first


async def test_results_go_back_to_the_right_caller_in_one_batch() -> None:
    gate = Gate()
    model = Fake("fake", value, fault=gate)
    async with working(model, Batching(max_size=8)) as worker:
        first = await held(worker, gate)
        jobs = [job(number, caller=f"caller {number % 3}") for number in range(1, 9)]
        for each in jobs:
            worker.put(each)
        assert worker.queued == 8
        gate.open.set()
        opinions = await asyncio.gather(first.future, *(each.future for each in jobs))
    assert [opinion.logit for opinion in opinions] == list(range(9))
    assert model.batches == [1, 8]
    assert model.closed


async def test_a_model_is_loaded_and_warm_before_it_is_asked() -> None:
    done: list[str] = []

    class Noting(Fake):
        def load(self, device: str) -> None:
            done.append(f"loaded on {device}")

        def warm_up(self) -> None:
            done.append("warmed up")

    async with working(Noting("fake", lambda frame: float(len(done)))) as worker:
        worker.put(each := job())
        assert (await each.future).logit == 2.0
    assert done == ["loaded on cpu", "warmed up"]


async def test_callers_take_turns() -> None:
    queue = FairQueue()
    for caller, count in (("busy", 6), ("quiet", 2), ("other", 1)):
        for number in range(count):
            queue.put(job(number, caller))
    order = [each.caller for _ in range(3) for each in queue.take(3, 0.0)]
    assert order == ["busy", "quiet", "other", "busy", "quiet", "busy", "busy", "busy", "busy"]
    assert len(queue) == 0


async def test_an_idle_model_begins_at_once_and_others_gather_while_it_works() -> None:
    gate = Gate()
    model = Fake("fake", value, fault=gate)
    async with working(model, Batching(max_size=4)) as worker:
        first = await held(worker, gate)  # begun, with nobody else there
        jobs = [job(number) for number in range(6)]
        for each in jobs:
            worker.put(each)
        gate.open.set()
        await asyncio.gather(first.future, *(each.future for each in jobs))
    assert model.batches == [1, 4, 2]


async def test_it_waits_a_moment_for_more_where_the_profile_says_so() -> None:
    model = Fake("fake", value)
    async with working(model, Batching(max_size=3, max_wait_ms=40_000.0)) as worker:
        jobs = [job(number) for number in range(3)]
        for each in jobs:
            worker.put(each)
            await asyncio.sleep(0.005)
        async with asyncio.timeout(30.0):  # full after three: nobody waits any longer
            await asyncio.gather(*(each.future for each in jobs))
    assert model.batches == [3]


async def test_but_not_longer_than_told() -> None:
    async with working(Fake("fake", 1.0), Batching(max_size=8, max_wait_ms=5.0)) as worker:
        worker.put(each := job())
        assert (await asyncio.wait_for(each.future, 60.0)).logit == 1.0


async def test_what_nobody_waits_for_is_dropped_before_any_work() -> None:
    gate = Gate()
    model = Fake("fake", value, fault=gate)
    async with working(model) as worker:
        first = await held(worker, gate)
        cancelled, expired, wanted = job(1), job(2, seconds=0.0), job(3)
        cancelled.future.cancel()
        for each in (cancelled, expired, wanted):
            worker.put(each)
        gate.open.set()
        await asyncio.gather(first.future, wanted.future)
        assert model.batches == [1, 1]
        assert not expired.started
        worker.put(late := job(4, seconds=0.0))
        await until(lambda: not worker.queued)
        worker.put(after := job(5))
        await after.future
    assert not late.started


async def test_late_results_are_dropped() -> None:
    seen: list[Exception | None] = []
    gate = Gate()
    async with working(Fake("fake", value, fault=gate), on_batch=seen.append) as worker:
        first = await held(worker, gate)
        first.future.cancel()
        gate.open.set()
        worker.put(second := job())
        await second.future
    assert seen == [None]  # of the second only: a late answer is no sign of health


async def test_out_of_memory_halves_the_batch_and_goes_on_smaller() -> None:
    gate = Gate()
    fits = out_of_memory(above=3)
    model = Fake("fake", value, fault=lambda frames: (gate(frames), fits(frames))[1])
    async with working(model, Batching(max_size=8)) as worker:
        first = await held(worker, gate)
        jobs = [job(number) for number in range(1, 17)]
        for each in jobs:
            worker.put(each)
        gate.open.set()
        opinions = await asyncio.gather(first.future, *(each.future for each in jobs))
    assert [opinion.logit for opinion in opinions] == list(range(17))
    assert model.batches == [1, 8, 4, 2, 2, 4, 2, 2, 2, 2, 2, 2]


async def test_out_of_memory_that_stays_fails_typed_after_a_few_attempts() -> None:
    gate = Gate()
    model = Fake("fake", fault=lambda frames: (gate(frames), out_of_memory(above=0)(frames))[1])
    seen: list[Exception | None] = []
    async with working(model, Batching(max_size=4), seen.append) as worker:
        first = await held(worker, gate)
        jobs = [job() for _ in range(4)]
        for each in jobs:
            worker.put(each)
        gate.open.set()
        results = await asyncio.gather(first.future, *(each.future for each in jobs), return_exceptions=True)
    assert all(isinstance(result, OutOfMemory) for result in results)
    assert model.batches == [1, 4, 2, 1]
    assert [type(error) for error in seen] == [OutOfMemory, OutOfMemory]


async def test_one_bad_picture_does_not_spoil_the_answers_of_others() -> None:
    gate = Gate()
    model = Fake("fake", lambda frame: math.nan if value(frame) == 2 else value(frame), fault=gate)
    seen: list[Exception | None] = []
    async with working(model, on_batch=seen.append) as worker:
        first = await held(worker, gate)
        jobs = [job(number) for number in (1, 2, 3)]
        for each in jobs:
            worker.put(each)
        gate.open.set()
        await first.future
        results = await asyncio.gather(*(each.future for each in jobs), return_exceptions=True)
        worker.put(alone := job(2))
        with pytest.raises(NotFinite):
            await alone.future
    assert [getattr(result, "logit", type(result)) for result in results] == [1.0, NotFinite, 3.0]
    assert [type(error) for error in seen] == [type(None), type(None), NotFinite]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (Fake("fake", fault=crash()), "told to crash"),
        (Fake("fake", lambda frame: 1 / 0), "ZeroDivisionError: division by zero"),
        (Fake("fake", lambda frame: "much"), "TypeError"),  # type: ignore[arg-type,return-value]
    ],
)
async def test_whatever_a_model_raises_is_typed(model: Fake, message: str) -> None:
    async with working(model) as worker:
        worker.put(each := job())
        with pytest.raises(ModelCrashed, match=message):
            await each.future
        assert worker.alive


async def test_a_model_that_loses_answers_is_caught() -> None:
    class Forgetful(Fake):
        def assess(self, frames: object) -> list[Opinion]:
            return []

    async with working(Forgetful("fake")) as worker:
        worker.put(each := job())
        with pytest.raises(ModelCrashed, match="fake: expected 1 opinions, got 0"):
            await each.future


async def test_opinions_carry_the_name_the_profile_gives_the_model() -> None:
    async with working(Fake("another-name", 1.0)) as worker:
        worker.put(each := job())
        assert (await each.future).model == "fake"


async def test_a_second_question_is_asked_beside_a_batch() -> None:
    model = FakeExaminer("fake", logit=-1.0, crop_logit=2.0)
    async with working(model) as worker:
        assert worker.can_examine
        plain, again = job(), job()
        again.boxes = [{"box": [0, 0, 4, 4]}]
        worker.put(plain)
        worker.put(again)
        assert [(await each.future).logit for each in (plain, again)] == [-1.0, 2.0]
    async with working(FakeExaminer("fake", -1.0, 2.0, crop_fault=crash())) as worker:
        again = job()
        again.boxes = []
        worker.put(again)
        with pytest.raises(ModelCrashed):
            await again.future


async def test_a_model_that_cannot_be_loaded_says_why_and_its_thread_ends() -> None:
    def missing(frames: object) -> None:
        raise BadWeights("roadwork.onnx: expected 4 MB, got 0; fetch it again")

    worker = Worker(
        "fake", Fake("fake", load_fault=missing), Batching(), "cpu", asyncio.get_running_loop(), lambda error: None
    )
    worker.start()
    with pytest.raises(BadWeights, match="fetch it again"):
        await worker.loaded
    await asyncio.wait_for(worker.ended, 60.0)


async def test_stopping_fails_what_is_queued_and_lets_what_has_begun_end() -> None:
    gate = Gate()
    seen: list[Exception | None] = []
    async with working(Fake("fake", 1.0, fault=gate), on_batch=seen.append) as worker:
        first = await held(worker, gate)
        queued, gone = job(), job()
        gone.future.cancel()
        worker.put(queued)
        worker.put(gone)
        worker.stop("closed")
        with pytest.raises(ModelUnavailable, match="closed"):
            await queued.future
        gate.open.set()
        assert (await first.future).logit == 1.0
    assert seen == []  # of a model that is given up, nobody wants to know how it does


async def test_the_expected_time_grows_with_the_queue() -> None:
    gate = Gate()
    async with working(Fake("fake", 1.0, fault=slow(0.01)), Batching(max_size=2)) as worker:
        assert worker.expected == 0.0
        worker.put(each := job())
        await each.future
        assert worker.expected >= 0.01
    model = Fake("fake", 1.0, fault=lambda frames: gate(frames))
    async with working(model, Batching(max_size=2)) as worker:
        first = await held(worker, gate)
        gate.open.set()
        await first.future
        gate.open.clear()
        gate.entered.clear()
        second = await held(worker, gate)
        alone = worker.expected
        jobs = [job() for _ in range(4)]
        for each in jobs:
            worker.put(each)
        assert worker.expected == pytest.approx(2 * alone)
        gate.open.set()
        await asyncio.gather(second.future, *(each.future for each in jobs))


async def test_a_close_that_fails_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    class Sticky(Fake):
        def close(self) -> None:
            raise ModelError("still busy")

    async with working(Sticky("fake")):
        pass
    assert "fake: close failed" in caplog.text


def test_a_thread_that_outlives_its_loop_ends_quietly(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate()
    workers: list[Worker] = []

    async def begin() -> None:
        worker = Worker(
            "fake",
            Fake("fake", fault=gate),
            Batching(),
            "cpu",
            asyncio.get_running_loop(),
            lambda error: None,
        )
        workers.append(worker)
        worker.start()
        await worker.loaded
        await held(worker, gate)
        worker.stop("closed")

    with caplog.at_level(logging.DEBUG):
        asyncio.run(begin())
        gate.open.set()
        workers[0]._thread.join(60.0)
    assert not workers[0].alive
    assert "the event loop is gone" in caplog.text
