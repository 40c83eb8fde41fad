"""Fine-tuning of the blocks above the cut, from kept views. Seeded: same views, same settings, same weights."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from models.training.backbone import EfficientNetLite, pretrained
from models.training.features import Bank
from models.training.views import View

log = logging.getLogger(__name__)
BATCH = 64


def chances(views: Sequence[View], held_out: Collection[str], how: Mapping[str, Any]) -> NDArray[np.float64]:
    """How often each view is drawn: half of the draws are road work; a source counts as the root of its size.

    Views with a single pixel of a held-out source are never drawn.
    """
    usable = [n for n, view in enumerate(views) if not set(view.sources) & set(held_out)]
    sizes = Counter(_origin(views[n]) for n in usable)
    shares = _shares({origin[:2] for origin in sizes}, how)
    roots: dict[tuple[str, int], float] = defaultdict(float)
    for (kind, label, _), size in sizes.items():
        roots[kind, label] += math.sqrt(size)
    weights = np.zeros(len(views))
    for n in usable:
        kind, label, _ = origin = _origin(views[n])
        weights[n] = shares[kind, label] / roots[kind, label] / math.sqrt(sizes[origin])
    total: float = weights.sum()
    return np.asarray(weights / total)


def _origin(view: View) -> tuple[str, int, str]:
    return view.kind, view.label, view.sources[0]


def _shares(present: Collection[tuple[str, int]], how: Mapping[str, Any]) -> dict[tuple[str, int], float]:
    """The share of its label that each kind of view gets; real pictures get what the others leave."""
    wished = {
        ("pasted", 1): how["pasted_share"],
        ("control", 0): how["control_share"],
        ("upper", 0): how["upper_share"],
    }
    shares = {key: share for key, share in wished.items() if key in present}
    for label in (0, 1):
        shares["real", label] = 1 - sum(share for (_, of), share in shares.items() if of == label)
    return shares


def fit(bank: Bank, held_out: Collection[str], settings: Mapping[str, Any]) -> EfficientNetLite:
    """A network trained on every view of `bank` that shows no held-out source."""
    how, cut, device = settings["fit"], settings["cut"], settings["device"]
    torch.manual_seed(settings["seed"])
    network = pretrained(settings["variant"], dropout=0.2).train().to(device)
    body = [p for name, p in network.named_parameters() if _learns(name, cut, how["depthwise"])]
    network.requires_grad_(False)
    for parameter in (*body, *network.classifier.parameters()):
        parameter.requires_grad_(True)
    groups = [
        {"params": body, "lr": how["learning_rate"]},
        {"params": network.classifier.parameters(), "lr": how["learning_rate"] * how["head_factor"]},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=how["weight_decay"])
    peaks = [g["lr"] for g in groups]
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, how["steps"], pct_start=0.2)
    weights = chances(bank.views, held_out, how)
    labels = np.array([v.label for v in bank.views], dtype=np.float32)
    rng = np.random.default_rng(settings["seed"])
    average: nn.Module | None = None
    began, losses = time.monotonic(), []
    for step in range(how["steps"]):
        drawn = rng.choice(len(weights), how["batch"], p=weights)
        target = torch.from_numpy(labels[drawn]).to(device) * (1 - 2 * how["smoothing"]) + how["smoothing"]
        logits = bank.logits(network, drawn, cut, device)
        loss = functional.binary_cross_entropy_with_logits(logits.float(), target)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(body, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())
        if step >= how["average_from"] * how["steps"]:
            average = _averaged(average, network, how["average_rate"])
        if step % 50 == 49:
            log.info("step %d, loss %.3f, %.0f s", step + 1, torch.stack(losses[-50:]).mean(), time.monotonic() - began)
    assert isinstance(average, EfficientNetLite)
    return average.eval().cpu()


def _learns(name: str, cut: int, depthwise: bool) -> bool:
    """The convolutions above the cut; of depthwise ones only if asked for."""
    part, *rest = name.split(".")
    return part == "head" or (part == "blocks" and int(rest[0]) >= cut and (depthwise or rest[1] != "depthwise"))


@torch.no_grad()
def _averaged(average: nn.Module | None, network: nn.Module, rate: float) -> nn.Module:
    """Exponential moving average of the weights: steadier than the last step's."""
    if average is None:
        return copy.deepcopy(network)
    for mean, now in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(now, rate)
    return average


@torch.inference_mode()
def predict(
    network: EfficientNetLite, bank: Bank, indices: Sequence[int], cut: int, device: str
) -> NDArray[np.float64]:
    """Logits of the views at `indices`, in that order."""
    network = network.to(device)
    logits = np.zeros(len(indices))
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for place, i in enumerate(indices):
        by_shape.setdefault(tuple(bank.shapes[i]), []).append(place)
    for places in by_shape.values():
        for start in range(0, len(places), BATCH):
            some = places[start : start + BATCH]
            out = bank.logits(network, [indices[p] for p in some], cut, device)
            logits[some] = out.float().cpu().numpy()
    return logits
