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
from models.training.views import View, render

Batch = Mapping[str, Any]


@dataclass(frozen=True)
class Shown:
    """How pictures are drawn. chances (N,): of each picture, sums to one. targets (N, T): what is learned of each.

    batch: pictures a number, over all ranks. pasted: share of pictures that things are pasted into.
    """

    pictures: Sequence[Labelled]
    chances: NDArray[np.float64]
    targets: NDArray[np.float32]
    batch: int
    side: int
    seed: int
    pasted: float = 0.0


class Batches:
    """A map-style data set of whole batches: number -> pixels uint8 (n, side, side, 3) and targets (n, T).

    rank, world: this process takes every `world`-th picture of each batch. Together they see what one alone would.
    """

    def __init__(self, shown: Shown, rank: int = 0, world: int = 1) -> None:
        self.shown, self.rank, self.world = shown, rank, world
        clear = [n for n, p in enumerate(shown.pictures) if p.label == 0 and shown.chances[n] > 0]
        self._of_source: dict[str, list[int]] = {}
        for n in clear:
            self._of_source.setdefault(shown.pictures[n].source, []).append(n)
        self._clear = np.array(clear)

    def __getitem__(self, number: int) -> Batch:
        s = self.shown
        rows = np.random.default_rng((s.seed, number)).choice(len(s.pictures), s.batch, p=s.chances)
        made = [self._one(int(rows[place]), number, place) for place in range(self.rank, s.batch, self.world)]
        return {
            "pixels": np.stack([pixels for pixels, _ in made]),
            "targets": np.stack([target for _, target in made]),
        }

    def _one(self, row: int, number: int, place: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        s = self.shown
        seed = (s.seed, number, place)
        picture, target = s.pictures[row], s.targets[row]
        rng = np.random.default_rng((*seed, 1))
        if len(self._clear) and rng.random() < s.pasted:
            if picture.label:  # a clear frame that gets a work zone; what a teacher said of the frame is void
                picture, target = s.pictures[int(rng.choice(self._clear))], np.full_like(target, np.nan)
                target[0] = 1.0
                view = View("pasted", picture.path, 1, (picture.source,), seed, s.side)
            else:
                donor = s.pictures[int(rng.choice(self._of_source[picture.source]))]
                view = View("control", picture.path, 0, (picture.source,), seed, s.side, donor=donor.path)
        else:
            view = View("real", picture.path, picture.label, (picture.source,), seed, s.side)
        return render(view), target
