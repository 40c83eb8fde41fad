"""Learning from what was served, behind a gate: assemble, fit, compare, and only then promote; each step on record.

A version is a directory with a whole profile in it (`<name>.toml`, `<name>.fit.json`, perhaps `head.json` and
`memory.npz`), so that serving one is serving a profile; a network that it had trained (`miner.retrain`) lies in
`trained/`, since later versions go on with it. `current` points to the one in force; without it the miner's
own profile is. Nothing is promoted that was not compared with the version in force on pictures neither of them learned
from:

- the gate set, drawn once and frozen: what the miner could do it must not forget;
- the newest labelled week (up to four, until it holds enough of both labels), never used by the fit that it judges:
  what the world looks like now.

Both, and the calibrations and weights that are fitted, take representative pictures only: labels of the testnet, and of
pictures drawn by lot. A reviewer's queue is full of pictures that the members got wrong; a fit that took them for the
traffic would learn to distrust everybody, and in simulation did. Head and memory learn from all of them, and are part
of the version that is judged: in simulation a memory that took labels past the gate made the miner worse.

"Not worse at 95 %" means that the lower end of the one-sided 95 % interval of the MCC's difference (paired bootstrap,
groups kept whole) over both sets together is at least -margin. On each alone the difference itself has to be: a hundred
labels cannot rule out a loss of 0.02 by themselves, and a gate that asked them to passed nothing for the first eleven
weeks of a half year of real pictures (docs/results/loop-2026-11-24.md). So that many small losses cannot add up, the
gate set also compares with the best version that ever was in force. Labels that look wrong are left in: they are for
the review page's second look, since leaving out what the model doubts would keep it from ever learning a new sign.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cascade.data import FitError
from cascade.deadline import Deadline
from cascade.measures import weighted_mcc
from cascade.profile import Member, Profile, ProfileError, fit_path
from cascade.replay import replay
from cascade.resampling import resamples
from cascade.trace import Record, read_all, write
from cascade.verdict import Source, Verdict
from cascade.worth import fit_profile
from miner.journal_views import Example
from miner.profiles import load
from miner.service import Decide
from models.base import Frame, ModelUnavailable, Opinion
from models.head import Weights
from models.memory import Memory, Vectors

log = logging.getLogger(__name__)

WEEK = 7 * 86400.0
MOST_WEEKS = 4
MARGIN = 0.02  # MCC
LEAST = 20  # pictures of each label a set needs to judge at all
ENOUGH = 60  # pictures of each label from which one week is enough
HEAD, MEMORY = "head", "memory"  # keys of the members that learn from embeddings
TRAIN, TRAINED = "train", "trained-"  # the step that trains a network, and how keys of such members begin
FOLDS = 5
LONGEST_ASIDE = 0.5  # seconds that a canary's answer may cost
LEAST_EMBEDDINGS = 50  # of each label, before anything is learned from them


class ImproveError(ValueError):
    """Nothing could be tried. The message says what is missing."""


class StepFailed(Exception):
    """A step broke off; it left nothing behind. The message says why."""


# --- data -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Data:
    """Labelled examples, each in one place: what a fit may learn from, the frozen gate set, the newest week."""

    train: tuple[Example, ...]
    gate: tuple[Example, ...]
    week: tuple[Example, ...]

    @property
    def sha256(self) -> str:
        """Of the training pictures and labels."""
        lines = sorted(f"{example.record.sha256} {example.label}" for example in self.train)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def base_examples(path: Path) -> list[Example]:
    """The labelled lines of a trace (`calibrate --record` writes them) as examples of no date."""
    with path.open(encoding="utf-8") as lines:
        return [Example(record, 0.0, "base", "base") for record in read_all(lines) if record.label >= 0]


def assemble(journal: Iterable[Example], base: Iterable[Example], gate_file: Path, share: float = 0.3) -> Data:
    """Split what is labelled; the first call draws the gate set (a `share` of the groups) and writes it to `gate_file`.

    The gate set is drawn from what was labelled before the newest week. Raises ImproveError without any label.
    """
    known = {example.record.sha256: example for example in [*base, *journal]}  # the journal's answer is the newer one
    if not known:
        raise ImproveError("no labelled picture: label some on the review page, or give --base a labelled trace")
    honest = [example for example in known.values() if example.representative]
    week = _newest(honest)
    if not gate_file.is_file():
        drawn = [e for e in honest if e.record.sha256 not in week and _in_gate(e.record, share)]
        _write_lines(gate_file, (write(example.record) for example in drawn))
    gate = base_examples(gate_file)
    frozen = {example.record.sha256 for example in gate} | {example.record.group for example in gate} - {""}
    free = [e for e in known.values() if not {e.record.sha256, e.record.group} & frozen]
    return Data(
        train=tuple(e for e in free if e.record.sha256 not in week),
        gate=tuple(_with_embedding(e, known) for e in gate),
        week=tuple(e for e in free if e.record.sha256 in week),
    )


def _newest(honest: Sequence[Example]) -> set[str]:
    """Digests of the newest week's pictures; of up to four weeks, until both labels are there often enough."""
    newest = max((example.at for example in honest), default=0.0)
    found: list[Example] = []
    for weeks in range(1, MOST_WEEKS + 1):
        found = [example for example in honest if example.at > max(newest - weeks * WEEK, 0.0)]
        roadwork = sum(example.label for example in found)
        if min(roadwork, len(found) - roadwork) >= ENOUGH:
            break
    return {example.record.sha256 for example in found}


def _in_gate(record: Record, share: float) -> bool:
    digest = hashlib.sha256(f"gate {record.group or record.sha256}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32


def _with_embedding(example: Example, known: dict[str, Example]) -> Example:
    fresh = known.get(example.record.sha256)
    return replace(example, embedding=fresh.embedding) if fresh else example


# --- candidates -------------------------------------------------------------------------------------------------------


class Learned(Protocol):
    """A member that learns from embeddings: a head or a memory."""

    def logits(self, vectors: Vectors) -> NDArray[np.float64]:
        """Log-odds at even odds (N,) of embeddings (N, D)."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A profile with its fit, and the head and memory on embeddings if it has them: all that a version is.

    said: what its trained member said, by key and the picture's sha256, of pictures that it did not learn from and that
    were answered before it served. It is never asked in here: that takes the picture.
    """

    profile: Profile
    head: Weights | None = None
    memory: Memory | None = None
    said: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def learned(self) -> dict[str, Learned]:
        """Its members that learn from embeddings, by model key."""
        both: dict[str, Learned | None] = {HEAD: self.head, MEMORY: self.memory}
        return {key: member for key, member in both.items() if member is not None}

    def answer(self, record: Record, embedding: NDArray[np.float32] | None) -> Verdict:
        """Its verdict on a record, with what its learned members say of the picture's embedding (D,) if it has one."""
        (example,) = with_opinions([Example(record, 0.0, "", "", embedding=embedding)], self.learned)
        return replay(example.record, self.profile, self.profile.fused())

    def probabilities(self, examples: Sequence[Example]) -> NDArray[np.float64]:
        """What it would have answered (N,), from the recorded opinions and those of its learned members."""
        fusion = self.profile.fused()
        records = (example.record for example in with_opinions(self.remembering(examples), self.learned))
        return np.array([replay(record, self.profile, fusion).probability for record in records])

    def remembering(self, examples: Sequence[Example]) -> list[Example]:
        """The examples with what its trained member said of them."""
        result = list(examples)
        for key, logits in self.said.items():
            for i, example in enumerate(result):
                if example.record.sha256 in logits:
                    result[i] = _with_opinion(example, key, logits[example.record.sha256])
        return result

    def knows(self, example: Example) -> bool:
        """Whether its trained member, if it has one, has an opinion of the picture: else this is not what it would
        have answered."""
        trained = {member.model for member in self.profile.members if member.model.startswith(TRAINED)}
        (known,) = self.remembering([example])
        return trained <= {opinion.model for opinion in known.record.verdict.opinions}


Step = Callable[[Sequence[Example], Candidate], Candidate]


def refit(examples: Sequence[Example], candidate: Candidate) -> Candidate:
    """Calibrations, fusion weights, intervals and band anew (`cascade.fit`), from representative pictures.

    Raises FitError when they are too few.
    """
    records = [example.record for example in cross_fitted(examples, candidate) if example.representative]
    return replace(candidate, profile=fit_profile(records, candidate.profile).profile)


def retrain_head(examples: Sequence[Example], candidate: Candidate) -> Candidate:
    """A logistic head on the stored embeddings, as one more member of the first tier; refit afterwards.

    Without enough embeddings of both labels the candidate stays as it is.
    """
    if not _enough_embeddings(examples):
        return candidate
    return replace(_with_member(candidate, HEAD), head=_head(examples))


def rebuild_memory(examples: Sequence[Example], candidate: Candidate) -> Candidate:
    """A memory of all labelled embeddings (`models.memory`), as one more member of the first tier; refit afterwards.

    Without enough embeddings of both labels the candidate stays as it is.
    """
    if not _enough_embeddings(examples):
        return candidate
    return replace(_with_member(candidate, MEMORY), memory=_memory(examples))


STEPS: dict[str, Step] = {"head": retrain_head, "memory": rebuild_memory, "refit": refit}


def with_opinions(examples: Sequence[Example], learned: Mapping[str, Learned]) -> list[Example]:
    """The examples with what learned members say of them, where an embedding is stored."""
    result = list(examples)
    where = [i for i, example in enumerate(examples) if example.embedding is not None]
    if where:
        vectors = _vectors([examples[i] for i in where])
        for key, member in learned.items():
            for i, z in zip(where, member.logits(vectors), strict=True):
                result[i] = _with_opinion(result[i], key, float(z))
    return result


def cross_fitted(examples: Sequence[Example], candidate: Candidate) -> list[Example]:
    """The same with each opinion of a member that did not learn from that example: what a fusion may trust."""
    makers: dict[str, Callable[[Sequence[Example]], Learned]] = {HEAD: _head, MEMORY: _memory}
    result = candidate.remembering(examples)
    for fold in range(FOLDS if candidate.learned else 0):
        test = range(fold, len(examples), FOLDS)
        rest = [example for i, example in enumerate(examples) if i % FOLDS != fold]
        fresh = {key: makers[key](rest) for key in candidate.learned}
        for i, example in zip(test, with_opinions([result[i] for i in test], fresh), strict=True):
            result[i] = example
    return result


def _enough_embeddings(examples: Sequence[Example]) -> bool:
    labels = [example.label for example in examples if example.embedding is not None]
    enough = min(sum(labels), len(labels) - sum(labels)) >= LEAST_EMBEDDINGS
    if not enough:
        log.info("nothing learned from embeddings: %d labelled, %d of road work", len(labels), sum(labels))
    return enough


def _with_member(candidate: Candidate, key: str) -> Candidate:
    profile = candidate.profile
    if key in {member.model for member in profile.members}:
        return candidate
    first = profile.tiers[0]
    widened = first.model_copy(update={"members": (*first.members, Member(model=key))})
    return replace(candidate, profile=profile.model_copy(update={"tiers": (widened, *profile.tiers[1:]), "fit": None}))


def _head(examples: Sequence[Example]) -> Weights:
    usable = [example for example in examples if example.embedding is not None]
    return Weights.of(_vectors(usable), np.array([example.label for example in usable], dtype=np.int64))


def _memory(examples: Sequence[Example]) -> Memory:
    usable = [example for example in examples if example.embedding is not None]
    memory = Memory(_no_pictures)
    labels = np.array([example.label for example in usable], dtype=np.int64)
    memory.replace(_vectors(usable), labels, np.array([example.representative for example in usable]))
    return memory


def _no_pictures(frames: Sequence[Frame]) -> Vectors:
    raise ModelUnavailable("this memory is a version's: build models.memory.Memory with an embedder and its path")


def _with_opinion(example: Example, key: str, z: float) -> Example:
    verdict = example.record.verdict
    others = tuple(opinion for opinion in verdict.opinions if opinion.model != key)
    said = replace(verdict, opinions=(*others, Opinion(key, z, 1.0)))
    return replace(example, record=replace(example.record, verdict=said))


def _vectors(examples: Sequence[Example]) -> Vectors:
    return np.stack([example.embedding for example in examples if example.embedding is not None])


# --- the gate ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two versions on the same pictures. low: lower end of the one-sided 95 % interval of `gain` in MCC."""

    n: int
    roadwork: int
    mcc_before: float
    mcc_after: float
    gain: float
    low: float


def compare(
    labels: NDArray[np.int64],
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    groups: Sequence[str],
    n: int = 2000,
    seed: int = 0,
) -> Comparison:
    """Paired bootstrap of the difference of two MCCs. Arrays (N,); `n` resamples."""
    ones = np.ones(len(labels))
    was, now = (weighted_mcc(labels, p > 0.5, ones) for p in (before, after))
    low = now - was
    if not np.array_equal(before > 0.5, after > 0.5):
        draws = [
            weighted_mcc(labels, after > 0.5, weight) - weighted_mcc(labels, before > 0.5, weight)
            for weight in resamples(groups, n, seed)
        ]
        low = float(np.percentile(draws, 5))
    return Comparison(len(labels), int(labels.sum()), was, now, now - was, low)


@dataclass(frozen=True, slots=True)
class Judgement:
    """Why a candidate passes (`reasons` empty) or not. both: on gate set and week together. anchor: on the gate set,
    against the best version that ever was in force."""

    gate: Comparison | None
    week: Comparison | None
    anchor: Comparison | None
    reasons: tuple[str, ...]
    both: Comparison | None = None

    @property
    def passed(self) -> bool:
        return not self.reasons


def judge(data: Data, live: Candidate, candidate: Candidate, best: Candidate | None, margin: float) -> Judgement:
    """Hold `candidate` against the version in force, and on the gate set against the best one so far."""
    reasons: list[str] = []
    found: dict[str, Comparison | None] = {"gate": None, "week": None, "anchor": None, "both": None}
    for name, examples, other in (("gate", data.gate, live), ("week", data.week, live), ("anchor", data.gate, best)):
        if other is None:
            continue
        examples = comparable(examples, other, candidate)
        roadwork = sum(example.label for example in examples)
        if min(roadwork, len(examples) - roadwork) < LEAST:
            reasons.append(f"{name}: expected {LEAST} pictures of each label, got {roadwork} of {len(examples)}")
            continue
        found[name] = it = held_against(examples, other, candidate)
        if it.gain < -margin:
            reasons.append(f"{name}: MCC {it.mcc_before:.3f} -> {it.mcc_after:.3f}")
    if found["gate"] and found["week"]:
        found["both"] = it = held_against(comparable((*data.gate, *data.week), live, candidate), live, candidate)
        if it.low < -margin:
            reasons.append(f"together: MCC {it.mcc_before:.3f} -> {it.mcc_after:.3f}, at 95 % as low as {it.low:+.3f}")
        elif it.gain <= 0.0:
            reasons.append("nothing gained")
    return Judgement(found["gate"], found["week"], found["anchor"], tuple(reasons), found["both"])


def comparable(examples: Sequence[Example], *versions: Candidate) -> tuple[Example, ...]:
    """The pictures that these versions can be compared on."""
    return tuple(example for example in examples if all(version.knows(example) for version in versions))


def held_against(examples: Sequence[Example], live: Candidate, candidate: Candidate) -> Comparison:
    """The candidate against another version on the same pictures."""
    labels = np.array([example.label for example in examples], dtype=np.int64)
    groups = [example.record.group or example.record.sha256 for example in examples]
    return compare(labels, live.probabilities(examples), candidate.probabilities(examples), groups)


# --- versions ---------------------------------------------------------------------------------------------------------


class Versions:
    """The versions on disk, the one in force, and the audit log (`audit.jsonl`), one JSON line for each event."""

    def __init__(self, directory: Path, keep: int = 5, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.directory, self._keep, self._now = directory, keep, now
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def gate_file(self) -> Path:
        return self.directory / "gate.jsonl"

    def current(self) -> str:
        """Name of the version in force; empty: the miner's own profile."""
        return self._target("current")

    def names(self) -> list[str]:
        """All versions on disk, oldest first."""
        return sorted(path.name for path in self.directory.iterdir() if path.is_dir() and path.name.isdigit())

    def profile_path(self, name: str = "current") -> Path | None:
        """The profile of a version, to be served as any other; None when there is none."""
        return next(iter(sorted((self.directory / name).glob("*.toml"))), None)

    def read(self, name: str, fallback: Profile) -> Candidate:
        """One version; the empty name is `fallback`, the miner's own profile."""
        path = self.profile_path(name) if name else None
        if path is None:
            return Candidate(fallback)
        head, memories = path.with_name("head.json"), path.with_name("memory.npz")
        memory = Memory(_no_pictures, memories) if memories.is_file() else None
        if memory is not None:
            memory.load("cpu")
        profile = load(path)
        said = self._said(profile)
        return Candidate(profile, Weights.read(head) if head.is_file() else None, memory, said)

    def write(self, candidate: Candidate) -> str:
        """Put a candidate on disk. Gives its name."""
        name = f"{max(map(int, self.names()), default=self._last_number()) + 1:04d}"
        draft = self.directory / f".{name}.new"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir()
        path = draft / f"{candidate.profile.name}.toml"
        path.write_text(to_toml(self._beside(candidate.profile)), encoding="utf-8")
        if candidate.profile.fit:
            fit_path(path).write_text(candidate.profile.fit.model_dump_json(indent=1) + "\n", encoding="utf-8")
        if candidate.head is not None:
            candidate.head.save(draft / "head.json")
        if candidate.memory is not None:
            candidate.memory.save(draft / "memory.npz")
        load(path)  # what cannot be read back is never put in force
        draft.rename(self.directory / name)
        return name

    def _beside(self, profile: Profile) -> Profile:
        """The profile with the catalog of a trained network named from its version, so that all may be moved as one."""
        home = Path(profile.catalog).resolve()
        if not profile.catalog or not home.is_relative_to(self.trained.resolve()):
            return profile  # an operator's own catalog stays where it is
        return profile.model_copy(update={"catalog": Path("..", home.relative_to(self.directory.resolve())).as_posix()})

    def promote(self, name: str, judgement: Judgement, **facts: Any) -> None:
        """Put a version in force, forget the oldest beyond `keep`."""
        before = self.current()
        self._point_to(name)
        self._note("promoted", version=name, previous=before, **asdict(judgement), **facts)
        spare = [each for each in self.names() if each not in {name, before, self.best(), self.staged()}]
        for old in spare[: max(len(self.names()) - self._keep, 0)]:
            shutil.rmtree(self.directory / old)

    def stage(self, name: str, judgement: Judgement, **facts: Any) -> None:
        """Let a version run beside the live one (`Shadow`) before it may be promoted."""
        self._point_to(name, "staged")
        self._note("staged", version=name, previous=self.current(), **asdict(judgement), **facts)

    def staged(self) -> str:
        """Name of the version that runs in the shadow; empty: none."""
        return self._target("staged")

    def unstage(self) -> None:
        self._point_to("", "staged")

    def refuse(self, judgement: Judgement, **facts: Any) -> None:
        """Note that a candidate did not pass; the version in force stays."""
        self._note("refused", version=self.current(), **asdict(judgement), **facts)

    def fail(self, why: str, **facts: Any) -> None:
        """Note that a round broke off; the version in force stays."""
        self._note("failed", version=self.current(), reason=why, **facts)

    @property
    def trained(self) -> Path:
        """Where trained networks lie, one directory each, named by the member's key."""
        return self.directory / "trained"

    def tidy(self) -> None:
        """Delete the trained networks that no version on disk asks."""
        asked = "".join(path.read_text(encoding="utf-8") for path in self.directory.glob("[0-9]*/*.toml"))
        for home in self.trained.iterdir() if self.trained.is_dir() else ():
            if home.name not in asked:
                shutil.rmtree(home)

    def rollback(self, name: str | None = None, who: str = "") -> str:
        """Put an older version in force (default: the one before). Gives its name; empty: the miner's own profile.

        Raises ImproveError when there is nothing to go back to.
        """
        before = self.current()
        if not before and name is None:
            raise ImproveError("the miner's own profile is in force: there is nothing to go back to")
        target = name if name is not None else self._previous_of(before)
        if target and target not in self.names():
            known = ", ".join(self.names()) or "none"
            raise ImproveError(f"version {target} is not on disk (there: {known})")
        self._point_to(target)
        self._note("rollback", version=target, previous=before, who=who)
        return target

    def unusable(self, name: str, why: str) -> None:
        """Note that the miner could not serve a version that is in force, and goes on with what it served."""
        self._note("unusable", version=name, reason=why)

    def audit(self) -> list[dict[str, Any]]:
        """Every event, oldest first."""
        path = self.directory / "audit.jsonl"
        if not path.is_file():
            return []
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]

    def best(self) -> str:
        """The version with the best MCC on the gate set of all that were promoted and are on disk; empty: none."""
        marks = {
            line["version"]: line["gate"]["mcc_after"]
            for line in self.audit()
            if line["event"] == "promoted" and line.get("gate")
        }
        there = {name: mark for name, mark in marks.items() if name in self.names()}
        return max(there, key=lambda name: there[name], default="")

    def _said(self, profile: Profile) -> dict[str, dict[str, float]]:
        home = Path(profile.catalog).resolve().parent
        if not profile.catalog or home.parent != self.trained.resolve():
            return {}
        path = home / "opinions.json"
        try:
            said: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ProfileError(f"{path}: expected what the trained network said: {error}; roll back") from error
        return {home.name: said}

    def _previous_of(self, name: str) -> str:
        lines = [line for line in self.audit() if line["event"] == "promoted" and line["version"] == name]
        return str(lines[-1]["previous"]) if lines else ""

    def _last_number(self) -> int:
        return max((int(line["version"]) for line in self.audit() if line.get("version")), default=0)

    def _target(self, link: str) -> str:
        path = self.directory / link
        return os.readlink(path) if path.is_symlink() else ""

    def _point_to(self, name: str, link: str = "current") -> None:
        path = self.directory / link
        if not name:
            path.unlink(missing_ok=True)
            return
        draft = self.directory / f".{link}.new"
        draft.unlink(missing_ok=True)
        draft.symlink_to(name)
        draft.replace(path)

    def _note(self, event: str, **facts: Any) -> None:
        line = {"time": self._now().isoformat(timespec="seconds"), "event": event, **facts}
        with (self.directory / "audit.jsonl").open("a", encoding="utf-8") as log_file:
            log_file.write(json.dumps(line) + "\n")
            log_file.flush()
            os.fsync(log_file.fileno())


Train = Callable[[Data, Candidate], Candidate]  # `miner.retrain.Retrain`


def improve(
    data: Data,
    versions: Versions,
    own: Profile,
    steps: Sequence[str] = ("refit",),
    margin: float = MARGIN,
    shadow: bool = False,
    train: Train | None = None,
) -> tuple[str, Judgement]:
    """One round: fit a candidate to `data.train`, judge it, promote (with `shadow` only stage) or refuse it.

    own: the miner's own profile. train: what the step `train` does. Gives the new version's name, empty when refused.
    Raises ImproveError when there is too little to fit, or when the training broke off.
    """
    known: dict[str, Step] = {**STEPS}
    if train is not None:
        known[TRAIN] = lambda examples, candidate: train(data, candidate)
    if unknown := sorted(set(steps) - set(known) - {TRAIN}):
        raise ImproveError(f"unknown step {', '.join(unknown)}; known: {', '.join([*STEPS, TRAIN])}")
    if TRAIN in steps and train is None:
        raise ImproveError("the step train needs --training FILE: the settings of the training as TOML")
    if TRAIN in steps and shadow:
        raise ImproveError("a network that does not serve yet has no answers to show: leave out --shadow, or train")
    facts = {"steps": list(steps), "margin": margin, "trained_on": len(data.train), "data_sha256": data.sha256}
    live = versions.read(versions.current(), own)
    candidate = live
    try:
        for step in steps:
            candidate = known[step](data.train, candidate)
        return _decided(data, versions, own, live, candidate, shadow, facts)
    except FitError as error:
        raise ImproveError(f"{error}; label more on the review page") from error
    except StepFailed as error:
        versions.fail(str(error), **facts)
        raise ImproveError(str(error)) from error
    finally:
        versions.tidy()


def _decided(
    data: Data,
    versions: Versions,
    own: Profile,
    live: Candidate,
    candidate: Candidate,
    shadow: bool,
    facts: dict[str, Any],
) -> tuple[str, Judgement]:
    """The candidate judged, and put in force, staged or refused."""
    best = versions.best()
    anchor = versions.read(best, own) if best and best != versions.current() else None
    judgement = judge(data, live, candidate, anchor, facts["margin"])
    if not judgement.passed:
        versions.refuse(judgement, **facts)
        return "", judgement
    name = versions.write(candidate)
    (versions.stage if shadow else versions.promote)(name, judgement, **facts)
    return name, judgement


def promote_staged(
    versions: Versions, seen: Sequence[tuple[str, int, float, float]], margin: float = MARGIN
) -> tuple[str, Judgement]:
    """Put the staged version in force if it was not worse on the labelled pictures both saw (`Views.shadows`)."""
    name = versions.staged()
    if not name:
        raise ImproveError("no version is staged; run improve --shadow first")
    it = shadow_comparison(seen)
    reasons = [f"expected {LEAST} labelled pictures of each label that both saw, got {len(seen)}"] if it is None else []
    if it is not None and it.low < -margin:
        reasons = [f"shadow: MCC {it.mcc_before:.3f} -> {it.mcc_after:.3f}, at 95 % as low as {it.low:+.3f}"]
    judgement = Judgement(None, it, None, tuple(reasons))
    if judgement.passed:
        versions.promote(name, judgement, steps=["shadow"], margin=margin)
        versions.unstage()
        return name, judgement
    versions.refuse(judgement, steps=["shadow"], margin=margin)
    return "", judgement


# --- beside the live one ----------------------------------------------------------------------------------------------


class Shadow:
    """Wraps `decide`: a staged candidate answers each picture too, from the opinions and the embedding that the live
    version has got already.

    note: told (sha256, candidate's name, its probability, the live one, whether the candidate's left); `Journal.shadow`
    fits. canary: share of pictures that get the candidate's answer, chosen by the picture's digest, so that the same
    picture stays on one side. known: the embedding of a picture just looked at.
    """

    def __init__(
        self,
        decide: Decide,
        note: Callable[[str, str, float, float, bool], object],
        canary: float = 0.0,
        known: Callable[[str], NDArray[np.float32] | None] = lambda sha256: None,
    ) -> None:
        self._decide, self._note, self._canary, self._known = decide, note, canary, known
        self._name = ""
        self._candidate: Candidate | None = None
        self._asides: set[asyncio.Task[Verdict]] = set()

    @property
    def name(self) -> str:
        """The candidate's version; empty: none runs."""
        return self._name

    def run(self, name: str, candidate: Candidate | None) -> None:
        """Let this candidate run from now on; None: none."""
        self._name, self._candidate = name, candidate

    async def decide(self, frame: Frame, deadline: Deadline, caller: str) -> Verdict:
        live = await self._decide(frame, deadline, caller)
        candidate = self._candidate
        if candidate is None or live.source is Source.PRIOR or not live.opinions:
            return live
        shown = int(frame.sha256[8:16], 16) < self._canary * 2**32
        aside = asyncio.create_task(self._aside(self._name, candidate, live, frame, shown))
        self._asides.add(aside)  # held, so that it is not collected halfway
        aside.add_done_callback(self._asides.discard)
        if not shown:
            return live
        await asyncio.wait([aside], timeout=min(LONGEST_ASIDE, deadline.remaining()))
        return aside.result() if aside.done() else live

    async def settled(self) -> None:
        """Wait for the candidate's answers that are still being computed."""
        await asyncio.gather(*self._asides)

    async def _aside(self, name: str, candidate: Candidate, live: Verdict, frame: Frame, shown: bool) -> Verdict:
        """The candidate's verdict; the live one when it fails: its fault must not cost the answer."""
        try:
            record = Record.of(live, frame)
            said = await asyncio.to_thread(candidate.answer, record, self._known(frame.sha256))
        except Exception as error:
            log.warning("candidate %s failed: %s: %s", name, type(error).__name__, error)
            return live
        self._note(frame.sha256, name, said.probability, live.probability, shown)
        answer = replace(live, probability=said.probability, interval=said.interval)
        return replace(answer, tiers=(*live.tiers, "canary"))


def shadow_comparison(seen: Sequence[tuple[str, int, float, float]]) -> Comparison | None:
    """The live answers against a candidate's on labelled pictures both saw (`Views.shadows`); None for too few."""
    labels = np.array([label for _, label, _, _ in seen], dtype=np.int64)
    if min(int(labels.sum()), len(labels) - int(labels.sum())) < LEAST:
        return None
    before, after = (np.array([row[column] for row in seen]) for column in (2, 3))
    return compare(labels, before, after, [row[0] for row in seen])


# --- files ------------------------------------------------------------------------------------------------------------


def to_toml(profile: Profile) -> str:
    """The profile without its fit as TOML that `cascade.profile.load` reads."""
    data = profile.model_dump(mode="json", exclude={"fit"}, exclude_none=True)
    tiers = data.pop("tiers")
    lines = [f"{key} = {inline(value)}" for key, value in data.items()]
    for tier in tiers:
        members = tier.pop("members")
        lines += ["", "[[tiers]]", *(f"{key} = {inline(value)}" for key, value in tier.items())]
        for member in members:
            lines += ["", "[[tiers.members]]", *(f"{key} = {inline(value)}" for key, value in member.items())]
    return "\n".join(lines) + "\n"


def inline(value: Any) -> str:
    """A value as TOML writes it on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {inline(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(inline, value)) + "]"
    return json.dumps(value)  # strings, numbers and booleans are the same in TOML


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    draft = path.with_name(path.name + ".new")
    draft.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    draft.replace(path)
