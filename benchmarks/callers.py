"""Validators that ask a miner again as soon as they are answered, in processes of their own, as real ones are.

What a caller spends on signing, JSON and its socket is then no part of what the miner has to do, nor of its figure.
Light on purpose: each process is an interpreter that imports this module and no model.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import sys
import time
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import numpy as np
from bittensor_wallet import Keypair
from PIL import Image

from tests.edge.signing import Dendrite
from tests.edge.wire import read_response

ROOT = Path(__file__).resolve().parents[1]
MINER, VALIDATOR = (Keypair.create_from_uri(f"//edge/{name}") for name in ("miner", "validator"))
PROCESSES = 8  # 64 callers then keep none of them busy
PICTURES = 64
ANSWER_S = 15.0  # limit of one answer


async def ask(port: int, count: int, seconds: float) -> tuple[list[float], float]:
    """Milliseconds of each answer to `count` callers at once, and answers per second. Raises RuntimeError."""
    shares = [numbers for at in range(PROCESSES) if (numbers := list(range(count))[at::PROCESSES])]
    processes = [await _started(port, numbers, seconds) for numbers in shares]
    for process in processes:
        await _line(process)  # connected
    for process in processes:
        assert process.stdin
        process.stdin.write(b"go\n")
    reports = [json.loads(await _line(process)) for process in processes]
    for process in processes:
        await process.wait()
    spent = [ms for report in reports for ms in report["ms"]]
    took = max(report["ended"] for report in reports) - min(report["begun"] for report in reports)
    return spent, len(spent) / took


async def _started(port: int, numbers: list[int], seconds: float) -> Process:
    words = json.dumps({"port": port, "numbers": numbers, "seconds": seconds})
    command = (sys.executable, "-m", "benchmarks.callers", words)
    return await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, cwd=ROOT, limit=1 << 26)


async def _line(process: Process) -> bytes:
    assert process.stdout
    if not (line := await process.stdout.readline()):
        raise RuntimeError(f"a caller's process ended with exit code {await process.wait()}; see its output above")
    return line


# ---- in the process --------------------------------------------------------------------------------------------------


async def asking(port: int, numbers: list[int], seconds: float) -> None:
    """All callers of one process: says when they are connected, waits for a line, reports the time of each answer."""
    images = pictures()
    streams = [await asyncio.open_connection("127.0.0.1", port) for _ in numbers]
    print("connected", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    begun = time.perf_counter()  # of the machine, not of the process
    spent = await asyncio.gather(
        *(caller(*stream, number, images, begun + seconds) for stream, number in zip(streams, numbers, strict=True))
    )
    report = {"begun": begun, "ended": time.perf_counter(), "ms": [ms for own in spent for ms in own]}
    print(json.dumps(report), flush=True)


async def caller(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int, images: list[str], until: float
) -> list[float]:
    """Milliseconds from each signed request to its answer, on one connection, until the time is over."""
    dendrite = Dendrite(VALIDATOR, MINER.ss58_address, uuid=f"00000000-0000-0000-0000-{number:012d}")
    spent: list[float] = []
    while True:
        request = dendrite.request(images[(number + len(spent)) % len(images)]).bytes()
        begun = time.perf_counter()
        writer.write(request)
        async with asyncio.timeout(ANSWER_S):
            response = await read_response(reader)
        if response.status != 200:
            raise RuntimeError(f"expected status 200, got {response.status}: {response.body[:200]!r}")
        spent.append((time.perf_counter() - begun) * 1e3)
        if time.perf_counter() >= until:
            writer.close()
            return spent


def pictures() -> list[str]:
    """Base64 JPEGs of 224 x 224 noise, the largest that such pictures get."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(PICTURES):
        stream = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (224, 224, 3), np.uint8)).save(stream, "JPEG", quality=90)
        found.append(base64.b64encode(stream.getvalue()).decode())
    return found


if __name__ == "__main__":
    asyncio.run(asking(**json.loads(sys.argv[1])))
