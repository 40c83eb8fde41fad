"""Closed-set detectors: D-FINE, RT-DETRv2, RF-DETR, DEIMv2 through transformers, YOLO through ultralytics.

What their labels say of road work is `roadwork_classes.toml`, by the table that the catalog names. Boxes are evidence.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models import boxes
from models.base import BadWeights, Frame, ModelTimeout
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
        names: dict[int, str] = self.model.config.id2label
        self._labels = [names[index] for index in range(len(names))]
        self.table = known_classes(self.entry, self._labels)
        self._weighing = np.array([label.lower() in self.table.weights for label in self._labels])

    def _found(self, pixels: Any) -> Any:
        """(N, queries, 6) float32: score, label, left, top, right, bottom (0..1). As the library's processors tell
        them: the best pairs of a query and a label, as many as there are queries."""
        import torch

        outputs = self.model(pixel_values=pixels)
        scores = outputs.logits.float().sigmoid()  # (N, queries, labels)
        best, pairs = scores.flatten(1).topk(scores.shape[1])
        query, label = pairs // scores.shape[2], pairs % scores.shape[2]
        centre, size = outputs.pred_boxes.float().chunk(2, -1)
        corners = torch.cat([centre - size / 2, centre + size / 2], -1)  # (N, queries, 4)
        corners = corners.gather(1, query[..., None].expand(-1, -1, 4))
        return torch.cat([best[..., None], label[..., None].float(), corners], -1)

    def detect(self, frames: Sequence[Frame]) -> list[list[Box]]:
        """Boxes per frame, of labels that weigh something, as `boxes.strongest` keeps them."""
        found = scaled(self.forward(self.pictures(frames)), sizes(frames))
        return [boxes.strongest(rows[self._weighing[rows[:, 1].astype(int)]], self._labels) for rows in found]


def scaled(found: Any, sizes: Sequence[tuple[int, int]]) -> NDArray[np.float32]:
    """Rows (N, queries, 6) on the card, with corners from 0 to 1, to rows on the host, with corners in pixels.

    sizes: (height, width) per picture, or of what its corners are shares of."""
    rows: NDArray[np.float32] = found.cpu().numpy()  # one copy for the batch
    rows[..., 2:] *= np.array([[[width, height, width, height]] for height, width in sizes], np.float32)
    return rows


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
        """Boxes per frame, of labels that weigh something, from a score of 0.01. Raises ModelTimeout."""
        pictures = [np.ascontiguousarray(frame.pixels[..., ::-1]) for frame in frames]  # the package wants BGR
        with _Heard("ultralytics") as heard:
            results = self.model.predict(
                pictures,
                imgsz=self.entry.input_size,
                conf=self.CONFIDENCE,
                device=self.device,
                verbose=False,
            )
        if late := next((said for said in heard.said if "time limit" in said), ""):
            raise ModelTimeout(f"{self.entry.key}: {late}; the rest of the batch of {len(frames)} has no boxes")
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


class _Heard(logging.Handler):
    """What a logger says in this thread meanwhile. A slow suppression of doubles is given up by the package, which
    tells its log only, and hands out the rest of the batch as pictures without boxes."""

    def __init__(self, logger: str) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []
        self._logger, self._thread = logging.getLogger(logger), threading.get_ident()

    def __enter__(self) -> _Heard:
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread:
            self.said.append(record.getMessage())


def known_classes(entry: Entry, labels: Sequence[str]) -> Classes:
    """The entry's table, after checking that it knows some of the model's labels. Raises BadWeights."""
    table = boxes.classes(entry.classes)
    try:
        table.known(labels)
    except ValueError as error:
        raise BadWeights(f"{entry.key}: {error}") from None
    return table
