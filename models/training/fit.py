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
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from models.data.labelled import Labelled
from models.embedded.view import mirrored
from models.training.album import Album, Sprites
from models.training.backbone import EfficientNetLite, pretrained
from models.training.compose import KINDS, Dice, Order, compose
from models.training.wear import worn

log = logging.getLogger(__name__)
Weights = Mapping[str, Tensor]  # a network's state dict
PLACE = 16  # pixels of one place of the dense head


@dataclass(frozen=True)
class Member:
    """One network to train. held_out: sources of which it sees no pixel. how: its `fit` settings."""

    name: str
    held_out: Collection[str]
    how: Mapping[str, Any]
    seed: int


@dataclass(frozen=True)
class Drawing:
    """What may be composed: (kind, picture, label) with their chances, and donors of pieces for each clear frame."""

    kinds: NDArray[np.int64]
    pictures: NDArray[np.int64]
    labels: NDArray[np.float32]
    chances: NDArray[np.float64]
    donors: Mapping[int, NDArray[np.int64]] = field(repr=False)


def drawing(pictures: Sequence[Labelled], settings: Mapping[str, Any]) -> Drawing:
    """Half of the draws are road work; a source counts as the root of its size, within a label and kind of view."""
    origins: list[tuple[int, int, int, str]] = []  # kind, picture, label, source
    clear: dict[str, list[int]] = defaultdict(list)
    for n, p in enumerate(pictures):
        origins.append((KINDS.index("real"), n, p.label, p.source))
        if p.source in settings["upper_of"] and p.label:
            origins.append((KINDS.index("upper"), n, 0, p.source))
        if p.label == 0 and p.source in settings["frames"]:
            clear[p.source].append(n)
            origins += [(KINDS.index("pasted"), n, 1, p.source), (KINDS.index("control"), n, 0, p.source)]
    sizes = Counter((kind, label, source) for kind, _, label, source in origins)
    shares = _shares({(kind, label) for kind, label, _ in sizes}, settings["fit"])
    roots: dict[tuple[int, int], float] = defaultdict(float)
    for (kind, label, _), size in sizes.items():
        roots[kind, label] += math.sqrt(size)
    chances = np.array(
        [shares[k, y] / roots[k, y] / math.sqrt(sizes[k, y, source]) for k, _, y, source in origins], np.float64
    )
    donors = {n: np.array(same) for same in clear.values() for n in same}
    kinds, numbers, labels = (np.array([o[i] for o in origins], np.int64) for i in range(3))
    return Drawing(kinds, numbers, labels.astype(np.float32), chances / chances.sum(), donors)


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

    def __init__(self, member: Member, settings: Mapping[str, Any], pool: Any, start: Weights | None) -> None:
        self.pool = pool  # of memory that recorded steps share: they run one after the other
        how, device = member.how, settings["device"]
        torch.manual_seed(member.seed)
        self.member, self.start = member, start
        self.network = pretrained(how["variant"], dropout=0.2).train()
        self.network.gain.data.fill_(0.5 if how["dense_loss"] else 0.0)
        if start is not None:
            self.network.load_state_dict(start)
        self.network.to(device)
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

    def schedule(self, done: float, steps: int) -> None:
        """One cycle: up for a fifth of the steps, then down along a cosine; then averaging sets in. done: 0..1."""
        how = self.member.how
        height = done / 0.2 if done < 0.2 else 0.5 + 0.5 * math.cos(math.pi * (done - 0.2) / 0.8)
        for group in self.optimizer.param_groups:
            group["lr"].fill_(max(how["learning_rate"] * group["share"] * height, 1e-7))
        self.rate.fill_(1.0 if done < how["average_from"] else min(1.0, how["average_rate"] * 1000 / steps))

    def step(self, *values: Tensor) -> Tensor:
        """One step; the loss. Recorded at the first call of a shape, replayed later. values: `Pool.batch`."""
        pixels = values[0]
        if self.device == "cpu":
            return self._step(*values)
        if pixels.shape not in self.graphs:
            self.graphs[pixels.shape] = self._record(values)
        graph, inputs, loss = self.graphs[pixels.shape]
        for kept, new in zip(inputs, values, strict=True):
            kept.copy_(new)
        graph.replay()
        return loss.clone()

    def finished(self) -> EfficientNetLite:
        """The averaged network on the CPU; the mean of its weights and the start's, if it went on from some."""
        network = self.average.cpu()
        if self.start is not None:
            with torch.no_grad():
                for name, parameter in network.named_parameters():
                    parameter.lerp_(self.start[name], 0.5)
        return network

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

    def _step(self, pixels: Tensor, label: Tensor, places: Tensor, known: Tensor, anchors: Tensor) -> Tensor:
        how = self.member.how
        self.optimizer.zero_grad(set_to_none=True)
        x = pixels.float().contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device != "cpu", cache_enabled=False):
            with torch.no_grad():
                x = self.network.lower(x, self.frozen)
            logits, dense, features = self.network.upper(x, self.frozen)
        target = label * (1 - 2 * how["smoothing"]) + how["smoothing"]
        loss = functional.binary_cross_entropy_with_logits(logits, target)
        # Features stay near those of ImageNet's weights: Li et al. 2019, https://arxiv.org/abs/1901.09229.
        if how["anchor"]:
            loss = loss + how["anchor"] * (features - anchors).square().mean() / anchors.square().mean()
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
    """Cross-entropy per place where it is known what stands there; places with and without road work weigh the same.

    A machine right before the camera covers a hundred places, a cone far away one: with road work a picture counts as
    the root of its places, so that near things do not drown far ones.
    """
    each = functional.binary_cross_entropy_with_logits(dense, places, reduction="none")
    here, nowhere = known[:, None, None] * places, known[:, None, None] * (1 - places)
    here = here / here.sum((1, 2), keepdim=True).clamp(min=1).sqrt()
    return (each * here).sum() / (2 * here.sum() + 1) + (each * nowhere).sum() / (2 * nowhere.sum() + 1)


def _fresh(how: Mapping[str, Any]) -> tuple[str, ...]:
    return ("classifier", "look", "dense", "gain") if how["dense_loss"] else ("classifier",)


def _learns(name: str, frozen: int) -> bool:
    part, *rest = name.split(".")
    return part == "head" or (part == "blocks" and int(rest[0]) >= frozen)


@dataclass(frozen=True)
class Pool:
    """Views of one step, composed once for all networks; each network takes those that show nothing it must not see.

    pixels: uint8 (P, 3, H, W). label: (P,). places: (P, h, w) road work. known: (P,) whether places are. features:
    (P, D) of ImageNet's weights, by variant, where a network stays near them. On the CPU:
    sources (P,) of the frame, suppliers (P,) of the cut-outs ("" for none), kinds (P,), wished (P,) the drawn label.
    """

    pixels: Tensor
    label: Tensor
    places: Tensor
    known: Tensor
    features: Mapping[int, Tensor]
    sources: NDArray[np.str_]
    suppliers: NDArray[np.str_]
    kinds: NDArray[np.int64]
    wished: NDArray[np.float32]

    def batch(self, member: Member, rows: Tensor) -> tuple[Tensor, ...]:
        """What `_step` of that member takes: pixels, label, places, known, anchors (a stand-in without an anchor)."""
        how = member.how
        anchors = self.features[how["variant"]] if how["anchor"] else self.label[:, None]
        every = self.pixels, self.label, self.places, self.known, anchors
        return tuple(values[rows] for values in every)

    def taken(self, member: Member, rng: np.random.Generator) -> NDArray[np.int64]:
        """Rows for one batch: both labels alike, no pixel of a held-out source; repeated where there are few."""
        held_out = list(member.held_out)
        free = ~np.isin(self.sources, held_out) & ~np.isin(self.suppliers, held_out)
        if not member.how["pasted_share"]:
            free &= self.kinds == KINDS.index("real")
        half = member.how["batch"] // 2
        taken = []
        for label in (0, 1):
            rows = np.flatnonzero(free & (self.wished == label))
            if not len(rows):
                raise ValueError(
                    f"{member.name}: a pool of {len(free)} views has none of label {label} left for it; "
                    "raise `pool` in the settings, or move a source to another fold"
                )
            taken.append(rng.permutation(np.resize(rng.permutation(rows), half)))
        return np.concatenate(taken)


def fit(
    members: Sequence[Member],
    album: Album,
    sprites: Sprites,
    settings: Mapping[str, Any],
    done: Callable[[str, EfficientNetLite], None] = lambda name, network: None,
    start: Weights | None = None,
) -> dict[str, EfficientNetLite]:
    """The averaged network of every member, on the CPU. All members take as many steps.

    done: called with each finished network.
    start: weights to go on from instead of ImageNet's; what comes out is then the mean of both, which keeps what the
    start knew of streets that the new ones are not like (WiSE-FT, Wortsman et al. 2022, https://arxiv.org/abs/2109.01903).
    It must not have seen what a member holds out.
    """
    device, steps = settings["device"], settings["fit"]["steps"]
    shared = torch.cuda.graph_pool_handle() if device != "cpu" else None
    trainers = [Trainer(member, settings, shared, start) for member in members]
    plan, rng, dice = (
        drawing(album.pictures, settings),
        np.random.default_rng(settings["seed"]),
        Dice(settings["seed"], device),
    )
    shapes = [tuple(shape) for shape in settings["shapes"]]
    anchors = {m.how["variant"]: pretrained(m.how["variant"]).to(device).eval() for m in members if m.how["anchor"]}
    began, step = time.monotonic(), 0
    while step < steps:
        if step % settings["pool_steps"] == 0:
            shape = shapes[step // settings["pool_steps"] % len(shapes)]
            pool = _pool(plan, album, sprites, shape, settings, rng, dice, anchors)
        losses = []
        for trainer in trainers:
            trainer.schedule(step / steps, steps)
            rows = torch.from_numpy(pool.taken(trainer.member, rng)).to(device)
            losses.append(trainer.step(*pool.batch(trainer.member, rows)))
        step += 1
        if step == 1 or step % 50 == 0:
            told = " ".join(f"{loss.item():.3f}" for loss in losses)
            log.info("step %d of %d, %.0f s, losses %s", step, steps, time.monotonic() - began, told)
    finished = {}
    for trainer in trainers:
        finished[trainer.member.name] = network = trainer.finished()
        done(trainer.member.name, network)
    return finished


def _pool(
    plan: Drawing,
    album: Album,
    sprites: Sprites,
    shape: tuple[int, int],
    settings: Mapping[str, Any],
    rng: np.random.Generator,
    dice: Dice,
    anchors: Mapping[int, EfficientNetLite],
) -> Pool:
    device = album.pixels.device
    drawn = rng.choice(len(plan.chances), settings["pool"], p=plan.chances)
    drawn = drawn[np.argsort(plan.kinds[drawn], kind="stable")]
    pictures, kinds, wished = plan.pictures[drawn], plan.kinds[drawn], plan.labels[drawn]
    donors = np.array([rng.choice(plan.donors[n]) if n in plan.donors else n for n in pictures.tolist()])
    names = np.array(["", *sorted({s for s in sprites.sources if s})])
    suppliers = np.where(kinds == KINDS.index("pasted"), rng.choice(names, settings["pool"]), "")
    own = np.array(sprites.sources)
    usable = (own[None] == "") | (own[None] == suppliers[:, None])
    on_device = [torch.from_numpy(values).to(device) for values in (pictures, donors, kinds, wished, usable)]
    composed = compose(album, sprites, Order(*on_device), shape, shape[0] == shape[1], dice, settings["close"])
    sources = np.array([album.pictures[n].source for n in pictures.tolist()])
    pixels = worn(composed.pixels, dice).to(torch.uint8)
    features = {variant: _features(network, pixels) for variant, network in anchors.items()}
    places = functional.max_pool2d(composed.mask, PLACE)[:, 0].gt(0.3).float()
    known = ((composed.label == 0) | (on_device[2] == KINDS.index("pasted"))).float()
    return Pool(pixels, composed.label, places, known, features, sources, suppliers, kinds, wished)


@torch.no_grad()
def _features(network: EfficientNetLite, pixels: Tensor) -> Tensor:
    """(N, D) pooled features of uint8 (N, 3, H, W)."""
    device = pixels.device.type
    with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
        x = network.lower(pixels.float().contiguous(memory_format=torch.channels_last), 0)
        return network.upper(x, 0)[2]


@torch.inference_mode()
def predict(network: EfficientNetLite, views: Sequence[NDArray[np.uint8]], device: str) -> NDArray[Any]:
    """(N,) logits of rendered views of any shapes, in their order; as serving does it, mirror images included.

    Without cuDNN: it plans every convolution anew for each of the many shapes, which takes longer than all the work.
    A CPU takes one at a time: its caches hold no more.
    """
    most = 1 if device == "cpu" else 128
    network = network.to(device)
    logits = np.zeros(len(views))
    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, view in enumerate(views):
        by_shape[view.shape].append(place)
    with torch.backends.cudnn.flags(enabled=False):
        for places in by_shape.values():
            for start in range(0, len(places), most):
                some = places[start : start + most]
                x = torch.from_numpy(np.stack([views[p] for p in some])).to(device).permute(0, 3, 1, 2)
                looks = [x, x.flip(3)] if mirrored(x.shape[3], x.shape[2]) else [x]
                logits[some] = torch.stack([network(look.float().contiguous()).float() for look in looks]).mean(0).cpu()
    return logits
