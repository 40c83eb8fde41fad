"""The regression, the calibrations and the intervals that `cascade.fit` is made of. numpy only.

Scores are natural log-odds (N,), labels int {0, 1} (N,). A calibration is shrunk a little towards the identity, and no
weight is ever negative, so that more evidence for road work never lowers the probability.
"""

from __future__ import annotations

import numpy as np

from cascade.calibration import (
    MAX_LOGIT,
    Array,
    Beta,
    Calibration,
    Identity,
    Isotonic,
    Platt,
    Temperature,
    VennAbers,
    logits,
    sigmoids,
    softplus,
)
from cascade.resampling import Index, Labels, splits

RIDGE = 1.0  # strength of the pull towards what is known, in pictures' worth of curvature
INTERVAL_KNOTS = 200
METHODS = ("identity", "temperature", "platt", "beta", "isotonic")


# --- one regression for everything that is parametric ---------------------------------------------------------------


def logistic(x: Array, y: Labels, centre: Array, ridge: Array | float = RIDGE) -> Array:
    """Coefficients (M + 1: weights, then bias) of a logistic regression of y (N,) on x (N, M), by Newton's method.

    The penalty is ridge / 2 * (coefficients - centre)^2, and no weight may be negative: those that would be are set to
    0 one after the other and the rest is fitted again.
    """
    design = np.column_stack([x, np.ones(len(x))])
    penalty = np.broadcast_to(np.asarray(ridge, dtype=float), centre.shape)
    free = np.ones(len(centre), dtype=bool)
    while True:
        theta = np.where(free, centre, 0.0)
        theta[free] = _newton(design[:, free], y, centre[free], penalty[free])
        worst = int(np.argmin(theta[:-1])) if len(theta) > 1 else 0
        if len(theta) == 1 or theta[worst] >= 0.0:
            return theta
        free[worst] = False


def _newton(design: Array, y: Labels, centre: Array, ridge: Array) -> Array:
    theta = centre.copy()
    loss, gain = _penalised(design, y, theta, centre, ridge), np.inf
    while gain > 1e-9 * (1.0 + loss):
        p = sigmoids(design @ theta)
        gradient = design.T @ (p - y) + ridge * (theta - centre)
        curvature = (design * (p * (1.0 - p))[:, None]).T @ design + np.diag(ridge + 1e-9)
        step = np.linalg.solve(curvature, gradient)
        while (better := _penalised(design, y, theta - step, centre, ridge)) > loss and np.abs(step).max() > 1e-10:
            step *= 0.5
        theta, gain, loss = theta - step, loss - better, better
    return theta


def _penalised(design: Array, y: Labels, theta: Array, centre: Array, ridge: Array) -> float:
    z = design @ theta
    return float((softplus(z) - y * z).sum() + 0.5 * (ridge * (theta - centre) ** 2).sum())


# --- calibrations ----------------------------------------------------------------------------------------------------


def fit_calibration(method: str, z: Array, y: Labels) -> Calibration:
    """The calibration `method` (one of METHODS) of scores z (N,) in log-odds on labels y (N,)."""
    z = np.clip(z, -MAX_LOGIT, MAX_LOGIT)
    if method == "temperature":
        slope = logistic(z[:, None], y, np.array([1.0, 0.0]), np.array([RIDGE, 1e9]))[0]
        return Temperature(temperature=1.0 / max(float(slope), 1e-3))
    if method == "platt":
        slope, bias = logistic(z[:, None], y, np.array([1.0, 0.0]))
        return Platt(slope=float(slope), bias=float(bias))
    if method == "beta":
        a, b, c = logistic(np.column_stack([-softplus(-z), softplus(z)]), y, np.array([1.0, 1.0, 0.0]))
        return Beta(a=float(a), b=float(b), c=float(c))
    if method == "isotonic":
        return _isotonic(z, y)
    return Identity()


def choose_calibration(z: Array, y: Labels, folds: Index) -> tuple[Calibration, dict[str, float]]:
    """The method with the least out-of-fold log loss (the simplest where they tie), fitted on all; and the losses."""
    losses = {}
    for method in METHODS:
        out = np.empty(len(z))
        for train, test in splits(folds):
            out[test] = fit_calibration(method, z[train], y[train]).apply(z[test])
        losses[method] = float(log_losses(y, out).mean())
    best = min(METHODS, key=lambda method: (round(losses[method], 4), METHODS.index(method)))
    return fit_calibration(best, z, y), losses


def log_losses(y: Labels, z: Array) -> Array:
    """Negative log likelihood (N,) of labels y (N,) under log-odds z (N,)."""
    return softplus(z) - y * z


Block = tuple[float, float, float]  # pictures, sum of their scores, road work among them


def _isotonic(z: Array, y: Labels) -> Isotonic:
    """Pool adjacent violators; each block becomes a knot at its mean score. Blocks of one label only get the rate of
    Laplace's rule, since nobody has seen certainty."""
    x, where = np.unique(z, return_inverse=True)
    count, hits = np.bincount(where).astype(float), np.bincount(where, weights=y)
    blocks: list[Block] = []
    for block in zip(count.tolist(), (count * x).tolist(), hits.tolist(), strict=True):
        blocks.append(block)
        while len(blocks) > 1 and blocks[-2][2] * blocks[-1][0] >= blocks[-1][2] * blocks[-2][0]:
            blocks[-2:] = [_merged(*blocks[-2:])]
    while len(blocks) > 1 and _rate(blocks[0]) >= _rate(blocks[1]):
        blocks[:2] = [_merged(*blocks[:2])]
    while len(blocks) > 1 and _rate(blocks[-2]) >= _rate(blocks[-1]):
        blocks[-2:] = [_merged(*blocks[-2:])]
    rates = logits(np.array([_rate(block) for block in blocks]))
    return Isotonic(x=tuple(total / n for n, total, _ in blocks), y=tuple(rates.tolist()))


def _merged(a: Block, b: Block) -> Block:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def _rate(block: Block) -> float:
    n, _, hits = block
    return hits / n if 0 < hits < n else (hits + 1.0) / (n + 2.0)


def fit_interval(z: Array, y: Labels) -> VennAbers:
    """Venn-Abers of scores z (N,), tabulated at no more than INTERVAL_KNOTS scores: neighbours are put together."""
    order = np.argsort(z, kind="stable")
    parts = np.array_split(order, min(INTERVAL_KNOTS, len(z)))
    x, where = np.unique([float(z[part].mean()) for part in parts], return_inverse=True)
    n = np.bincount(where, weights=[len(part) for part in parts])
    hits = np.bincount(where, weights=[float(y[part].sum()) for part in parts])
    below_n, below_hits = np.concatenate([[0.0], n.cumsum()]), np.concatenate([[0.0], hits.cumsum()])
    bounds = np.empty((2, len(x)))
    for j in range(len(x)):  # isotonic regression at x[j] with one more picture there, by the max-min formula
        span = below_n[None, j + 1 :] - below_n[: j + 1, None] + 1.0
        seen = below_hits[None, j + 1 :] - below_hits[: j + 1, None]
        for label in (0, 1):
            bounds[label, j] = ((seen + label) / span).min(axis=1).max()
    low, high = logits(bounds)
    return VennAbers(x=tuple(map(float, x)), low=tuple(map(float, low)), high=tuple(map(float, high)))
