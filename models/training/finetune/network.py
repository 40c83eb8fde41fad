"""A backbone and one linear head: pictures in, log-odds out. The same module trains, is exported, and serves on a card.

A backbone is named: a key of the catalog, `efficientnet-lite0`, `timm/NAME`, or a directory that transformers can load.
What is needed to build it again without its weights is `Described`, kept beside them as `network.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from models import weights
from models.catalog import entries
from models.torch_model import require
from models.training import backbone as lite

LITE = "efficientnet-lite"
ENCODES = "image classification"  # the catalog's task of classifiers and encoders


@dataclass(frozen=True)
class Described:
    """How to build a network. config: of the library that `kind` names. mean, std: of pixels scaled to 0..1."""

    kind: Literal["transformers", "timm", "lite"]
    start: str
    width: int
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    config: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Described:
        """Raises OSError, ValueError or TypeError when the file is not one."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


class Network(nn.Module):
    """uint8 (N, side, side, 3) RGB -> (N,) log-odds."""

    def __init__(self, encoder: nn.Module, described: Described) -> None:
        super().__init__()
        self.described = described
        self.encoder = encoder
        self.head = nn.Sequential(nn.LayerNorm(described.width), nn.Linear(described.width, 1))
        nn.init.zeros_(self.head[1].weight)
        nn.init.zeros_(self.head[1].bias)
        self.register_buffer("mean", torch.tensor(described.mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(described.std).view(-1, 1, 1), persistent=False)

    def features(self, pixels: Tensor) -> Tensor:
        """uint8 (N, side, side, 3) -> (N, width): the encoder's pooled output."""
        scaled = pixels.permute(0, 3, 1, 2).to(self.mean.dtype) / 255
        return pooled(self.encoder((scaled - self.mean) / self.std))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.features(pixels))[:, 0]


class Lite(nn.Module):
    """EfficientNet-Lite without its classifier: 0..255 floats (N, 3, H, W) -> (N, 1280)."""

    def __init__(self, network: lite.EfficientNetLite) -> None:
        super().__init__()
        self.network = network
        self.network.classifier = nn.Identity()  # the head stands for it

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.network.lower(pixels, len(self.network.blocks))
        return functional.relu6(self.network.head(x)).mean((2, 3))


def pooled(out: Any) -> Tensor:
    """One vector a picture (N, D) out of what an encoder gives, whatever its library calls it."""
    if isinstance(out, Tensor):
        return out
    for name in ("summary", "pooler_output"):  # C-RADIO has its own name for it
        if getattr(out, name, None) is not None:
            return torch.flatten(getattr(out, name), 1)
    return out.last_hidden_state[:, 0]  # the class token of a ViT without a pooler


def pretrained(name: str, side: int | None = None) -> Network:
    """The named backbone with its weights and a fresh head. side: pixels of the input; default: the backbone's own.

    Raises ValueError for a name that leads nowhere, ModelError when weights or library are missing.
    """
    if name.startswith(LITE):
        network = _lite(name, side)
    elif name.startswith("timm/"):
        network = _timm(name, side)
    else:
        network = _transformers(name, side)
    with _taking(network.described.start, network.described.side), torch.no_grad():
        network.eval()(torch.zeros(1, network.described.side, network.described.side, 3, dtype=torch.uint8))
    return network


def build(described: Described) -> Network:
    """The network without its weights."""
    if described.kind == "lite":
        return Network(Lite(lite.EfficientNetLite(int(described.config["variant"]))), described)
    if described.kind == "timm":
        made = import_module("timm").create_model(described.config["name"], pretrained=False, num_classes=0)
        return Network(made, described)
    tf = import_module("transformers")
    config = dict(described.config)
    config = tf.AutoConfig.for_model(config.pop("model_type"), **config)
    return Network(tf.AutoModel.from_config(config, **_without_pooler(config)), described)


def _lite(name: str, side: int | None) -> Network:
    variant = name.removeprefix(LITE)
    if variant not in {str(known) for known in lite.WIDTH_AND_DEPTH}:
        raise ValueError(f"backbone {name!r}: expected {LITE} with one of {sorted(lite.WIDTH_AND_DEPTH)} behind it")
    pixels = ((0.0,) * 3, (1 / 255,) * 3)  # it scales for itself
    made = Lite(lite.pretrained(int(variant)))
    return Network(made, Described("lite", name, lite.HEAD, side or 224, *pixels, {"variant": int(variant)}))


def _timm(name: str, side: int | None) -> Network:
    require("timm", "1.0")
    bare = name.removeprefix("timm/")
    try:
        made = import_module("timm").create_model(bare, pretrained=True, num_classes=0)
    except RuntimeError as error:
        raise ValueError(
            f"backbone {name!r}: expected a name that timm.list_models() has, with weights; {error}"
        ) from None
    known = made.pretrained_cfg
    own = int(known.get("input_size", (3, 224, 224))[-1])
    norm = tuple(known["mean"]), tuple(known["std"])
    return Network(made, Described("timm", name, made.num_features, side or own, *norm, {"name": bare}))


def _transformers(name: str, side: int | None) -> Network:
    require("transformers", "4.56")
    tf = import_module("transformers")
    entry = None if Path(name).is_dir() else _entry(name)
    directory = Path(name) if entry is None else weights.locate(entry)
    config = tf.AutoConfig.from_pretrained(directory, local_files_only=True)
    named = entry.class_name if entry else (config.architectures or [""])[0]
    kind = getattr(tf, named) if named.endswith("VisionModel") else tf.AutoModel
    if kind is tf.AutoModel and hasattr(config, "vision_config"):
        raise ValueError(f"backbone {name!r}: expected an encoder of pictures, got {named}, which has a text side too")
    made, told = kind.from_pretrained(
        directory, use_safetensors=True, local_files_only=True, output_loading_info=True, **_without_pooler(config)
    )
    if told["missing_keys"]:
        raise ValueError(f"backbone {name!r}: {directory} holds no weights for {sorted(told['missing_keys'])[0]}, ...")
    processor = tf.AutoImageProcessor.from_pretrained(directory, local_files_only=True)
    size = processor.size.get("height") or processor.size.get("shortest_edge") or 224
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ([0.0] * 3, [1.0] * 3)
    chosen = side or (entry.input_size if entry else 0) or int(size)
    with _taking(name, chosen), torch.no_grad():
        width = int(pooled(made.eval()(torch.zeros(1, 3, chosen, chosen))).shape[1])
    start = entry.repository if entry else Path(name).name
    return Network(
        made, Described("transformers", start, width, chosen, tuple(mean), tuple(std), made.config.to_dict())
    )


def _entry(name: str) -> Any:
    found = {k: e for k, e in entries().items() if e.task == ENCODES and e.library == "transformers"}
    if name not in found:
        raise ValueError(
            f"backbone {name!r}: expected {LITE}0, timm/NAME, a directory, or one of {', '.join(sorted(found))}"
        )
    return found[name]


def _without_pooler(config: Any) -> dict[str, bool]:
    """A ViT's pooler is not in checkpoints of classifiers, and would start at random: the class token is used."""
    return {"add_pooling_layer": False} if config.model_type == "vit" else {}


@contextmanager
def _taking(name: str, side: int) -> Iterator[None]:
    """Raises ValueError when the backbone does not take a square of this side."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{name} does not take pictures of {side} pixels ({error}); choose another --side") from error


def choose_what_learns(network: Network, tune: str, rank: int, checkpointing: bool) -> None:
    """head: the backbone is frozen. lora: it gets LoRA matrices on its linear layers. full: all of it that has a part
    in the answer learns."""
    from models.training.finetune.lora import add_lora, save_memory  # needs peft, which serving does not

    network.encoder.requires_grad_(tune == "full")
    if tune == "lora":
        network.encoder = add_lora(network.encoder, rank)
    _freeze_what_has_no_part(network)
    if checkpointing:
        save_memory(network.encoder)


def _freeze_what_has_no_part(network: Network) -> None:
    """Weights that the answer does not depend on (tokens for masks, heads of another task) do not learn; several
    processes would wait for their gradients."""
    side = network.described.side
    learning = [p for p in network.parameters() if p.requires_grad]
    answer = network.eval()(torch.zeros(1, side, side, 3, dtype=torch.uint8)).sum()
    for p, gradient in zip(learning, torch.autograd.grad(answer, learning, allow_unused=True), strict=True):
        p.requires_grad_(gradient is not None)


def merge(network: Network) -> Network:
    """LoRA matrices added into the weights they belong to, so that nothing but the backbone is left."""
    if hasattr(network.encoder, "merge_and_unload"):
        network.encoder = network.encoder.merge_and_unload()
    return network
