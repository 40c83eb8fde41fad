"""How often two different pictures are taken for one, by distance of their perceptual hashes.

    python -m benchmarks.duplicates ../shared/data/streets

Every picture is sent as validators do (levels 0 to 3), and compressed once more at quality 60. Counted, by largest
distance accepted: repeats found (the same challenge compressed again), pairs of different pictures taken for one, the
share of challenges that have any such twin, pairs whose labels differ, and pairs that are other crops of one picture.
"""

from __future__ import annotations

import io
import sys

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from miner.perceptual import dhash
from models.data.labelled import read_folder
from models.data.levels import LEVELS, apply

DISTANCES = (0, 1, 2, 3, 4, 6, 8)


def main(root: str) -> None:
    pictures = read_folder(root)
    rng = np.random.default_rng(0)
    hashes, again, labels, origin = [], [], [], []
    for number, picture in enumerate(pictures):
        rgb = np.asarray(Image.open(picture.path).convert("RGB"))
        for level in LEVELS:
            sent = compressed(apply(rgb, level, rng), 75)
            hashes.append(dhash(sent))
            again.append(dhash(compressed(sent, 60)))
            labels.append(picture.label)
            origin.append(number)
    print(f"{len(pictures)} pictures, {len(hashes)} challenges")
    report(*(np.array(values) for values in (hashes, again, labels, origin)))


def compressed(rgb: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(rgb).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


def report(hashes: NDArray, again: NDArray, labels: NDArray, origin: NDArray) -> None:  # type: ignore[type-arg]
    repeat = np.bitwise_count((hashes ^ again).view(np.uint64))
    total, other, twin, label, crop = 0, *(np.zeros(65, dtype=np.int64) for _ in range(4))
    for row in range(len(hashes)):
        away = np.bitwise_count((hashes[row] ^ hashes).view(np.uint64))
        foreign = origin != origin[row]
        total += int(foreign.sum())
        other += np.bincount(away[foreign], minlength=65)
        label += np.bincount(away[foreign & (labels != labels[row])], minlength=65)
        crop += np.bincount(np.delete(away, row)[~np.delete(foreign, row)], minlength=65)
        twin[away[foreign].min()] += 1
    print("bits  repeats found  false pairs  per million  with a twin  labels differ  other crop, same picture")
    for most in DISTANCES:
        false, n = other[: most + 1].sum(), len(hashes)
        unlike, same = label[: most + 1].sum() // 2, crop[: most + 1].sum() // 2
        print(
            f"{most:4d}  {np.mean(repeat <= most):13.4f}  {false // 2:11d}  {1e6 * false / total:11.2f}"
            f"  {twin[: most + 1].sum() / n:11.4%}  {unlike:13d}  {same:10d}"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
