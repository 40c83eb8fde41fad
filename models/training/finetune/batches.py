"""What each step of a training is shown: a function of its number alone, so that a resumed run sees what it would have.

numpy and Pillow only: pictures are drawn and decoded in the loader's processes. `composer` makes views of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.data.labelled import Labelled
from models.training.compose import KINDS

Batch = Mapping[str, Any]
Pixels = NDArray[np.uint8]

REAL, PASTED, CONTROL = (KINDS.index(kind) for kind in ("real", "pasted", "control"))
SMALL = 64  # pixels: what a picture is decoded to when it is only to be seen whether it can be
CONTROLS = 0.75  # of `pasted`: the share of the clear pictures that get harmless things, so that pasting tells nothing


@dataclass(frozen=True)
class Shown:
    """How pictures are drawn. chances (N,): of each picture, sums to one. targets (N, T): what is learned of each; the
    first column is the label.

    batch: pictures a number, over all ranks. edge: longest side of a decoded picture. pasted: share of the road work
    that is a clear picture with things pasted in. suppliers: how many sources there are of cut-out things.
    """

    pictures: Sequence[Labelled]
    chances: NDArray[np.float64]
    targets: NDArray[np.float32]
    batch: int
    edge: int
    seed: int
    pasted: float = 0.0
    suppliers: int = 0


class Batches:
    """A map-style data set of whole batches: number -> what `composer.Composer` makes views of.

    frames: uint8 (F, H, W, 3), the n pictures and then the donors of the controls, each at the top left. sizes: (F, 2)
    width, height. kind, donor, supplier: (n,) as `compose.Order` has them; supplier 0 has drawn things only.
    targets: (n, T); nan for what nobody said of a picture with things in it.

    rank, world: this process takes every `world`-th picture of each batch. Together they draw what one alone would.
    """

    def __init__(self, shown: Shown, rank: int = 0, world: int = 1) -> None:
        self.shown, self.rank, self.world = shown, rank, world
        clear = np.where(shown.targets[:, 0] == 0, shown.chances, 0.0)
        self._clear = clear / clear.sum()
        self._alike: dict[str, list[int]] = defaultdict(list)  # clear pictures of each source
        for n in np.flatnonzero(clear).tolist():
            self._alike[shown.pictures[n].source].append(n)

    def __getitem__(self, number: int) -> Batch:
        s = self.shown
        rng = np.random.default_rng((s.seed, number))
        rows = rng.choice(len(s.pictures), s.batch, p=s.chances)
        work, draw = s.targets[rows, 0] == 1, rng.random(s.batch)
        kind = np.where(work & (draw < s.pasted), PASTED, REAL)
        kind = np.where(~work & (draw < s.pasted * CONTROLS), CONTROL, kind)
        rows = np.where(kind == PASTED, rng.choice(len(s.pictures), s.batch, p=self._clear), rows)
        pieces = rng.random(s.batch)
        supplier = rng.integers(0, s.suppliers + 1, s.batch)
        targets = s.targets[rows].copy()
        targets[kind != REAL] = np.nan
        targets[kind == PASTED, 0], targets[kind == CONTROL, 0] = 1, 0

        own = np.arange(self.rank, s.batch, self.world)
        rows, kind = rows[own], kind[own]
        controls = np.flatnonzero(kind == CONTROL)
        donor = np.arange(len(own))
        donor[controls] = len(own) + np.arange(len(controls))
        donors = [self._donor(rows[n], pieces[own[n]]) for n in controls]
        frames = [decoded(s.pictures[n].path, s.edge) for n in (*rows, *donors)]
        return {
            "frames": _stacked(frames),
            "sizes": np.array([(f.shape[1], f.shape[0]) for f in frames], np.float32),
            "kind": kind,
            "donor": donor,
            "supplier": supplier[own],
            "targets": targets[own],
        }

    def _donor(self, row: int, draw: float) -> int:
        """Another clear picture of the same source, for pieces of it."""
        alike = self._alike[self.shown.pictures[row].source]
        return alike[int(draw * len(alike))]


def check(pictures: Sequence[Labelled]) -> None:
    """Raises ValueError naming files that cannot be decoded: before the first step, not in the thousandth."""

    def fault(picture: Labelled) -> str:
        try:
            decoded(picture.path, SMALL)
        except ValueError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor() as pool:  # Pillow decodes without the interpreter's lock
        faults = [said for said in pool.map(fault, pictures) if said]
    if faults:
        raise ValueError("\n".join([f"{len(faults)} of {len(pictures)} pictures cannot be read:", *faults[:5]]))


def decoded(path: Path, edge: int) -> Pixels:
    """The picture, at most `edge` pixels on a side. Raises ValueError naming a file that is none."""
    try:
        with Image.open(path) as file:
            file.draft("RGB", (edge, edge))  # a large JPEG is decoded at half its size or less
            picture = file.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: expected a whole JPEG or PNG; remove or mend it ({error})") from None
    picture.thumbnail((edge, edge), Image.Resampling.BILINEAR)
    return np.asarray(picture)


def _stacked(frames: Sequence[Pixels]) -> Pixels:
    """Frames of several sizes in one array that just holds them."""
    height, width = (max(frame.shape[axis] for frame in frames) for axis in (0, 1))
    whole = np.zeros((len(frames), height, width, 3), np.uint8)
    for place, frame in zip(whole, frames, strict=True):
        place[: frame.shape[0], : frame.shape[1]] = frame
    return whole
