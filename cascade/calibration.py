"""Calibration maps from log-odds to log-odds, applied in numpy. They are fitted in `cascade.fit`.

Every map takes natural log-odds (a number or an array) and gives log-odds of the same shape that are finite for any
input, never fall when the input rises, and lie within +-MAX_LOGIT, so that no probability is ever exactly 0 or 1.
Each one is a small frozen record, written to and read from JSON by its `method`; unknown keys are refused.
"""

from __future__ import annotations

import math
from functools import cached_property
from itertools import pairwise
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

Array = NDArray[np.float64]
MAX_LOGIT = 20.0  # a probability within 2e-9 of certainty: no fit on a few thousand pictures can claim more
_TAIL_SLOPE = 1e-3  # beyond the fitted range isotonic maps go on almost flat: order is kept, no confidence is claimed


def bounded(logit: float) -> float:
    """`logit` within +-MAX_LOGIT."""
    return min(max(logit, -MAX_LOGIT), MAX_LOGIT)


def sigmoid(logit: float) -> float:
    """The probability of one logit, strictly inside (0, 1)."""
    return 1.0 / (1.0 + math.exp(-bounded(logit)))


def logit(probability: float) -> float:
    """Log-odds of one probability; finite also at 0 and 1."""
    edge = 1.0 / (1.0 + math.exp(MAX_LOGIT))
    p = min(max(probability, edge), 1.0 - edge)
    return math.log(p) - math.log1p(-p)


def sigmoids(logits: Array) -> Array:
    """`sigmoid` of an array of any shape."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(logits, -MAX_LOGIT, MAX_LOGIT))))


def logits(probabilities: Array) -> Array:
    """`logit` of an array of any shape."""
    edge = 1.0 / (1.0 + math.exp(MAX_LOGIT))
    p = np.clip(probabilities, edge, 1.0 - edge)
    return np.asarray(np.log(p) - np.log1p(-p))


def softplus(values: Any) -> Array:
    """log(1 + exp(values)) without overflow."""
    return np.asarray(np.logaddexp(0.0, values))


class Part(BaseModel):
    """Data from a file: frozen, numbers finite, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Identity(Part):
    """Leaves the logit as it is."""

    method: Literal["identity"] = "identity"

    def apply(self, z: Any) -> Array:
        return np.asarray(np.clip(z, -MAX_LOGIT, MAX_LOGIT))


class Temperature(Part):
    """z / temperature: less or more confidence, the same side of 0.5."""

    method: Literal["temperature"] = "temperature"
    temperature: float = Field(gt=0)

    def apply(self, z: Any) -> Array:
        return np.asarray(np.clip(np.divide(z, self.temperature), -MAX_LOGIT, MAX_LOGIT))


class Platt(Part):
    """slope * z + bias (Platt 1999)."""

    method: Literal["platt"] = "platt"
    slope: float = Field(ge=0)
    bias: float

    def apply(self, z: Any) -> Array:
        z = np.clip(z, -MAX_LOGIT, MAX_LOGIT)
        return np.asarray(np.clip(self.slope * z + self.bias, -MAX_LOGIT, MAX_LOGIT))


class Beta(Part):
    """a * log(p) - b * log(1 - p) + c (Kull et al. 2017), p being the probability of the logit that comes in."""

    method: Literal["beta"] = "beta"
    a: float = Field(ge=0)
    b: float = Field(ge=0)
    c: float

    def apply(self, z: Any) -> Array:
        z = np.clip(z, -MAX_LOGIT, MAX_LOGIT)
        return np.asarray(np.clip(self.b * softplus(z) - self.a * softplus(-z) + self.c, -MAX_LOGIT, MAX_LOGIT))


class Isotonic(Part):
    """Linear between knots (x, y), both in log-odds and strictly rising, so that no two scores become a tie."""

    method: Literal["isotonic"] = "isotonic"
    x: tuple[float, ...] = Field(min_length=1)
    y: tuple[float, ...]

    @model_validator(mode="after")
    def _rising(self) -> Isotonic:
        for name, values in (("x", self.x), ("y", self.y)):
            if len(values) != len(self.x) or not all(a < b for a, b in pairwise(values)):
                raise ValueError(f"{name}: expected {len(self.x)} strictly rising numbers, got {values[:5]}...")
        return self

    @cached_property
    def _knots(self) -> tuple[Array, Array]:
        return np.array(self.x), np.array(self.y)

    def apply(self, z: Any) -> Array:
        x, y = self._knots
        z = np.clip(z, -MAX_LOGIT, MAX_LOGIT)
        tail = _TAIL_SLOPE * (np.minimum(z - x[0], 0.0) + np.maximum(z - x[-1], 0.0))
        return np.asarray(np.clip(np.interp(z, x, y) + tail, -MAX_LOGIT, MAX_LOGIT))


Calibration = Annotated[Identity | Temperature | Platt | Beta | Isotonic, Field(discriminator="method")]


class VennAbers(Part):
    """The two probabilities that Venn-Abers prediction gives a score (Vovk and Petej 2014), tabulated at knots.

    x: scores in log-odds, strictly rising. low, high: log-odds of p0 (isotonic fit with the score labelled 0) and p1.
    The gap between them is wide where the calibration data are thin: the signal to ask another tier.
    """

    x: tuple[float, ...] = Field(min_length=1)
    low: tuple[float, ...]
    high: tuple[float, ...]

    @model_validator(mode="after")
    def _ordered(self) -> VennAbers:
        if not len(self.x) == len(self.low) == len(self.high):
            raise ValueError(f"expected {len(self.x)} values in low and high, got {len(self.low)} and {len(self.high)}")
        if any(low > high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError("expected low <= high everywhere")
        return self

    @cached_property
    def _knots(self) -> tuple[Array, Array, Array]:
        return np.array(self.x), np.array(self.low), np.array(self.high)

    def interval(self, z: Any) -> tuple[Array, Array]:
        """Log-odds (low, high) of the scores `z`."""
        x, low, high = self._knots
        return np.asarray(np.interp(z, x, low)), np.asarray(np.interp(z, x, high))


def prior_shift(fitted: float, target: float) -> float:
    """What to add to log-odds fitted where a share `fitted` is road work, to hold where it is `target`."""
    return logit(target) - logit(fitted)
