"""Memory: what labelled pictures like this one turned out to be, and how unlike all of them it is.

The k nearest neighbours by cosine similarity vote, nearer ones louder, both labels counting alike however many of each
are remembered; the vote is calibrated by leaving each of a sample of memories out (Platt). `evidence["novelty"]` in
[0, 1] is the share of memories that lie nearer to their own nearest neighbour than this picture does to its: at 0.95 it
is further from everything than 95 % of what was ever seen is from the rest.
"""

from __future__ import annotations

import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from models.base import BadWeights, Frame, ModelSpec, Opinion
from models.logistic import fit

Vectors = NDArray[np.float32]
Embed = Callable[[Sequence[Frame]], Vectors]  # N frames -> (N, D)


class Embedder(Protocol):
    """Gives pictures their vectors."""

    @property
    def name(self) -> str:
        """Tells vectors of one network from those of another."""

    def embed(self, frames: Sequence[Frame]) -> Vectors:
        """float32 (N, D) of N frames. Raises ModelError."""

    def known(self, sha256: str) -> NDArray[np.float32] | None:
        """The vector (D,) of a picture that was just looked at, if it is at hand; never computes."""


SAMPLE = 500  # memories left out, one at a time, to calibrate
LEAST = 20  # memories of each label before there is an opinion
MAX_LOGIT = 6.0  # neighbours alone never make anything surer than 0.9975
SHARPNESS = 10.0  # a neighbour nearer by 0.1 in cosine counts e times as much


def nearest(queries: Vectors, vectors: Vectors, k: int) -> tuple[NDArray[np.int64], Vectors]:
    """Positions and cosine similarities (Q, k) of the vectors (N, D) nearest to the queries (Q, D), nearest first; all
    of unit length."""
    similarity = queries @ vectors.T
    k = min(k, similarity.shape[1])
    top = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    top = np.take_along_axis(top, np.argsort(-np.take_along_axis(similarity, top, 1), axis=1), 1)
    return top.astype(np.int64), np.take_along_axis(similarity, top, 1)


@dataclass(frozen=True)
class _Store:
    """One state of the memory, replaced as a whole. vectors (N, D) unit length; labels (N,)."""

    vectors: Vectors
    labels: NDArray[np.int64]
    nearest: Vectors  # sorted similarities of left-out memories to their own nearest neighbour
    slope: float
    bias: float


class Memory:
    """A member that knows labelled pictures. What it knows is part of a version, as weights are (`miner.learning`): new
    labels reach it through the gate.

    embed: pictures to vectors (N, D), any scale. path: an .npz file written by `save`, read by `load`. bound: most
    memories; beyond, the oldest of the more frequent label go first. k: neighbours asked.
    """

    def __init__(
        self,
        embed: Embed,
        path: Path | None = None,
        bound: int = 20_000,
        k: int = 15,
        key: str = "memory",
    ) -> None:
        self._embed, self._path, self._bound, self._k = embed, path, bound, k
        self._spec = ModelSpec(key, "nearest neighbours", "numpy", "Memory")
        self._store: _Store | None = None
        self._held: tuple[Vectors, NDArray[np.int64], NDArray[np.bool_]] | None = None

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    def __len__(self) -> int:
        return 0 if self._held is None else len(self._held[1])

    def load(self, device: str) -> None:
        """Read what `save` wrote, if a path was given and the file is there. Raises BadWeights."""
        if self._path is None or not self._path.is_file():
            return
        try:
            with self._path.open("rb") as file, np.load(file, allow_pickle=False) as held:
                vectors, labels = held["vectors"].astype(np.float32), held["labels"].astype(np.int64)
                representative = held["representative"].astype(bool)
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise BadWeights(f"{self._path}: expected a memory (vectors, labels), {error}; delete it") from error
        self.replace(vectors, labels, representative)

    def warm_up(self) -> None:
        """The search alone: the embedder is a model of its own, perhaps not loaded yet."""
        if self._held is not None:
            self.logits(self._held[0][:1])

    def assess(self, frames: Sequence[Frame]) -> list[Opinion]:
        """An opinion per frame; log-odds 0 and novelty 1 while fewer than 20 of each label are remembered."""
        started = time.perf_counter()
        vectors = unit(self._embed(frames))
        store = self._store
        if store is None:
            took = 1e3 * (time.perf_counter() - started)
            return [Opinion(self._spec.key, 0.0, took, {"novelty": 1.0, "memories": len(self)}) for _ in frames]
        logits, similarity = self._asked(store, vectors)
        nearer = len(store.nearest) - np.searchsorted(store.nearest, similarity[:, 0], side="right")
        novelties = nearer / len(store.nearest)
        took = 1e3 * (time.perf_counter() - started)
        return [
            Opinion(self._spec.key, float(z), took, {"novelty": round(float(new), 4), "nearest": round(float(near), 4)})
            for z, new, near in zip(logits, novelties, similarity[:, 0], strict=True)
        ]

    def logits(self, vectors: Vectors) -> NDArray[np.float64]:
        """Log-odds at even odds (N,) of embeddings (N, D) of any scale; 0 where nothing can be said yet."""
        return np.zeros(len(vectors)) if self._store is None else self._asked(self._store, unit(vectors))[0]

    def close(self) -> None:
        self._store = None

    def replace(
        self, vectors: Vectors, labels: NDArray[np.int64], representative: NDArray[np.bool_] | None = None
    ) -> None:
        """Remember exactly these, oldest first: vectors (N, D) and labels (N,) in {0, 1}, then calibrate anew.

        representative (N,): which of them were not picked for being hard; the calibration asks only those (default:
        all are).
        """
        if vectors.ndim != 2 or labels.shape != (len(vectors),) or not np.isin(labels, (0, 1)).all():
            raise ValueError(f"expected (N, D) vectors and N labels 0 or 1, got {vectors.shape} and {labels.shape}")
        kept = bounded(labels, self._bound)
        honest = np.ones(len(kept), dtype=bool) if representative is None else representative[kept]
        vectors, labels = unit(vectors[kept]), labels[kept].astype(np.int64)
        store = None
        if min(int(labels[honest].sum()), int(honest.sum()) - int(labels[honest].sum())) >= LEAST:
            store = _built(vectors, labels, self._k, np.flatnonzero(honest))
        self._held, self._store = (vectors, labels, honest), store

    def save(self, path: Path) -> None:
        """Write all memories for `load`, all or nothing (half precision: 2 bytes a number)."""
        if self._held is None:
            return
        vectors, labels, honest = self._held
        draft = path.with_suffix(".new.npz")
        held = {"vectors": vectors.astype(np.float16), "labels": labels.astype(np.int8), "representative": honest}
        np.savez(draft, **held)  # type: ignore[arg-type]
        draft.replace(path)

    def _asked(self, store: _Store, vectors: Vectors) -> tuple[NDArray[np.float64], Vectors]:
        """Log-odds (N,) and the neighbours' similarities (N, k)."""
        where, similarity = nearest(vectors, store.vectors, self._k)
        raw = votes(similarity, store.labels[where], _balance(store.labels))
        return np.clip(store.slope * raw + store.bias, -MAX_LOGIT, MAX_LOGIT), similarity


def unit(vectors: NDArray[Any]) -> Vectors:
    """Rows scaled to length 1; a row of zeros stays."""
    length = np.linalg.norm(vectors.astype(np.float32), axis=1, keepdims=True)
    scaled: Vectors = (vectors / np.maximum(length, 1e-12)).astype(np.float32)
    return scaled


def votes(similarity: Vectors, labels: NDArray[np.int64], balance: tuple[float, float]) -> NDArray[np.float64]:
    """Log-odds (Q,) of the neighbours' weighted votes; similarity and labels (Q, k), balance: weight of clear, of road
    work."""
    loudness = np.exp(SHARPNESS * (similarity - similarity[:, :1])).astype(np.float64)
    roadwork = (loudness * (labels == 1)).sum(axis=1) * balance[1]
    clear = (loudness * (labels == 0)).sum(axis=1) * balance[0]
    floor = 0.5  # half a neighbour on each side: nobody is unanimous for ever
    return np.asarray(np.log((roadwork + floor) / (clear + floor)))


def bounded(labels: NDArray[np.int64], bound: int) -> NDArray[np.int64]:
    """Positions to keep, in order: all if they fit, else the newest of the more frequent label's go along."""
    positions = [np.flatnonzero(labels == label) for label in (0, 1)]
    fewer, more = sorted(positions, key=len)
    fewer = fewer[-max(bound // 2, bound - len(more)) :]
    return np.sort(np.concatenate([fewer, more[len(more) - min(bound - len(fewer), len(more)) :]]))


def _balance(labels: NDArray[np.int64]) -> tuple[float, float]:
    share = float(labels.mean())
    return 0.5 / (1.0 - share), 0.5 / share


def _built(vectors: Vectors, labels: NDArray[np.int64], k: int, honest: NDArray[np.int64]) -> _Store:
    left_out = np.random.default_rng(0).permutation(honest)[:SAMPLE]
    where, similarity = nearest(vectors[left_out], vectors, k + 1)
    itself = where == left_out[:, None]
    itself[~itself.any(axis=1), -1] = True  # among many that are equal to it it may be left out
    rows = (len(left_out), where.shape[1] - 1)
    where, similarity = where[~itself].reshape(rows), similarity[~itself].reshape(rows)
    raw = votes(similarity, labels[where], _balance(labels))
    weights, bias = fit(raw[:, None], labels[left_out])
    prior = float(np.log(labels[left_out].mean() / (1.0 - labels[left_out].mean())))  # the opinion speaks at even odds
    return _Store(vectors, labels, np.sort(similarity[:, 0]), max(float(weights[0]), 0.0), bias - prior)
