"""Fine-tuning of several networks side by side on one device: folds, final weights, variants of settings.

Views are composed on the device, fresh at every step, for all networks in one call; each network's step is recorded
once (a CUDA graph) and replayed. Seeded: same pictures, same settings, same weights within the device's rounding.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.data.labelled import Labelled
from models.training.album import Album, Sprites
from models.training.backbone import EfficientNetLite, pretrained
from models.training.compose import KINDS, Composed, Dice, Order, allowed, compose
from models.training.wear import worn

log = logging.getLogger(__name__)
PLACE = 16  # pixels of one place of the dense head
AUGMENTED = 160  # pictures composed in one call


@dataclass(frozen=True)
class Member:
    """One network to train. held_out: sources of which it sees no pixel."""

    name: str
    held_out: Collection[str]
    how: Mapping[str, Any]
    seed: int


@dataclass(frozen=True)
class Drawing:
    """What a member may draw: (kind, picture) pairs with their chances, and a donor of pieces for each picture."""

    kinds: NDArray[np.int64]
    pictures: NDArray[np.int64]
    chances: NDArray[np.float64]
    donors: Mapping[int, NDArray[np.int64]] = field(repr=False)


def drawing(
    pictures: Sequence[Labelled], held_out: Collection[str], settings: Mapping[str, Any], how: Mapping[str, Any]
) -> Drawing:
    """Half of the draws are road work; a source counts as the root of its size. No held-out picture is drawn."""
    origins: list[tuple[int, int, int, str]] = []  # kind, picture, label, source
    clear: dict[str, list[int]] = defaultdict(list)
    for n, p in enumerate(pictures):
        if p.source in held_out:
            continue
        origins.append((KINDS.index("real"), n, p.label, p.source))
        if p.source in settings["upper_of"] and p.label:
            origins.append((KINDS.index("upper"), n, 0, p.source))
        if p.label == 0 and p.source in settings["frames"]:
            clear[p.source].append(n)
            origins += [(KINDS.index("pasted"), n, 1, p.source), (KINDS.index("control"), n, 0, p.source)]
    sizes = Counter((kind, label, source) for kind, _, label, source in origins)
    shares = _shares({(kind, label) for kind, label, _ in sizes}, how)
    roots: dict[tuple[int, int], float] = defaultdict(float)
    for (kind, label, _), size in sizes.items():
        roots[kind, label] += math.sqrt(size)
    chances = np.array(
        [shares[k, y] / roots[k, y] / math.sqrt(sizes[k, y, source]) for k, _, y, source in origins], np.float64
    )
    donors = {n: np.array(same) for same in clear.values() for n in same}
    kinds, numbers = (np.array([o[i] for o in origins], np.int64) for i in (0, 1))
    return Drawing(kinds, numbers, chances / chances.sum(), donors)


def _shares(present: Collection[tuple[int, int]], how: Mapping[str, Any]) -> dict[tuple[int, int], float]:
    """The share of its label that each kind of view gets; real pictures get what the others leave."""
    wished = {("pasted", 1): "pasted_share", ("control", 0): "control_share", ("upper", 0): "upper_share"}
    numbered = {(KINDS.index(kind), label): how[name] for (kind, label), name in wished.items()}
    shares = {key: share for key, share in numbered.items() if key in present}
    for label in (0, 1):
        shares[0, label] = 1 - sum(share for (_, of), share in shares.items() if of == label)
    return shares


class Trainer:
    """One member's network, optimiser, average and recorded steps."""

    def __init__(self, member: Member, settings: Mapping[str, Any], pool: Any) -> None:
        self.pool = pool  # of memory that recorded steps share: they run one after the other
        how, device = member.how, settings["device"]
        torch.manual_seed(member.seed)
        self.member = member
        self.network = pretrained(settings["variant"], dropout=0.2).train().to(device)
        self.frozen = how["frozen"]
        body = [p for name, p in self.network.named_parameters() if _learns(name, self.frozen)]
        fresh = [p for name, p in self.network.named_parameters() if name.split(".")[0] in _fresh(how)]
        self.network.requires_grad_(False)
        for parameter in (*body, *fresh):
            parameter.requires_grad_(True)
        self.body = body
        cuda = device != "cpu"
        groups = [
            {"params": body, "lr": torch.tensor(0.0, device=device), "share": 1.0},
            {"params": fresh, "lr": torch.tensor(0.0, device=device), "share": how["head_factor"]},
        ]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=how["weight_decay"], capturable=cuda, fused=cuda)
        self.average = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.rate = torch.tensor(1.0, device=device)
        self.device = device
        self.graphs: dict[tuple[int, ...], tuple[Any, tuple[Tensor, ...], Tensor]] = {}

    def schedule(self, step: int) -> None:
        """One cycle: up for a fifth of the steps, then down along a cosine; then averaging sets in."""
        how = self.member.how
        done = step / how["steps"]
        height = done / 0.2 if done < 0.2 else 0.5 + 0.5 * math.cos(math.pi * (done - 0.2) / 0.8)
        for group in self.optimizer.param_groups:
            group["lr"].fill_(max(how["learning_rate"] * group["share"] * height, 1e-7))
        self.rate.fill_(1.0 if done < how["average_from"] else how["average_rate"] * 1000 / how["steps"])

    def step(self, pixels: Tensor, label: Tensor, places: Tensor, known: Tensor) -> Tensor:
        """One step; the loss. Recorded at the first call of a shape, replayed later."""
        values = (pixels, label, places, known)
        if self.device == "cpu":
            return self._step(*values)
        if pixels.shape not in self.graphs:
            self.graphs[pixels.shape] = self._record(values)
        graph, inputs, loss = self.graphs[pixels.shape]
        for kept, new in zip(inputs, values, strict=True):
            kept.copy_(new)
        graph.replay()
        return loss.clone()

    def _record(self, values: tuple[Tensor, ...]) -> tuple[Any, tuple[Tensor, ...], Tensor]:
        inputs = tuple(v.clone() for v in values)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        rates = [group["lr"].clone() for group in self.optimizer.param_groups]
        with torch.cuda.stream(side):
            for group in self.optimizer.param_groups:
                group["lr"].fill_(0.0)  # warming up must not learn
            for _ in range(2):
                self._step(*inputs)
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"].copy_(rate)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            loss = self._step(*inputs)
        return graph, inputs, loss

    def _step(self, pixels: Tensor, label: Tensor, places: Tensor, known: Tensor) -> Tensor:
        how = self.member.how
        self.optimizer.zero_grad(set_to_none=True)
        x = pixels.float().contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device != "cpu", cache_enabled=False):
            with torch.no_grad():
                x = self.network.lower(x, self.frozen)
            logits, dense, _ = self.network.upper(x, self.frozen)
        target = label * (1 - 2 * how["smoothing"]) + how["smoothing"]
        loss = functional.binary_cross_entropy_with_logits(logits, target)
        loss = loss + how["dense_loss"] * _dense_loss(dense, places, known)
        loss.backward()
        nn.utils.clip_grad_norm_(self.body, 1.0, foreach=True)
        self.optimizer.step()
        with torch.no_grad():
            averages, now = list(self.average.parameters()), list(self.network.parameters())
            change = torch._foreach_sub(now, averages)
            torch._foreach_mul_(change, self.rate)
            torch._foreach_add_(averages, change)
        return loss.detach()


def _dense_loss(dense: Tensor, places: Tensor, known: Tensor) -> Tensor:
    """Cross-entropy per place where it is known what stands there; places with and without road work weigh the same."""
    each = functional.binary_cross_entropy_with_logits(dense, places, reduction="none")
    here, nowhere = known[:, None, None] * places, known[:, None, None] * (1 - places)
    return (each * here).sum() / (2 * here.sum() + 1) + (each * nowhere).sum() / (2 * nowhere.sum() + 1)


def _fresh(how: Mapping[str, Any]) -> tuple[str, ...]:
    return ("classifier", "look", "dense", "gain") if how["dense_loss"] else ("classifier",)


def _learns(name: str, frozen: int) -> bool:
    part, *rest = name.split(".")
    return part == "head" or (part == "blocks" and int(rest[0]) >= frozen)


def fit(
    members: Sequence[Member], album: Album, sprites: Sprites, settings: Mapping[str, Any]
) -> dict[str, EfficientNetLite]:
    """The averaged network of every member, on the CPU. All members have the same number of steps and batch."""
    device = settings["device"]
    pool = torch.cuda.graph_pool_handle() if device != "cpu" else None
    trainers = [Trainer(member, settings, pool) for member in members]
    plans = [drawing(album.pictures, m.held_out, settings, m.how) for m in members]
    banks = torch.stack([allowed(sprites, m.held_out, device) for m in members])
    labels = np.array([p.label for p in album.pictures], np.float32)
    rngs = [np.random.default_rng(m.seed) for m in members]
    dice = Dice(settings["seed"], device)
    steps, batch = members[0].how["steps"], members[0].how["batch"]
    shapes = [tuple(shape) for shape in settings["shapes"]]
    began = time.monotonic()
    for step in range(steps):
        shape = shapes[step % len(shapes)]
        orders = [_order(plan, labels, batch, rng) for plan, rng in zip(plans, rngs, strict=True)]
        views = _views(orders, banks, album, sprites, shape, dice, batch)
        losses = []
        for n, trainer in enumerate(trainers):
            trainer.schedule(step)
            losses.append(trainer.step(*(v[n * batch : (n + 1) * batch] for v in views)))
        if step % 50 == 49 or step == 0:
            told = " ".join(f"{loss.item():.3f}" for loss in losses)
            log.info("step %d of %d, %.0f s, losses %s", step + 1, steps, time.monotonic() - began, told)
    log.info("%.0f pictures a second", steps * batch * len(members) / (time.monotonic() - began))
    return {t.member.name: t.average.cpu() for t in trainers}


def _order(plan: Drawing, labels: NDArray[np.float32], batch: int, rng: np.random.Generator) -> tuple[Any, ...]:
    """Picture, donor, kind and label of one batch; grouped by kind, which costs nothing and composes faster."""
    drawn = np.sort(rng.choice(len(plan.chances), batch, p=plan.chances))
    pictures, kinds = plan.pictures[drawn], plan.kinds[drawn]
    donors = np.array([rng.choice(plan.donors[n]) if n in plan.donors else n for n in pictures.tolist()])
    label = np.where(kinds == KINDS.index("real"), labels[pictures], kinds == KINDS.index("pasted"))
    return pictures, donors, kinds, label.astype(np.float32)


def _views(
    orders: Sequence[tuple[Any, ...]],
    banks: Tensor,
    album: Album,
    sprites: Sprites,
    shape: tuple[int, int],
    dice: Dice,
    batch: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixels (uint8), labels, road work per place, and whether places are known: for all members in a row."""
    device = album.pixels.device
    columns = [torch.from_numpy(np.concatenate(c)).to(device, non_blocking=True) for c in zip(*orders, strict=True)]
    owner = torch.arange(len(orders), device=device).repeat_interleave(batch)
    mates = torch.arange(len(owner), device=device)
    mates = owner * batch + (mates + 1 + int(torch.randint(batch - 1, (1,)))) % batch
    made: list[Composed] = []
    for start in range(0, len(owner), AUGMENTED):
        rows = slice(start, start + AUGMENTED)
        order = Order(*(c[rows] for c in columns), banks[owner[rows]])
        made.append(compose(album, sprites, order, shape, wire=shape[0] == shape[1], dice=dice))
    pixels = worn(torch.cat([m.pixels for m in made]), mates, dice)
    label = torch.cat([m.label for m in made])
    places = functional.max_pool2d(torch.cat([m.mask for m in made]), PLACE)[:, 0].gt(0.3).float()
    known = ((label == 0) | (columns[2] == KINDS.index("pasted"))).float()
    return pixels.to(torch.uint8), label, places, known


@torch.inference_mode()
def predict(network: EfficientNetLite, views: Sequence[NDArray[np.uint8]], device: str, most: int = 128) -> NDArray[Any]:
    """(N,) logits of rendered views of any shapes, in their order."""
    network = network.to(device)
    logits = np.zeros(len(views))
    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, view in enumerate(views):
        by_shape[view.shape].append(place)
    for places in by_shape.values():
        for start in range(0, len(places), most):
            some = places[start : start + most]
            x = torch.from_numpy(np.stack([views[p] for p in some])).to(device).permute(0, 3, 1, 2).float()
            logits[some] = network(x.contiguous(memory_format=torch.channels_last)).float().cpu().numpy()
    return logits
