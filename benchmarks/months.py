"""Half a year of serving, with and without the loop of journal, review, memory, drift and improve.

    python -m benchmarks.months --out docs/results [--seed 0] [--weeks 26]

What is simulated: the pictures. A picture is a vector of 24 numbers (what an encoder would make of it) and the logits
of two experts, a network and a detector; no pixel is drawn, since half a year of drawn pictures would take days here.
What is real: everything that learns. Journal, review queue, second look, memory, drift watch, correction, improve with
its gate, and the cascade's replay decide and learn as they do in the miner; only the exit band is not fitted anew (its
out-of-fold study would take most of the time).

The scenario: from week 4 the weather gets worse, and reflections look like road work to the network; from week 10 a
third of the road work is a new kind of sign that neither expert knows; in weeks 15 to 17 the reviewer is careless (one
label in four wrong, else one in twenty-five); from week 19 only a fifth of the pictures show road work, before half.
All arms answer the same pictures. "Frozen" keeps what it learned before week 0. "Without the gate" promotes whatever
was fitted.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cascade import fit
from cascade.profile import Member, Profile, Tier
from cascade.replay import replay
from cascade.trace import Record
from cascade.verdict import Source, Stop, Verdict
from miner.drift import Watch, shifted
from miner.improve import (
    STEPS,
    Candidate,
    Data,
    ImproveError,
    Judgement,
    Versions,
    assemble,
    cross_fitted,
    improve,
    with_opinions,
)
from miner.journal import Journal, Keep
from miner.journal_views import Example, Views
from miner.review import mixed, ordered, suspicion
from miner.service import Answered
from models.base import Frame, Opinion
from models.metrics import mcc

DIMENSIONS = 24
REQUESTS = 1000  # a week
LABELS = 200  # a week, by a person: ten minutes on the review page
SECOND_LOOKS = 20
TESTNET = 0.03  # share of requests that carry the truth
LEARNING = ("head", "memory", "refit")
BASE = 2400  # labelled pictures before week 0: what fits learn from, and the gate set
START = 1_767_225_600.0  # Thursday, 1 January 2026
WEEK = 7 * 86400.0
EMBEDDER = "simulated"
KINDS = ("street", "orange car", "plain sign", "cones", "barrels", "machines", "new sign")
FIRST_WORK = 3  # kinds from here on are road work
EVENTS = ((4, "weather"), (10, "new sign"), (15, "careless labels"), (19, "fewer road works"))

OWN = Profile(
    name="months",
    band=(0.1, 0.9),
    tiers=(
        Tier(name="first", required=True, expected_ms=20, members=(Member(model="network"),)),
        Tier(name="second", expected_ms=200, members=(Member(model="detector"),)),
    ),
)


@dataclass(frozen=True)
class Picture:
    """One request's truth and what there is to see."""

    frame: Frame
    label: int
    network: float
    detector: float


class World:
    """Draws pictures. The same seed gives the same half year to every arm."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._kinds = 0.5 * np.random.default_rng(99).standard_normal((len(KINDS), DIMENSIONS))
        self._weather = 0.5 * np.random.default_rng(98).standard_normal(DIMENSIONS)
        self._count = 0

    def week(self, week: int, n: int) -> list[Picture]:
        """n pictures of one week; week -1 is the time before."""
        share = 0.2 if week >= 19 else 0.5
        bad = 0.1 + 0.5 * min(max(week - 3, 0) / 4, 1.0)
        return [self._picture(int(self._rng.random() < share), self._rng.random() < bad, week) for _ in range(n)]

    def _picture(self, label: int, bad: bool, week: int) -> Picture:
        rng = self._rng
        kind = int(rng.integers(0, FIRST_WORK) if not label else rng.integers(FIRST_WORK, len(KINDS) - 1))
        if label and week >= 10 and rng.random() < 1 / 3:
            kind = len(KINDS) - 1
        unknown = KINDS[kind] == "new sign"
        side = 2 * label - 1
        network = 2.2 * side + 1.8 * rng.standard_normal() + (2.2 + 0.8 * rng.standard_normal() if bad else 0.0)
        detector = 1.3 * side + 1.5 * rng.standard_normal()
        if unknown:
            network, detector = network - 3.6, detector - 1.6
        seen = self._kinds[kind] + bad * self._weather + 1.3 * rng.standard_normal(DIMENSIONS)
        self._count += 1
        digest = hashlib.sha256(f"{self._count} {rng.random()}".encode()).hexdigest()
        row = np.clip(seen * 16 + 128, 0, 255).astype(np.uint8)
        frame = Frame(np.ascontiguousarray(np.broadcast_to(row[None, :, None], (9, DIMENSIONS, 3))), digest)
        return Picture(frame, label, float(network), float(detector))


def embed(frames: Sequence[Frame]) -> NDArray[np.float32]:
    """(N, 24): what was hidden in the pixels."""
    return np.stack([(frame.pixels[0, :, 0].astype(np.float32) - 128) / 16 for frame in frames])


@dataclass
class Arm:
    """One miner living through the half year. learns: with the loop; gated: the loop asks the gate."""

    name: str
    directory: Path
    start: Start
    learns: bool
    gated: bool = True
    weekly: list[float] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.now = START
        self.rng = np.random.default_rng(7)
        self.versions = Versions(self.directory / "versions", now=lambda: datetime.fromtimestamp(self.now, UTC))
        self.versions.promote(
            self.versions.write(self.start.candidate), Judgement(None, None, None, ()), steps=["start"]
        )
        self.journal = Journal(
            self.directory / "journal",
            self.versions.current,
            Keep(share=0.15),
            embed=lambda frame: embed([frame])[0],
            embedder=EMBEDDER,
            clock=lambda: self.now,
            capacity=(10_000, 2**30),
        )
        self.views = Views(self.directory / "journal")
        self.watch = Watch(OWN.prevalence, self.versions.current, clock=lambda: self.now)
        self.told: set[str] = set()

    def live(self) -> Candidate:
        """The version in force."""
        return self.versions.read(self.versions.current(), OWN)

    def serve(self, week: int, pictures: Sequence[Picture]) -> None:
        """Answer a week's pictures; note the MCC against the truth."""
        live, answers = self.live(), []
        fusion = live.profile.fused()
        asked = with_opinions([self.example(picture, self.experts(picture)) for picture in pictures], live.learned)
        for number, (picture, example) in enumerate(zip(pictures, asked, strict=True)):
            self.now = START + WEEK * (week + number / len(pictures))
            verdict = replay(example.record, live.profile, fusion)
            if self.learns:
                self.watch.observe(verdict)
                verdict = shifted(verdict, self.watch.shift)
            answers.append(verdict.probability)
            label = picture.label if self.rng.random() < TESTNET else -1
            image = base64.b64encode(picture.frame.sha256.encode()).decode()
            p = verdict.probability
            self.journal(Answered("validator", label, image, p, verdict.source, 0.1, "", picture.frame, verdict))
        self.journal.flush(60)
        self.weekly.append(mcc([picture.label for picture in pictures], answers))

    def learn(self, week: int, truth: dict[str, int]) -> None:
        """What happens between two weeks: labels, a second look, memory, drift, improve."""
        for alarm in self.watch.alarms:
            if f"{alarm.kind} {alarm.at}" not in self.told:
                self.told.add(f"{alarm.kind} {alarm.at}")
                self.events.append(f"week {week}: alarm {alarm.kind}: {alarm.message}")
        self._review(0.25 if 15 <= week <= 17 else 0.04, truth)
        self.watch.told(*self.views.labelled_share(self.now - 2 * WEEK))
        data = assemble(self.views.labelled(embedder=EMBEDDER), self.start.base, self.versions.gate_file)
        try:
            name, judgement = (improve if self.gated else ungated)(data, self.versions, OWN, LEARNING)
        except ImproveError as error:
            self.events.append(f"week {week}: nothing tried: {error}")
            return
        self.events.append(
            f"week {week}: " + (f"promoted {name}" if name else f"refused: {'; '.join(judgement.reasons)}")
        )

    def close(self) -> None:
        self.views.close()
        self.journal.close()

    def _review(self, wrong: float, truth: dict[str, int]) -> None:
        progress = self.views.progress(0.0)
        waiting = self.views.waiting(500)
        valued = ordered(waiting, progress["roadwork"], progress["clear"], LABELS)
        for candidate in mixed(valued, self.views.drawn(LABELS), LABELS):
            given = truth[candidate.sha256] ^ int(self.rng.random() < wrong)
            self.journal.label(candidate.sha256, given, "human", "reviewer")
        self.journal.flush(60)
        seen = self.views.reviewed(2000)
        doubt = suspicion(np.array([c.label for c in seen], dtype=np.int64), np.array([c.probability for c in seen]))
        for index in np.argsort(-doubt, kind="stable")[:SECOND_LOOKS]:
            if doubt[index] > 0:
                given = truth[seen[index].sha256] ^ int(self.rng.random() < 0.01)  # a second look is a careful one
                self.journal.label(seen[index].sha256, given, "human", "second look")
        self.journal.flush(60)

    @staticmethod
    def experts(picture: Picture) -> tuple[Opinion, ...]:
        return Opinion("network", picture.network, 20.0), Opinion("detector", picture.detector, 150.0)

    @staticmethod
    def example(picture: Picture, opinions: tuple[Opinion, ...]) -> Example:
        """The picture as something to decide on or to learn from."""
        verdict = Verdict(0.5, (0.0, 1.0), opinions, (), (), Stop.LAST_TIER, Source.CASCADE, False, 0.0)
        record = Record("2026-01-01T00:00:00.000Z", picture.frame.sha256, *picture.frame.size, verdict, picture.label)
        return Example(record, 0.0, "base", "base", embedding=embed([picture.frame])[0])


def quick_refit(examples: Sequence[Example], candidate: Candidate) -> Candidate:
    """`improve.refit` without the choice of the band."""
    records = [example.record for example in cross_fitted(examples, candidate) if example.representative]
    plain = candidate.profile.model_copy(update={"fit": None})
    return replace(candidate, profile=plain.model_copy(update={"fit": fit.learn(fit.Data.of(records, plain), plain)}))


def ungated(data: Data, versions: Versions, own: Profile, steps: Sequence[str]) -> tuple[str, Judgement]:
    """Fit and put in force, whatever it is worth."""
    candidate = versions.read(versions.current(), own)
    for step in steps:
        candidate = STEPS[step](data.train, candidate)
    name, judgement = versions.write(candidate), Judgement(None, None, None, ())
    versions.promote(name, judgement)
    return name, judgement


@dataclass(frozen=True)
class Start:
    """Where every arm starts: a candidate, and the labelled pictures of the time before."""

    candidate: Candidate
    base: list[Example]


def before(world: World) -> Start:
    """The time before week 0. The first fit, like all later ones, learns nothing of the gate set."""
    base = [Arm.example(picture, Arm.experts(picture)) for picture in world.week(-1, BASE)]
    with tempfile.TemporaryDirectory() as directory:
        data = assemble([], base, Path(directory) / "gate.jsonl")
    candidate = Candidate(OWN)
    for step in LEARNING:
        candidate = STEPS[step](data.train, candidate)
    return Start(candidate, base)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weeks", type=int, default=26)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    STEPS["refit"] = quick_refit
    world = World(options.seed)
    start = before(world)
    scratch = Path(tempfile.mkdtemp())
    arms = [
        Arm("frozen", scratch / "frozen", start, learns=False),
        Arm("with the loop", scratch / "loop", start, learns=True),
        Arm("loop without the gate", scratch / "ungated", start, learns=True, gated=False),
    ]
    truth: dict[str, int] = {}
    try:
        for week in range(options.weeks):
            pictures = world.week(week, REQUESTS)
            truth |= {picture.frame.sha256: picture.label for picture in pictures}
            for arm in arms:
                arm.serve(week, pictures)
                if arm.learns:
                    arm.learn(week, truth)
            shift = arms[1].watch.shift
            line = "  ".join(f"{arm.name} {arm.weekly[-1]:.3f}" for arm in arms)
            print(f"week {week:2d}  {line}  (loop's correction {shift:+.2f})", flush=True)
        arms[1].versions.rollback(who="the end of the simulation")
        audit = arms[1].versions.audit()
    finally:
        for arm in arms:
            arm.close()
        shutil.rmtree(scratch)
    report(arms, audit, options.out, options.seed)


def report(arms: Sequence[Arm], audit: Sequence[dict[str, object]], out: Path, seed: int) -> None:
    print("\nMCC, mean over the weeks of each part")
    edges = [0, *(week for week, _ in EVENTS), len(arms[0].weekly)]
    names = ["as before", *(name for _, name in EVENTS)]
    for name, first, last in zip(names, edges, edges[1:], strict=False):
        if first < last:
            print(f"{name:18s} weeks {first:2d}-{last - 1:2d}  " + _means(arms, first, last))
    print(f"{'all':18s} weeks  0-{len(arms[0].weekly) - 1:2d}  " + _means(arms, 0, len(arms[0].weekly)))
    events = [str(line["event"]) for line in audit]
    print(f"\nwith the loop: {events.count('promoted')} promoted, {events.count('refused')} refused")
    print("\n".join(arms[1].events))
    print("\nfrom the audit log: the last promotion, the last refusal, the rollback")
    for event in ("promoted", "refused", "rollback"):
        print(json.dumps([line for line in audit if line["event"] == event][-1]))
    (out / "months-2026-11-23.svg").write_text(plot(arms, seed), encoding="utf-8")


def _means(arms: Sequence[Arm], first: int, last: int) -> str:
    return "  ".join(f"{arm.name} {np.mean(arm.weekly[first:last]):.3f}" for arm in arms)


COLOURS = ("#8a8f98", "#c2500a", "#1f6f8b")


def plot(arms: Sequence[Arm], seed: int) -> str:
    """MCC by week, one line an arm, the scenario's events as marks."""
    width, height, left, top = 860, 400, 56, 40
    weeks = len(arms[0].weekly)

    def x(week: float) -> float:
        return left + (width - left - 20) * week / max(weeks - 1, 1)

    def y(value: float) -> float:
        return top + (height - top - 50) * (1.0 - value)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{left}" y="18" font-size="14" fill="#1d1f22">MCC by week, the same simulated pictures for all '
        f"(seed {seed})</text>",
    ]
    for tenth in range(0, 11, 2):
        at = y(tenth / 10)
        parts.append(f'<line x1="{left}" x2="{width - 20}" y1="{at:.1f}" y2="{at:.1f}" stroke="#e3e0d9"/>')
        parts.append(f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end" fill="#5d646c">{tenth / 10:.1f}</text>')
    for week, name in EVENTS:
        if week < weeks:
            parts.append(
                f'<line x1="{x(week):.1f}" x2="{x(week):.1f}" y1="{top}" y2="{height - 50}" stroke="#5d646c" '
                f'stroke-dasharray="4 4"/><text x="{x(week) + 4:.1f}" y="{top + 10}" fill="#5d646c">{name}</text>'
            )
    parts += [
        f'<text x="{x(week):.1f}" y="{height - 34}" text-anchor="middle" fill="#5d646c">{week}</text>'
        for week in range(0, weeks, 2)
    ]
    for number, (arm, colour) in enumerate(zip(arms, COLOURS, strict=True)):
        points = " ".join(f"{x(week):.1f},{y(value):.1f}" for week, value in enumerate(arm.weekly))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        at = left + 250 * number
        parts.append(f'<rect x="{at}" y="{height - 20}" width="18" height="4" fill="{colour}"/>')
        mean = np.mean(arm.weekly)
        parts.append(f'<text x="{at + 24}" y="{height - 13}" fill="#1d1f22">{arm.name} (mean {mean:.2f})</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
