"""Labelled pictures of a hub data set, or of a local folder of parquet files with the same layout.

The subnet's own layout: a column `image` (a struct with the encoded `bytes`), `label` (1 road work, 0 none) and, in
some sets, `scene_description`. Validators pass over rows where the two disagree (a description without the label, or
the label without a description), so that is done here too. Needs the extra `hub`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models.installing import pip_install_extra

PER_LABEL = 200  # pictures kept of each label: enough variety, little memory
MOST_ROWS = 20_000  # read in search of them


@dataclass(frozen=True, slots=True)
class Row:
    """One picture as it was stored: the bytes of a JPEG or PNG. label: 1 road work, 0 none."""

    image: bytes
    label: int


def first_rows(dataset: str, per_label: int = PER_LABEL, most_rows: int = MOST_ROWS) -> list[Row]:
    """The first `per_label` usable rows of each label, in the data set's order; fewer where there are no more.

    dataset: a hub id such as `owner/name`, or a local folder of parquet files. Streams: nothing is stored on disk.
    Raises ModuleNotFoundError with the command to run when the library is missing, ValueError when the data set cannot
    be read or does not hold both labels.
    """
    return balanced(usable(stream(dataset)), dataset, per_label, most_rows)


def stream(dataset: str) -> Iterator[dict[str, Any]]:
    """The rows of the split `train`, one by one, their pictures still encoded."""
    try:
        import datasets
    except ModuleNotFoundError as missing:
        how = pip_install_extra("hub")
        raise ModuleNotFoundError(f"reading {dataset} needs the package datasets; run: {how}") from missing
    try:
        if Path(dataset).is_dir():
            files = [str(path) for path in tables(Path(dataset))]
            rows = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
        else:
            rows = datasets.load_dataset(dataset, split="train", streaming=True)
        if rows.features and isinstance(rows.features.get("image"), datasets.Image):
            rows = rows.cast_column("image", datasets.Image(decode=False))
        yield from rows
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        where = ":" if Path(dataset).is_dir() else ", which is no folder here:"
        raise ValueError(f"cannot read the data set {dataset}{where} {error}") from error


def tables(folder: Path) -> list[Path]:
    """The parquet files of a local data set, in order; of a journal export those with pictures."""
    exported = sorted((folder / "pictures").glob("*.parquet"))  # the export's other table has no pictures
    return exported or sorted(folder.rglob("*.parquet"))


def usable(rows: Iterable[dict[str, Any]]) -> Iterator[Row]:
    """What a validator would take of `rows`, which have at least the columns image and label."""
    for row in rows:
        missing = {"image", "label"} - row.keys()
        if missing:
            raise ValueError(f"expected the columns image and label, got {sorted(row)}")
        image = row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"]
        label = row["label"]
        contradicts = "scene_description" in row and bool(row["scene_description"]) != bool(label)
        if isinstance(image, bytes) and image and label in (0, 1) and not contradicts:
            yield Row(image, int(label))


def balanced(rows: Iterable[Row], name: str, per_label: int, most_rows: int) -> list[Row]:
    """The first `per_label` rows of each label among the first `most_rows`."""
    kept: list[Row] = []
    counts = {0: 0, 1: 0}
    for at, row in enumerate(rows):
        if at >= most_rows or min(counts.values()) >= per_label:
            break
        if counts[row.label] < per_label:
            counts[row.label] += 1
            kept.append(row)
    if min(counts.values()) == 0:
        raise ValueError(
            f"{name}: expected pictures of both labels, got {counts[1]} of road work and {counts[0]} clear"
        )
    return kept
