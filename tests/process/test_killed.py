"""kill -9 of a whole miner, and of its worker, in the middle of the work: nothing stands in the way of the next start,
nothing is replayed, the journal is whole, and while the miner lives everybody is answered."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from benchmarks.figures import children, undecided
from benchmarks.process import Running, miner
from miner.commands.mock import reserved_ports
from miner.mocknet import dev_validator
from tests.edge.pictures import jpeg, noise, text
from tests.edge.signing import Dendrite, Request
from tests.edge.wire import ask

pytestmark = pytest.mark.slow

PICTURES = [text(jpeg(noise(300, 200, seed=seed))) for seed in range(20)]
CALLERS = 4


async def killed(running: Running, hotkey: str, answers: int, recorded: bool) -> list[Request]:
    """Ask without a pause and kill the miner after so many answers, while it works; the requests that were answered.

    recorded: not before the journal has some of them on disk.
    """
    answered: list[Request] = []

    async def caller(validator: int) -> None:
        dendrite = Dendrite(dev_validator(validator), hotkey)
        for number in range(10**6):
            request = dendrite.request(PICTURES[(CALLERS * number + validator) % len(PICTURES)])
            try:
                response = await ask(running.axon, request.bytes())
            except (OSError, asyncio.IncompleteReadError):
                return
            assert response.status == 200
            answered.append(request)
            if len(answered) >= answers and (not recorded or await on_record(running) > 0):
                running.process.kill()

    async with asyncio.timeout(300.0), asyncio.TaskGroup() as group:
        for validator in range(CALLERS):
            group.create_task(caller(validator))
    running.process.wait()
    return answered


async def on_record(running: Running) -> float:
    """Requests that the journal has written, by the miner's own metric; 0 while nobody says."""
    try:
        return await asyncio.to_thread(running.metric, 'streetvision_journal_requests{fate="written"}')
    except OSError:  # killed meanwhile
        return 0.0


async def replayed(port: int, requests: list[Request]) -> set[int]:
    """The statuses that requests get when they are sent again, as soon as anything listens."""
    async with asyncio.timeout(60.0):
        while True:
            try:
                first = await ask(port, requests[-1].bytes())
                break
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
    return {first.status, *[(await ask(port, request.bytes())).status for request in requests]}


def journal_of(state: Path) -> tuple[str, int, int]:
    """(what SQLite says of the file, rows, their sums by the hour) of a copy, as the killed miner left it."""
    [file] = state.rglob("journal.db")
    copy = shutil.copytree(file.parent, state.parent / "copy", dirs_exist_ok=True) / file.name
    database = sqlite3.connect(copy)
    try:
        [[said]] = database.execute("PRAGMA integrity_check")
        [[rows]] = database.execute("SELECT count(*) FROM requests")
        [[sums]] = database.execute("SELECT coalesce(sum(n), 0) FROM hours")
    finally:
        database.close()
        shutil.rmtree(copy.parent)
    return said, rows, sums


def test_a_killed_miner_starts_again_on_its_ports_and_its_state(tmp_path: Path) -> None:
    state, asked, before = tmp_path / "state", 0, 0
    answered: list[Request] = []
    with reserved_ports(2) as ports:
        for answers, recorded in ((5, False), (17, True), (40, False)):
            with miner(state, ports=ports) as running:
                if answered:
                    assert asyncio.run(replayed(running.axon, answered[-10:])) == {401}
                answered = asyncio.run(killed(running, running.hotkey(), answers, recorded))
                asked += len(answered)
            said, rows, sums = journal_of(state)
            assert (said, rows) == ("ok", sums)
            assert before <= rows <= asked + CALLERS * 3, "what was written stays, and nothing is written twice"
            before = rows
        with miner(state, ports=ports) as running:
            hotkey = running.hotkey()
            request = Dendrite(dev_validator(0), hotkey).request(PICTURES[0])
            assert asyncio.run(ask(running.axon, request.bytes())).status == 200
    print(f"\nthree times killed: {asked} answered, {rows} of them on record; every replay refused")
    assert rows > 0


async def asked_while_a_worker_dies(running: Running, hotkey: str, deaths: int) -> list[float]:
    """Seconds that each answer took; every one of them was a probability."""
    times: list[float] = []
    enough = asyncio.Event()

    async def caller(validator: int) -> None:
        dendrite = Dendrite(dev_validator(validator), hotkey)
        while not enough.is_set():
            began = time.monotonic()
            request = dendrite.request(text(jpeg(noise(300, 200, seed=len(times) + 100))))
            response = await ask(running.axon, request.bytes())
            assert response.status == 200
            assert 0.0 <= response.json["prediction"] <= 1.0
            times.append(time.monotonic() - began)

    async with asyncio.timeout(300.0), asyncio.TaskGroup() as group:
        for validator in range(CALLERS):
            group.create_task(caller(validator))
        for _ in range(deaths):
            worker = await present(running)
            more = len(times) + CALLERS
            while len(times) < more or not await busy(running):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            os.kill(worker, signal.SIGKILL)
        await present(running)
        enough.set()
    return times


async def busy(running: Running) -> bool:
    return await asyncio.to_thread(running.metric, "streetvision_in_flight") > 0


async def present(running: Running) -> int:
    """The worker's process, once the tier that needs it is ready (again)."""
    while True:
        _, said = await asyncio.to_thread(running.readyz)
        workers = [child for child in children(running.process.pid) if is_worker(child)]
        if workers and all(tier["ready"] for tier in said["tiers"]):
            return workers[0]
        await asyncio.sleep(0.05)


def is_worker(pid: int) -> bool:
    try:
        return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:  # it ended meanwhile
        return False


def test_while_a_worker_is_killed_everybody_is_answered_in_time_and_it_comes_back(tmp_path: Path) -> None:
    command = ("-m", "benchmarks.odd_miners", "in-a-worker")
    with miner(tmp_path / "state", *undecided(tmp_path), "--no-journal", command=command) as running:
        times = asyncio.run(asked_while_a_worker_dies(running, running.hotkey(), deaths=3))
    print(f"\nthree times killed under load: {len(times)} answers, the slowest after {max(times):.1f} s")
    assert max(times) < 9.0
