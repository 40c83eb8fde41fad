"""The engine's processes are killed and stopped under a serving cascade: everybody is answered, and it comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from vlm_helpers import KEY, cores_of, is_stopped, picture, processes_of, small_engine, until

from cascade.batching import Examiner
from cascade.deadline import Deadline
from cascade.engine import Engine
from cascade.profile import Member, Profile, Tier
from cascade.verdict import Source, Verdict
from models import catalog
from models.base import ModelCrashed, ModelUnavailable
from models.fake import Fake
from models.worker import Policy, RemoteExaminer, Worker

FRAME = picture(0)
PATIENCE = Policy(hang=20.0, loading=900.0, first=0.1, longest=1.0, shared=8 << 20)
PROFILE = Profile(
    name="two-tiers",
    band=(0.0, 1.0),  # never sure: the engine is asked every time
    tiers=(
        Tier(name="encoder", required=True, expected_ms=1, members=(Member(model="encoder"),)),
        Tier(name="vlm", expected_ms=50, members=(Member(model=KEY, timeout_ms=4000),)),
    ),
)


@pytest.fixture(scope="module")
def worker(checkpoint: Path) -> Iterator[Worker]:
    """One engine for the file, in a process of its own."""
    worker = Worker({KEY: partial(small_engine, checkpoint)}, PATIENCE, "engine")
    yield worker
    worker.stop()


@asynccontextmanager
async def serving(worker: Worker) -> AsyncIterator[Engine]:
    """A cascade with a tier that always answers, and the engine behind it."""
    make = {"encoder": lambda: Fake("encoder", 0.5), KEY: lambda: RemoteExaminer(catalog.find(KEY).spec, worker)}
    engine = Engine(PROFILE, {key: each() for key, each in make.items()}, factory=lambda key: make[key]())
    await engine.start()
    yield engine
    await engine.close()


async def ask(engine: Engine) -> Verdict:
    """The verdict of one picture, given in time."""
    verdict = await engine.decide(FRAME, Deadline.after(8.0))
    assert 0.0 <= verdict.probability <= 1.0
    assert verdict.milliseconds < 9_000, "the validators' time-out"
    return verdict


def answered(verdict: Verdict) -> set[str]:
    return {opinion.model for opinion in verdict.opinions}


def is_out(worker: Worker) -> bool:
    """Whether the picture of a request, no canary, has been handed to the process."""
    child, arena = worker._child, worker._arena
    assert child is not None
    assert arena is not None
    with child._lock:  # held while a call is written to the pipe
        return bool(child._waiting) and arena.in_use >= FRAME.pixels.nbytes


async def asked_until(engine: Engine, wanted: set[str], seconds: float) -> float:
    """Ask again and again, each answered in time, until these models answer; seconds that took."""
    begun = time.monotonic()
    while True:
        models = answered(await ask(engine))
        assert "encoder" in models
        if models == wanted:
            return time.monotonic() - begun
        assert time.monotonic() - begun < seconds, f"{wanted} did not answer within {seconds:g} s: {engine.state()}"
        await asyncio.sleep(0.1)


async def reached(state: Callable[[], bool], seconds: float, what: str) -> float:
    """Seconds until a state is reached, the event loop running on; fails loudly after `seconds`."""
    return await asyncio.to_thread(until, state, seconds, what)


async def test_killed_stopped_and_back(worker: Worker, measured: list[str]) -> None:
    """One story, since each start of an engine takes its time."""
    async with serving(worker) as engine:
        assert isinstance(RemoteExaminer(catalog.find(KEY).spec, worker), Examiner)
        assert answered(await ask(engine)) == {"encoder", KEY}

        # kill -9 in the middle of a request: a stopped process cannot have answered it, however quick it is
        group = worker.pid
        assert group is not None
        assert len(processes_of(group)) >= 3, "the worker, the engine's core and its worker"
        os.kill(group, signal.SIGSTOP)
        await reached(partial(is_stopped, group), 30, "the worker stops")
        question = asyncio.create_task(ask(engine))
        await reached(partial(is_out, worker), 30, "the request is on its way")
        os.kill(group, signal.SIGKILL)
        begun = time.monotonic()
        verdict = await question
        took = time.monotonic() - begun
        assert (answered(verdict), verdict.source) == ({"encoder"}, Source.PARTIAL)
        assert [failure.kind for failure in verdict.failures] == [ModelCrashed.kind]
        measured.append(f"kill -9 of the worker in the middle of a request: answered {took * 1e3:.0f} ms later")
        back = await asked_until(engine, {"encoder", KEY}, PATIENCE.loading)
        measured.append(f"kill -9 of the worker: the engine answers again after {back:.1f} s")
        assert processes_of(group) == [], "orphans"

        # SIGSTOP of everything, and nobody asks: only the canary can notice
        group = worker.pid
        assert group is not None
        os.killpg(group, signal.SIGSTOP)
        noticed = await reached(lambda: engine.state()[KEY].breaker != "closed", 120, "the canary notices")
        measured.append(f"SIGSTOP of the engine, idle: the canary noticed after {noticed:.1f} s")
        verdict = await ask(engine)
        assert answered(verdict) == {"encoder"}
        assert [failure.kind for failure in verdict.failures] == [ModelUnavailable.kind], "skipped, not waited for"
        back = await asked_until(engine, {"encoder", KEY}, PATIENCE.loading)
        measured.append(f"SIGSTOP of the engine: killed, replaced and answering {back:.1f} s after it was noticed")
        assert processes_of(group) == [], "orphans"

        # kill -9 of the engine's core alone: its worker must not stay behind, alive and useless
        group = worker.pid
        assert group is not None
        cores = cores_of(group)
        for pid in cores:
            os.kill(pid, signal.SIGKILL)
        await reached(lambda: not set(cores) & set(processes_of(group)), 30, "the core dies")
        assert answered(await ask(engine)) == {"encoder"}
        back = await asked_until(engine, {"encoder", KEY}, PATIENCE.loading)
        measured.append(f"kill -9 of the engine's core: the engine answers again after {back:.1f} s")
        assert worker.pid != group
        assert processes_of(group) == [], "orphans"
