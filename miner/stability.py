"""Whether what comes in and goes out still looks like what came at first: the population stability index.

Below 0.1 nothing moved, above 0.25 something did (the usual reading in credit scoring, where the index comes from).
"""

from __future__ import annotations

import logging
import zipfile
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

REFERENCE = 500  # values that make the reference: the first after the start
RECENT = 500  # values that are compared with it
BINS = 10  # of each component of an embedding, equally full in the reference
COMPONENTS = 8  # directions in which the reference's embeddings spread most


def psi(reference: NDArray[np.integer], current: NDArray[np.integer]) -> float:
    """Population stability index of two histograms over the same bins: below 0.1 stable, above 0.25 another world.

    It is Jeffreys' divergence, sum((b - a) ln(b / a)), which a bin that is empty on one side would make infinite. So
    each bin gets half a count: the posterior mean of the shares under Jeffreys' prior, Dirichlet(1/2) (Krichevsky and
    Trofimov 1981, "The performance of universal encoding"). Under a fixed floor of the shares, as is common, one
    picture in such a bin would weigh by how low the floor was set; half a count fits any number of pictures.
    Without any change the index is about (bins - 1) (1/n + 1/m) for n and m values (Yurdakul and Naranjo 2020,
    "Statistical properties of the population stability index"): 0.04 for ten bins and 500 values on each side.
    """
    a, b = (reference + 0.5) / (reference + 0.5).sum(), (current + 0.5) / (current + 0.5).sum()
    return float(((b - a) * np.log(b / a)).sum())


class Drift:
    """One quantity. edges: borders of the bins; values outside fall into the first and the last."""

    def __init__(self, edges: Sequence[float], reference: int = REFERENCE, recent: int = RECENT) -> None:
        self._edges = np.asarray(edges, dtype=np.float64)
        self._wanted = reference
        self._seen = 0
        self._reference = np.zeros(len(edges) + 1, dtype=np.int64)
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
        return psi(self._reference, now)


class EmbeddingDrift:
    """Whether pictures still look, to the network, like those of the first days: the largest index of the directions in
    which the first 500 embeddings spread most. path: where these are kept, so that a restart does not forget them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._first: list[NDArray[np.float16]] = list(_read(path))
        self._recent: deque[NDArray[np.float16]] = deque(maxlen=RECENT)

    def add(self, embedding: NDArray[np.float32]) -> None:
        """Take the embedding (D,) of one new picture in."""
        vector = embedding.astype(np.float16)
        if len(self._first) < REFERENCE:
            self._first.append(vector)
            if len(self._first) == REFERENCE:
                np.savez(self._path, embeddings=np.stack(self._first))
        else:
            self._recent.append(vector)

    def psi(self) -> float:
        """The index; NaN until there are 500 recent pictures. Takes a fifth of a second: not on the event loop."""
        recent = list(self._recent)
        if len(recent) < RECENT:
            return float("nan")
        return embedding_psi(np.stack(self._first), np.stack(recent))


def embedding_psi(reference: NDArray[np.floating], current: NDArray[np.floating]) -> float:
    """Largest population stability index over the COMPONENTS directions in which `reference` (N, D) spreads most."""
    reference, current = reference.astype(np.float32), current.astype(np.float32)
    centre = reference.mean(axis=0)
    directions = np.linalg.svd(reference - centre, full_matrices=False)[2][:COMPONENTS]  # (8, D)
    indices = []
    for old, new in zip(directions @ (reference - centre).T, directions @ (current - centre).T, strict=True):
        edges = np.quantile(old, np.arange(1, BINS) / BINS)
        indices.append(psi(*(np.bincount(np.searchsorted(edges, x), minlength=BINS) for x in (old, new))))
    return max(indices)


def _read(path: Path) -> NDArray[np.float16]:
    """The reference that a former run kept; empty when there is none that can be read."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            return np.asarray(held["embeddings"], dtype=np.float16)[:REFERENCE]
    except FileNotFoundError:
        pass
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        log.warning("%s: the first pictures' embeddings cannot be read (%s); taking new ones", path, error)
    return np.empty((0, 0), dtype=np.float16)
