"""The gate: a candidate against the version in force, on labelled pictures that neither of them learned from.

The measure is the Brier score, the mean squared error of the answered probability: every picture says something, where
MCC counts only those whose decision changes, a handful in two hundred. A candidate passes if it is better at 95 %: if
the lower end of the one-sided 95 % interval of the mean gain (paired bootstrap, groups kept whole) over gate set and
new labels together is above 0. What is no better than the version in force passes in one round of twenty at most.

And it must not be worse at 95 % on the gate set alone, the only labels that today's mistakes cannot have reached: where
labels are wrong, the new ones praise whoever learned the mistake. A loss that chance explains is no reason to refuse
there: on a set that never changes, that kept good candidates out for months (docs/results/loop-2026-11-28.md).

Labels that look wrong are left in: they are for the review page's second look, since leaving out what the model doubts
would keep it from ever learning a new sign.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cascade.resampling import resamples
from miner.journal_views import Example
from miner.learning.candidate import Candidate
from miner.learning.examples import LEAST, Data, can_judge
from models.metrics import mcc

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two versions on the same pictures. gain: by how much the Brier score fell. low, high: where its one-sided 95 %
    intervals end."""

    n: int
    roadwork: int
    mcc_before: float
    mcc_after: float
    gain: float
    low: float
    high: float


def compare(
    labels: NDArray[np.int64], before: Array, after: Array, groups: Sequence[str], n: int = 2000, seed: int = 0
) -> Comparison:
    """Paired bootstrap of the mean gain. Arrays (N,), of both labels; `n` resamples."""
    gains = (before - labels) ** 2 - (after - labels) ** 2
    draws = [float(np.average(gains, weights=weight)) for weight in resamples(groups, n, seed)]
    low, high = (float(end) for end in np.percentile(draws, [5, 95]))
    marks = mcc(labels, before), mcc(labels, after)
    return Comparison(len(labels), int(labels.sum()), *marks, float(gains.mean()), low, high)


@dataclass(frozen=True, slots=True)
class Judgement:
    """Why a candidate passes (`reasons` empty) or not. both: on gate set and new labels together."""

    gate: Comparison | None
    new: Comparison | None
    both: Comparison | None
    reasons: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return not self.reasons


def judge(data: Data, live: Candidate, candidate: Candidate, unseen: Callable[[Sequence[Example]], Array]) -> Judgement:
    """Hold `candidate` against the version in force. unseen: what it answers to new pictures without knowing them."""
    gate, new = (comparable(examples, live, candidate) for examples in (data.gate, data.new))
    if few := [*_too_few("gate set (drawn from labels older than a week)", gate), *_too_few("new labels", new)]:
        return Judgement(None, None, None, tuple(few))
    before = live.probabilities(gate), live.probabilities(new)
    after = candidate.probabilities(gate), unseen(new)
    on_gate, on_new = _compared(gate, before[0], after[0]), _compared(new, before[1], after[1])
    both = _compared((*gate, *new), np.concatenate(before), np.concatenate(after))
    reasons = []
    if both.low <= 0.0:
        reasons.append(f"together: not better at 95 %: {told(both)}")
    if on_gate.high < 0.0:
        reasons.append(f"gate: worse at 95 %: {told(on_gate)}")
    return Judgement(on_gate, on_new, both, tuple(reasons))


def told(it: Comparison) -> str:
    """For people."""
    return (
        f"MCC {it.mcc_before:.3f} -> {it.mcc_after:.3f}, Brier score better by {it.gain:+.4f} "
        f"({it.low:+.4f} to {it.high:+.4f}) on {it.n} pictures ({it.roadwork} road work)"
    )


def comparable(examples: Sequence[Example], *versions: Candidate) -> tuple[Example, ...]:
    """The pictures that these versions can be compared on."""
    return tuple(example for example in examples if all(version.knows(example) for version in versions))


def _too_few(name: str, examples: Sequence[Example]) -> list[str]:
    if can_judge(examples):
        return []
    roadwork = sum(example.label for example in examples)
    got = f"{roadwork} of road work and {len(examples) - roadwork} without"
    return [f"{name}: expected {LEAST} pictures of each label, got {got}"]


def _compared(examples: Sequence[Example], before: Array, after: Array) -> Comparison:
    labels = np.array([example.label for example in examples], dtype=np.int64)
    groups = [example.record.group or example.record.sha256 for example in examples]
    return compare(labels, before, after, groups)
