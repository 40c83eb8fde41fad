"""Labelled pictures in a folder: `<anything>/<roadwork|clear>/<picture>.jpg|jpeg|png`, at any depth."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

LABELS = {"roadwork": 1, "clear": 0}
SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})


@dataclass(frozen=True, slots=True)
class Labelled:
    """One picture file. label: 1 road work, 0 none. group: pictures of one group are near-copies, never split them."""

    path: Path
    label: int
    source: str
    group: str


def read_folder(root: Path | str) -> list[Labelled]:
    """Every labelled picture below `root`, ordered by path.

    The source is the name of the folder above the label folder. A
    `manifest.csv` in the root with the columns `path` (relative to the root) and `group` gives the groups; the
    source is the group of every picture that it does not name. Raises ValueError when there is nothing to read.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"expected a folder of pictures, got {root}: no such folder")
    groups = _groups(root / "manifest.csv")
    found = [
        _labelled(path, root.resolve(), groups)
        for path in sorted(root.resolve().rglob("*"))
        if path.suffix.lower() in SUFFIXES and path.parent.name in LABELS and path.is_file()
    ]
    if not found:
        raise ValueError(
            f"no pictures in {root}: expected {root}/<source>/roadwork/*.jpg and {root}/<source>/clear/*.jpg "
            "(jpg, jpeg or png, at any depth)"
        )
    return found


def close_ups(root: Path | str) -> dict[str, list[Path]]:
    """`<source>/objects/*` at any depth: pictures of single work-zone objects on a white ground, by source."""
    found: dict[str, list[Path]] = {}
    for path in sorted(Path(root).resolve().rglob("objects/*")):
        if path.suffix.lower() in SUFFIXES:
            found.setdefault(path.parent.parent.name, []).append(path)
    return found


def _labelled(path: Path, root: Path, groups: dict[str, str]) -> Labelled:
    source = path.parent.parent.name
    return Labelled(path, LABELS[path.parent.name], source, groups.get(path.relative_to(root).as_posix(), source))


def _groups(manifest: Path) -> dict[str, str]:
    if not manifest.is_file():
        return {}
    with manifest.open(newline="", encoding="utf-8") as lines:
        rows = csv.DictReader(lines)
        missing = {"path", "group"} - set(rows.fieldnames or ())
        if missing:
            raise ValueError(f"{manifest}: expected the columns path and group, {sorted(missing)} is not there")
        return {row["path"]: row["group"] for row in rows if row["group"]}
