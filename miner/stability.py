"""Whether what comes in and goes out still looks like what came at first: the population stability index.

Below 0.1 nothing moved, above 0.25 something did (the usual reading in credit scoring, where the index comes from).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

REFERENCE = 500  # values that make the reference: the first after the start
RECENT = 500  # values that are compared with it
FLOOR = 1e-3  # share that an empty bin counts as, so that one value in a new bin is no infinity


class Drift:
    """One quantity. edges: borders of the bins; values outside fall into the first and the last."""

    def __init__(self, edges: Sequence[float], reference: int = REFERENCE, recent: int = RECENT) -> None:
        self._edges = np.asarray(edges, dtype=np.float64)
        self._wanted = reference
        self._seen = 0
        self._reference = np.zeros(len(edges) + 1)
        self._recent: deque[int] = deque(maxlen=recent)

    def add(self, value: float) -> None:
        """Take one value in: into the reference until that is full, then into the window of recent ones."""
        bin_ = int(np.searchsorted(self._edges, value, side="right"))
        if self._seen < self._wanted:
            self._reference[bin_] += 1
        else:
            self._recent.append(bin_)
        self._seen += 1

    def psi(self) -> float:
        """The index, at least 0; NaN until the window of recent values is full."""
        if len(self._recent) < (self._recent.maxlen or 0):
            return float("nan")
        now = np.bincount(list(self._recent), minlength=len(self._reference))
        old, new = (np.maximum(counts / counts.sum(), FLOOR) for counts in (self._reference, now))
        return float(((new - old) * np.log(new / old)).sum())
