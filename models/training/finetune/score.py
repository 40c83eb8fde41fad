"""What a network is worth on sources it never saw: log-odds of every kind of picture, one calibration, figures.

The calibration comes from sources that neither trained nor are measured, and puts the decision of best MCC at 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.utils.data import DataLoader

from models import metrics
from models.data.labelled import Labelled
from models.embedded.model import Calibration
from models.embedded.view import resize
from models.training import evaluate
from models.training.views import evaluation_views, read, render

KINDS = ("level0", "level1", "level2", "level3", "native")  # what reaches the miner
WATCHED = 200  # calibration pictures looked at while training

Logits = Mapping[str, NDArray[np.float64]]  # by kind of picture, (N,) each
Predict = Callable[[NDArray[np.uint8]], Tensor]  # uint8 (n, side, side, 3) -> (n,) log-odds


class Tested:
    """A map-style data set: pictures as they would arrive and be resized, uint8 (side, side, 3), kind after kind."""

    def __init__(self, pictures: Sequence[Labelled], kinds: Sequence[str], side: int, seed: int) -> None:
        self._views = [view for kind in kinds for view in evaluation_views(pictures, kind, seed)]
        self._side = side

    def __len__(self) -> int:
        return len(self._views)

    def __getitem__(self, number: int) -> NDArray[np.uint8]:
        view = self._views[number]
        if view.kind == "native":
            return resize(read(view.picture), (self._side, self._side))
        return resize(render(view), (self._side, self._side))


def logits(
    predict: Predict,
    pictures: Sequence[Labelled],
    kinds: Sequence[str],
    side: int,
    *,
    seed: int,
    workers: int = 0,
    batch: int = 32,
    title: str = "",
) -> dict[str, NDArray[np.float64]]:
    """Log-odds of `pictures` in each kind, in their order. title: of a bar on the terminal; none without."""
    loader = DataLoader(
        Tested(pictures, kinds, side, seed),  # type: ignore[arg-type]  # a map-style data set by what it does
        batch_size=batch,
        num_workers=workers,
        collate_fn=np.stack,
    )
    shown = track(loader, title, console=Console(stderr=True), transient=True, disable=not title)
    with torch.inference_mode():
        every = np.concatenate([predict(pixels).float().cpu().numpy() for pixels in shown]).astype(float)
    return dict(zip(kinds, np.split(every, len(kinds)), strict=True))


def glance(predict: Predict, pictures: Sequence[Labelled], side: int, seed: int) -> dict[str, float]:
    """Two figures of some held-out pictures while training goes on: log loss and AUC, before calibration."""
    rows = np.random.default_rng(seed).permutation(len(pictures))[:WATCHED]
    some = [pictures[n] for n in rows]
    y = np.array([p.label for p in some])
    z = logits(predict, some, ["level0"], side, seed=seed)["level0"]
    loss = float(np.mean(np.logaddexp(0, z) - y * z))
    return {"held_out/log_loss": loss, "held_out/auc": metrics.auc(y, evaluate.probability(z))}


def calibrate(pictures: Sequence[Labelled], found: Logits, seed: int) -> Calibration:
    """One calibration for every kind: labels even, a source as the root of its size.

    Raises ValueError when the network ranks the pictures no better than chance: no calibration mends that.
    """
    kinds = list(found)
    ranked = metrics.auc([p.label for p in pictures], evaluate.probability(found[kinds[-1]]))
    if ranked <= 0.5:
        raise ValueError(
            f"nothing was learned that holds for other sources: on {len(pictures)} calibration pictures AUC is "
            f"{ranked:.3f}; train for more steps, with more data, or with other sources under --calibrate"
        )
    labels = np.tile([p.label for p in pictures], len(kinds))
    sources = np.tile([p.source for p in pictures], len(kinds))
    return evaluate.calibrate(labels, np.concatenate([found[kind] for kind in kinds]), sources, seed)


def figures(pictures: Sequence[Labelled], found: Logits, calibration: Calibration, seed: int) -> dict[str, Any]:
    """For JSON: {kind: {"all": summary, "before": summary of the raw log-odds, "sources": {source: summary}}}.

    Intervals draw whole groups (a camera, a place) where there are five or more, else single pictures.
    """
    labels = np.array([p.label for p in pictures])
    sources = np.array([p.source for p in pictures])
    groups = np.array([p.group for p in pictures])
    result = {}
    for kind, z in found.items():
        p = evaluate.probability(calibration.slope * (z - calibration.shift))
        of = {str(s): np.flatnonzero(sources == s) for s in np.unique(sources)}
        result[kind] = {
            "all": metrics.grouped_summary(labels, p, groups.tolist(), seed),
            "before": metrics.grouped_summary(labels, evaluate.probability(z), groups.tolist(), seed),
            "sources": {
                s: metrics.grouped_summary(labels[rows], p[rows], groups[rows].tolist(), seed) for s, rows in of.items()
            },
        }
    return result


def markdown(measured: Mapping[str, Any]) -> str:
    """Two tables: every kind of picture, then every source."""
    lines = [
        "| picture | n | road work | " + " | ".join(metrics.TITLES.values()) + " | ECE before |",
        "|---|" + "---|" * 8,
    ]
    for kind, rows in measured.items():
        row = rows["all"]
        cells = " | ".join(metrics.told(row[name]) for name in metrics.TITLES)
        lines.append(f"| {kind} | {row['n']} | {row['positives']} | {cells} | {metrics.told(rows['before']['ece'])} |")
    kinds = list(measured)
    lines += ["", "| source | n | road work | " + " | ".join(f"accuracy, MCC {k}" for k in kinds) + " |"]
    lines.append("|---|" + "---|" * (2 + len(kinds)))
    for source, first in measured[kinds[0]]["sources"].items():
        rows = [measured[kind]["sources"][source] for kind in kinds]
        cells = [f"{row['accuracy']['value']:.3f}, {metrics.told(row['mcc'])}" for row in rows]
        lines.append(f"| {source} | {first['n']} | {first['positives']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def diagram(pictures: Sequence[Labelled], found: Logits, calibration: Calibration, path: Path, bins: int = 10) -> None:
    """The reliability diagram of all kinds together, before and after calibration, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    labels = np.tile([p.label for p in pictures], len(found))
    z = np.concatenate(list(found.values()))
    figure = Figure(figsize=(5, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.6", linewidth=1)
    for name, log_odds in (("before", z), ("after", calibration.slope * (z - calibration.shift))):
        p = evaluate.probability(log_odds)
        columns = metrics.reliability(labels, p, bins)
        said, seen = [b.mean_probability for b in columns], [b.share_of_roadwork for b in columns]
        sizes = [200 * b.count / len(labels) + 10 for b in columns]
        axes.plot(said, seen, linewidth=1)
        axes.scatter(said, seen, s=sizes, label=f"{name} calibration, ECE {metrics.ece(labels, p, bins):.3f}")
    axes.set(xlabel="probability said", ylabel="share that was road work", xlim=(0, 1), ylim=(0, 1))
    axes.set_title(f"{len(pictures)} pictures of sources never seen, {len(found)} kinds of each", fontsize=9)
    axes.legend(loc="upper left")
    figure.savefig(path, dpi=120)
