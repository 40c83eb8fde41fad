"""What a validator asks: a street picture as it leaves for the miner, with the label that only the validator knows.

Two states of the subnet's challenge are known, called eras here after the month of their code: in `2026-01` every
picture is changed by one of four levels to 224 x 224, in `2026-05` it keeps its size and nothing is done to it. Both
then save it as JPEG at Pillow's default quality.
"""

from __future__ import annotations

import base64
import hashlib
import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from models.data import drawn, hub, labelled, levels

log = logging.getLogger(__name__)

T = TypeVar("T")
Rng = np.random.Generator
Pixels = NDArray[np.uint8]
TRIES = 20
DRAWN_SIZES = ((640, 360), (1280, 720), (960, 540), (800, 600))  # (width, height)


class Era(StrEnum):
    """A state of the subnet's challenge."""

    JANUARY = "2026-01"
    MAY = "2026-05"


@dataclass(frozen=True, slots=True)
class Challenge:
    """One request. jpeg: the encoded picture. level: 0..3, None where the era has none.

    organic: someone's real request: the label stays out of the score, for nobody knows it there.
    """

    jpeg: bytes
    label: int
    era: Era
    level: int | None
    source: str
    organic: bool

    @property
    def image(self) -> str:
        """As it goes into `ImageSynapse.image`."""
        return base64.b64encode(self.jpeg).decode("ascii")

    @property
    def sha256(self) -> str:
        """Digest of the JPEG: what the miner's trace knows the picture by."""
        return hashlib.sha256(self.jpeg).hexdigest()


class Source(Protocol):
    """Where pictures come from. kind: `drawn`, `folder` or `hub`; name: for the report.

    Pictures that cannot be read are passed over with a warning, as validators do; ValueError after `TRIES` in a row.
    """

    kind: str
    name: str

    def picture(self, label: int, rng: Rng) -> tuple[Pixels, str]:
        """A picture with that label, uint8 (H, W, 3), and the name of its origin."""


class DrawnSource:
    """Streets that the project draws: there without any data, a demonstration and not a benchmark."""

    kind = "drawn"
    name = "drawn streets"

    def picture(self, label: int, rng: Rng) -> tuple[Pixels, str]:
        size = DRAWN_SIZES[int(rng.choice(len(DRAWN_SIZES), p=(0.55, 0.15, 0.15, 0.15)))]
        return drawn.draw(int(rng.integers(2**31)), bool(label), size), "drawn"


class FolderSource:
    """Labelled pictures of a folder, each of a label as likely as the next. Raises ValueError if a label is missing."""

    kind = "folder"

    def __init__(self, root: Path) -> None:
        pictures = labelled.read_folder(root)
        self.name = str(root)
        self._by_label = {label: [p for p in pictures if p.label == label] for label in (0, 1)}
        for name, label in labelled.LABELS.items():
            if not self._by_label[label]:
                raise ValueError(f"{root}: expected pictures of both labels, found none below a folder named {name}")

    def picture(self, label: int, rng: Rng) -> tuple[Pixels, str]:
        def read(chosen: labelled.Labelled) -> tuple[Pixels, str]:
            return decoded(chosen.path.read_bytes(), str(chosen.path)), chosen.source

        return _readable(self._by_label[label], read, rng)


class HubSource:
    """The first pictures of each label of a hub data set, held in memory."""

    kind = "hub"

    def __init__(self, dataset: str) -> None:
        rows = hub.first_rows(dataset)
        self.name = dataset
        self._by_label = {label: [row for row in rows if row.label == label] for label in (0, 1)}

    def picture(self, label: int, rng: Rng) -> tuple[Pixels, str]:
        def read(chosen: hub.Row) -> tuple[Pixels, str]:
            return decoded(chosen.image, f"a picture of {self.name}"), self.name

        return _readable(self._by_label[label], read, rng)


@dataclass(frozen=True, slots=True)
class Plan:
    """How a validator chooses. eras: each as likely as the next. organic: share of requests without a label."""

    source: Source
    eras: tuple[Era, ...] = (Era.JANUARY, Era.MAY)
    organic: float = 0.0
    seed: int = 0

    def challenge(self, validator: int, index: int) -> Challenge:
        """Challenge `index` of validator `validator`: the same for the same plan, in whatever order they are asked."""
        rng = np.random.default_rng([self.seed, validator, index])
        organic = bool(rng.random() < self.organic)
        label = int(rng.integers(2))
        era = self.eras[int(rng.integers(len(self.eras)))]
        level = int(rng.integers(len(levels.LEVELS))) if era is Era.JANUARY and not organic else None
        pixels, origin = self.source.picture(label, rng)
        if level is not None:
            pixels = levels.apply(pixels, level, rng)
        return Challenge(encoded(pixels), label, era, level, origin, organic)


def _readable(candidates: Sequence[T], read: Callable[[T], tuple[Pixels, str]], rng: Rng) -> tuple[Pixels, str]:
    """One of `candidates`, each as likely as the next, that can be read."""
    for _ in range(TRIES):
        try:
            return read(candidates[int(rng.integers(len(candidates)))])
        except ValueError as error:
            log.warning("passed over: %s", error)
            last = error
    raise ValueError(f"{TRIES} pictures in a row could not be read; the last: {last}")


def encoded(pixels: Pixels) -> bytes:
    """The JPEG that validators send: Pillow's defaults, quality 75 and 4:2:0."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG")
    return buffer.getvalue()


def decoded(data: bytes, name: str) -> Pixels:
    """RGB uint8 (H, W, 3) of a JPEG or PNG. Raises ValueError that names the picture."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            return np.asarray(image.convert("RGB"))
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"{name}: expected a JPEG or PNG picture, but {error}") from error
