"""Which pictures a training sees: folders, Parquet and hub data sets, mixed with weights, held out by source.

Everything becomes files in folders: rows of Parquet are written below the run's folder once. Needs no torch, so that
the miner can run a teacher over the same pictures.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.data import hub
from models.data.labelled import Labelled, close_ups, read_folder
from models.training.finetune.settings import Settings

SUBNET = "natix-network-org/roadwork"
PARTS = {"train": 0.6, "calibrate": 0.2, "test": 0.2}  # of each label's pictures, as nearly as whole sources allow
LABELS = ("clear", "roadwork")

Say = Callable[[str], None]


@dataclass(frozen=True)
class Data:
    """Pictures of all data sets. weights (N,): how often each is drawn, relative to others. sha256: of each file.

    objects: close-ups of single work-zone objects, by source.
    """

    pictures: tuple[Labelled, ...]
    weights: NDArray[np.float64]
    sha256: tuple[str, ...]
    objects: Mapping[str, Sequence[Path]] = field(default_factory=dict)

    def rows(self, sources: Iterable[str]) -> NDArray[np.int64]:
        """Where the pictures of some sources are."""
        wanted = set(sources)
        return np.array([n for n, p in enumerate(self.pictures) if p.source in wanted], dtype=np.int64)

    def of(self, rows: NDArray[np.int64]) -> list[Labelled]:
        """Some pictures."""
        return [self.pictures[n] for n in rows]

    @property
    def digest(self) -> str:
        """Names the pictures, their labels, sources and weights, and the objects."""
        known = zip(self.sha256, self.pictures, self.weights.tolist(), strict=True)
        lines = [f"{s} {p.label} {p.source} {w}" for s, p, w in known]
        for source, files in sorted(self.objects.items()):
            lines += [f"{hashlib.sha256(file.read_bytes()).hexdigest()} {source}" for file in files]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def read(settings: Settings, say: Say = lambda text: None) -> Data:
    """All pictures that `settings.data` names; of files with equal bytes only the first is kept.

    Raises ValueError that says what was expected, ModuleNotFoundError when Parquet cannot be read here.
    """
    pictures: list[Labelled] = []
    weights: list[float] = []
    digests: dict[str, int] = {}
    objects: dict[str, list[Path]] = {}
    barred = set(settings.without.read_text(encoding="utf-8").splitlines()) if settings.without else set()
    for spec in settings.data:
        name, weight = weighted(spec)
        folder = _as_folder(name, settings, say)
        found = read_folder(folder)
        for source, files in close_ups(folder).items():
            objects.setdefault(source, []).extend(files)
        for picture in found:
            digest = hashlib.sha256(picture.path.read_bytes()).hexdigest()
            if {digest, picture.group} & barred:
                continue
            if digest not in digests:
                digests[digest] = picture.label
                pictures.append(picture)
                weights.append(weight)
            elif digests[digest] != picture.label:
                raise ValueError(f"{picture.path}: the same picture occurs with both labels; remove one of the two")
        say(f"{name}: {len(found)} pictures, weight {weight:g}")
    return Data(tuple(pictures), np.array(weights), tuple(digests), objects)


def weighted(spec: str) -> tuple[str, float]:
    """`streets:2` -> ("streets", 2.0); without a number the weight is 1. Raises ValueError unless it is above 0."""
    name, _, number = spec.rpartition(":")
    if not name or not re.fullmatch(r"[\d.eE+-]+", number):
        return spec, 1.0
    try:
        weight = float(number)
    except ValueError:
        weight = 0.0
    if not 0 < weight < float("inf"):
        raise ValueError(f"--data {spec}: expected a weight above 0 behind the colon, got {number}")
    return name, weight


def _as_folder(name: str, settings: Settings, say: Say) -> Path:
    """The folder of pictures that a name of `--data` stands for, written first if it is Parquet."""
    path = Path(name).expanduser()
    if path.is_dir():
        return _written(str(path.resolve()), path.resolve().name, settings, say) if hub.tables(path) else path
    if name == "hub" or re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        whole = SUBNET if name == "hub" else name
        return _written(whole, whole.partition("/")[2], settings, say)
    raise ValueError(f"--data {name}: expected a folder, hub, or OWNER/NAME of a data set on the hub; no such folder")


def _written(dataset: str, name: str, settings: Settings, say: Say) -> Path:
    """Rows of a data set as files: <out>/pictures/<name>-<what was asked>/<source>/<label>/<sha256>.jpg. All or
    nothing, and once for each data set, column and number of rows."""
    asked = repr((dataset, settings.source_column, settings.most_rows))
    goal = settings.out / "pictures" / f"{plain(name)}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"
    if goal.is_dir():
        return goal
    say(f"{dataset}: writing its pictures to {goal}")
    draft = goal.with_name(goal.name + ".part")
    shutil.rmtree(draft, ignore_errors=True)
    column = settings.source_column
    for row in islice(hub.stream(dataset), settings.most_rows):
        if column not in row and "source_column" in settings.model_fields_set:
            raise ValueError(f"--source-column {column}: {dataset} has no such column, but {', '.join(sorted(row))}")
        try:
            usable = list(hub.usable([row]))  # a row that contradicts itself is dropped, as validators drop it
        except ValueError as error:
            raise ValueError(f"--data {dataset}: {error}") from None
        for kept in usable:
            source = plain(str(row.get(column) or name))
            folder = draft / source / LABELS[kept.label]
            folder.mkdir(parents=True, exist_ok=True)
            suffix = ".png" if kept.image.startswith(b"\x89PNG") else ".jpg"
            (folder / (hashlib.sha256(kept.image).hexdigest() + suffix)).write_bytes(kept.image)
    if not draft.is_dir():
        raise ValueError(f"--data {dataset}: not one usable row; expected the columns image and label (1 or 0)")
    draft.rename(goal)
    return goal


def plain(name: str) -> str:
    """Fit to be the name of a file."""
    return re.sub(r"[^\w.-]+", "-", name).strip(".-") or "data"


def split(data: Data, settings: Settings) -> dict[str, list[str]]:
    """Sources by part: train, calibrate, test. Named ones go where they were named, others to the part that lacks most.

    Raises ValueError when a part would lack a label or a group would be split: nothing is ever split at random instead.
    """
    counts = Counter((p.source, p.label) for p in data.pictures)
    for label, name in enumerate(LABELS):
        if all(p.label != label for p in data.pictures):
            raise ValueError(f"expected pictures of both labels, got {len(data.pictures)} and none of them {name}")
    sources = sorted({p.source for p in data.pictures}, key=lambda s: (-counts[s, 0] - counts[s, 1], s))
    named = {**dict.fromkeys(settings.test, "test"), **dict.fromkeys(settings.calibrate, "calibrate")}
    if strange := sorted(set(named) - set(sources)):
        raise ValueError(f"test, calibrate: no source {', '.join(strange)}; known: {', '.join(sorted(sources))}")
    totals = np.array([max(1, sum(counts[s, label] for s in sources)) for label in (0, 1)])
    load = {part: np.zeros(2) for part in PARTS}
    placed: dict[str, list[str]] = {part: [] for part in PARTS}
    for source in sorted(sources, key=lambda s: s not in named):  # named ones first, then large ones
        size = np.array([counts[source, 0], counts[source, 1]]) / totals
        part = named.get(source) or _lacking(load, size, fixed={named[s] for s in named})
        load[part] += size
        placed[part].append(source)
    poor = [f"{part} has {', '.join(placed[part]) or 'none'}" for part in PARTS if (load[part] == 0).any()]
    if poor:
        raise ValueError(
            "expected sources of both labels in each of train, calibrate and test, and a source is never split; "
            f"{'; '.join(poor)}. Add data, name a column that tells places apart (--source-column), or choose "
            "the sources with --test and --calibrate"
        )
    _require_whole_groups(data, placed)
    return placed


def _require_whole_groups(data: Data, placed: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError for near-copies (one group of a manifest) that would train here and be measured there."""
    part_of = {source: part for part, sources in placed.items() for source in sources}
    first: dict[str, Labelled] = {}
    for picture in data.pictures:
        other = first.setdefault(picture.group, picture)
        if part_of[other.source] != part_of[picture.source]:
            raise ValueError(
                f"group {picture.group} has pictures in {other.source} ({part_of[other.source]}) and {picture.source} "
                f"({part_of[picture.source]}); put both sources into one part with --test and --calibrate"
            )


def _lacking(load: dict[str, NDArray[np.float64]], size: NDArray[np.float64], fixed: set[str]) -> str:
    """The part that comes nearest to its share when it gets `size`. fixed: parts whose sources the user named."""

    def cost(part: str) -> float:
        after, before = (load[part] + size) / PARTS[part], load[part] / PARTS[part]
        return float((after**2 - before**2).sum() * PARTS[part])

    return min((part for part in PARTS if part not in fixed), key=cost)


def chances(data: Data, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """The chance of each of all pictures (N,) in a draw among `rows`: half for each label, as validators draw.

    Within a label a source counts as the root of its size, times the weight of its data set.
    """
    chosen = np.zeros(len(data.pictures), dtype=bool)
    chosen[rows] = True
    sizes = Counter((p.source, p.label) for p, own in zip(data.pictures, chosen, strict=True) if own)
    pull = np.array(
        [data.weights[n] / np.sqrt(sizes[p.source, p.label]) if chosen[n] else 0.0 for n, p in enumerate(data.pictures)]
    )
    labels = np.array([p.label for p in data.pictures])
    for label in (0, 1):
        pull[labels == label] *= 0.5 / pull[labels == label].sum()
    return np.asarray(pull / pull.sum())


def described(data: Data, parts: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """What each source gave, and to which part: for card and results."""
    counts = Counter((p.source, p.label) for p in data.pictures)
    return [
        {"source": s, "part": part, "roadwork": counts[s, 1], "clear": counts[s, 0]}
        for part, sources in parts.items()
        for s in sources
    ]
