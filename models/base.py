"""The values that models and the cascade exchange, and the contract every model keeps.

This module imports numpy only: neither a vendor's library nor the cascade is known here, so that the cascade
can be read, tested and run without any of them. One picture enters as a `Frame`; each model answers with an
`Opinion`, or raises one of the `ModelError` types. Nothing else crosses the border.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


class ModelError(Exception):
    """A model could not give an opinion. `kind` is the label that logs and metrics count it under."""

    kind = "error"


class ModelUnavailable(ModelError):
    """The model is not loaded, its library is missing, or its breaker is open."""

    kind = "unavailable"


class ModelTimeout(ModelError):
    """No opinion came within the time the request could give."""

    kind = "timeout"


class ModelCrashed(ModelError):
    """The model, or the process it lives in, died or raised while it was working."""

    kind = "crashed"


class Unrecoverable(ModelCrashed):
    """The model can never answer again in this process; a worker process ends with it and is replaced."""


class OutOfMemory(ModelError):
    """The device had no room for the batch; a smaller batch may fit."""

    kind = "out-of-memory"


class NotFinite(ModelError):
    """The model answered NaN or an infinity."""

    kind = "not-finite"


class BadWeights(ModelError):
    """Weights are missing, truncated or not the ones that were pinned. The message says how to get them."""

    kind = "bad-weights"


@dataclass(frozen=True, slots=True)
class Frame:
    """One decoded street picture.

    pixels: uint8 (H, W, 3) RGB, read-only. Models resize for themselves: preprocessing belongs to the weights.
    sha256: hexadecimal digest of the received bytes (not of the pixels).
    """

    pixels: NDArray[np.uint8]
    sha256: str

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 3 or self.pixels.shape[2] != 3:
            raise ValueError(f"expected uint8 (H, W, 3) pixels, got {self.pixels.dtype} {self.pixels.shape}")
        self.pixels.flags.writeable = False

    @classmethod
    def of(cls, pixels: NDArray[np.uint8]) -> Frame:
        """A frame from pixels alone (tools and tests); the digest is then that of the pixels."""
        pixels = np.array(pixels, order="C")  # own copy: the frame freezes what it holds
        return cls(pixels, hashlib.sha256(pixels.tobytes()).hexdigest())

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels, as received."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[0])


@dataclass(frozen=True, slots=True)
class Opinion:
    """What one model holds of one picture.

    model: key of the model in the profile.
    logit: natural log-odds of road work, finite; 0 says nothing either way.
    milliseconds: time the model's batch took, as seen by the model.
    evidence: what a person may want to see (boxes, text, reasoning): plain JSON values.
    """

    model: str
    logit: float
    milliseconds: float
    evidence: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not math.isfinite(self.logit):
            raise NotFinite(f"{self.model}: logit is {self.logit}; expected a finite number")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why one model has no opinion of one picture. kind: a `ModelError.kind`."""

    model: str
    kind: str
    detail: str
    milliseconds: float


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What is known of a model before it is loaded. Sizes in GB are 10^9 bytes of weights, per precision."""

    key: str
    task: str
    library: str
    class_name: str
    repository: str = ""
    revision: str = ""
    licence: str = ""
    gated: bool = False
    input_size: int = 0
    memory_gb: Mapping[str, float] = field(default_factory=dict)
    prompts: Sequence[str] = ()
    trust: float = 1.0


@runtime_checkable
class Model(Protocol):
    """Four verbs. A model holds no state between calls of `assess`, and is used by one thread at a time."""

    @property
    def spec(self) -> ModelSpec:
        """What the catalog says of this model."""

    def load(self, device: str) -> None:
        """Bring the weights to `device` ("cpu", "cuda:0"). Raises BadWeights or ModelUnavailable."""

    def warm_up(self) -> None:
        """Run once on a blank picture of each shape that will be served, so that the first request is not slow."""

    def assess(self, frames: Sequence[Frame]) -> list[Opinion]:
        """One opinion per frame, in order. Raises ModelError; the whole batch then has no opinion."""

    def close(self) -> None:
        """Give everything back. Safe to call twice."""
