"""Tier 0: the shipped network, on one CPU core by onnxruntime.

Beside this file lie `roadwork.onnx` (uint8 (N, H, W, 3) RGB in, H and W multiples of 32; logits (N,) and pooled
features (N, D) out; normalisation inside), `calibration.json` and `model_card.json`. All three are written by
`python -m models.training.embedded`.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import BadWeights, Frame, ModelCrashed, ModelSpec, ModelUnavailable, Opinion
from models.embedded.view import SIDE, fitted, mirrored, resize
from models.installing import pip_install
from models.once import Once

HERE = Path(__file__).parent
LARGEST_BATCH = 16
WIRE = (224, 224)  # as validators send it since January 2026: a crop, which may have lost the road work
WARM_SIZES = (WIRE, (1280, 720), (640, 480))  # and what cameras send
REMEDY = (
    "restore it with `git checkout -- models/embedded`, or train it again with "
    "`python -m models.training.embedded --data <pictures> --out models/embedded`"
)


@dataclass(frozen=True, slots=True)
class Calibration:
    """From the network's logit to log-odds: slope * (logit - shift). MCC is best at shift: 0.5 decides there."""

    slope: float
    shift: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.slope) and self.slope > 0 and math.isfinite(self.shift)):
            raise BadWeights(f"expected slope > 0 and a finite shift, got {self.slope} and {self.shift}; {REMEDY}")

    def log_odds(self, logit: float) -> float:
        """Calibrated natural log-odds; rises with `logit`."""
        return self.slope * (logit - self.shift)

    @classmethod
    def read(cls, path: Path, kind: str) -> Calibration:
        """kind: `wire` or `native`. Raises BadWeights when the file is missing or has no such calibration."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))[kind]
            return cls(float(values["slope"]), float(values["shift"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BadWeights(f"{path} cannot be read as a calibration ({error!r}); {REMEDY}") from error


@dataclass(frozen=True, slots=True)
class Seen:
    """What the network made of one picture. size: (width, height) of its input. embedding: float32 (D,)."""

    logit: float
    embedding: NDArray[np.float32]
    size: tuple[int, int]


class Embedded:
    """One logit per picture, 15 to 25 ms each on one core. Keeps `models.base.Model`, and embeds pictures for those who
    learn from them (`models.head`, `models.memory`, the journal)."""

    def __init__(self, folder: Path = HERE, threads: int = 1) -> None:
        """folder: where the three files lie. threads: cores that one batch may use."""
        self._folder = folder
        self._threads = threads
        self._session: Any = None
        self._calibrations: dict[str, Calibration] = {}
        self._once = Once(self._look)
        self.spec = ModelSpec(
            key="embedded",
            task="classification",
            library="onnxruntime",
            class_name="models.embedded.model.Embedded",
            repository="models/embedded",
            licence="see models/embedded/README.md",
            input_size=SIDE,
            memory_gb={"int8": 0.0038},
        )

    def load(self, device: str) -> None:
        """Check the weights against the card and open them. Raises BadWeights, ModelUnavailable."""
        if device != "cpu":
            raise ModelUnavailable(f"the embedded network runs on cpu, got device {device!r}; set its device to cpu")
        try:
            import onnxruntime
        except ImportError as error:
            raise ModelUnavailable(f"onnxruntime is missing; {pip_install('onnxruntime')}") from error
        weights = _checked(self._folder / "roadwork.onnx", self._folder / "model_card.json")
        self._calibrations = {k: Calibration.read(self._folder / "calibration.json", k) for k in ("wire", "native")}
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(weights, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's errors share no public base
            raise BadWeights(f"{self._folder / 'roadwork.onnx'}: onnxruntime refused it ({error}); {REMEDY}") from error

    def warm_up(self) -> None:
        """Once through every input shape that is common."""
        for width, height in WARM_SIZES:
            self.assess([Frame.of(np.zeros((height, width, 3), np.uint8))])

    def assess(self, frames: Sequence[Frame]) -> list[Opinion]:
        """One opinion per frame, in order; frames whose input shapes agree share a batch."""
        began = time.perf_counter()
        seen = self._once(frames, fresh=True)
        milliseconds = (time.perf_counter() - began) * 1e3
        return [
            Opinion(
                self.spec.key,
                self._calibrations["wire" if frame.size == WIRE else "native"].log_odds(each.logit),
                milliseconds,
                {"raw_logit": each.logit, "input": list(each.size)},
            )
            for frame, each in zip(frames, seen, strict=True)
        ]

    def embed(self, frames: Sequence[Frame]) -> NDArray[np.float32]:
        """Embeddings (N, D) of N frames; shares the forward pass with `assess`, whoever comes first."""
        return np.stack([each.embedding for each in self._once(frames)])

    def known(self, sha256: str) -> NDArray[np.float32] | None:
        """The embedding (D,) of a picture that was just looked at; None when it is not at hand. Costs nothing."""
        seen = self._once.known(sha256)
        return None if seen is None else seen.embedding

    def close(self) -> None:
        """Give the session back."""
        self._session = None

    def _look(self, frames: Sequence[Frame]) -> list[Seen]:
        """One forward pass per batch of frames whose input shapes agree."""
        if self._session is None:
            raise ModelUnavailable("embedded: call load() before assess()")
        sizes = [fitted(*frame.size) for frame in frames]
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for place, size in enumerate(sizes):
            alike[size].append(place)
        found: dict[int, Seen] = {}
        for size, places in alike.items():
            for start in range(0, len(places), LARGEST_BATCH):
                some = places[start : start + LARGEST_BATCH]
                logits, embeddings = self._twice(np.stack([resize(frames[p].pixels, size) for p in some]))
                found |= {p: Seen(float(z), e, size) for p, z, e in zip(some, logits, embeddings, strict=True)}
        return [found[place] for place in range(len(frames))]

    def _twice(self, batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As `_run`; small pictures get the mean of their logit and that of their mirror image."""
        logits, embeddings = self._run(batch)
        if mirrored(batch.shape[2], batch.shape[1]):
            logits = (logits + self._run(np.ascontiguousarray(batch[:, :, ::-1]))[0]) / 2
        return logits, embeddings

    def _run(self, batch: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """uint8 (N, H, W, 3) -> logits (N,), embeddings (N, D)."""
        try:
            logits, embeddings = self._session.run(["logit", "embedding"], {"pixels": batch})
        except Exception as error:  # onnxruntime's errors share no public base
            raise ModelCrashed(f"embedded: onnxruntime failed on {batch.shape}: {error}") from error
        return logits, embeddings


def _checked(weights: Path, card: Path) -> bytes:
    """The file's bytes, if they are the ones the card names. Raises BadWeights."""
    try:
        expected = json.loads(card.read_text(encoding="utf-8"))["sha256"]
        content = weights.read_bytes()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadWeights(f"{weights} and {card.name} cannot be read ({error!r}); {REMEDY}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise BadWeights(f"{weights}: {card.name} expects sha256 {expected}, the file has {found}; {REMEDY}")
    return content
