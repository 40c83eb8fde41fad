"""The gate: a candidate against the version in force, on pictures that neither of them learned from.

"Not worse at 95 %" means that the lower end of the one-sided 95 % interval of the MCC's difference (paired bootstrap,
groups kept whole) over gate set and newest week together is at least -margin. On each alone the difference itself has
to be: a hundred labels cannot rule out a loss of 0.02 by themselves, and a gate that asked them to passed nothing for
the first eleven weeks of a half year of real pictures (docs/results/loop-2026-11-24.md). So that many small losses
cannot add up, the gate set also compares with the best version that ever was in force. Labels that look wrong are left
in: they are for the review page's second look, since leaving out what the model doubts would keep it from ever learning
a new sign.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cascade.measures import weighted_mcc
from cascade.resampling import resamples
from miner.journal_views import Example
from miner.learning.candidate import Candidate
from miner.learning.examples import Data

MARGIN = 0.02  # MCC
LEAST = 20  # pictures of each label a set needs to judge at all


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
