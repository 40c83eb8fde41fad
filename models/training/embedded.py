"""Train, evaluate and export the embedded network: one command, read from top to bottom in `run`.

    python -m models.training.embedded --data ../shared/data/streets --sprites sprites --device cuda

Trains every recipe of the settings and exports the mean of their weights. Needs the extra `train`; a quarter of an
hour on one card. On a CPU only `--quick` is of use: it shows that everything works.
"""

from __future__ import annotations

import argparse
import gzip
import json
import logging
import multiprocessing
import os
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from models.data.labelled import Labelled, close_ups, read_folder
from models.training import evaluate, export
from models.training.album import Album, Sprites, album, sprites
from models.training.backbone import EfficientNetLite
from models.training.fit import Member, Weights, fit
from models.training.views import EVALUATED, Pixels, evaluation_views, render

log = logging.getLogger(__name__)

HERE = Path(__file__).parent
SERVED = [kind for kinds in evaluate.SERVED.values() for kind in kinds]
EXAMPLES = 120  # pictures by which the ranges of 8 bits are set, and others by which they are checked
QUICK = {"drawn": 2, "pool": 64, "shapes": [[64, 128], [64, 64]], "fit": {"steps": 16, "batch": 8}}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 when the data or the settings are not usable."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for chatty in ("onnxscript", "onnx_ir"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        recipes = {
            name: settings_of(options.settings, options.device, options.set, options.quick, name)
            for name in options.recipes or recipes_of(options.settings)
        }
        folds = tomllib.loads(options.folds.read_text())
        pictures = corrected(read_folder(options.data), HERE / "corrections.toml", options.data)
        evaluate.check_folds(pictures, folds)
        for folder in options.weights:
            for name in (*folds, "final"):
                file_of(name, folder)
    except ValueError as error:
        log.error("%s", error)
        return 2
    run(pictures, folds, recipes, options)
    return 0


def run(
    pictures: Sequence[Labelled],
    folds: evaluate.Folds,
    recipes: Mapping[str, Mapping[str, Any]],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Networks of all folds and the final one; calibration and figures; then the files that ship.

    recipes: settings by name. They differ in how a network is trained, not in how it is scored.
    """
    settings = next(iter(recipes.values()))
    with Rendering() as rendering:
        coming = {kind: rendering.start(pictures, kind, settings["seed"]) for kind in options.views}
        trainings = options.weights or train(pictures, folds, recipes, options)
        networks = means(trainings, folds, pictures, settings["fit"]["variant"])
        rendered = {kind: rendering.result(futures) for kind, futures in coming.items()}
    final = networks.pop("final")
    scores = evaluate.out_of_fold(pictures, folds, networks, rendered, settings["device"])
    trained = [p.source not in settings["measuring_only"] for p in pictures]
    examples = [view for view, usable in zip(rendered[options.views[-1]], trained, strict=True) if usable]
    facts = {"mean_of": [folder.name for folder in trainings], "settings": recipes}
    return ship(final, scores, examples, pictures, folds, settings, facts, options)


def train(
    pictures: Sequence[Labelled],
    folds: evaluate.Folds,
    recipes: Mapping[str, Mapping[str, Any]],
    options: argparse.Namespace,
) -> list[Path]:
    """A folder below --work for each recipe, with the weights of every fold that has pictures, and of "final"."""
    shown = read(pictures, next(iter(recipes.values())))
    folders = []
    for recipe, settings in recipes.items():
        folder: Path = options.work / recipe
        folder.mkdir(parents=True, exist_ok=True)
        names = [f"{recipe}/{name}" for name in (*folds, "final")]
        members = members_of(names, {recipe: settings["fit"]}, folds, pictures, settings)
        log.info("%s: %d networks", recipe, len(members))
        things = things_of(options.data, options.sprites, settings)
        fit(members, shown, things, settings, done=partial(keep, folder=folder))
        folders.append(folder)
    return folders


def means(
    trainings: Sequence[Path], folds: evaluate.Folds, pictures: Sequence[Labelled], variant: int
) -> dict[str, EfficientNetLite]:
    """The mean of several trainings' weights, for every fold that has pictures, and "final"."""
    present = {p.source for p in pictures}
    names = [*(name for name, sources in folds.items() if present & set(sources)), "final"]
    return {name: mean_of([kept(file_of(name, folder)) for folder in trainings], variant) for name in names}


def ship(
    final: EfficientNetLite,
    scores: evaluate.Scores,
    examples: Sequence[Pixels],
    pictures: Sequence[Labelled],
    folds: evaluate.Folds,
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Figures and opinions into --work, the files that a miner serves into --out.

    examples: views of training pictures. facts: how the network was made, for the card.
    """
    options.work.mkdir(parents=True, exist_ok=True)
    found = {"settings": settings, **evaluate.results(scores, folds, settings["seed"], settings["unlike"])}
    (options.work / "figures.json").write_text(json.dumps(found, indent=1))
    (options.work / "figures.md").write_text(evaluate.markdown(found))
    calibrations = evaluate.calibrate_all(scores, settings["seed"], settings["unlike"])
    told = evaluate.opinions(scores, pictures, options.data, folds, settings, calibrations)
    (options.work / "opinions.json.gz").write_bytes(gzip.compress(json.dumps(told).encode(), mtime=0))
    log.info("figures and opinions in %s", options.work)
    out: Path = options.out or options.work / "embedded"
    out.mkdir(parents=True, exist_ok=True)
    whole, small = options.work / "float.onnx", out / "roadwork.onnx"
    measured: dict[str, Any] = {"out_of_fold": headline(found, folds)}
    measured["difference_to_torch"] = export.write_onnx(final.cpu(), whole)
    export.quantise(whole, small, examples[:: max(1, len(examples) // EXAMPLES)])
    measured["difference_of_8_bits"] = export.difference(whole, small, examples[1 :: max(1, len(examples) // EXAMPLES)])
    export.write_calibrations(calibrations, evaluate.share(scores), out / "calibration.json")
    card = export.card(small, final.variant, pictures, settings["measuring_only"], options.data, {**facts, **measured})
    (out / "model_card.json").write_text(json.dumps(card, indent=2) + "\n")
    log.info("written to %s", out)
    return found


def corrected(pictures: Sequence[Labelled], file: Path, root: Path) -> list[Labelled]:
    """The pictures with the labels that `corrections.toml` gives for some of them."""
    wrong = {(root.resolve() / c["path"]): c["label"] for c in tomllib.loads(file.read_text())["picture"]}
    return [replace(p, label=wrong.get(p.path, p.label)) for p in pictures]


def members_of(
    names: Sequence[str],
    variants: Mapping[str, Mapping[str, Any]],
    folds: evaluate.Folds,
    pictures: Sequence[Labelled],
    settings: Mapping[str, Any],
) -> list[Member]:
    """`variant/fold`, or `variant/final` for all sources; without folds of which there is no picture."""
    present = {p.source for p in pictures}
    pairs = [name.split("/") for name in names]
    return [
        Member(f"{v}/{f}", {*folds.get(f, ()), *settings["measuring_only"]}, variants[v], settings["seed"])
        for v, f in pairs
        if f == "final" or present & set(folds[f])
    ]


def read(pictures: Sequence[Labelled], settings: Mapping[str, Any]) -> Album:
    """What is trained on, on the device."""
    trainable = [p for p in pictures if p.source not in settings["measuring_only"]]
    log.info("reading %d pictures", len(trainable))
    return album(trainable, settings["device"])


def things_of(data: Path, rendered: Path | None, settings: Mapping[str, Any]) -> Sprites:
    """What is pasted, on the device."""
    files = sprites_of(rendered, settings["left_out"])
    bank = sprites(close_ups(data), files, settings["seed"], settings["device"], settings["drawn"])
    log.info("%d sprites", len(bank.sources))
    return bank


def keep(name: str, network: EfficientNetLite, folder: Path) -> None:
    """The weights in half precision, as soon as they are there."""
    weights = {key: value.half() for key, value in network.state_dict().items()}
    torch.save(weights, folder / f"{name.replace('/', '-')}.pt")


def kept(file: Path) -> Weights:
    """What `keep` wrote there, in single precision."""
    return {key: value.float() for key, value in torch.load(file, "cpu").items()}


def file_of(name: str, folder: Path) -> Path:
    """What `keep` wrote of one fold, or of "final". Raises ValueError unless it is there, and of one training only."""
    files = sorted(folder.glob(f"*-{name}.pt"))
    if len(files) != 1:
        raise ValueError(f"--weights {folder}: expected one file *-{name}.pt, found {len(files)}")
    return files[0]


def mean_of(weights: Sequence[Weights], variant: int) -> EfficientNetLite:
    """The network with the mean of several trainings' weights: as fast as one, and often better than each of them.

    variant: which EfficientNet-Lite. All must have started from the same weights.
    Model soups, Wortsman et al. 2022, https://arxiv.org/abs/2203.05482.
    """
    network = EfficientNetLite(variant)
    network.load_state_dict({key: torch.stack([w[key] for w in weights]).mean(0) for key in weights[0]})
    return network.to(memory_format=torch.channels_last).eval()


class Rendering:
    """Views for evaluation, rendered by other processes while the networks train."""

    def __enter__(self) -> Rendering:
        workers = max(1, (os.cpu_count() or 1) - 2)
        self._pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("forkserver"))
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def start(self, pictures: Sequence[Labelled], kind: str, seed: int) -> list[Future[list[Pixels]]]:
        """One view per picture, in parts."""
        views = evaluation_views(pictures, kind, seed)
        return [self._pool.submit(_render_all, views[n : n + 64]) for n in range(0, len(views), 64)]

    @staticmethod
    def result(parts: Sequence[Future[list[Pixels]]]) -> list[Pixels]:
        """Wait for them."""
        return [pixels for part in parts for pixels in part.result()]


def _render_all(views: Sequence[Any]) -> list[Pixels]:
    return [render(view) for view in views]


def sprites_of(folder: Path | None, left_out: Sequence[str]) -> list[Path]:
    """What `render_sprites` wrote there, without some kinds; nothing without a folder."""
    return [path for path in sorted(folder.glob("*.png")) if path.name.split("-")[1] not in left_out] if folder else []


def headline(found: Mapping[str, Any], folds: evaluate.Folds) -> dict[str, Any]:
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


def recipes_of(file: Path | None) -> list[str]:
    """Names of the trainings whose mean ships."""
    return list(tomllib.loads((file or HERE / "settings.toml").read_text())["recipes"])


def settings_of(
    file: Path | None, device: str, changes: Sequence[str] = (), quick: bool = False, recipe: str = "dense"
) -> dict[str, Any]:
    """The settings of a recipe, with changes like `fit.steps=400`. Raises ValueError for a name they do not have."""
    settings = tomllib.loads((file or HERE / "settings.toml").read_text())
    recipes = settings.pop("recipes")
    if recipe not in recipes:
        raise ValueError(f"--recipes {recipe}: expected some of {', '.join(recipes)}")
    _merge(settings, recipes[recipe])
    if quick:
        _merge(settings, QUICK)
    for change in changes:
        name, _, value = change.partition("=")
        nested = tomllib.loads(f"value = {value}")["value"]
        for part in reversed(name.split(".")):
            nested = {part: nested}
        _merge(settings, nested, f"--set {change}: ")
    settings["device"] = device
    return settings


def _merge(settings: dict[str, Any], changes: Mapping[str, Any], whose: str = "") -> None:
    for name, value in changes.items():
        if name not in settings:
            raise ValueError(f"{whose}expected names out of the settings, for example fit.steps; got {name}")
        if isinstance(value, Mapping):
            _merge(settings[name], value, whose)
        else:
            settings[name] = value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models.training.embedded", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="<source>/<roadwork|clear|objects>/*.jpg below it")
    parser.add_argument(
        "--out", type=Path, help="where the files go that a miner serves; default: WORK/embedded, not over what ships"
    )
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "streetvision-training")
    parser.add_argument(
        "--sprites", type=Path, help="what models.training.render_sprites wrote; without: drawn ones only"
    )
    parser.add_argument(
        "--weights", type=Path, nargs="+", default=[], metavar="DIR", help="no training: the mean of what these kept"
    )
    parser.add_argument("--recipes", nargs="+", metavar="NAME", help="train only these; default: all of the settings")
    parser.add_argument("--settings", type=Path, help="default: settings.toml beside this file")
    parser.add_argument("--folds", type=Path, default=HERE / "folds.toml")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="change one setting")
    parser.add_argument("--views", nargs="+", default=list(SERVED), choices=EVALUATED, help="views to score")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--quick", action="store_true", help="a few steps, to see that everything works")
    return parser


if __name__ == "__main__":
    sys.exit(main())
