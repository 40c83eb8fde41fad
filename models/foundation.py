"""Foundation encoders (DINOv3, SigLIP2, C-RADIO) with own heads: features once per picture, shared by every head.

A head file holds any number of heads; the one named "roadwork" answers, the others are evidence.
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


@dataclass(frozen=True)
class Heads:
    """Linear heads on the features of one encoder. weight (K, D) and bias (K,), float32; logits = f @ weight.T + bias.

    encoder: repository whose features they were trained on.
    """

    names: tuple[str, ...]
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    encoder: str

    def save(self, path: Path) -> None:
        from safetensors.numpy import save_file

        path.parent.mkdir(parents=True, exist_ok=True)
        told = {"names": ",".join(self.names), "encoder": self.encoder}
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
            raise BadWeights(f"{path} is no head ({error}); make one with models.foundation.fit") from None
        names = tuple(told.get("names", "").split(","))
        if ANSWER not in names or weight.shape[0] != len(names) or bias.shape != (len(names),):
            raise BadWeights(f"{path}: expected heads with one named {ANSWER!r}, got {names} and {weight.shape}")
        return cls(names, weight, bias, told.get("encoder", ""))


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
                f"`./run_miner.sh train --backbone {self.entry.key}` makes a model of your own to name in its place; "
                "a head alone is made by models.foundation.fit(features, labels) and Heads.save"
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
        logits = features @ self._heads.weight.T + self._heads.bias  # (N, K)
        return [self._told(row) for row in logits]

    def _told(self, row: NDArray[np.float32]) -> tuple[float, Mapping[str, Any]]:
        told = dict(zip(self._heads.names, (float(value) for value in row), strict=True))
        answer = told.pop(ANSWER)
        return answer, {"heads": {name: round(float(1 / (1 + np.exp(-value))), 4) for name, value in told.items()}}


def heads_path(entry: Entry) -> Path:
    """Where the operator's heads lie: the miner's state directory, by the model's key."""
    return state_directory() / "heads" / f"{entry.key}.safetensors"


def fit(features: NDArray[np.float32], labels: NDArray[np.int64], encoder: str, l2: float = 1e-2) -> Heads:
    """A road-work head: logistic regression on standardised features, both classes weighing the same.

    features (N, D); labels (N,) in {0, 1}; l2: penalty per mean sample. Raises ValueError if a class is missing.
    """
    import torch

    share = float(np.mean(labels))
    if not 0.0 < share < 1.0:
        raise ValueError("expected pictures of both labels, 0 and 1")
    mean, spread = features.mean(0), features.std(0) + 1e-6
    x = torch.from_numpy(((features - mean) / spread).astype(np.float32))
    y = torch.from_numpy(labels.astype(np.float32))
    balance = torch.where(y > 0, 0.5 / share, 0.5 / (1 - share))
    weight = torch.zeros(x.shape[1], requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Any:
        solver.zero_grad()
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(x @ weight + bias, y, balance)
        total = entropy + 0.5 * l2 * weight.square().sum()
        total.backward()
        return total

    solver.step(loss)
    folded = (weight.detach().numpy() / spread).astype(np.float32)
    offset = np.array([float(bias.detach()) - float(folded @ mean)], np.float32)
    return Heads((ANSWER,), folded[None], offset, encoder)
