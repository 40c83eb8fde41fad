"""InternVL3 and 3.5 on Qwen3: InternViT, 2 x 2 patches joined (its "pixel shuffle"), a projector, plain positions.

The tower was trained on square tiles of one size. A picture is one tile here, which is how the library treats every
picture of a validator's size; larger ones, which it may cut into up to twelve tiles, are scaled down to one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.nn import functional

from models.vlm import grids
from models.vlm.forward import Family
from models.vlm.grids import Grid
from models.vlm.parts import Affine, Parts, Stem, every_patch

VISION, PROJECTOR = "model.vision_tower", "model.multi_modal_projector"
PROJECTOR_EPS = 1e-5  # of torch's layer norm, which the library leaves as it is
EXPECTED = {"vision_feature_layer": -1, "vision_feature_select_strategy": "default", "projector_hidden_act": "gelu"}
EXPECTED_VISION = {"hidden_act": "gelu", "use_mean_pooling": True}

Norm = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]  # stream, what is added to it before


@dataclass(frozen=True, slots=True)
class Block:
    """One layer of the tower; its scales are in `out` and `fc2`."""

    norm1: Norm
    norm2: Norm
    query_key: tuple[torch.Tensor, ...]  # weights of norms over all heads of queries and keys; none in the small tower
    qkv: Affine
    out: Affine
    fc1: Affine
    fc2: Affine


class Tower:
    """Keeps `models.vlm.forward.Tower`."""

    def __init__(self, config: Any, mean: Sequence[float], std: Sequence[float], parts: Parts) -> None:
        vision = config.vision_config
        _check(config, EXPECTED)
        _check(vision, EXPECTED_VISION)
        merge, (patch, _) = round(1 / config.downsample_ratio), vision.patch_size
        side = vision.image_size[0] // patch
        self.token = patch * merge
        self.grids = ((Grid(side // merge, side // merge),),)
        self.heads, self.eps, self.ops, self.joined = (
            vision.num_attention_heads,
            vision.layer_norm_eps,
            parts.ops,
            merge**2,
        )
        proj = parts.affine(f"{VISION}.embeddings.patch_embeddings.projection")  # (width, 3, patch, patch)
        self.stem = Stem(Affine(proj.weight.flatten(1), proj.bias), patch, merge, mean, std)
        self.first = parts.tensors.tensor(f"{VISION}.embeddings.cls_token")
        positions = parts.tensors.tensor(f"{VISION}.embeddings.position_embeddings")[0]
        patches = grids.merged_order(positions[1:].view(side, side, -1), merge)
        self.positions = torch.cat((positions[:1], patches))
        self.blocks = [
            self._block(f"{VISION}.encoder.layer.{n}", vision, parts) for n in range(vision.num_hidden_layers)
        ]
        self.norm = parts.layer_norm(f"{PROJECTOR}.layer_norm")
        self.linear1, self.linear2 = (parts.affine(f"{PROJECTOR}.linear_{n}") for n in (1, 2))

    def _block(self, name: str, vision: Any, parts: Parts) -> Block:
        scale1, scale2 = (parts.tensors.tensor(f"{name}.lambda_{n}", torch.float32) for n in (1, 2))
        normed = "qk" if vision.use_qk_norm else ""
        return Block(
            norm1=self._norm(f"{name}.layernorm_before", vision, parts),
            norm2=self._norm(f"{name}.layernorm_after", vision, parts),
            query_key=tuple(parts.tensors.tensor(f"{name}.attention.{part}_norm.weight") for part in normed),
            qkv=parts.affine(*(f"{name}.attention.{part}_proj" for part in "qkv")),
            out=parts.affine(f"{name}.attention.projection_layer", scale=scale1),
            fc1=parts.affine(f"{name}.mlp.fc1"),
            fc2=parts.affine(f"{name}.mlp.fc2", scale=scale2),
        )

    def _norm(self, name: str, vision: Any, parts: Parts) -> Norm:
        if vision.norm_type == "layer_norm":
            weight, bias = parts.layer_norm(name)
            return partial(parts.ops.add_layer_norm, weight=weight, bias=bias, eps=self.eps)
        weight = parts.tensors.tensor(f"{name}.weight")
        return partial(parts.ops.add_rms_norm, weight=weight, eps=self.eps, to=weight.dtype)

    def __call__(self, pictures: torch.Tensor, grid: Grid) -> tuple[torch.Tensor, list[torch.Tensor]]:
        count = len(pictures)
        patches = self.stem(pictures)
        width = patches.shape[1]
        tokens = torch.cat((self.first.expand(count, -1, -1), patches.view(count, -1, width)), 1)
        stream = tokens.view(-1, width).float()
        added = self.positions.repeat(count, 1)
        for block in self.blocks:
            q, k, v = block.qkv(block.norm1(stream, added)).chunk(3, -1)
            if block.query_key:
                q, k = (
                    functional.rms_norm(part, (width,), weight, self.eps)
                    for part, weight in zip((q, k), block.query_key, strict=True)
                )
            x = block.norm2(stream, block.out(every_patch(q, k, v, count, self.heads)))
            added = block.fc2(functional.gelu(block.fc1(x)))
        seen = stream.add_(added).view(count, -1, width)[:, 1:]
        joined = seen.reshape(count * grid.tokens, self.joined * width)
        x = self.ops.add_layer_norm(joined, None, *self.norm, PROJECTOR_EPS)
        return self.linear2(functional.gelu(self.linear1(x))), []


def _check(config: Any, expected: dict[str, Any]) -> None:
    for name, value in expected.items():
        if (found := getattr(config, name)) != value:
            raise ValueError(f"expected {name} {value!r}, got {found!r}: use the vLLM engine instead")


FAMILY = Family(
    tower=Tower,
    positions=grids.in_line,
    around=lambda tokenizer: (tokenizer.start_image_token, tokenizer.end_image_token),
    aliases={
        "language_model.lm_head.": "lm_head.",
        "language_model.model.": "model.language_model.",
        "vision_tower.": "model.vision_tower.",
        "multi_modal_projector.": "model.multi_modal_projector.",
    },
)
