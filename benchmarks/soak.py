"""An hour of mixed load on a whole miner, beside clients that crash, watched for what grows.

    python -m benchmarks.soak --out DIR [--minutes 62] [--rate 5]     the miner as it is
    python -m benchmarks.soak --out DIR --leaking --minutes 10        the control: one that leaks, which must fail
    python -m benchmarks.soak --report DIR                            the table of a run, also of one that still goes on

The miner is a process on the in-memory chain with its journal, its models and its replay store. Requests come at random
moments, `--rate` a second on average: new pictures, pictures seen before, malformed ones, forged and unsigned requests,
replays; and every five seconds a client process sends part of a request, or all of it, and is killed. Every minute one
line is written: memory, open descriptors, CPU time a request, and the answers' p50 and p99.

Passed when, after the first five minutes, memory of the last third is less than 100 MB above the first third's (medians
of the least seen in a minute, when pictures at work are gone), descriptors are as many, and p99 and CPU time differ by
less than 10 %. On a machine that others use too the CPU time is the honest one: p99 tells of them. It is also given
divided by that of a fixed piece of work measured in the same minute (`units`), since a shared core slows both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bittensor_wallet import Keypair

from benchmarks.process import Running, cpu_seconds, descriptors, miner, resident_mb
from miner.mocknet import dev_validator
from tests.edge import pictures
from tests.edge.signing import Dendrite
from tests.edge.wire import read_response

SIZES = ((224, 224), (512, 384), (1280, 720))
MIX = {"new": 55, "again": 15, "malformed": 12, "forged": 6, "unsigned": 6, "replay": 6}  # of 100 requests
EXPECTED = {"new": 200, "again": 200, "malformed": 200, "forged": 401, "unsigned": 401, "replay": 401}
CRASH_EVERY = 5.0  # seconds; the kernel is asked as often
WARM = 5  # minutes: allocators, caches and the journal fill
CRASHER = """
import os, signal, socket, struct, sys
port, reset = int(sys.argv[1]), int(sys.argv[2])
client = socket.create_connection(("127.0.0.1", port))
if reset: client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
client.sendall(sys.stdin.buffer.read())
os.kill(os.getpid(), signal.SIGKILL)
"""


@dataclass(frozen=True, slots=True)
class Minute:
    """One line of the record. memory, peak: least and most MB seen (pictures at work take some for a moment).
    cpu_ms: of the miner, a request. units: the same in fixed pieces of work. times_ms: of answers to whole pictures."""

    minute: int
    memory: float
    peak: float
    descriptors: int
    requests: int
    wrong: int
    crashes: int
    cpu_ms: float
    units: float
    times_ms: tuple[float, ...]


class Load:
    """What is sent, and what came back since the last look."""

    def __init__(self, port: int, hotkey: str, seed: int = 0) -> None:
        self._port, self._hotkey = port, hotkey
        self._draw = random.Random(seed)
        self._dendrites = [Dendrite(dev_validator(index), hotkey) for index in range(4)]
        self._stranger = Keypair.create_from_uri("//soak/stranger")
        self._seen = [self._picture(number) for number in range(20)]
        self._malformed = pictures.malformed(10**9, seed)
        self._accepted = b""
        self._count = 1000
        self.requests = self.wrong = self.crashes = 0
        self.times: list[float] = []
        self.oddities: list[str] = []

    def _picture(self, seed: int) -> str:
        width, height = SIZES[seed % len(SIZES)]
        return pictures.text(pictures.jpeg(pictures.noise(width, height, seed=seed), quality=75))

    def _payload(self, kind: str) -> bytes:
        dendrite = self._draw.choice(self._dendrites)
        if kind == "replay" and self._accepted:
            return self._accepted
        if kind == "malformed":
            return dendrite.request(next(self._malformed)).bytes()
        if kind in ("forged", "unsigned"):
            request = Dendrite(self._stranger, self._hotkey).request()
            request.headers["bt_header_dendrite_hotkey"] = dendrite.key.ss58_address
            if kind == "unsigned":
                del request.headers["bt_header_dendrite_signature"]
            return request.bytes()
        self._count += 1
        return dendrite.request(self._picture(self._count) if kind == "new" else self._draw.choice(self._seen)).bytes()

    async def ask(self) -> None:
        """One request of the mix, over a connection of its own."""
        kind = self._draw.choices(list(MIX), list(MIX.values()))[0]
        if kind == "replay" and not self._accepted:
            return
        payload = self._payload(kind)
        began = time.perf_counter()
        try:
            async with asyncio.timeout(12.0):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                writer.write(payload)
                answer = await read_response(reader)
                writer.close()
            fine = answer.status == EXPECTED[kind] and (
                answer.status != 200 or 0.0 <= float(answer.json["prediction"]) <= 1.0
            )
            said = f"{kind}: {answer.status}"
        except (OSError, TimeoutError, asyncio.IncompleteReadError) as error:
            fine, said = False, f"{kind}: {error!r}"
        self.requests += 1
        if not fine:
            self.wrong += 1
            self.oddities.append(said)
        elif kind == "new":
            self.times.append((time.perf_counter() - began) * 1e3)
            self._accepted = payload

    async def crash(self) -> None:
        """A client process that dies somewhere in its request."""
        payload = self._payload("new")
        part = payload[: self._draw.randrange(1, len(payload))] if self._draw.random() < 0.7 else payload
        words = [sys.executable, "-S", "-c", CRASHER, str(self._port), str(self._draw.randrange(2))]
        client = await asyncio.create_subprocess_exec(*words, stdin=subprocess.PIPE)
        await client.communicate(part)
        self.crashes += client.returncode == -signal.SIGKILL


def unit() -> float:
    """Milliseconds of CPU for a fixed piece of work of the miner's kind: what the machine is worth at this moment."""
    key, message = dev_validator(0), b"unit" * 50
    signature = key.sign(message)
    began = time.process_time()
    for _ in range(200):
        key.verify(message, signature)
    return (time.process_time() - began) * 1e3


async def watch(running: Running, load: Load, minutes: int, rate: float, out: Path) -> None:
    """Send and write one line a minute."""
    pid = running.process.pid
    draw = random.Random(1)
    tasks: set[asyncio.Task[None]] = set()

    def spawn(work: Any) -> None:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    next_crash = time.monotonic()
    for minute in range(1, minutes + 1):
        cpu, ends, open_now, memory = cpu_seconds(pid), time.monotonic() + 60.0, [], [resident_mb(pid)]
        load.requests = load.wrong = load.crashes = 0
        load.times = []
        while time.monotonic() < ends:
            spawn(load.ask())
            if time.monotonic() >= next_crash:
                next_crash += CRASH_EVERY
                spawn(load.crash())
                open_now.append(descriptors(pid))
                memory.append(resident_mb(pid))
            await asyncio.sleep(draw.expovariate(rate))
        spent = (cpu_seconds(pid) - cpu) * 1e3 / max(1, load.requests)
        line = Minute(
            minute,
            round(min(memory), 1),
            round(max(memory), 1),
            min(open_now, default=descriptors(pid)),
            load.requests,
            load.wrong,
            load.crashes,
            round(spent, 3),
            round(spent / await asyncio.to_thread(unit), 4),
            tuple(round(each, 1) for each in load.times),
        )
        with out.open("a") as file:
            file.write(json.dumps(asdict(line)) + "\n")
    await asyncio.gather(*tasks)
    for oddity in load.oddities[:20]:
        print("not as expected:", oddity)


def quantile(values: list[float], share: float) -> float:
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]


def drift(first: float, last: float) -> float:
    return last / first - 1.0


def report(directory: Path) -> bool:
    """Print the table of a run. True when every figure passed."""
    lines = [Minute(**json.loads(line)) for line in (directory / "soak.jsonl").read_text().splitlines()]
    steady = [line for line in lines if line.minute > min(WARM, len(lines) // 3)]
    third = max(1, len(steady) // 3)
    first, last = steady[:third], steady[-third:]

    def p99(some: list[Minute]) -> float:
        return quantile([each for line in some for each in line.times_ms], 0.99)

    def middle(some: list[Minute], name: str) -> float:
        return statistics.median(getattr(line, name) for line in some)

    print(
        f"{'minute':>6} {'MB':>7} {'peak':>7} {'open':>5} {'requests':>8} {'wrong':>5} "
        f"{'CPU ms':>7} {'units':>6} {'p50':>7} {'p99':>7}"
    )
    for line in lines[:: max(1, len(lines) // 20)]:
        times = list(line.times_ms)
        print(
            f"{line.minute:6d} {line.memory:7.1f} {line.peak:7.1f} {line.descriptors:5d} {line.requests:8d} "
            f"{line.wrong:5d} {line.cpu_ms:7.2f} {line.units:6.3f} "
            f"{quantile(times, 0.5):7.1f} {quantile(times, 0.99):7.1f}"
        )
    growth = middle(last, "memory") - middle(first, "memory")
    most = max(line.memory for line in steady) - steady[0].memory
    more = middle(last, "descriptors") - middle(first, "descriptors")
    wrong, asked = sum(line.wrong for line in lines), sum(line.requests for line in lines)
    drifts = {name: drift(middle(first, name), middle(last, name)) for name in ("cpu_ms", "units")}
    late = drift(p99(first), p99(last))
    print(f"\n{len(lines)} minutes, {asked} requests, {sum(line.crashes for line in lines)} clients killed")
    rows = [
        ("answered as they must be", "all", f"{asked - wrong} of {asked}", wrong == 0),
        (
            "memory, last third less first",
            "< 100 MB",
            f"{growth:+.1f} MB (most in a minute, over the first: {most:+.0f} MB)",
            growth < 100.0,
        ),
        ("descriptors, last third less first", "flat (within 2)", f"{more:+.0f}", abs(more) <= 2),
        ("p99 drift", "< 10 %", f"{late:+.1%} ({p99(first):.0f} -> {p99(last):.0f} ms)", late < 0.1),
        (
            "CPU time a request, drift",
            "< 10 %",
            f"{drifts['units']:+.1%} in units of fixed work ({drifts['cpu_ms']:+.1%} in milliseconds)",
            drifts["units"] < 0.1,
        ),
    ]
    for name, wanted, reached, passed in rows:
        print(f"{'pass' if passed else 'FAIL'}  {name}: asked {wanted}, reached {reached}")
    return all(passed for *_, passed in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="directory for soak.jsonl")
    parser.add_argument("--minutes", type=int, default=62)
    parser.add_argument("--rate", type=float, default=5.0, help="requests a second, on average")
    parser.add_argument("--leaking", action="store_true", help="the control")
    parser.add_argument("--report", type=Path, metavar="DIR")
    options = parser.parse_args()
    if options.report:
        return 0 if report(options.report) else 1
    if not options.out:
        parser.error("expected --out DIR or --report DIR")
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "soak.jsonl").unlink(missing_ok=True)
    command = ("-m", "benchmarks.odd_miners", "leaking") if options.leaking else ("-m", "neurons.miner")
    with tempfile.TemporaryDirectory() as state, miner(Path(state), command=command) as running:
        load = Load(running.axon, running.hotkey())
        asyncio.run(watch(running, load, options.minutes, options.rate, options.out / "soak.jsonl"))
    return 0 if report(options.out) else 1


if __name__ == "__main__":
    sys.exit(main())
