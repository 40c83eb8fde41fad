"""The reward as the subnet's validators compute it, for one miner and one validator.

    MCC       of numpy's round(p) over the last 100 challenges, 0 where it is negative or undefined
    accuracy  of the same over the last 10
    reward    (MCC / 2 + accuracy / 2) ** 3, and 0 for an answer that is missing (-1) or outside [0, 1]
    score     exponential moving average of the reward; the validator's weights follow it

A missing answer takes its place in the windows but is left out of the measures. One outside [0, 1] stays in them.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models import metrics

MCC_WINDOW = 100
ACCURACY_WINDOW = 10
EXPONENT = 3
ALPHA = 0.05  # the validators' default share of the newest reward in the score
MISSING = -1.0  # what a validator holds when no number came


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a miner stands with one validator after its newest challenge. All values in [0, 1]."""

    mcc: float = 0.0
    accuracy: float = 0.0
    reward: float = 0.0
    score: float = 0.0


class Scorer:
    """One validator's memory of one miner."""

    def __init__(self, alpha: float = ALPHA) -> None:
        self._history: deque[tuple[float, int]] = deque(maxlen=MCC_WINDOW)
        self._alpha = alpha
        self.standing = Standing()

    def record(self, prediction: float | None, label: int) -> Standing:
        """Take one answer and its label (0 or 1) in; None, NaN and the infinities count as no answer."""
        if label not in (0, 1):
            raise ValueError(f"expected a label 0 or 1, got {label}")
        heard = heard_as(prediction)
        self._history.append((heard, label))
        mcc, _ = window_measures(self._history, MCC_WINDOW)
        _, accuracy = window_measures(self._history, ACCURACY_WINDOW)
        reward = reward_of(mcc, accuracy) if 0.0 <= heard <= 1.0 else 0.0
        score = self._alpha * reward + (1 - self._alpha) * self.standing.score
        self.standing = Standing(mcc, accuracy, reward, score)
        return self.standing


def reward_of(mcc: float, accuracy: float) -> float:
    """The reward of a valid answer."""
    return (0.5 * mcc + 0.5 * accuracy) ** EXPONENT


def heard_as(prediction: float | None) -> float:
    """What reaches the validator: JSON carries no NaN, infinity or None, so those fail on the way and leave -1."""
    return prediction if prediction is not None and math.isfinite(prediction) else MISSING


def window_measures(history: deque[tuple[float, int]], window: int) -> tuple[float, float]:
    """(MCC floored at 0, accuracy) of the newest `window` answers, missing ones left out; (0, 0) where none is left."""
    kept = [(p, label) for p, label in list(history)[-window:] if p != MISSING]
    if not kept:
        return 0.0, 0.0
    predicted, labels = np.round([p for p, _ in kept]), np.array([label for _, label in kept])
    if _refused(predicted, labels):
        return 0.0, 0.0
    accuracy = float((predicted == labels).mean())
    one_value = len(np.unique(predicted)) == 1 or len(np.unique(labels)) == 1
    return 0.0 if one_value else max(0.0, metrics.mcc(labels, predicted)), accuracy


def _refused(predicted: NDArray[np.float64], labels: NDArray[np.int64]) -> bool:
    """Whether scikit-learn, which the validators use, refuses the window: it then counts as nothing right at all.

    It wants one or two values, 1 among the two. So a single answer such as 1.7 spoils a window until it leaves it.
    """
    values = {*predicted.tolist(), *labels.tolist()}
    return len(values) > 2 or (len(values) == 2 and 1 not in values)
