"""The figures of reliability that need a measurement at full size: real processes, real sockets, real signals.

Each function is one figure. It gives what was reached, in words, and whether that passes; nothing is repeated until it
does. `benchmarks.reliability` runs them and prints the table.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import os
import random
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bittensor_wallet import Keypair

from benchmarks.odd_miners import LESSER, NEIGHBOUR
from benchmarks.process import Running, miner, resident_mb
from benchmarks.soak import quantile
from cascade.deadline import Deadline
from cascade.engine import Engine
from cascade.profile import Member, Profile, Tier
from miner.cli import ROOT
from miner.mocknet import dev_validator
from miner.replay_store import SECOND, ReplayStore
from models import metrics
from models.base import Frame, ModelSpec
from models.fake import Fake, slow
from models.worker import Policy, Remote, Worker
from tests.edge import pictures
from tests.edge.signing import Dendrite
from tests.edge.wire import read_response

Found = tuple[str, bool]  # what was reached, and whether that passes
BASELINE = ROOT / "benchmarks" / "accuracy_baseline.json"


@dataclass(slots=True)
class Reply:
    """One answer. status 0: none came. seconds: from connecting to the last byte."""

    status: int
    prediction: float
    seconds: float
    sent: float

    @property
    def fine(self) -> bool:
        return self.status == 200 and math.isfinite(self.prediction) and 0.0 <= self.prediction <= 1.0


@dataclass(slots=True)
class Client:
    """Signed requests to one miner, each over a connection of its own."""

    port: int
    hotkey: str
    replies: list[Reply] = field(default_factory=list)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    async def ask(self, key: Keypair, picture: str | None = None, patience: float = 12.0) -> Reply:
        """picture: base64; a fresh one of 224 x 224 pixels if none is given."""
        image = fresh_picture(next(self._numbers)) if picture is None else picture
        payload = Dendrite(key, self.hotkey).request(image).bytes()
        sent = time.monotonic()
        try:
            async with asyncio.timeout(patience):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(payload)
                    response = await read_response(reader)
                finally:
                    writer.close()
            prediction = float(response.json["prediction"]) if response.status == 200 else math.nan
            reply = Reply(response.status, prediction, time.monotonic() - sent, sent)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            reply = Reply(0, math.nan, time.monotonic() - sent, sent)
        self.replies.append(reply)
        return reply


def fresh_picture(number: int, width: int = 224, height: int = 224) -> str:
    return pictures.text(pictures.jpeg(pictures.noise(width, height, seed=number), quality=75))


@asynccontextmanager
async def serving(*flags: str, odd: str = "") -> AsyncIterator[tuple[Running, Client]]:
    """A ready miner process and a client of it. odd: one of `benchmarks.odd_miners`."""
    command = ("-m", "benchmarks.odd_miners", odd) if odd else ("-m", "neurons.miner")
    with tempfile.TemporaryDirectory() as state, miner(Path(state), *flags, command=command) as running:
        yield running, Client(running.axon, await asyncio.to_thread(running.hotkey))


async def every(seconds: float, times: int, ask: Callable[[], Awaitable[Reply]]) -> list[Reply]:
    """Ask `times` times, one each `seconds`, whatever becomes of those before."""
    began, tasks = time.monotonic(), []
    for number in range(times):
        await asyncio.sleep(max(0.0, began + number * seconds - time.monotonic()))
        tasks.append(asyncio.ensure_future(ask()))
    return list(await asyncio.gather(*tasks))


def milliseconds(replies: Sequence[Reply], share: float) -> float:
    return 1e3 * quantile([reply.seconds for reply in replies], share)


# ---- 6, 17, 18: load -------------------------------------------------------------------------------------------------


async def flooder_beside_a_validator() -> Found:
    """Figure 6: for 100 s a registered hotkey without a permit asks 50 times a second (served at its own rate: the
    operator asks for no permit), beside a validator that asks once a second. Then half as long a small validator in its
    place, which may ask that often: nothing of the other's may be missed; the time is a matter of the machine."""
    said, passed = [], True
    async with serving("--no-force-validator-permit", odd="neighbourly") as (_, client):
        for name, key, seconds, limit in (
            ("without a permit", NEIGHBOUR, 100, 2000.0),
            ("with a permit", LESSER, 50, 9000.0),
        ):
            flood = asyncio.ensure_future(every(0.02, 50 * seconds, partial(client.ask, key)))
            asked = await every(1.0, seconds, partial(client.ask, dev_validator(0)))
            statuses = dict(sorted(Counter(reply.status for reply in await flood).items()))
            served, p99 = sum(reply.fine for reply in asked), milliseconds(asked, 0.99)
            passed = passed and served == seconds and p99 < limit
            said.append(f"flooder {name} {statuses}: {served} of {seconds} served, p99 {p99:.0f} ms")
    return "; ".join(said), passed


UNDECIDED = {
    r"band = \[.*?\]": "band = [0.0, 1.0]",
    r"min_side = \d+": "min_side = 0",
    r"max_size = 1 \}": "max_size = 16, max_wait_ms = 100 }",
}


def undecided(directory: Path) -> tuple[str, str]:
    """The flag for a profile whose second tier is asked about every picture."""
    profile = (ROOT / "cascade" / "profiles" / "embedded.toml").read_text()
    for given, other in UNDECIDED.items():
        profile = re.sub(given, other, profile, count=1)
    path = directory / "undecided.toml"
    path.write_text(profile)
    return "--profile", str(path)


async def queue_limit_and_ten() -> Found:
    """Figure 17: ten lanes and ten places are filled with requests whose second tier takes 2 s; ten more come and get
    the embedded network's answer. Passed by ten that come one after the other; of ten at the same moment the last
    waits for the network to look at the others, which is a matter of the machine. Median of three rounds each."""
    with tempfile.TemporaryDirectory() as scratch:
        flags = (*undecided(Path(scratch)), "--max-in-flight", "10", "--max-waiting", "10", "--no-journal")
        async with serving(*flags, odd="slow-answering") as (running, client):
            slowest: dict[str, list[float]] = {"one after the other": [], "at once": []}
            accepted, cheap = [], []
            for way in [*slowest] * 3:
                full = [asyncio.ensure_future(client.ask(dev_validator(0))) for _ in range(20)]
                await until_waiting(running, 10)
                await asyncio.sleep(0.5)  # the first tier has looked at those that hold a lane
                pictured = [fresh_picture(10**6 + number) for number in range(10)]
                if way == "at once":
                    excess = await asyncio.gather(*(client.ask(dev_validator(0), each) for each in pictured))
                else:
                    excess = [await client.ask(dev_validator(0), each) for each in pictured]
                slowest[way].append(milliseconds(excess, 1.0))
                cheap += excess
                accepted += await asyncio.gather(*full)
    middle = {way: statistics.median(found) for way, found in slowest.items()}
    answered = sum(reply.fine for reply in accepted)
    said = [
        f"slowest of ten {way} {middle[way]:.0f} ms ({', '.join(f'{each:.0f}' for each in slowest[way])})"
        for way in slowest
    ]
    said.append(f"accepted: {answered} of {len(accepted)} answered 200")
    passed = all(reply.fine for reply in cheap) and answered == len(accepted) and middle["one after the other"] < 50.0
    return "; ".join(said), passed


async def until_waiting(running: Running, count: int) -> None:
    """Come back once so many requests wait in the miner's queue, as its metrics say."""
    async with asyncio.timeout(10.0):
        while await asyncio.to_thread(running.metric, "streetvision_waiting") < count:  # noqa: ASYNC110  (another process sets no event of ours)
            await asyncio.sleep(0.01)


async def latency_at_concurrency() -> Found:
    """Figure 18, on the whole miner with the embedded profile: pictures of 224 x 224, a signed request each."""
    said, passed = [], True
    async with serving() as (_, client):
        for concurrency in (1, 4, 16, 64):
            count = max(40, 4 * concurrency)
            room = asyncio.Semaphore(concurrency)

            async def one(number: int, room: asyncio.Semaphore = room) -> Reply:
                async with room:
                    return await client.ask(dev_validator(number % 4))

            replies = await asyncio.gather(*(one(number) for number in range(count)))
            p50, p95, p99 = (milliseconds(replies, share) for share in (0.5, 0.95, 0.99))
            said.append(f"{concurrency}: {p50:.0f}/{p95:.0f}/{p99:.0f} ms")
            passed = passed and all(reply.fine for reply in replies) and (concurrency > 16 or p99 < 9000.0)
    return "p50/p95/p99 at " + ", at ".join(said), passed


# ---- 9: pictures -----------------------------------------------------------------------------------------------------


async def malformed_pictures(count: int = 10_000) -> Found:
    """Figure 9: through the wire to a whole miner; those that happen to be pictures go through its models."""
    async with serving("--no-journal") as (running, client):
        await client.ask(dev_validator(0))
        pid = running.process.pid
        before = resident_mb(pid)
        source = pictures.malformed(count, seed=9)

        async def lane(key: Keypair) -> None:
            for picture in source:
                await client.ask(key, picture)

        client.replies.clear()
        await asyncio.gather(*(lane(dev_validator(index)) for index in range(4)))
        after = resident_mb(pid)
        await asyncio.sleep(35.0)  # memory is given back twice a minute
        later = resident_mb(pid)
        alive = running.process.poll() is None
    statuses = Counter(reply.status for reply in client.replies)
    fine = sum(reply.fine for reply in client.replies)
    peak = await asyncio.to_thread(decoders_peak)
    said = (
        f"{fine} of {count} a finite p {dict(statuses)}; decoder's peak +{peak:.0f} MB; "
        f"the whole miner {after - before:+.0f} MB, half a minute later {later - before:+.0f} MB"
    )
    return said, fine == count and alive and peak < 150.0


def decoders_peak() -> float:
    """MB that decoding 10,000 malformed pictures takes at most, in a process of its own."""
    code = "from tests.test_decode import run_malformed as run; print(run(10_000)[1])"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return float(ran.stdout)


# ---- 13, 14: a model's process ---------------------------------------------------------------------------------------


def remote_model() -> Fake:
    return Fake("remote", 1.0, fault=slow(0.15))


@asynccontextmanager
async def engine_with_a_worker(policy: Policy) -> AsyncIterator[tuple[Engine, Worker]]:
    """Two tiers, both always asked: one in this process, one in a worker process."""
    worker = Worker({"remote": remote_model}, policy)
    spec = ModelSpec("remote", "fake", "none", "Fake")
    tiers = tuple(
        Tier(name=key, expected_ms=200.0, members=(Member(model=key, timeout_ms=5000.0),)) for key in ("near", "remote")
    )
    profile = Profile(name="figure", tiers=tiers, band=(0.0, 1.0))
    engine = Engine(profile, {"near": Fake("near", 1.0), "remote": Remote(spec, worker)})
    await engine.start()
    try:
        yield engine, worker
    finally:
        await engine.close()
        worker.stop()


async def until_true(happened: Callable[[], object], limit: float) -> float:
    """Seconds until it happened; infinite if it did not within the limit."""
    began = time.monotonic()
    while not happened():
        if time.monotonic() - began > limit:
            return math.inf
        await asyncio.sleep(0.005)
    return time.monotonic() - began


async def fifty_kills() -> Found:
    """Figure 13: kill -9 of a worker process in the middle of an assessment, 50 times, with ten requests a second
    beside it. The back-off between deaths is capped at 1 s here (30 s as shipped, within the 60 s asked)."""
    frame = Frame.of(pictures.np.full((64, 64, 3), 90, pictures.np.uint8))
    answered, unready, back = 0, [], []
    async with engine_with_a_worker(Policy(longest=1.0)) as (engine, worker):

        async def beside() -> None:
            while True:
                await asyncio.gather(engine.decide(frame, Deadline.after(8.0), "beside"), asyncio.sleep(0.1))

        load = asyncio.create_task(beside())
        for _ in range(50):
            asked = asyncio.create_task(engine.decide(frame, Deadline.after(8.0), "asked"))
            await until_true(lambda: worker._arena is not None and worker._arena.in_use, 5.0)
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
            killed = time.monotonic()
            unready.append(await until_true(lambda: not engine.readiness()[1].ready, 10.0))
            verdict = await asked
            answered += verdict.probability > 0.5 and "near" in verdict.tiers
            await until_true(lambda: engine.readiness()[1].ready, 60.0)
            back.append(time.monotonic() - killed)
        load.cancel()
    said = (
        f"{answered} of 50 answered, {worker.restarts} replacements; readiness showed it within {max(unready):.2f} s, "
        f"back within {max(back):.1f} s"
    )
    return said, answered == 50 and max(unready) <= 2.0 and max(back) <= 60.0


async def stopped_engine() -> Found:
    """Figure 14, with a worker process stopped by SIGSTOP, no traffic, and everything as shipped."""
    frame = Frame.of(pictures.np.full((64, 64, 3), 90, pictures.np.uint8))
    async with engine_with_a_worker(Policy()) as (engine, worker):
        await engine.canary()
        assert worker.pid is not None
        os.kill(worker.pid, signal.SIGSTOP)
        found = await until_true(lambda: engine.state()["remote"].breaker == "open", 60.0)
        began = time.monotonic()
        verdict = await engine.decide(frame, Deadline.after(8.0))
        took = time.monotonic() - began
        os.kill(worker.pid, signal.SIGKILL)
    said = f"found by the canary after {found:.1f} s, breaker open; the next request left it out and took {took:.2f} s"
    return said, found <= 30.0 and took < 1.0 and any(each.model == "remote" for each in verdict.failures)


# ---- 22, 23, 34: life ------------------------------------------------------------------------------------------------


async def fifty_sigterms(times: int = 50) -> Found:
    """Figure 22: eight clients ask without a pause; SIGTERM. A request is counted as accepted when it was sent 0.2 s
    before the signal or earlier, and must be answered; those sent later may find a closed port."""
    lost, exits, seconds, answered = 0, Counter[int](), [], 0
    for number in range(times):
        async with serving() as (running, client):
            asking = [asyncio.ensure_future(without_pause(client, index)) for index in range(8)]
            await asyncio.sleep(random.Random(number).uniform(1.0, 2.0))
            told = time.monotonic()
            running.process.terminate()
            exits[await asyncio.to_thread(running.process.wait, 30)] += 1
            seconds.append(time.monotonic() - told)
            await asyncio.gather(*asking)
            accepted = [reply for reply in client.replies if reply.sent < told - 0.2]
            answered += sum(reply.fine for reply in accepted)
            lost += sum(not reply.fine for reply in accepted)
    twice = [await second_sigterm() for _ in range(5)]
    said = (
        f"{answered} accepted requests answered, {lost} lost; exit codes {dict(exits)} within {max(seconds):.1f} s; "
        f"a second SIGTERM, five times, ended it within {max(twice):.2f} s"
    )
    return said, lost == 0 and set(exits) == {0} and max(seconds) <= 10.0 and max(twice) <= 1.0


async def second_sigterm() -> float:
    """Seconds from the second signal to the end, while a request of 2 s is finished; infinite if it was drained."""
    with tempfile.TemporaryDirectory() as scratch:
        async with serving(*undecided(Path(scratch)), odd="slow-answering") as (running, client):
            asked = asyncio.ensure_future(client.ask(dev_validator(0)))
            await asyncio.sleep(0.5)
            running.process.terminate()
            await until_true(lambda: refused(running.axon), 1.5)  # the first was heard; two at once would count as one
            told = time.monotonic()
            running.process.terminate()
            code = await asyncio.to_thread(running.process.wait, 30)
            took = time.monotonic() - told
            await asked
    return took if code == 1 else math.inf


def refused(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


async def without_pause(client: Client, index: int) -> None:
    """Ask until no answer comes any more."""
    while (await client.ask(dev_validator(index))).status:
        pass


def children(pid: int) -> list[int]:
    """The processes that a process started, and theirs."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, path.read_text().split()):
            found += [child, *children(child)]
    return found


async def sigterm_while_loading() -> Found:
    """Figure 23: a miner whose second tier takes a minute to load in a worker process, told to end at ten moments."""
    seconds, orphans, workers, codes = [], 0, 0, Counter[int]()
    for number in range(10):
        with tempfile.TemporaryDirectory() as state:
            command = ("-m", "benchmarks.odd_miners", "slow-loading")
            with miner(Path(state), command=command) as running:
                await asyncio.to_thread(until_listening, running)
                await asyncio.sleep(0.3 * number)
                started = children(running.process.pid)
                workers += bool(started)
                told = time.monotonic()
                running.process.terminate()
                codes[await asyncio.to_thread(running.process.wait, 60)] += 1
                seconds.append(time.monotonic() - told)
                await asyncio.sleep(0.2)
                orphans += sum(map(runs, started))
    said = (
        f"exit codes {dict(codes)} within {max(seconds):.1f} s; {orphans} orphans (a worker was there {workers} times)"
    )
    return said, max(seconds) <= 5.0 and orphans == 0 and workers > 0 and set(codes) == {0}


def runs(pid: int) -> bool:
    """Whether a process is at work; one that has ended and waits for its parent is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def until_listening(running: Running) -> None:
    give_up = time.monotonic() + 60.0
    while time.monotonic() < give_up:
        try:
            running.readyz()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"does not listen:\n{running.log.read_text()[-2000:]}")


async def cold_start(times: int = 3) -> Found:
    """Figure 34: seconds from the start of the process, on a machine that has the files in memory."""
    moments: dict[str, list[float]] = {}
    early = 0
    for _ in range(times):
        with tempfile.TemporaryDirectory() as state:
            began = time.monotonic()
            seen: dict[str, float] = {}
            with miner(Path(state)) as running:
                await asyncio.to_thread(until_listening, running)
                seen["ports open"] = time.monotonic() - began
                while "ready" not in seen:
                    status, said = await asyncio.to_thread(running.readyz)
                    now = time.monotonic() - began
                    for tier in said["tiers"]:
                        if tier["ready"]:
                            seen.setdefault(f"tier {tier['name']}", now)
                    if status == 200:
                        seen["ready"] = now
                        early += not all(tier["ready"] for tier in said["tiers"] if tier["required"])
                    await asyncio.sleep(0.01)
        for name, moment in seen.items():
            moments.setdefault(name, []).append(moment)
    said = ", ".join(f"{name} {statistics.median(found):.1f} s" for name, found in moments.items())
    return f"{said} (median of {times}); ready before its tiers: {early}", early == 0


# ---- 25, 28, 31: the rest --------------------------------------------------------------------------------------------


def a_million_replays() -> Found:
    """Figure 25, with the file on disk; 10,000 a second, as fast as signatures can be checked."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "replay"
        before, most, held, refused = resident_mb(os.getpid()), 0.0, 0, 0
        began = time.time_ns()
        store = ReplayStore(path, now=began)
        for number in range(1_000_000):
            now = began + number * SECOND // 10_000
            message = b"%d" % number
            assert store.add(message, now, now)
            if number % 1000 == 0:
                refused += not store.add(message, now, now)
                most, held = max(most, resident_mb(os.getpid()) - before), max(held, len(store))
        size = path.stat().st_size / 1e6
        store.close()
    said = f"+{most:.1f} MB at most, {held:,} held at most, file {size:.1f} MB; {refused} of 1,000 replays refused"
    return said, most < 50.0 and held <= 200_000 and refused == 1000


def wrong_settings() -> Found:
    """Figure 28, with the real command."""
    with socket.create_server(("127.0.0.1", 0)) as taken, tempfile.TemporaryDirectory() as state:
        port = str(taken.getsockname()[1])
        base = ["--network", "mock", "--state-dir", state]
        cases = {
            "no-such-setting": [*base, "--no-such-setting", "1"],
            "axon_port": [*base, "--axon-port", "many"],
            "external_ip": [*base, "--external-ip", "my.house"],
            f"axon port {port}": [*base, "--axon-port", port, "--health-port", "0"],
            f"health port {port}": [*base, "--axon-port", "0", "--health-port", port],
            "nobody": ["--network", "test", "--wallet-name", "nobody", "--wallet-path", state],
            "no-such-profile": [*base, "--profile", "no-such-profile"],
        }
        wrong = []
        for named, flags in cases.items():
            ran = subprocess.run(
                [sys.executable, "-P", "-m", "neurons.miner", *flags],
                env=os.environ | {"PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
                timeout=120,
            )
            if ran.returncode != 2 or named not in ran.stderr or "Traceback" in ran.stderr:
                wrong.append(f"{named}: exit {ran.returncode}, {ran.stderr[-200:]!r}")
    return (
        f"{len(cases) - len(wrong)} of {len(cases)} exit 2 and name it, no traceback {wrong or ''}".strip(),
        not wrong,
    )


def accuracy_through_the_wire() -> Found:
    """Figure 31: drawn pictures of a fixed seed through real dendrites, held against the interval on record."""
    with tempfile.TemporaryDirectory() as directory:
        ran = subprocess.run(
            [
                sys.executable,
                "-P",
                "-m",
                "miner",
                "mock",
                "--challenges",
                "200",
                "--seed",
                "31",
                "--organic",
                "0",
                "--json",
            ],
            cwd=directory,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
    if ran.returncode:
        return f"exit {ran.returncode}: {ran.stderr[-300:]}", False
    quality = json.loads(ran.stdout.splitlines()[-1])["quality"]
    recorded = json.loads(BASELINE.read_text())
    said, passed = [], True
    for name, better in (("mcc", 1), ("accuracy", 1), ("brier", -1), ("ece", -1)):
        value = quality[name]["value"]
        said.append(f"{name} {metrics.told(quality[name], 3)}")
        passed = passed and (value >= recorded[name]["low"] if better > 0 else value <= recorded[name]["high"])
    return f"{', '.join(said)} on {quality['n']} drawn pictures; on record {recorded['mcc']['value']:.3f} MCC", passed
