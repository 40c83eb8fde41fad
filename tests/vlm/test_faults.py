"""The engine's processes are killed and stopped under a serving cascade: everybody is answered, and it comes back."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from vlm_helpers import KEY, cores_of, picture, processes_of, small_engine

from cascade.batching import Examiner
from cascade.deadline import Deadline
from cascade.engine import Engine
from cascade.profile import Member, Profile, Tier
from cascade.verdict import Source
from models import catalog
from models.fake import Fake
from models.worker import Policy, RemoteExaminer, Worker

FRAME = picture(0)
PATIENCE = Policy(hang=20.0, loading=300.0, first=0.1, longest=1.0, shared=8 << 20)
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


async def ask(engine: Engine) -> tuple[set[str], Source, float]:
    """Who answered one picture, what the verdict is worth, and the seconds it took."""
    begun = time.monotonic()
    verdict = await engine.decide(FRAME, Deadline.after(8.0))
    assert 0.0 <= verdict.probability <= 1.0
    return {opinion.model for opinion in verdict.opinions}, verdict.source, time.monotonic() - begun


async def asked_until(engine: Engine, wanted: set[str], seconds: float) -> float:
    """Ask again and again, each answered in time, until these models answer; seconds that took."""
    begun = time.monotonic()
    while True:
        models, _, took = await ask(engine)
        assert "encoder" in models
        assert took < 8.0
        if models == wanted:
            return time.monotonic() - begun
        assert time.monotonic() - begun < seconds, f"{wanted} did not answer within {seconds:g} s: {engine.state()}"
        await asyncio.sleep(0.1)


async def open_after(engine: Engine, seconds: float) -> float:
    """Seconds until the breaker of the engine's model opens, with nobody asking it but the canary."""
    begun = time.monotonic()
    while engine.state()[KEY].breaker == "closed":
        assert time.monotonic() - begun < seconds, "nobody noticed"
        await asyncio.sleep(0.05)
    return time.monotonic() - begun


async def test_killed_stopped_and_back(worker: Worker, measured: list[str]) -> None:
    """One story, since each start of an engine takes its time."""
    async with serving(worker) as engine:
        assert isinstance(RemoteExaminer(catalog.find(KEY).spec, worker), Examiner)
        assert (await ask(engine))[0] == {"encoder", KEY}

        # kill -9 in the middle of a request
        group = worker.pid
        assert group is not None
        assert len(processes_of(group)) >= 3, "the worker, the engine's core and its worker"
        question = asyncio.create_task(ask(engine))
        await asyncio.sleep(0.01)
        os.kill(group, signal.SIGKILL)
        models, source, took = await question
        assert (models, source) == ({"encoder"}, Source.PARTIAL)
        measured.append(f"kill -9 of the worker in the middle of a request: answered in {took * 1e3:.0f} ms")
        back = await asked_until(engine, {"encoder", KEY}, 240)
        measured.append(f"kill -9 of the worker: the engine answers again after {back:.1f} s")
        assert processes_of(group) == [], "orphans"

        # SIGSTOP of everything, and nobody asks: only the canary can notice
        group = worker.pid
        assert group is not None
        os.killpg(group, signal.SIGSTOP)
        noticed = await open_after(engine, 30)
        measured.append(f"SIGSTOP of the engine, idle: the canary noticed after {noticed:.1f} s")
        models, _, took = await ask(engine)
        assert models == {"encoder"}
        assert took < 0.5, "a tier that is known to be stopped is skipped, not waited for"
        back = await asked_until(engine, {"encoder", KEY}, 300)
        measured.append(f"SIGSTOP of the engine: killed, replaced and answering {back:.1f} s after it was noticed")
        assert processes_of(group) == [], "orphans"

        # kill -9 of the engine's core alone: its worker must not stay behind, alive and useless
        group = worker.pid
        assert group is not None
        for pid in cores_of(group):
            os.kill(pid, signal.SIGKILL)
        assert (await ask(engine))[0] == {"encoder"}
        back = await asked_until(engine, {"encoder", KEY}, 240)
        measured.append(f"kill -9 of the engine's core: the engine answers again after {back:.1f} s")
        assert worker.pid != group
        assert processes_of(group) == [], "orphans"
