"""Foundation encoders (DINOv3, SigLIP2, C-RADIO) with own heads: features once per picture, shared by every head.

A head file holds any number of heads; the one named "roadwork" answers, the others are evidence. `train --backbone KEY
--tune head` makes one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.base import BadWeights, Frame
from models.catalog import Entry
from models.torch_model import Answer, TorchModel, state_directory

ANSWER = "roadwork"
HEAD = "head.safetensors"  # what `train` calls the file
EPSILON = 1e-5  # torch's LayerNorm's


@dataclass(frozen=True)
class Heads:
    """Linear heads on the features of one encoder. weight (K, D) and bias (K,), float32.

    encoder: repository whose features they were trained on. normalised: features are brought to mean 0 and variance 1,
    picture by picture, before (the layer normalisation of `train`, whose weights are in `weight` and `bias`).
    """

    names: tuple[str, ...]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    encoder: str
    normalised: bool = False

    def logits(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, K) of features (N, D)."""
        if self.normalised:
            features = features - features.mean(1, keepdims=True)
            features = features / np.sqrt(np.square(features).mean(1, keepdims=True) + EPSILON)
        return np.asarray(features @ self.weight.T + self.bias)

    def save(self, path: Path) -> None:
        from safetensors.numpy import save_file

        path.parent.mkdir(parents=True, exist_ok=True)
        told = {"names": ",".join(self.names), "encoder": self.encoder, "normalised": str(self.normalised)}
        save_file({"weight": self.weight, "bias": self.bias}, path, metadata=told)

    @classmethod
    def load(cls, path: Path) -> Heads:
        """Raises BadWeights when the file is no head."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "np") as stored:
                told = stored.metadata() or {}
                weight, bias = stored.get_tensor("weight"), stored.get_tensor("bias")
        except (OSError, SafetensorError) as error:
            raise BadWeights(f"{path} is no head ({error}); make one with `train --tune head`") from None
        names = tuple(told.get("names", "").split(","))
        if ANSWER not in names or weight.shape[0] != len(names) or bias.shape != (len(names),):
            raise BadWeights(f"{path}: expected heads with one named {ANSWER!r}, got {names} and {weight.shape}")
        return cls(names, weight, bias, told.get("encoder", ""), told.get("normalised") == "True")


def pooled(model: Any, pixels: Any) -> Any:
    """Features (N, D) of pixel values (N, 3, H, W)."""
    out = model(pixel_values=pixels)
    return out.summary if hasattr(out, "summary") else out.pooler_output  # C-RADIO has its own name for it


class Foundation(TorchModel):
    """An encoder and the heads that the operator trained on its features."""

    heads_file: Path | None = None  # default: heads_path(entry)

    def _load(self, directory: Path) -> None:
        path = self.heads_file or heads_path(self.entry)
        if not path.is_file():
            raise BadWeights(
                f"{self.entry.key}: no head in {path}, and an encoder alone has no opinion. "
                f"`./run_miner.sh train --backbone {self.entry.key} --tune head --data DIR --out OUT` makes one: "
                f"copy OUT/model/{HEAD} there"
            )
        self._heads = Heads.load(path)
        if self._heads.encoder != self.entry.repository:
            raise BadWeights(
                f"{self.entry.key}: {path} was trained on features of {self._heads.encoder!r}, "
                f"not of {self.entry.repository!r}"
            )
        self.processor = self._preprocessor(directory)
        self.model = self._pretrained(directory)
        self.pictures = import_module("models.pictures").Pictures(self.processor, self.device, self.dtype)
        self.forward = self._accelerated(self.model, partial(pooled, self.model), self.pictures)

    def features(self, frames: Sequence[Frame]) -> NDArray[np.float32]:
        """(N, D): the pooled output of each picture."""
        rows: NDArray[np.float32] = self.forward(self.pictures(frames)).float().cpu().numpy()
        return rows

    def _answer(self, frames: Sequence[Frame]) -> list[Answer]:
        features = self.features(frames)
        if features.shape[1] != self._heads.weight.shape[1]:
            raise BadWeights(
                f"{self.entry.key}: a head for {self._heads.weight.shape[1]} features, "
                f"the encoder has {features.shape[1]}"
            )
        return [self._told(row) for row in self._heads.logits(features)]

    def _told(self, row: NDArray[np.float32]) -> tuple[float, Mapping[str, Any]]:
        told = dict(zip(self._heads.names, (float(value) for value in row), strict=True))
        answer = told.pop(ANSWER)
        return answer, {"heads": {name: round(float(1 / (1 + np.exp(-value))), 4) for name, value in told.items()}}


def heads_path(entry: Entry) -> Path:
    """Where the operator's heads lie: the miner's state directory, by the model's key."""
    return state_directory() / "heads" / f"{entry.key}.safetensors"
