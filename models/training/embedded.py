"""Train, evaluate and export the embedded network: one command, read from top to bottom in `main`.

    python -m models.training.embedded --data ../shared/data/streets --out models/embedded --device cuda

Needs the extra `train`. About ten minutes on one card. Without `--device cuda` a smaller run, which trains the upper
half of the network, takes about an hour on two cores. What is computed is kept under --work and used again.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from models.data.labelled import Labelled, read_folder
from models.training import evaluate, export
from models.training.features import bank
from models.training.views import EVALUATED, evaluation_views, training_views

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
QUICK = {"fit": {"steps": 20}, "views": {"roadwork": 1, "clear": 1, "pasted": 1, "control": 1, "upper": 0}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 when the data or the settings are not usable."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for chatty in ("onnxscript", "onnx_ir"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    torch.set_num_threads(options.threads)
    try:
        settings = _settings(options)
        folds = tomllib.loads(options.folds.read_text())
        pictures = read_folder(options.data)
        evaluate.check_folds(pictures, folds)
    except ValueError as error:
        log.error("%s", error)
        return 2
    run(pictures, folds, settings, options)
    return 0


def run(
    pictures: Sequence[Labelled], folds: evaluate.Folds, settings: Mapping[str, Any], options: argparse.Namespace
) -> dict[str, Any]:
    """Views, folds, calibration, figures; then, unless only evaluating, the final network and its files."""
    work: Path = options.work
    trainable = [p for p in pictures if p.source not in settings["measuring_only"]]
    training = bank(training_views(trainable, close_ups(options.data), settings), settings, work / "maps")
    tested = {k: bank(evaluation_views(pictures, [k], settings), settings, work / "maps") for k in options.views}
    scores = evaluate.out_of_fold(pictures, folds, training, tested, settings, work / options.name)
    found = {
        "name": options.name,
        "settings": settings,
        **evaluate.results(scores, folds, settings["seed"], settings["unlike"]),
    }
    (work / f"{options.name}.json").write_text(json.dumps(found, indent=1))
    (work / f"{options.name}.md").write_text(evaluate.markdown(found))
    log.info("figures in %s", work / f"{options.name}.md")
    if not options.only_evaluate:
        network = evaluate.network_without("final", (), training, settings, work / options.name)
        options.out.mkdir(parents=True, exist_ok=True)
        difference = export.write_onnx(network, options.out / "roadwork.onnx")
        calibration = evaluate.calibrate_all(scores, settings["seed"], settings["unlike"])
        export.write_calibration(calibration, evaluate.share(scores), options.out / "calibration.json")
        facts = {
            "out_of_fold": _headline(found, folds),
            "difference_to_torch": difference,
            "settings": settings,
        }
        used = {s for v in training.views for s in v.sources}
        card = export.card(options.out / "roadwork.onnx", pictures, used, options.data, facts)
        (options.out / "model_card.json").write_text(json.dumps(card, indent=2) + "\n")
        log.info("written to %s", options.out)
    return found


def close_ups(root: Path) -> dict[str, list[Path]]:
    """`<root>/<source>/objects/*`: pictures of single work-zone objects, by source."""
    found: dict[str, list[Path]] = {}
    for path in sorted(root.resolve().glob("*/objects/*")):
        found.setdefault(path.parent.parent.name, []).append(path)
    return found


def _headline(found: Mapping[str, Any], folds: evaluate.Folds) -> dict[str, Any]:
    """The few figures that belong on a card: pooled per kind of view, and MCC per fold."""
    kinds = found["kinds"]
    return {
        kind: {
            "pooled": {m: kinds[kind]["pooled"][m] for m in ("mcc", "auc", "ece")},
            "streets": {m: kinds[kind]["streets"][m] for m in ("mcc", "auc", "ece")},
            "folds_mcc": {name: kinds[kind]["folds"][name]["mcc"] for name in folds if name in kinds[kind]["folds"]},
        }
        for kind in kinds
    }


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    settings = tomllib.loads((options.settings or HERE / f"{options.device}.toml").read_text())
    if options.quick:
        for table, values in QUICK.items():
            settings[table].update(values)
    for change in options.set:
        _change(settings, change)
    settings["device"] = options.device
    return settings


def _change(settings: dict[str, Any], change: str) -> None:
    """`fit.steps=400` or `side=288`. Raises ValueError for a name that the settings do not have."""
    name, _, value = change.partition("=")
    *above, key = name.split(".")
    table: Any = settings
    for part in above:
        table = table.get(part, {})
    if key not in table:
        raise ValueError(f"--set {change}: expected a name out of the settings, for example fit.steps=400")
    table[key] = tomllib.loads(f"value = {value}")["value"]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models.training.embedded", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="<source>/<roadwork|clear|objects>/*.jpg below it")
    parser.add_argument("--out", type=Path, default=HERE.parent / "embedded", help="where the shipped files go")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "streetvision-training")
    parser.add_argument("--name", default="run", help="of this run's folds and figures below --work")
    parser.add_argument("--settings", type=Path, help="default: cpu.toml or cuda.toml beside this file, by --device")
    parser.add_argument("--folds", type=Path, default=HERE / "folds.toml")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="change one setting")
    parser.add_argument("--views", nargs="+", default=list(evaluate.SERVED), choices=EVALUATED, help="views to score")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only-evaluate", action="store_true", help="figures only, no final network")
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that everything works")
    return parser


if __name__ == "__main__":
    sys.exit(main())
