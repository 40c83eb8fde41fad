"""`train`: a picture classifier on the operator's own data, from pictures to a folder that serves. Read `run` first."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from models.catalog import entries
from models.embedded.model import Calibration
from models.trained import EVERY
from models.training.finetune import data, loop, package, score
from models.training.finetune.composer import course
from models.training.finetune.network import Network, choose_what_learns, merge, pretrained
from models.training.finetune.settings import Classify, parse

log = logging.getLogger(__name__)


def main(arguments: Sequence[str]) -> None:
    """Raises ValueError and ModelError that say what to do."""
    run(parse(Classify, arguments))


def run(settings: Classify) -> dict[str, Any]:
    """Train, calibrate, measure on held-out sources, export. Gives what `results.json` holds (first process only)."""
    device = loop.accelerator(settings)
    pictures = data.read(settings, log.info)
    parts = data.split(pictures, settings)
    network = pretrained(settings.backbone, settings.side)
    choose_what_learns(network, settings.tune, settings.rank, settings.checkpointing)
    labels = np.array([[p.label] for p in pictures.pictures], np.float32)
    train(network, label_loss, pictures, parts, labels, settings, device)
    return finish(network, pictures, parts, settings, device) if device.is_main_process else {}


def label_loss(logits: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Binary cross-entropy of (N,) log-odds."""
    return functional.binary_cross_entropy_with_logits(logits.float(), batch["targets"][:, 0])


def train(
    network: torch.nn.Module,
    loss: loop.Loss,
    pictures: data.Data,
    parts: Mapping[str, Sequence[str]],
    targets: NDArray[np.float32],
    settings: Classify,
    device: Accelerator,
) -> None:
    """`network`, or a module around it, in place. targets (N, T): of all pictures; the first column is the label."""
    inner: Network = getattr(network, "student", network)
    batches, composer = course(pictures, parts, targets, inner.described.side, settings, device)
    watched = pictures.of(pictures.rows(parts["calibrate"]))
    loop.fit(
        network,
        batches,
        loss,
        settings,
        device,
        identity={**settings.deciding, "pictures": pictures.digest},
        show=composer,
        head_factor=settings.head_factor,
        watch=lambda: score.glance(predictor(inner, device), watched, inner.described.side, settings.seed),
    )


def predictor(network: Network, device: Accelerator) -> score.Predict:
    """The network on this device, in the precision it was trained in."""

    def predict(pixels: NDArray[np.uint8]) -> Tensor:
        with device.autocast():
            return network(torch.from_numpy(pixels).to(device.device))

    return predict


def finish(
    network: Network,
    pictures: data.Data,
    parts: Mapping[str, Sequence[str]],
    settings: Classify,
    device: Accelerator,
    facts: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Everything after training: calibration, figures, the folder `<out>/model`, `<out>/results.json`."""
    folder = settings.out / "model"
    folder.mkdir(parents=True, exist_ok=True)
    merge(network).eval()
    found = measure(predictor(network, device), network.described.side, pictures, parts, settings, folder)
    difference = package.write_network(network, folder)
    if settings.tune == "head" and is_encoder(settings.backbone):
        package.write_head(network, Calibration.read(folder / "calibration.json", EVERY), folder)
    package.write_profile(
        folder, settings.name, served(network, settings, device.device.type == "cuda"), _milliseconds(network)
    )
    own = {
        "description": f"{network.described.start}, trained ({settings.tune}) to tell whether road work is visible in "
        "a street picture.",
        "start": network.described.start,
        "input": f"uint8 (N, {network.described.side}, {network.described.side}, 3) RGB, the whole picture",
        "output": "(N,) log-odds, before calibration.json",
        "difference_to_torch": difference,
        **(facts or {}),
    }
    return package.finish(settings, own, data.described(pictures, parts), found)


def measure(
    predict: score.Predict,
    side: int,
    pictures: data.Data,
    parts: Mapping[str, Sequence[str]],
    settings: Any,
    folder: Path,
) -> dict[str, Any]:
    """Calibrate on one part, measure on another; writes calibration and diagram into `folder`."""
    held, tested = (pictures.of(pictures.rows(parts[part])) for part in ("calibrate", "test"))
    shared = {"seed": settings.seed, "workers": settings.workers}
    before = score.logits(predict, held, score.KINDS, side, title="Calibrating", **shared)
    calibration = score.calibrate(held, before, settings.seed)
    logits = score.logits(predict, tested, score.KINDS, side, title="Measuring", **shared)
    package.write_calibration(calibration, folder)
    score.diagram(tested, logits, calibration, folder / "reliability.png")
    return score.figures(tested, logits, calibration, settings.seed)


def served(network: Network, settings: Classify, on_card: bool) -> dict[str, Any]:
    """What the catalog says of the trained model: by torch if a card trained it and transformers builds it."""
    licences = {e.repository: e.licence for e in entries().values() if e.repository}
    torch_serves = on_card and network.described.kind == "transformers"
    size = sum(p.numel() for p in network.parameters())
    return {
        "title": f"{settings.name}: {network.described.start} trained on own data",
        "level": 0,
        "task": "image classification",
        "library": "transformers" if torch_serves else "onnxruntime",
        "adapter": "models.trained:OnCard" if torch_serves else "models.trained:Trained",
        "folder": ".",
        "licence": licences.get(network.described.start, "see README.md"),
        "parameters": round(size / 1e6, 1),
        "memory_gb": {"fp32": float(f"{size * 4e-9:.3g}"), "bf16": float(f"{size * 2e-9:.3g}")},
        "input_size": network.described.side,
        "enabled": True,
    }


def is_encoder(backbone: str) -> bool:
    """Whether profiles may ask this backbone of the catalog itself, given a head."""
    entry = entries().get(backbone)
    return entry is not None and entry.adapter == "models.foundation:Foundation"


def _milliseconds(network: Network) -> float:
    """Of one picture on this CPU, the second time: what the profile expects until it is measured where it serves."""
    side = network.described.side
    blank = torch.zeros(1, side, side, 3, dtype=torch.uint8)
    with torch.inference_mode():
        network(blank)
        began = time.perf_counter()
        network(blank)
    return max(1.0, (time.perf_counter() - began) * 1e3)
