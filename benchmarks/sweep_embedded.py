"""What each means brings: variants of the training settings, trained side by side and scored on held-out sources.

    python -m benchmarks.sweep_embedded --data ../shared/data/streets --out runs/sweep --device cuda \\
        --folds dashcam germany --variants plain pasted dense --set fit.steps=300

Prints a table and writes `sweep.json`, `sweep.md`, `weights.pt` (half precision, by variant and fold) and
`logits.npz` (out of fold, by variant and kind of view). With `--final VARIANT` that variant is trained on all sources too.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models import metrics
from models.data.labelled import read_folder
from models.training import embedded, evaluate
from models.training.evaluate import best_threshold, probability

# Changes of `fit` against settings.toml, one means each.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "all": {},
    "plain": {"pasted_share": 0.0, "control_share": 0.0, "upper_share": 0.0, "dense_loss": 0.0},
    "pasted": {"dense_loss": 0.0},
    "less-pasted": {"pasted_share": 0.3, "control_share": 0.2},
    "whole-network": {"frozen": 0},
    "slow": {"learning_rate": 3e-4},
    "fast": {"learning_rate": 1.2e-3},
    "dense-strong": {"dense_loss": 1.0},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    began = time.monotonic()
    settings = embedded.settings_of(None, options.device, options.set, options.quick)
    every = tomllib.loads((embedded.HERE / "folds.toml").read_text())
    folds = {name: every[name] for name in options.folds or every}
    pictures = read_folder(options.data)
    tested = [p for p in pictures if any(p.source in fold for fold in folds.values())]
    variants = {name: {**settings["fit"], **VARIANTS[name]} for name in options.variants}
    things = embedded.close_ups(options.data), embedded.sprites_of(options.sprites)
    with embedded.Rendering() as rendering:
        coming = {kind: rendering.start(tested, kind, settings["seed"]) for kind in options.views}
        trained = folds if not options.final else {**folds, "final": ()}
        networks = embedded.train(variants, trained, pictures, things, settings)
        logging.info("trained after %.0f s", time.monotonic() - began)
        rendered = {kind: rendering.result(parts) for kind, parts in coming.items()}
    logging.info("rendered after %.0f s", time.monotonic() - began)
    options.out.mkdir(parents=True, exist_ok=True)
    halves = {k: {n: v.half() for n, v in net.state_dict().items()} for k, net in networks.items()}
    for number, start in enumerate(range(0, len(halves), 2)):
        torch.save(dict(list(halves.items())[start : start + 2]), options.out / f"weights-{number}.pt")
    rows, logits = {}, {}
    for variant in variants:
        own = {fold: networks[f"{variant}/{fold}"] for fold in folds}
        scores = evaluate.out_of_fold(tested, folds, own, rendered, options.device)
        rows[variant] = _row(scores, folds, settings["unlike"])
        logits.update({f"{variant}/{kind}": values.astype(np.float32) for kind, values in scores.logits.items()})
    np.savez_compressed(options.out / "logits.npz", **logits)
    table = _markdown(rows)
    (options.out / "sweep.json").write_text(json.dumps({"settings": settings, "rows": rows}, indent=1))
    (options.out / "sweep.md").write_text(table)
    print(table)
    logging.info("all after %.0f s", time.monotonic() - began)
    return 0


def _row(scores: evaluate.Scores, folds: evaluate.Folds, unlike: Sequence[str]) -> dict[str, dict[str, float]]:
    """MCC at the best threshold, MCC at zero and AUC: for each fold and kind of view, street sources only."""
    found: dict[str, dict[str, float]] = {}
    streets = scores.of(~np.isin(scores.sources, unlike))
    for fold, members in {**folds, "streets": sorted(set(streets.sources.tolist()))}.items():
        own = streets.of(np.isin(streets.sources, members))
        if len(set(own.labels.tolist())) < 2:
            continue
        for kind, logits in own.logits.items():
            best = best_threshold(own.labels, logits)
            found[f"{fold} {kind}"] = {
                "best": metrics.mcc(own.labels, probability(logits - best)),
                "zero": metrics.mcc(own.labels, probability(logits)),
                "auc": metrics.auc(own.labels, probability(logits)),
                "threshold": best,
            }
    return found


def _markdown(rows: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    """One line per variant: best MCC (MCC at zero) AUC."""
    columns = list(next(iter(rows.values())))
    lines = ["| variant | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for name, row in rows.items():
        cells = [f"{row[c]['best']:.3f} ({row[c]['zero']:.3f}) {row[c]['auc']:.3f}" for c in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep_embedded", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sprites", type=Path)
    parser.add_argument("--variants", nargs="+", default=["all"], choices=VARIANTS)
    parser.add_argument("--folds", nargs="+", help="default: all")
    parser.add_argument("--views", nargs="+", default=["native", "level1", "level3"])
    parser.add_argument("--final", action="store_true", help="also train each variant on every source")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--quick", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
