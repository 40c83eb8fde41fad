"""What each means brings: variants of the training settings, trained side by side and scored on held-out sources.

    python -m benchmarks.sweep_embedded --data ../shared/data/streets --out runs/sweep --device cuda \\
        --networks pasted/dashcam pasted/germany dense/dashcam dense/germany --set fit.steps=300

Prints a table and writes `sweep.json`, `sweep.md`, `<variant>-<fold>.pt` (weights in half precision) and
`<variant>.npz` (out-of-fold logits by kind of view, in the order of the pictures' paths, which it holds too).
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from models import metrics
from models.data.labelled import read_folder
from models.training import embedded, evaluate
from models.training.backbone import EfficientNetLite
from models.training.evaluate import best_threshold, probability
from models.training.fit import fit

# Changes of `fit` against settings.toml, one means each.
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "dense": {},
    "pasted": {"dense_loss": 0.0},
    "plain": {"dense_loss": 0.0, "pasted_share": 0.0},
    "whole-network": {"frozen": 0},
    "slow": {"learning_rate": 3e-4},
    "lite1": {"variant": 1, "frozen": 4},
    "lite2": {"variant": 2, "frozen": 4},
    "anchor": {"anchor": 0.3},
    "lite1-pasted": {"variant": 1, "frozen": 4, "dense_loss": 0.0},
    "lite1-anchor": {"variant": 1, "frozen": 4, "anchor": 0.3},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    began = time.monotonic()
    settings = embedded.settings_of(None, options.device, options.set, options.quick)
    folds = tomllib.loads((embedded.HERE / "folds.toml").read_text())
    names = options.networks or [f"dense/{fold}" for fold in (*folds, "final")]
    pictures = embedded.corrected(read_folder(options.data), embedded.HERE / "corrections.toml", options.data)
    variants = {name: {**settings["fit"], **change} for name, change in VARIANTS.items()}
    members = embedded.members_of(names, variants, folds, pictures, settings)
    scored = {fold for name in names if (fold := name.split("/")[1]) != "final"}
    tested = [p for p in pictures if any(p.source in folds[fold] for fold in scored)]
    options.out.mkdir(parents=True, exist_ok=True)
    shown, things = embedded.read(pictures, settings), embedded.things_of(options.data, options.sprites, settings)
    logging.info("read after %.0f s", time.monotonic() - began)
    keep = partial(embedded.keep, folder=options.out)
    start = embedded.kept(options.start) if options.start else None
    with embedded.Rendering() as rendering:
        coming = {kind: rendering.start(tested, kind, settings["seed"]) for kind in options.views}
        networks = fit(members, shown, things, settings, keep, start)
        means = _means(networks, options.means)
        for name, network in means.items():
            keep(name, network)
        networks |= means
        logging.info("trained after %.0f s", time.monotonic() - began)
        rendered = {kind: rendering.result(parts) for kind, parts in coming.items()}
    logging.info("rendered after %.0f s", time.monotonic() - began)
    rows = {}
    for variant in dict.fromkeys(name.split("/")[0] for name in networks):
        own = {f: networks[f"{variant}/{f}"] for f in folds if f"{variant}/{f}" in networks}
        scores = evaluate.out_of_fold(tested, folds, own, rendered, options.device)
        placed = [p for p in tested if any(p.source in folds[fold] for fold in own)]
        paths = np.array([p.path.relative_to(options.data.resolve()).as_posix() for p in placed])
        logits = {kind: values.astype(np.float32) for kind, values in scores.logits.items()}
        np.savez_compressed(options.out / f"{variant}.npz", paths=paths, **logits)
        rows[variant] = _row(scores, {f: folds[f] for f in own}, settings["unlike"])
        logging.info("%s scored after %.0f s: %s", variant, time.monotonic() - began, rows[variant])
    table = _markdown(rows)
    (options.out / "sweep.json").write_text(json.dumps({"settings": settings, "rows": rows}, indent=1))
    (options.out / "sweep.md").write_text(table)
    print(table)
    logging.info("all after %.0f s", time.monotonic() - began)
    return 0


def _means(networks: Mapping[str, EfficientNetLite], asked: Sequence[str]) -> dict[str, EfficientNetLite]:
    """The means of variants' weights, `A+B/fold`, wherever all of them were trained. They must be of one size."""
    found = {}
    for mean in asked:
        parts = mean.split("+")
        for fold in [name.split("/")[1] for name in networks if name.split("/")[0] == parts[0]]:
            own = [networks[name] for part in parts if (name := f"{part}/{fold}") in networks]
            if len(own) == len(parts):
                found[f"{mean}/{fold}"] = embedded.mean_of([n.state_dict() for n in own], own[0].variant)
    return found


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
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = ["| variant | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for name, row in rows.items():
        cells = [f"{r['best']:.3f} ({r['zero']:.3f}) {r['auc']:.3f}" if (r := row.get(c)) else "-" for c in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep_embedded", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sprites", type=Path)
    parser.add_argument(
        "--networks", nargs="+", metavar="VARIANT/FOLD", help="default: all settings, every fold, final"
    )
    parser.add_argument(
        "--means", nargs="*", default=[], metavar="A+B", help="rows for means of variants' weights, too"
    )
    parser.add_argument("--start", type=Path, help="a <variant>-<fold>.pt to go on from; see models.training.fit.fit")
    parser.add_argument("--views", nargs="*", default=["native", "level1", "level3"])
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--quick", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
