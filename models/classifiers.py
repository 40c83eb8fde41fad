"""Whole-picture classifiers: any `AutoModelForImageClassification`, the subnet's own ViT-B baseline first.

The log-odds are those of the label that means road work against all others, from the model's own logits. Which label
that is, its name says ("Roadwork", "road work", "construction"), or the entry's first prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from models.base import BadWeights, Frame
from models.catalog import Entry
from models.torch_model import Answer, TorchModel

MEANT = ("roadwork", "construction", "workzone")
DENIED = ("no", "not", "non", "without", "clear")


class Classifier(TorchModel):
    """An image classifier with its own head."""

    def _load(self, directory: Path) -> None:
        self.processor = self._preprocessor(directory)
        self.model = self._pretrained(directory, "AutoModelForImageClassification")
        self.pictures = import_module("models.pictures").Pictures(self.processor, self.device, self.dtype)
        self.forward = self._accelerated(self.model, self._logits, self.pictures)
        self._labels: Mapping[int, str] = self.model.config.id2label
        self._roadwork = roadwork_label(self._labels, self.entry)

    def _logits(self, pixels: Any) -> Any:
        return self.model(pixel_values=pixels).logits

    def _answer(self, frames: Sequence[Frame]) -> list[Answer]:
        logits = self.forward(self.pictures(frames)).float()  # (N, labels)
        if logits.shape[1] == 1:  # a single output is the log-odds itself
            return [(float(row[0]), {}) for row in logits.cpu()]
        others = [index for index in range(logits.shape[1]) if index != self._roadwork]
        raw = logits[:, self._roadwork] - logits[:, others].logsumexp(1)
        labels = logits.argmax(1).tolist()
        return [(value, {"label": self._labels[best]}) for value, best in zip(raw.tolist(), labels, strict=True)]


def roadwork_label(labels: Mapping[int, str], entry: Entry) -> int:
    """Index of the label that means road work. Raises BadWeights when the names do not tell."""
    if len(labels) == 1:
        return next(iter(labels))
    if entry.prompts:
        found = [index for index, name in labels.items() if name == entry.prompts[0]]
    else:
        found = [index for index, name in labels.items() if _means_roadwork(name)]
    if len(found) != 1:
        raise BadWeights(
            f"{entry.key}: which of the labels {list(labels.values())[:10]} is road work? "
            "Name it as the only prompt of the entry in the catalog"
        )
    return found[0]


def _means_roadwork(name: str) -> bool:
    words = name.lower().replace("-", " ").replace("_", " ").split()
    joined = "".join(words)
    return any(word in joined for word in MEANT) and (not words or words[0] not in DENIED)
