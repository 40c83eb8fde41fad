"""Closed-set detectors: D-FINE, RT-DETRv2, RF-DETR, DEIMv2 through transformers, YOLO through ultralytics.

What their labels say of road work is `roadwork_classes.toml`, by the table that the catalog names. Boxes are evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from models import boxes
from models.base import BadWeights, Frame
from models.boxes import Box, Classes
from models.catalog import Entry
from models.torch_model import Answer, TorchModel, arrays, sizes


class Detector(TorchModel):
    """Any `AutoModelForObjectDetection`."""

    def _load(self, directory: Path) -> None:
        self.processor = self._preprocessor(directory)
        self.model = self._pretrained(directory)
        self._labels: dict[int, str] = self.model.config.id2label
        self._classes = known_classes(self.entry, list(self._labels.values()))

    def detect(self, frames: Sequence[Frame]) -> list[list[Box]]:
        """Boxes per frame, of labels that weigh something, at any score."""
        inputs = self.processor(arrays(frames), return_tensors="pt", device=self.device)
        inputs = {name: _to(value, self.device, self.dtype) for name, value in inputs.items()}
        outputs = self.model(**inputs)
        outputs.logits, outputs.pred_boxes = outputs.logits.float(), outputs.pred_boxes.float()
        found = self.processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes(frames))
        return [
            [
                Box.of(self._labels[label], score, corners)
                for score, label, corners in zip(
                    each["scores"].tolist(), each["labels"].tolist(), each["boxes"].tolist(), strict=True
                )
                if self._labels[label].lower() in self._classes.weights
            ]
            for each in found
        ]

    def _answer(self, frames: Sequence[Frame]) -> list[Answer]:
        return [answer(found, self._classes) for found in self.detect(frames)]


class Yolo(TorchModel):
    """A YOLO of the package ultralytics (AGPL-3.0). Its checkpoints are pickles: see `fetch --allow-pickled`."""

    one_size = True  # the package pads pictures of one size less than mixed ones
    CONFIDENCE = 0.01  # below, the package does not hand out boxes

    def _load(self, directory: Path) -> None:
        from ultralytics import YOLO

        self.model = YOLO(directory / self.entry.file, task="detect")
        self.model.to(self.device)
        self._classes = known_classes(self.entry, list(self.model.names.values()))

    def detect(self, frames: Sequence[Frame]) -> list[list[Box]]:
        """Boxes per frame, of labels that weigh something, from a score of 0.01."""
        pictures = [np.ascontiguousarray(frame.pixels[..., ::-1]) for frame in frames]  # the package wants BGR
        results = self.model.predict(
            pictures,
            imgsz=self.entry.input_size,
            conf=self.CONFIDENCE,
            device=self.device,
            verbose=False,
        )
        return [
            [
                Box.of(each.names[int(label)], score, corners)
                for score, label, corners in zip(
                    each.boxes.conf.tolist(), each.boxes.cls.tolist(), each.boxes.xyxy.tolist(), strict=True
                )
                if each.names[int(label)].lower() in self._classes.weights
            ]
            for each in results
        ]

    def _answer(self, frames: Sequence[Frame]) -> list[Answer]:
        return [answer(found, self._classes) for found in self.detect(frames)]


def known_classes(entry: Entry, labels: Sequence[str]) -> Classes:
    """The entry's table, after checking that it knows some of the model's labels. Raises BadWeights."""
    table = boxes.classes(entry.classes)
    try:
        table.known(labels)
    except ValueError as error:
        raise BadWeights(f"{entry.key}: {error}") from None
    return table


def answer(found: Sequence[Box], table: Classes) -> Answer:
    """Log-odds from the best box of each label, and the boxes that a person may want to see, best first."""
    shown = sorted((box for box in found if box.score >= boxes.SHOWN), key=lambda box: -box.score)
    return table.logit(boxes.best_scores(found)), {"boxes": [box.as_json() for box in shown[:50]]}


def _to(value: object, device: str, dtype: object) -> object:
    if not hasattr(value, "is_floating_point"):
        return value
    return value.to(device, dtype) if value.is_floating_point() else value.to(device)  # type: ignore[attr-defined]
