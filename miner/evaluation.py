"""Score labelled pictures through the cascade: the figures behind `./run_miner.sh evaluate`.

Intervals are 95 % percentile intervals of 1,000 bootstrap resamples. Pictures of one group (a camera, a city) are
near-copies, so whole groups are drawn where there are at least five of them; with fewer, pictures are drawn one by
one, and the interval is then too narrow if they resemble each other. Every row says which of the two it is.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from cascade.verdict import Verdict
from miner.assembly import frame_of
from miner.challenge import decoded, encoded
from miner.decode import MAX_PIXELS
from models import metrics
from models.base import Frame
from models.data import levels
from models.data.labelled import Labelled

Decide = Callable[[Frame], Awaitable[Verdict]]


@dataclass(frozen=True, slots=True)
class Scored:
    """What the cascade said of one labelled picture."""

    picture: Labelled
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of a set of pictures. level: 0..3 as in January 2026, None for the pictures as they are.

    overall, sources: rows as `metrics.grouped_summary` gives them.
    milliseconds: p50, p95 and p99 of the time inside the cascade.
    """

    scored: tuple[Scored, ...]
    level: int | None
    seed: int
    overall: dict[str, Any]
    sources: dict[str, dict[str, Any]]
    milliseconds: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain values for `--json`, without the single pictures."""
        return {
            "schema": 1,
            "level": "native" if self.level is None else self.level,
            "seed": self.seed,
            "overall": self.overall,
            "sources": self.sources,
            "milliseconds": self.milliseconds,
        }

    def table(self) -> Table:
        """One row a source and one for all, each figure with its interval."""
        view = "native size" if self.level is None else f"level {self.level}"
        times = " ".join(f"{name} {value:.0f} ms" for name, value in self.milliseconds.items())
        title = f"{len(self.scored)} pictures, {view}; inside the cascade {times}"
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
        table.add_column("source", overflow="fold")
        table.add_column("n", justify="right", no_wrap=True)
        for title in metrics.TITLES.values():
            table.add_column(title, justify="right", no_wrap=True)
        for name, row in sorted(self.sources.items()):
            table.add_row(name, *_cells(row))
        table.add_section()
        table.add_row("all", *_cells(self.overall), style="bold")
        return table


async def evaluate(
    pictures: Sequence[Labelled],
    decide: Decide,
    level: int | None = None,
    seed: int = 0,
    on_scored: Callable[[Scored], None] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Evaluation:
    """Ask `decide` about every picture, one after the other, and measure.

    level 0..3 changes each picture as the validators did in January 2026, their JPEG included, the same for the same
    seed; None leaves it as the file has it. on_scored: called after each picture. Raises ValueError for no pictures,
    UsageError for a file that is no picture or one of more than `max_pixels`.
    """
    if not pictures:
        raise ValueError("expected at least one labelled picture, got none")
    scored: list[Scored] = []
    for index, picture in enumerate(pictures):
        frame = await asyncio.to_thread(read, picture, level, [seed, index], max_pixels)
        scored.append(Scored(picture, await decide(frame)))
        if on_scored is not None:
            on_scored(scored[-1])
    return measured(scored, level, seed)


def read(picture: Labelled, level: int | None, seed: Sequence[int], max_pixels: int = MAX_PIXELS) -> Frame:
    """The picture as the cascade would get it."""
    frame = frame_of(picture.path, max_pixels)
    if level is None:
        return frame
    data = encoded(levels.apply(frame.pixels, level, np.random.default_rng(seed)))
    return Frame(decoded(data, str(picture.path)), hashlib.sha256(data).hexdigest())


def measured(scored: Iterable[Scored], level: int | None, seed: int) -> Evaluation:
    """The figures of what was scored."""
    scored = tuple(scored)
    by_source: dict[str, list[Scored]] = {}
    for each in scored:
        by_source.setdefault(each.picture.source, []).append(each)
    times = np.percentile([each.verdict.milliseconds for each in scored], [50, 95, 99])
    return Evaluation(
        scored=scored,
        level=level,
        seed=seed,
        overall=_row(scored, seed),
        sources={name: _row(rows, seed) for name, rows in by_source.items()},
        milliseconds=dict(zip(("p50", "p95", "p99"), (round(float(t), 2) for t in times), strict=True)),
    )


def _row(scored: Sequence[Scored], seed: int) -> dict[str, Any]:
    labels = [each.picture.label for each in scored]
    probabilities = [each.verdict.probability for each in scored]
    return metrics.grouped_summary(labels, probabilities, [each.picture.group for each in scored], seed)


def _cells(row: dict[str, Any]) -> list[str]:
    return [f"{row['n']}\n[dim]{row['positives']} work[/]", *(_cell(row[name]) for name in metrics.TITLES)]


def _cell(figure: dict[str, float | None]) -> str:
    value, interval = figure["value"], metrics.bounds(figure)
    if value is None:
        return "-"
    return f"{value:.3f}" + (f"\n[dim]{interval}[/]" if interval else "")
