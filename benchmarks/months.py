"""Half a year of serving real street pictures, with and without the loop of journal, review, drift and improve.

    python -m benchmarks.street_embeddings PICTURES streets.npz     (once; needs torch)
    python -m benchmarks.months streets.npz --out docs/results [--seeds 0 1 2] [--weeks 26]

What is real: the pictures' embeddings (ImageNet's network, which never saw one of them, at the validators' levels 0 to
3), and everything that learns: journal, review queue, second look, head, drift watch, improve with its gate, and the
cascade's replay decide and learn as they do in the miner; only the exit band is not fitted anew. What is made up: the
calendar.

The scenario: the network's own head is fitted on a third of the pictures of eight sources, as a shipped network is; a
third is the operator's labelled base, from which the gate set is drawn; a third is sent in the first weeks. From week 4
on, every third week, cameras and photographers come that nobody had a picture of, in an order drawn by the seed, and
stay. In weeks 15 to 17 the reviewer is careless (one label in four wrong, else one in twenty-five); from week 22 only a
fifth of the pictures shows road work, before half. With `--labels flipped` nine labels in ten are wrong in weeks 8 to
11, with `--labels hard` four in five of those that were not drawn by lot in weeks 6 to 13; second looks are no better.
Validators send one picture several times in other crops; what is counted on pictures that nobody had labelled yet is
told apart. All arms answer the same requests. "Frozen" keeps what it learned before week 0. "Without the gate"
promotes whatever was fitted.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cascade import fit
from cascade.profile import Member, Profile, Tier
from cascade.replay import replay
from cascade.resampling import resamples
from cascade.trace import Record
from cascade.verdict import Source, Stop, Verdict
from miner.journal import Journal, Keep
from miner.journal_views import Example, Views
from miner.learning.candidate import Candidate, with_opinions
from miner.learning.drift import Limits, Watch
from miner.learning.examples import Data, ImproveError, assemble
from miner.learning.improve import improve
from miner.learning.judging import Judgement
from miner.learning.steps import STEPS, cross_fitted
from miner.learning.versions import Versions
from miner.review import mixed, ordered, suspicion
from miner.service import Answered
from models.base import Frame, Opinion
from models.head import Weights
from models.memory import unit
from models.metrics import gained, mcc

COMPONENTS = (
    256  # of the embeddings that are kept, found on the network's own pictures: a fit takes a tenth of the time
)
REQUESTS = 300  # a week
LABELS = 120  # a week, by a person: six minutes on the review page
SECOND_LOOKS = 15
TESTNET = 0.03  # share of requests that carry the truth
LEARNING = ("head", "refit")
START = 1_767_225_600.0  # Thursday, 1 January 2026
WEEK = 7 * 86400.0
EMBEDDER = "imagenet"
KNOWN = (
    "camvid", "conefinder", "gsv-croatia", "gtsdb", "road-stock-250", "roadwork-cmu", "stopsign-us", "succubus-stock",
)  # fmt: skip
ARRIVALS = (4, 7, 10, 13, 16, 19)  # weeks in which a sixth of the other sources comes
CARELESS = range(15, 18)
FEWER = 22  # week from which a fifth shows road work
SECOND_LOOK = 0.01  # share of wrong labels
WRONG: dict[str, Callable[[int, bool], float]] = {  # share of wrong labels, by week and whether a picture came by lot
    "careless": lambda week, lot: 0.25 if week in CARELESS else 0.04,
    "flipped": lambda week, lot: 0.9 if week in range(8, 12) else 0.04,
    "hard": lambda week, lot: 0.8 if week in range(6, 14) and not lot else 0.04,
}
EVENTS = ((4, "new sources, every third week"), (15, "careless labels"), (22, "fewer road works"))

OWN = Profile(
    name="months",
    band=(0.1, 0.9),
    tiers=(Tier(name="first", required=True, expected_ms=20, members=(Member(model="network"),)),),
)


@dataclass(frozen=True)
class Picture:
    """One request's truth and what there is to see. picture: whose crop it is."""

    frame: Frame
    label: int
    network: float
    embedding: NDArray[np.float32]
    picture: int
    known_source: bool


class World:
    """Sends crops of the pictures of a file of embeddings. The same seed gives the same half year to every arm."""

    def __init__(self, file: Path, seed: int) -> None:
        self._rng = rng = np.random.default_rng(seed)
        with np.load(file) as held:
            vectors, self._labels = held["embeddings"].astype(np.float32), held["labels"].astype(np.int64)
            self._sources, self._pictures = held["sources"], held["pictures"]
        part = rng.integers(0, 3, self._pictures.max() + 1)[self._pictures]  # all crops of a picture go together
        self._known = np.isin(self._sources, KNOWN)
        self._network, self._base = self._known & (part == 0), self._known & (part == 1)
        vectors = unit(vectors)
        self._vectors = vectors @ _directions(vectors[self._network])
        own = Weights.of(self._vectors[self._network], self._labels[self._network])
        self._logits = own.logits(self._vectors)
        others = rng.permutation(sorted(set(self._sources[~self._known])))
        week = {source: ARRIVALS[i * len(ARRIVALS) // len(others)] for i, source in enumerate(others)}
        self._week = np.array([week.get(source, 0 if part[i] == 2 else 1000) for i, source in enumerate(self._sources)])

    def base(self) -> list[Picture]:
        """What the operator had labelled before week 0."""
        return [self._picture(i) for i in np.flatnonzero(self._base)]

    def week(self, week: int, n: int) -> list[Picture]:
        """n requests of one week. Labels by lot; then sources by the root of their size, so that small ones count."""
        share = 0.2 if week >= FEWER else 0.5
        sent = []
        for label in (self._rng.random(n) < share).astype(int):
            there = np.flatnonzero((self._labels == label) & (self._week <= week))
            names, counts = np.unique(self._sources[there], return_counts=True)
            source = self._rng.choice(names, p=np.sqrt(counts) / np.sqrt(counts).sum())
            sent.append(self._picture(int(self._rng.choice(there[self._sources[there] == source]))))
        return sent

    def _picture(self, i: int) -> Picture:
        digest = hashlib.sha256(f"crop {i}".encode()).hexdigest()
        bits = np.frombuffer(bytes.fromhex(digest), np.uint8)  # pixels of no meaning: the journal hashes them
        frame = Frame(np.ascontiguousarray(np.broadcast_to(bits[None, :, None], (9, 32, 3))), digest)
        label, logit = int(self._labels[i]), float(self._logits[i])
        return Picture(frame, label, logit, self._vectors[i], int(self._pictures[i]), bool(self._known[i]))


def _directions(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(D, COMPONENTS): the mean's direction and those in which the vectors (N, D) spread most."""
    centre = vectors.mean(axis=0)
    spread = np.linalg.svd(vectors - centre, full_matrices=False)[2][: COMPONENTS - 1]
    return np.column_stack([centre / np.linalg.norm(centre), spread.T]).astype(np.float32)


@dataclass
class Arm:
    """One miner living through the half year. learns: with the loop; gated: the loop asks the gate."""

    name: str
    directory: Path
    start: Start
    labels: str
    learns: bool
    gated: bool = True
    weekly: list[float] = field(default_factory=list)
    answers: list[float] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.now = START
        self.vectors: dict[str, NDArray[np.float32]] = {}
        self.rng = np.random.default_rng(7)
        self.versions = Versions(self.directory / "versions", now=lambda: datetime.fromtimestamp(self.now, UTC))
        self.versions.promote(
            self.versions.write(self.start.candidate), Judgement(None, None, None, ()), steps=["start"]
        )
        self.journal = Journal(
            self.directory / "journal",
            self.versions.current,
            Keep(share=0.15),
            embed=lambda frame: self.vectors[frame.sha256],
            embedder=EMBEDDER,
            clock=lambda: self.now,
            capacity=(10_000, 2**30),
        )
        self.views = Views(self.directory / "journal")
        limits = Limits(most=0.0)  # the correction is off, as it is by default
        self.watch = Watch(OWN.prevalence, self.versions.current, limits, clock=lambda: self.now)
        self.told: set[str] = set()

    def live(self) -> Candidate:
        """The version in force."""
        return self.versions.read(self.versions.current(), OWN)

    def serve(self, week: int, pictures: Sequence[Picture]) -> None:
        """Answer a week's pictures; note the MCC against the truth."""
        live, answers = self.live(), []
        fusion = live.profile.fused()
        self.vectors |= {picture.frame.sha256: picture.embedding for picture in pictures}
        asked = with_opinions([self.example(picture) for picture in pictures], live.learned)
        for number, (picture, example) in enumerate(zip(pictures, asked, strict=True)):
            self.now = START + WEEK * (week + number / len(pictures))
            verdict = replay(example.record, live.profile, fusion)
            if self.learns:
                self.watch.observe(verdict)
            answers.append(verdict.probability)
            label = picture.label if self.rng.random() < TESTNET else -1
            image = base64.b64encode(picture.frame.sha256.encode()).decode()
            p = verdict.probability
            self.journal(Answered("validator", label, image, p, verdict.source, 0.1, "", picture.frame, verdict))
        self.journal.flush(60)
        self.answers += answers
        self.weekly.append(mcc([picture.label for picture in pictures], answers))

    def learn(self, week: int, truth: dict[str, int]) -> None:
        """What happens between two weeks: labels, a second look, memory, drift, improve."""
        for alarm in self.watch.alarms:
            if f"{alarm.kind} {alarm.at}" not in self.told:
                self.told.add(f"{alarm.kind} {alarm.at}")
                self.events.append(f"week {week}: alarm {alarm.kind}: {alarm.message}")
        self._review(week, truth)
        self.watch.told(*self.views.labelled_share(self.now - 2 * WEEK))
        self.now += 60.0  # what is labelled from here on the new version does not know
        since = self.versions.made(self.versions.current())
        data = assemble(self.views.labelled(embedder=EMBEDDER), self.start.base, self.versions.gate_file, since)
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

    def _review(self, week: int, truth: dict[str, int]) -> None:
        wrong = WRONG[self.labels]
        progress = self.views.progress(0.0)
        waiting = self.views.waiting(500)
        valued = ordered(waiting, progress["roadwork"], progress["clear"], LABELS)
        for candidate in mixed(valued, self.views.drawn(LABELS), LABELS):
            given = truth[candidate.sha256] ^ int(self.rng.random() < wrong(week, candidate.lot))
            self.journal.label(candidate.sha256, given, "human", "reviewer")
        self.journal.flush(60)
        seen = self.views.reviewed(2000)
        doubt = suspicion(np.array([c.label for c in seen], dtype=np.int64), np.array([c.probability for c in seen]))
        for index in np.argsort(-doubt, kind="stable")[:SECOND_LOOKS]:
            if doubt[index] > 0:
                slip = SECOND_LOOK if self.labels == "careless" else wrong(week, seen[index].lot)
                given = truth[seen[index].sha256] ^ int(self.rng.random() < slip)
                self.journal.label(seen[index].sha256, given, "human", "second look")
        self.journal.flush(60)

    @staticmethod
    def example(picture: Picture) -> Example:
        """The picture as something to decide on or to learn from."""
        opinions = (Opinion("network", picture.network, 20.0),)
        verdict = Verdict(0.5, (0.0, 1.0), opinions, (), (), Stop.LAST_TIER, Source.CASCADE, False, 0.0)
        record = Record("2026-01-01T00:00:00.000Z", picture.frame.sha256, *picture.frame.size, verdict, picture.label)
        return Example(record, 0.0, "base", "base", embedding=picture.embedding)


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
    base = [Arm.example(picture) for picture in world.base()]
    with tempfile.TemporaryDirectory() as directory:
        data = assemble([], base, Path(directory) / "gate.jsonl")
    candidate = Candidate(OWN)
    for step in LEARNING:
        candidate = STEPS[step](data.train, candidate)
    return Start(candidate, base)


@dataclass
class Lived:
    """One half year. truth, picture, fresh (N,): of each request; fresh: nobody had labelled a crop of its picture."""

    seed: int
    arms: list[Arm]
    truth: NDArray[np.int64]
    picture: NDArray[np.int64]
    new_source: NDArray[np.bool_]
    fresh: NDArray[np.bool_]
    audit: list[dict[str, object]]


def live(file: Path, seed: int, weeks: int, labels: str) -> Lived:
    """One seed's half year, in all arms."""
    world = World(file, seed)
    start = before(world)
    scratch = Path(tempfile.mkdtemp())
    arms = [
        Arm("frozen", scratch / "frozen", start, labels, learns=False),
        Arm("with the loop", scratch / "loop", start, labels, learns=True),
        Arm("loop without the gate", scratch / "ungated", start, labels, learns=True, gated=False),
    ]
    sent: list[Picture] = []
    fresh: list[bool] = []
    truth: dict[str, int] = {}
    try:
        for week in range(weeks):
            pictures = world.week(week, REQUESTS)
            of = {p.frame.sha256: p.picture for p in sent}
            labelled = {of[e.record.sha256] for arm in arms if arm.learns for e in arm.views.labelled()}
            fresh += [p.picture not in labelled for p in pictures]
            sent += pictures
            truth |= {picture.frame.sha256: picture.label for picture in pictures}
            for arm in arms:
                arm.serve(week, pictures)
                if arm.learns:
                    arm.learn(week, truth)
            print(f"week {week:2d}  " + "  ".join(f"{arm.name} {arm.weekly[-1]:.3f}" for arm in arms), flush=True)
        arms[1].versions.rollback(who="the end of the simulation")
        audit = arms[1].versions.audit()
    finally:
        for arm in arms:
            arm.close()
        shutil.rmtree(scratch)
    columns = ([p.label for p in sent], [p.picture for p in sent], [not p.known_source for p in sent], fresh)
    return Lived(seed, arms, *(np.array(column) for column in columns), audit)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("streets", type=Path, help="what benchmarks.street_embeddings wrote")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--weeks", type=int, default=26)
    parser.add_argument("--labels", choices=sorted(WRONG), default="careless", help="how the reviewer is wrong")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    STEPS["refit"] = quick_refit
    lives = []
    for seed in options.seeds:
        print(f"seed {seed}")
        lives.append(live(options.streets, seed, options.weeks, options.labels))
    report(lives, options.out)


def report(lives: Sequence[Lived], out: Path) -> None:
    print("\nMCC over all requests of a kind, all seeds; the loop's gain over frozen, 95 % interval (pictures whole)")
    week = np.tile(np.repeat(np.arange(len(lives[0].arms[0].weekly)), REQUESTS), len(lives))
    new, fresh = (np.concatenate([getattr(one, name) for one in lives]) for name in ("new_source", "fresh"))
    everything = np.ones(len(week), dtype=bool)
    kinds = {
        "all": everything,
        "weeks 0-3, as before": week < ARRIVALS[0],
        "sources known from the start": ~new,
        "new sources": new,
        "new sources, pictures nobody labelled": new & fresh,
        "weeks 15-18, after careless labels": (week >= CARELESS.start) & (week <= CARELESS.stop),
        "fewer road works": week >= FEWER,
    }
    for name, which in kinds.items():
        if which.any():
            print(f"{name:38s} n {which.sum():5d}  " + _row(lives, which))
    for one in lives:
        events = [str(line["event"]) for line in one.audit]
        means = "  ".join(f"{arm.name} {np.mean(arm.weekly):.3f}" for arm in one.arms)
        print(
            f"seed {one.seed}: weekly {means}; {events.count('promoted')} promoted, {events.count('refused')} refused"
        )
    print("\nseed", lives[0].seed, "with the loop:", *lives[0].arms[1].events, sep="\n")
    print("\nfrom its audit log: the last promotion, the last refusal, the rollback")
    for event in ("promoted", "refused", "rollback"):
        if found := [line for line in lives[0].audit if line["event"] == event]:
            print(json.dumps(found[-1]))
    (out / f"months-{datetime.now(UTC):%Y-%m-%d}.svg").write_text(plot(lives), encoding="utf-8")


def _row(lives: Sequence[Lived], which: NDArray[np.bool_]) -> str:
    """MCC of each arm and the loop's gain, on the requests that `which` names."""
    truth = np.concatenate([one.truth for one in lives])[which]
    groups = np.concatenate([[f"{one.seed} {p}" for p in one.picture] for one in lives])[which]
    said = [np.concatenate([one.arms[n].answers for one in lives])[which] for n in range(3)]
    marks = [mcc(truth, answers) for answers in said]
    draws = [mcc(truth, said[1], weight=w) - mcc(truth, said[0], weight=w) for w in resamples(list(groups), 500, 0)]
    low, high = np.percentile(draws, [2.5, 97.5])
    told = "  ".join(f"{arm.name} {mark:.3f}" for arm, mark in zip(lives[0].arms, marks, strict=True))
    return f"{told}  gain {gained(marks[1] - marks[0], low, high)}"


COLOURS = ("#8a8f98", "#c2500a", "#1f6f8b")


def plot(lives: Sequence[Lived]) -> str:
    """MCC by week, mean over the seeds, one line an arm, the scenario's events as marks."""
    width, height, left, top = 860, 400, 56, 40
    weeks = len(lives[0].arms[0].weekly)
    means = [np.mean([one.arms[n].weekly for one in lives], axis=0) for n in range(3)]

    def x(week: float) -> float:
        return left + (width - left - 20) * week / max(weeks - 1, 1)

    def y(value: float) -> float:
        return top + (height - top - 50) * (1.0 - value)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{left}" y="18" font-size="14" fill="#1d1f22">MCC by week, the same requests for all; '
        f"mean of {len(lives)} seeds</text>",
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
    for number, (arm, mean, colour) in enumerate(zip(lives[0].arms, means, COLOURS, strict=True)):
        points = " ".join(f"{x(week):.1f},{y(value):.1f}" for week, value in enumerate(mean))
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>')
        at = left + 250 * number
        parts.append(f'<rect x="{at}" y="{height - 20}" width="18" height="4" fill="{colour}"/>')
        name = f"{arm.name} (mean {np.mean(mean):.2f})"
        parts.append(f'<text x="{at + 24}" y="{height - 13}" fill="#1d1f22">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    main()
