"""A logistic head on embeddings: the cheapest model that can be retrained on the operator's own labels, in seconds.

The artefact is JSON: {"weights": [D numbers], "bias", "n", "l2"}.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.base import BadWeights, Frame, ModelSpec, ModelUnavailable, Opinion
from models.logistic import fit
from models.memory import Embed, Vectors, unit

MAX_LOGIT = 8.0


@dataclass(frozen=True)
class Weights:
    """What a fit learned. vector (D,) acts on embeddings of unit length; n: labelled pictures it was fitted on."""

    vector: NDArray[np.float64]
    bias: float
    n: int
    l2: float

    def logits(self, vectors: Vectors) -> NDArray[np.float64]:
        """Log-odds at even odds (N,) of embeddings (N, D) of any scale."""
        return np.clip(unit(vectors) @ self.vector + self.bias, -MAX_LOGIT, MAX_LOGIT)

    @classmethod
    def of(cls, vectors: Vectors, labels: NDArray[np.int64], l2: float = 1.0) -> Weights:
        """Fitted on embeddings (N, D) and labels (N,). Raises ValueError when one label is missing."""
        vector, bias = fit(unit(vectors), labels, l2)
        share = float(labels.mean())
        return cls(vector, bias - float(np.log(share / (1.0 - share))), len(labels), l2)

    def save(self, path: Path) -> None:
        data = {"weights": self.vector.round(6).tolist(), "bias": self.bias, "n": self.n, "l2": self.l2}
        path.write_text(json.dumps(data) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Weights:
        """Raises BadWeights."""
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            return cls(np.array(data["weights"], float), float(data["bias"]), int(data["n"]), float(data["l2"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadWeights(f"{path}: expected a head (weights, bias, n, l2): {error}; run improve again") from error


class Head:
    """The head as a member of the cascade. embed: pictures to vectors (N, D). path: the artefact."""

    def __init__(self, embed: Embed, path: Path, key: str = "head") -> None:
        self._embed, self._path = embed, path
        self._spec = ModelSpec(key, "image classification", "numpy", "Head")
        self._weights: Weights | None = None

    @property
    def spec(self) -> ModelSpec:
        return self._spec

    def load(self, device: str) -> None:
        self._weights = Weights.read(self._path)

    def warm_up(self) -> None:
        """Nothing to warm: one product of vectors. The embedder is a model of its own, perhaps not loaded yet."""

    def assess(self, frames: Sequence[Frame]) -> list[Opinion]:
        if self._weights is None:
            raise ModelUnavailable(f"{self._spec.key} is not loaded")
        started = time.perf_counter()
        logits = self._weights.logits(self._embed(frames))
        took = 1e3 * (time.perf_counter() - started)
        return [Opinion(self._spec.key, float(z), took) for z in logits]

    def close(self) -> None:
        self._weights = None
