"""What each step of a training is shown: a function of its number alone, so that a resumed run sees what it would have.

numpy and Pillow only: batches are made in the loader's processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.data.labelled import Labelled
from models.training.finetune.augment import varied
from models.training.views import read

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class Shown:
    """How pictures are drawn. chances (N,): of each picture, sums to one. targets (N, T): what is learned of each.

    batch: pictures a number, over all ranks.
    """

    pictures: Sequence[Labelled]
    chances: NDArray[np.float64]
    targets: NDArray[np.float32]
    batch: int
    side: int
    seed: int


class Batches:
    """A map-style data set of whole batches: number -> pixels uint8 (n, side, side, 3) and targets (n, T).

    rank, world: this process takes every `world`-th picture of each batch. Together they see what one alone would.
    """

    def __init__(self, shown: Shown, rank: int = 0, world: int = 1) -> None:
        self.shown, self.rank, self.world = shown, rank, world

    def __getitem__(self, number: int) -> Batch:
        s = self.shown
        rows = np.random.default_rng((s.seed, number)).choice(len(s.pictures), s.batch, p=s.chances)
        own = range(self.rank, s.batch, self.world)
        return {
            "pixels": np.stack([self._one(int(rows[place]), number, place) for place in own]),
            "targets": np.stack([s.targets[rows[place]] for place in own]),
        }

    def _one(self, row: int, number: int, place: int) -> NDArray[np.uint8]:
        rng = np.random.default_rng((self.shown.seed, number, place))
        return varied(read(self.shown.pictures[row].path), self.shown.side, rng)
