"""Closed-set detectors: D-FINE, RT-DETRv2, RF-DETR, DEIMv2 through transformers, YOLO through ultralytics.

What their labels say of road work is `roadwork_classes.toml`, by the table that the catalog names. Boxes are evidence.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from models import boxes
from models.base import BadWeights, Frame
from models.boxes import Box, Classes
from models.catalog import Entry
from models.detecting import Detecting
from models.torch_model import sizes


class Detector(Detecting):
    """Any `AutoModelForObjectDetection`."""

    recorded = (1, 2, 4, 8, 16)  # at 640 pixels a larger batch fills the card no better

    def _load(self, directory: Path) -> None:
        self.processor = self._preprocessor(directory)
        self.model = self._pretrained(directory)
        self.pictures = import_module("models.pictures").Pictures(self.processor, self.device, self.dtype)
        self.forward = self._accelerated(self.model, self._found, self.pictures)
        self._labels: dict[int, str] = self.model.config.id2label
        self.table = known_classes(self.entry, list(self._labels.values()))

    def _found(self, pixels: Any) -> tuple[Any, Any]:
        """Logits (N, queries, labels) and boxes (N, queries, 4)."""
        outputs = self.model(pixel_values=pixels)
        return outputs.logits, outputs.pred_boxes

    def detect(self, frames: Sequence[Frame]) -> list[list[Box]]:
        """Boxes per frame, of labels that weigh something, at any score."""
        logits, corners = (each.float() for each in self.forward(self.pictures(frames)))
        outputs = SimpleNamespace(logits=logits, pred_boxes=corners)
        found = self.processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes(frames))
        return [
            [
                Box.of(self._labels[label], score, corners)
                for score, label, corners in zip(
                    each["scores"].tolist(), each["labels"].tolist(), each["boxes"].tolist(), strict=True
                )
                if self._labels[label].lower() in self.table.weights
            ]
            for each in found
        ]


class Yolo(Detecting):
    """A YOLO of the package ultralytics (AGPL-3.0). Its checkpoints are pickles: see `fetch --allow-pickled`."""

    one_size = True  # the package pads pictures of one size less than mixed ones
    CONFIDENCE = 0.01  # below, the package does not hand out boxes

    def _load(self, directory: Path) -> None:
        from ultralytics import YOLO

        self.model = YOLO(directory / self.entry.file, task="detect")
        self.model.to(self.device)
        self.table = known_classes(self.entry, list(self.model.names.values()))

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
                if each.names[int(label)].lower() in self.table.weights
            ]
            for each in results
        ]


def known_classes(entry: Entry, labels: Sequence[str]) -> Classes:
    """The entry's table, after checking that it knows some of the model's labels. Raises BadWeights."""
    table = boxes.classes(entry.classes)
    try:
        table.known(labels)
    except ValueError as error:
        raise BadWeights(f"{entry.key}: {error}") from None
    return table
