"""From the opinions of several models to one probability and its interval.

The pool is linear in log-odds and symmetric in yes and no: z = bias + sum(weight * logit). Weights are absolute (the
share of a member's evidence that is news beside the others), so an opinion of 0 and a member of weight 0 change
nothing, and fewer answers give less certainty. Before any fit the profile's weights are used; a `Fit` brings weights
and a calibration for each set of members that was seen to answer together, and a pooled fit for all others.

The plan's geometric mean and its k-of-n vote are here for comparison only: the first lets one p near 0 veto all the
others, the second throws away how sure each member is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from cascade.calibration import (
    MAX_LOGIT,
    Array,
    Calibration,
    Identity,
    Part,
    Platt,
    VennAbers,
    bounded,
    logits,
    prior_shift,
    sigmoid,
    sigmoids,
)
from cascade.conditions import KNOWN

Method = Literal["log-odds", "geometric-mean", "vote"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A calibrated probability of road work and the interval it is believed to lie in."""

    probability: float
    low: float
    high: float


class Stack(Part):
    """One fitted pool: weights and bias on the members' logits, then a calibration of the sum.

    `n`: labelled pictures it was fitted on. `interval`: absent where data are too thin to tabulate one.
    """

    weights: Mapping[str, float]
    bias: float = 0.0
    calibration: Calibration = Field(default_factory=Identity)
    interval: VennAbers | None = None
    n: int = 0


class Fit(Part):
    """Everything that `calibrate` learns for one profile: the content of `<profile>.fit.json`.

    prevalence: share of road work in the data it was fitted on; date: ISO 8601; data_sha256: of pictures and labels.
    conditions: what `cascade.conditions` change in the calibrated log-odds; those that are not named change nothing.
    shift: log-odds added at the very end, so that the decision with the best MCC lies at 0.5.
    """

    profile: str
    date: str
    data_sha256: str
    n: int = Field(ge=0)
    prevalence: float = Field(gt=0, lt=1)
    band: tuple[float, float]
    members: Mapping[str, Calibration]
    pooled: Stack
    subsets: Mapping[str, Stack]
    conditions: Mapping[str, Platt] = Field(default_factory=dict)
    shift: float = 0.0

    @model_validator(mode="after")
    def _known_conditions(self) -> Self:
        if strange := sorted(set(self.conditions) - KNOWN):
            raise ValueError(f"conditions: expected some of {', '.join(sorted(KNOWN))}, got {', '.join(strange)}")
        return self


def subset_key(models: Iterable[str]) -> str:
    """The name of a set of members in a `Fit`; the order they come in does not matter."""
    return "+".join(sorted(models))


class Fusion:
    """Opinions in, `Estimate` out. Weights by model key; `prior` is answered when nobody has an opinion."""

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        prior: float = 0.5,
        prevalence: float = 0.5,
        method: Method = "log-odds",
        quorum: float = 0.7,
        fit: Fit | None = None,
    ) -> None:
        self.weights = dict(weights)
        self.prior = Estimate(prior, 0.0, 1.0)
        self._fit = fit if method == "log-odds" else None
        self._pool: Callable[[Array, Array], Array]
        self._pool = {"log-odds": log_odds, "geometric-mean": geometric_mean, "vote": lambda z, w: vote(z, w, quorum)}[
            method
        ]
        fitted = self._fit.prevalence if self._fit else 0.5  # an opinion of 0 says nothing either way: even odds
        self._shift = prior_shift(fitted, prevalence) + (self._fit.shift if self._fit else 0.0)

    def hears(self, model: str) -> bool:
        """Whether a model has any weight; one that has none changes nothing."""
        return self.weights.get(model, 0.0) > 0.0

    def estimate(self, opinions: Mapping[str, float], conditions: Sequence[str] = ()) -> Estimate:
        """The pooled estimate of {model: logit}. Models without a weight (or of weight 0) are not heard. conditions: of
        the picture, as `cascade.conditions.settled` gives them."""
        heard = {key: bounded(z) for key, z in sorted(opinions.items()) if self.hears(key)}
        if not heard:
            return self.prior
        p, low, high = (sigmoid(float(z)) for z in self._log_odds(heard, conditions))
        return Estimate(p, min(p, low), max(p, high))

    def estimates(self, opinions: Mapping[str, Array], conditions: Sequence[str] = ()) -> tuple[Array, Array, Array]:
        """`estimate` of N pictures at once that the same members were heard of, under the same conditions: probability,
        low and high (N,) each. opinions: {model: logits (N,)}, at least one model that is heard."""
        heard = {key: np.clip(z, -MAX_LOGIT, MAX_LOGIT) for key, z in sorted(opinions.items()) if self.hears(key)}
        p, low, high = (sigmoids(z) for z in self._log_odds(heard, conditions))
        return p, np.minimum(p, low), np.maximum(p, high)

    def _log_odds(self, heard: Mapping[str, Any], conditions: Sequence[str]) -> tuple[Array, Array, Array]:
        """Fused log-odds and the bounds of their interval, of one number or one array per model."""
        fit = self._fit
        if fit is None:
            weights = np.array([self.weights[key] for key in heard])
            z = self._pool(np.array(list(heard.values())), weights) + self._shift
            return z, z, z
        stack = fit.subsets.get(subset_key(heard), fit.pooled)
        pooled: Any = stack.bias
        for key, value in heard.items():
            said = fit.members[key].apply(value) if key in fit.members else value
            pooled = pooled + stack.weights.get(key, 0.0) * said
        z = stack.calibration.apply(pooled)
        low, high = stack.interval.interval(pooled) if stack.interval else (z, z)
        return self._final(fit, z, conditions), self._final(fit, low, conditions), self._final(fit, high, conditions)

    def _final(self, fit: Fit, z: Array, conditions: Sequence[str]) -> Array:
        for condition in conditions:
            if condition in fit.conditions:
                z = fit.conditions[condition].apply(z)
        return z + self._shift


# Pools of members' log-odds z (M,) or (M, N) with weights (M,): one number, or (N,).


def log_odds(z: Array, weights: Array) -> Array:
    """sum(w * z): independent evidence adds up in log-odds."""
    return np.asarray(weights @ z)


def geometric_mean(z: Array, weights: Array) -> Array:
    """Log-odds of prod(p ** w) ** (1 / sum(w)), the weighted geometric mean of the probabilities."""
    return logits(np.exp(weights @ np.log(sigmoids(z)) / weights.sum()))


def vote(z: Array, weights: Array, quorum: float) -> Array:
    """Log-odds of a vote: above 0 exactly if at least `quorum` (0..1) of the members say yes."""
    yes, n = (z > 0).sum(axis=0), len(weights)
    needed = math.ceil(quorum * n - 1e-9)
    return logits((yes + 0.5) / (n + 1)) - logits(np.asarray(needed / (n + 1)))
