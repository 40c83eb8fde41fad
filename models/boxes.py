"""Boxes of road-work objects: what they say of the whole picture, and how boxes of several detectors are fused.

What an object's presence is worth is data (`roadwork_classes.toml`). A picture's probability is a noisy-or over kinds
of object: two kinds are two witnesses, two boxes of one kind may be the same cone.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

CLASSES = Path(__file__).with_name("roadwork_classes.toml")
SHOWN = 0.3  # score from which a box is shown as evidence
FAINT = 0.05  # below, only the best box of its label says anything
MOST = 100  # boxes of one detector and picture, the best of each label beside them
FLOOR = 1e-6  # probabilities are kept this far from 0 and 1


@dataclass(frozen=True, slots=True)
class Box:
    """One object. corners: (left, top, right, bottom) in pixels of the frame. score: 0..1."""

    label: str
    score: float
    corners: tuple[float, float, float, float]

    @classmethod
    def of(cls, label: str, score: float, corners: Sequence[float]) -> Box:
        """From a library's four numbers."""
        left, top, right, bottom = corners
        return cls(label, score, (left, top, right, bottom))

    @property
    def size(self) -> tuple[float, float]:
        """(width, height) in pixels."""
        return self.corners[2] - self.corners[0], self.corners[3] - self.corners[1]

    def as_json(self) -> dict[str, Any]:
        """Plain values, as opinions carry them in their evidence."""
        return {
            "label": self.label,
            "score": round(self.score, 4),
            "box": [round(float(corner), 1) for corner in self.corners],
        }


@dataclass(frozen=True)
class Classes:
    """One label set: weight per label (lower case), and the leak. See `roadwork_classes.toml`."""

    name: str
    leak: float
    weights: Mapping[str, float]

    def known(self, labels: Sequence[str]) -> dict[str, float]:
        """Weight of each of the labels that has one. Raises ValueError if none has."""
        found = {label: self.weights[label.lower()] for label in labels if label.lower() in self.weights}
        if not found:
            raise ValueError(
                f"none of its {len(labels)} labels ({', '.join(labels[:5])}, ...) is in {CLASSES.name} [{self.name}]; "
                "name the right table in the catalog, or add the labels there"
            )
        return found

    def logit(self, best: Mapping[str, float]) -> float:
        """Natural log-odds of road work from the best score (0..1) of each label: a leaky noisy-or."""
        clear = 1.0 - self.leak
        for label, score in best.items():
            clear *= 1.0 - self.weights.get(label.lower(), 0.0) * min(max(score, 0.0), 1.0)
        clear = min(max(clear, FLOOR), 1.0 - FLOOR)
        return math.log((1.0 - clear) / clear)


@cache
def classes(name: str, path: Path = CLASSES) -> Classes:
    """A table of `roadwork_classes.toml`. Raises ValueError naming what is wrong."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    if name not in tables:
        raise ValueError(f"expected a table of {path.name} ({', '.join(tables)}), got {name!r}")
    weights = {label.lower(): float(weight) for label, weight in tables[name].items()}
    if wrong := {label: weight for label, weight in weights.items() if not 0.0 <= weight < 1.0}:
        raise ValueError(f"{path.name} [{name}]: expected weights in [0, 1), got {wrong}")
    return Classes(name, weights.pop("leak"), weights)


def all_classes(path: Path = CLASSES) -> list[Classes]:
    """Every table of `roadwork_classes.toml`: all labels that a detector may point with."""
    return [classes(name, path) for name in tomllib.loads(path.read_text(encoding="utf-8"))]


def merged(tables: Sequence[Classes]) -> Classes:
    """One label set of several: each label at its largest weight, the leak of the table that sees the most."""
    weights: dict[str, float] = {}
    for table in tables:
        weights |= {label: max(weight, weights.get(label, 0.0)) for label, weight in table.weights.items()}
    return Classes("+".join(sorted({table.name for table in tables})), min(table.leak for table in tables), weights)


def strongest(rows: NDArray[np.float32], labels: Sequence[str]) -> list[Box]:
    """Boxes of one picture that say something, best first: the best of each label, and the `MOST` best from `FAINT` on.

    rows: (queries, 6), each score, index of its label, left, top, right, bottom in pixels.
    """
    rows = rows[np.argsort(-rows[:, 0], kind="stable")]
    told = (np.arange(len(rows)) < MOST) & (rows[:, 0] >= FAINT)
    told[np.unique(rows[:, 1], return_index=True)[1]] = True
    return [Box.of(labels[int(label)], score, corners) for score, label, *corners in rows[told].tolist()]


def best_scores(boxes: Sequence[Box]) -> dict[str, float]:
    """Highest score of each label."""
    best: dict[str, float] = {}
    for box in boxes:
        best[box.label] = max(box.score, best.get(box.label, 0.0))
    return best


def fuse(found: Sequence[Sequence[Box]], weights: Sequence[float] | None = None, iou: float = 0.55) -> list[Box]:
    """Weighted boxes fusion (Solovyev et al., arXiv 1910.13302) of the boxes of several detectors, best first.

    found: per detector its boxes; weights: per detector, 1 by default. Boxes of one label that overlap by more than
    `iou` become one, its corners weighted by score; its score is the weighted mean, times the share of the detectors
    (by weight) that saw it. Raises ValueError if the counts differ.
    """
    trust = [1.0] * len(found) if weights is None else list(weights)
    if len(trust) != len(found):
        raise ValueError(f"expected one weight per detector ({len(found)}), got {len(trust)}")
    fused: list[Box] = []
    for label in {box.label for boxes in found for box in boxes}:
        rows = [
            (box.score * weight, weight, index, *box.corners)
            for index, (boxes, weight) in enumerate(zip(found, trust, strict=True))
            for box in boxes
            if box.label == label
        ]
        fused += _fuse_label(label, sorted(rows, key=lambda row: -row[0]), sum(trust), iou)
    return sorted(fused, key=lambda box: -box.score)


def agreement(found: Sequence[Sequence[Box]], iou: float = 0.55, score: float = SHOWN) -> float:
    """Share of detectors, 0..1, that see the object that most of them see: the plan's 7-of-10 vote as a feature."""
    if not found:
        return 0.0
    kept = [[box for box in boxes if box.score >= score] for boxes in found]
    seen = [
        sum(any(other.label == box.label and _overlap(box, other) > iou for other in boxes) for boxes in kept)
        for own in kept
        for box in own
    ]
    return max(seen, default=0) / len(found)


def _fuse_label(label: str, rows: Sequence[tuple[float, ...]], total: float, iou: float) -> list[Box]:
    clusters: list[list[tuple[float, ...]]] = []
    centres: list[NDArray[np.float64]] = []
    for row in rows:
        corners = np.array(row[3:])
        overlaps = [_iou(centre, corners) for centre in centres]
        nearest = int(np.argmax(overlaps)) if overlaps else -1
        if nearest >= 0 and overlaps[nearest] > iou:
            clusters[nearest].append(row)
            centres[nearest] = _centre(clusters[nearest])
        else:
            clusters.append([row])
            centres.append(corners)
    return [
        Box.of(label, _score(cluster, total), centre.tolist())
        for cluster, centre in zip(clusters, centres, strict=True)
    ]


def _centre(cluster: Sequence[tuple[float, ...]]) -> NDArray[np.float64]:
    rows = np.array(cluster)
    centre: NDArray[np.float64] = (rows[:, 3:] * rows[:, :1]).sum(0) / rows[:, 0].sum()
    return centre


def _score(cluster: Sequence[tuple[float, ...]], total: float) -> float:
    """Weighted mean of the scores, times the share of the detectors that saw it."""
    weight = sum(row[1] for row in cluster)
    seen_by = {int(row[2]): row[1] for row in cluster}
    return sum(row[0] for row in cluster) / weight * min(sum(seen_by.values()), total) / total


def _iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return float(both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both))


def _overlap(a: Box, b: Box) -> float:
    return _iou(np.array(a.corners), np.array(b.corners))
