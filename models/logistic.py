"""Logistic regression in numpy: what the memory calibrates itself with, and the head on embeddings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def fit(x: NDArray[np.floating], y: NDArray[np.int64], l2: float = 1.0, steps: int = 50) -> tuple[Array, float]:
    """Weights (D,) and bias of the regression of labels y (N,) in {0, 1} on x (N, D), by Newton's method.

    l2: strength of the pull of the weights towards 0, in pictures' worth of curvature; the bias is free. Raises
    ValueError when one label is missing.
    """
    if not 0 < int(y.sum()) < len(y):
        raise ValueError(f"expected both labels, got {int(y.sum())} of road work among {len(y)}")
    design = np.column_stack([x, np.ones(len(x))]).astype(np.float64)
    ridge = np.full(design.shape[1], l2)
    ridge[-1] = 1e-6
    theta = np.zeros(design.shape[1])
    theta[-1] = np.log(y.mean() / (1.0 - y.mean()))
    loss = _loss(design, y, theta, ridge)
    for _ in range(steps):
        p = 1.0 / (1.0 + np.exp(-np.clip(design @ theta, -30.0, 30.0)))
        gradient = design.T @ (p - y) + ridge * theta
        curvature = (design * (p * (1.0 - p))[:, None]).T @ design + np.diag(ridge + 1e-9)
        step = np.linalg.solve(curvature, gradient)
        while (better := _loss(design, y, theta - step, ridge)) > loss and np.abs(step).max() > 1e-10:
            step *= 0.5
        theta, gain, loss = theta - step, loss - better, better
        if gain < 1e-8 * (1.0 + loss):
            break
    return theta[:-1], float(theta[-1])


def _loss(design: Array, y: NDArray[np.int64], theta: Array, ridge: Array) -> float:
    z = design @ theta
    return float((np.logaddexp(0.0, z) - y * z).sum() + 0.5 * (ridge * theta**2).sum())
