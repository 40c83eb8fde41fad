"""What the tests of the cascade share: pictures, small profiles, an engine that is closed whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np

from cascade.engine import Engine
from cascade.profile import Member, Profile, Tier
from cascade.supervisor import Policy
from cascade.trace import Record
from cascade.verdict import Source, Stop, Verdict
from models.base import Frame, Model, Opinion

PATIENT = 30_000.0  # ms: a member that is well answers within it on the busiest machine

# Faults come and go within milliseconds here, so that no test waits for a cool-down of seconds.
QUICK = Policy(
    failures=2, cooldown=0.02, longest=0.1, canary_every=1e6, canary_limit=0.5, hang=2.0, tick=0.01, closing=0.5
)


def picture(width: int = 640, height: int = 400, value: int = 90) -> Frame:
    return Frame.of(np.full((height, width, 3), value, np.uint8))


def tier(name: str, *members: str | Member, expected_ms: float = 1.0, required: bool = False) -> Tier:
    made = [member if isinstance(member, Member) else Member(model=member, timeout_ms=PATIENT) for member in members]
    return Tier(name=name, members=tuple(made), expected_ms=expected_ms, required=required)


def profile_of(*tiers: Tier, band: tuple[float, float] = (0.2, 0.8), **more: Any) -> Profile:
    return Profile(name="test", tiers=tiers, band=band, **more)


class Clock:
    """Time that passes when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def running(
    profile: Profile,
    models: Sequence[Model],
    *,
    factory: Callable[[str], Model] | None = None,
    policy: Policy = QUICK,
) -> AsyncIterator[Engine]:
    engine = Engine(profile, {model.spec.key: model for model in models}, factory=factory, policy=policy)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()


def record(
    logits: Mapping[str, float],
    label: int = -1,
    *,
    group: str = "",
    milliseconds: Mapping[str, float] | None = None,
    sha256: str = "00",
    size: tuple[int, int] = (640, 400),
) -> Record:
    """A record of a picture on which `logits` were heard."""
    times = milliseconds or {}
    opinions = tuple(Opinion(key, logit, times.get(key, 10.0)) for key, logit in logits.items())
    verdict = Verdict(0.5, (0.0, 1.0), opinions, (), ("all",), Stop.LAST_TIER, Source.CASCADE, False, 12.0)
    return Record("2026-11-23T12:00:00.000Z", sha256, *size, verdict, label, group)


def study_records(n: int, seed: int, *, missing: float = 0.0) -> list[Record]:
    """Labelled opinions of a cheap expert "a" (too sure) and a dear one "b" (better, biased), errors correlated."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    side, shared = 2 * labels - 1, rng.normal(size=n)
    a = 3.0 * (1.4 * side + 0.8 * shared + 0.9 * rng.normal(size=n))
    b = 1.5 * (1.8 * side + 0.8 * shared + 0.7 * rng.normal(size=n)) + 1.0
    present = rng.random(n) >= missing
    return [
        record(
            {"a": float(a[i])} | ({"b": float(b[i])} if present[i] else {}),
            int(labels[i]),
            group=f"camera {rng.integers(25)}",
            milliseconds={"a": 20.0, "b": 300.0},
            sha256=f"{i:064x}",
        )
        for i in range(n)
    ]


async def until(happened: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for something that happens in the background; a test that waits in vain fails."""
    async with asyncio.timeout(seconds):
        while not happened():  # noqa: ASYNC110 (what is waited for knows no event)
            await asyncio.sleep(0.002)
