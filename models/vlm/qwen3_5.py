"""Qwen3.5 to 3.8, dense: Qwen3-VL's tower without deepstack; of four layers, three mix tokens by a gated delta rule
(arXiv 2412.06464) whose memory is of fixed size, the fourth by attention with a gate.

What a text leaves behind in a layer of the first kind are that memory and the last inputs of a short convolution.
"""

from __future__ import annotations

from typing import Any

import torch

from models.vlm.forward import Family
from models.vlm.language import LANGUAGE, Attention, Left, Mixer, Rows
from models.vlm.parts import Matrix, Parts
from models.vlm.qwen3_vl import Tower


class GatedAttention(Attention):
    """Attention whose answer each token gates, and which turns only the first dimensions of a head.

    The others are turned by an angle of 0: dimensions of queries and keys are put in an order in which the two of a
    turned pair lie half a head apart, as `rotate` has them. Scores do not notice, since both are in that order.
    """

    def __init__(self, name: str, config: Any, parts: Parts) -> None:
        self.order = _order(config.head_dim, int(config.head_dim * config.rope_parameters["partial_rotary_factor"]))
        super().__init__(name, config, parts)
        query, key, eps = self.norms
        self.norms = query[self.order], key[self.order], eps

    def inputs(self, name: str) -> Any:
        """Queries, keys, values, and gates after them."""
        q, k, v = (self.parts.tensors.tensor(f"{name}.self_attn.{part}_proj.weight") for part in "qkv")
        q, gate = q.view(self.heads, 2, self.size, -1).unbind(1)
        k = k.view(self.keys, self.size, -1)
        return self.parts.product(
            [q[:, self.order].flatten(0, 1), k[:, self.order].flatten(0, 1), v, gate.flatten(0, 1)]
        )

    def __call__(self, x: Any, rows: Rows, left: Left, keep: list[Left] | None = None) -> torch.Tensor:
        whole = self.into(x)
        seen = self.seen(whole[:, : self.columns], rows, left, keep)
        gate = rows.wanted(whole[:, self.columns :])
        return self.out(self.parts.quantised(self.ops.gated(seen, gate)))


class DeltaNet:
    """A gated delta rule after a short convolution of its inputs, normed and gated."""

    def __init__(self, name: str, config: Any, parts: Parts) -> None:
        self.parts, self.ops, self.eps = parts, parts.ops, config.rms_norm_eps
        self.keys, self.heads = config.linear_num_key_heads, config.linear_num_value_heads
        self.size, self.value = config.linear_key_head_dim, config.linear_value_head_dim
        self.channels = 2 * self.keys * self.size + self.heads * self.value
        self.into = parts.matrix(f"{name}.in_proj_qkv", f"{name}.in_proj_z")
        steps = [parts.tensors.tensor(f"{name}.in_proj_{part}.weight") for part in "ba"]
        self.steps = Matrix(torch.cat(steps))  # 8 bits of how fast to learn and forget cost more than all the others
        self.conv = parts.tensors.tensor(f"{name}.conv1d.weight")[:, 0].T.contiguous()  # (taps, channels)
        self.rate = parts.tensors.tensor(f"{name}.A_log", torch.float32)
        self.bias = parts.tensors.tensor(f"{name}.dt_bias", torch.float32)
        self.norm = parts.tensors.tensor(f"{name}.norm.weight", torch.float32)
        self.out = parts.matrix(f"{name}.out_proj")

    def room(self, questions: int, longest: int) -> Left:
        memory = self.parts.zeros(questions, self.heads, self.size, self.value, dtype=torch.float32)
        return memory, self.parts.zeros(questions, len(self.conv) - 1, self.channels)

    def __call__(self, x: Any, rows: Rows, left: Left, keep: list[Left] | None = None) -> torch.Tensor:
        memory, before = left
        qkv, gate = self.into(x).split([self.channels, self.heads * self.value], 1)
        steps = self.steps(self.parts.exact(x))
        after = None if keep is None else torch.empty_like(memory)
        mixed = self.ops.conv_silu(qkv, before, self.conv, rows.count)
        said = self.ops.delta_rule(mixed, steps, self.rate, self.bias, memory, rows.count, self.keys, after)
        if keep is not None and after is not None:
            keep.append((after[0], torch.cat((before[0], qkv))[-before.shape[1] :].clone()))
        normal = self.ops.gated_rms_norm(rows.wanted(said).contiguous(), rows.wanted(gate), self.norm, self.eps)
        return self.out(self.parts.quantised(normal))


def _order(size: int, turned: int) -> torch.Tensor:
    """Dimensions of a head, pairs (i, i + turned / 2) of the first `turned` brought half a head apart."""
    half, rest = turned // 2, (size - turned) // 2
    first = [*range(half), *range(turned, turned + rest)]
    second = [*range(half, turned), *range(turned + rest, size)]
    return torch.tensor(first + second)


def _mixer(number: int, config: Any, parts: Parts) -> Mixer:
    name = f"{LANGUAGE}.layers.{number}"
    if config.layer_types[number] == "full_attention":
        return GatedAttention(name, config, parts)
    return DeltaNet(f"{name}.linear_attn", config, parts)


FAMILY = Family(tower=Tower, mixer=_mixer, norm_offset=1.0)
