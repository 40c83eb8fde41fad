"""SIGHUP to a real miner under load: a bad profile is refused, a good one takes over, and every request is answered."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.process import Running, miner
from cascade.calibration import logit, sigmoid
from miner.mocknet import dev_validator
from tests.edge.pictures import jpeg, noise, text
from tests.edge.signing import Dendrite
from tests.edge.wire import ask

pytestmark = pytest.mark.slow

PICTURE = text(jpeg(noise(300, 200)))
PROFILE = """name = "own"
prevalence = {prevalence}
band = [0.1, 0.9]

[[tiers]]
name = "embedded"
required = true
expected_ms = 60
members = [{{ model = "embedded", weight = 1.0, timeout_ms = 60000 }}]
"""


async def asked(dendrite: Dendrite, port: int, picture: str = PICTURE) -> float:
    """The probability that comes back, the status being 200."""
    response = await ask(port, dendrite.request(picture).bytes())
    assert response.status == 200
    return float(response.json["prediction"])


def write(profile: Path, content: str) -> None:
    profile.write_text(content, encoding="utf-8")


async def until(happened: Callable[[], bool], answers: list[float], *, more: int) -> None:
    """Wait until it happened and `more` answers came after it."""
    async with asyncio.timeout(300.0):
        while not happened():  # noqa: ASYNC110 (a process cannot tell us)
            await asyncio.sleep(0.01)
        enough = len(answers) + more
        while len(answers) < enough:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def reloaded(running: Running, profile: Path, hotkey: str) -> list[float]:
    """Everything that was answered while a bad and then a good profile were offered."""
    answers: list[float] = []
    enough = asyncio.Event()

    async def caller(validator: int) -> None:
        dendrite = Dendrite(dev_validator(validator), hotkey, timeout="12")
        while not enough.is_set():
            answers.append(await asked(dendrite, running.axon))

    async def offer(content: str, heard: str) -> None:
        write(profile, content)
        running.process.send_signal(signal.SIGHUP)
        await until(lambda: heard in running.log.read_text(errors="replace"), answers, more=20)

    callers = [asyncio.create_task(caller(validator)) for validator in range(3)]
    try:
        await until(lambda: True, answers, more=20)
        await offer(PROFILE.format(prevalence=0.5) + "colour = 3\n", "tiers.0.colour: unknown name")
        await offer(PROFILE.format(prevalence=0.5).replace('"embedded", weight', '"nobody", weight'), "'nobody'")
        bad = len(answers)
        await offer(PROFILE.format(prevalence=0.1), "profile own replaces own")
    finally:
        enough.set()
        await asyncio.gather(*callers)  # raises what went wrong with a request
    assert len(set(answers[:bad])) == 1, "a refused profile changed an answer"
    return answers


def test_a_bad_profile_is_refused_a_good_one_reaches_the_wire_and_no_request_is_lost(tmp_path: Path) -> None:
    profile = tmp_path / "own.toml"
    write(profile, PROFILE.format(prevalence=0.5))
    with miner(tmp_path / "state", "--profile", str(profile), log_level="INFO") as running:
        answers = asyncio.run(reloaded(running, profile, running.hotkey()))
        assert running.process.poll() is None
        assert running.log.read_text(errors="replace").count("the old one stays") == 2
    before, after = answers[0], answers[-1]
    print(f"\n{len(answers)} answers over three reloads; {before:.3f} at half road work, {after:.3f} at a tenth")
    assert after == pytest.approx(sigmoid(logit(before) + logit(0.1)), abs=1e-6)
    assert set(answers) == {before, after}


def test_what_cannot_be_read_gets_the_prior_of_the_profile_that_is_served_now(tmp_path: Path) -> None:
    profile = tmp_path / "own.toml"
    write(profile, "prior = 0.3\n" + PROFILE.format(prevalence=0.5))
    with miner(tmp_path / "state", "--profile", str(profile), log_level="INFO") as running:
        dendrite = Dendrite(dev_validator(0), running.hotkey())
        assert asyncio.run(asked(dendrite, running.axon, "no picture")) == 0.3
        write(profile, "prior = 0.2\n" + PROFILE.format(prevalence=0.5))
        running.process.send_signal(signal.SIGHUP)
        asyncio.run(until(lambda: "profile own replaces own" in running.log.read_text(errors="replace"), [], more=0))
        assert asyncio.run(asked(dendrite, running.axon, "no picture")) == 0.2
