"""SIGTERM ends a miner sooner than its supervisor would kill it, whatever hangs, and what was accepted is answered."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest

from benchmarks.figures import children, undecided
from benchmarks.process import Running, miner
from miner.mocknet import dev_validator
from tests.edge.pictures import jpeg, noise, text
from tests.edge.signing import Dendrite
from tests.edge.wire import Response, read_response

pytestmark = pytest.mark.slow

ALLOWED = 15.0  # seconds from SIGTERM to SIGKILL: deploy/systemd, and what the other ways give is no less
PICTURE = text(jpeg(noise(300, 200)))


async def ended(running: Running, hotkey: str, worker: int | None = None) -> tuple[Response, int, float]:
    """The answer to a request that is at work when SIGTERM comes, the exit code, and the seconds until the end.

    Beside it a client has sent half a request. worker: a process that is stopped before.
    """
    half = Dendrite(dev_validator(1), hotkey).request(PICTURE).bytes()
    _, idle = await asyncio.open_connection("127.0.0.1", running.axon)
    idle.write(half[: len(half) // 2])
    if worker:
        os.kill(worker, signal.SIGSTOP)
    reader, writer = await asyncio.open_connection("127.0.0.1", running.axon)
    writer.write(Dendrite(dev_validator(0), hotkey).request(PICTURE).bytes())
    await until_at_work(running)
    running.process.terminate()
    told = time.monotonic()
    answer = await read_response(reader)
    code = await asyncio.to_thread(running.process.wait, 60.0)
    took = time.monotonic() - told
    for each in (idle, writer):
        each.close()
        with suppress(ConnectionError):  # the miner is gone
            await each.wait_closed()
    return answer, code, took


async def until_at_work(running: Running) -> None:
    """Until the whole request is with the models."""
    async with asyncio.timeout(60.0):
        while await asyncio.to_thread(running.metric, "streetvision_in_flight") < 1.0:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_a_worker_that_hangs_does_not_keep_it(tmp_path: Path) -> None:
    command = ("-m", "benchmarks.odd_miners", "in-a-worker")
    with miner(tmp_path / "state", *undecided(tmp_path), command=command) as running:
        hotkey = running.hotkey()
        [worker] = [child for child in children(running.process.pid) if b"spawn_main" in cmdline(child)]
        answer, code, took = asyncio.run(ended(running, hotkey, worker))
    print(f"\nended after {took:.1f} s with code {code}")
    assert (answer.status, code) == (200, 0)
    assert 0.0 <= answer.json["prediction"] <= 1.0
    assert took < ALLOWED
    assert not Path(f"/proc/{worker}").exists()


def test_what_hangs_while_it_closes_does_not_keep_it_and_is_named(tmp_path: Path) -> None:
    command = ("-m", "benchmarks.odd_miners", "hanging-at-the-end")
    with miner(tmp_path / "state", *undecided(tmp_path), command=command) as running:
        answer, code, took = asyncio.run(ended(running, running.hotkey()))
        said = running.log.read_text()
    print(f"\nended after {took:.1f} s with code {code}")
    assert (answer.status, code) == (200, 1)
    assert took < ALLOWED
    assert "in hang" in said, "the log shows where each thread was"


def cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
