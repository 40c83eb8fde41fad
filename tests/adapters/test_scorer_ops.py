"""The fused kernels compute what their reference in plain torch says, run by Triton's interpreter on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers as tf

from models.vlm import reference_ops
from models.vlm.checkpoint import Checkpoint
from models.vlm.grids import GRIDS
from models.vlm.qwen3_vl import Qwen3VL

fused_ops = pytest.importorskip("models.vlm.fused_ops", reason="triton is made for Linux")

HEADS, KEYS, SIZE = 4, 2, 16


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def both(call: Callable[[Any], Any]) -> tuple[Any, Any]:
    """What the call gives with the fused operations and with their reference."""
    return call(fused_ops), call(reference_ops)


@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("width", [24, 64])
def test_norms_add_to_the_stream_in_place(adds: bool, width: int) -> None:
    weight, bias, added = random(width), random(width) + 1, random(5, width) if adds else None

    def rms(ops: Any) -> Any:
        stream = random(5, width)
        return ops.add_rms_norm(stream, added, weight, 1e-6), stream

    def layer(ops: Any) -> Any:
        stream = random(5, width)
        return ops.add_layer_norm(stream, added, weight, bias, 1e-6), stream

    for norm in (rms, layer):
        torch.testing.assert_close(*both(norm))


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize(("heads", "keys", "size"), [(HEADS, KEYS, SIZE), (3, 3, 24)])
def test_rotation(normed: bool, heads: int, keys: int, size: int) -> None:
    angles = random(7, size // 2)
    norms = (random(size), random(size) + 2, 1e-6) if normed else None

    def run(ops: Any) -> torch.Tensor:
        qkv = random(14, (heads + 2 * keys) * size)
        ops.rotate(qkv, heads, keys, angles.cos(), angles.sin(), norms)
        return qkv

    torch.testing.assert_close(*both(run))


@pytest.mark.parametrize("queries", [0, 1])
@pytest.mark.parametrize("own", [7, 70])
@pytest.mark.parametrize("lengths", [(), (90, 5)])
def test_attention(queries: int, own: int, lengths: tuple[int, ...]) -> None:
    rows = 2
    qkv = random(rows * own, (HEADS + 2 * KEYS) * SIZE)
    prefix = random(2, len(lengths), 96, KEYS, SIZE) if lengths else None
    counts = torch.tensor(lengths, dtype=torch.int32) if lengths else None
    torch.testing.assert_close(
        *both(lambda ops: ops.attention(qkv, prefix, counts, rows, HEADS, KEYS, queries)), atol=1e-5, rtol=1e-4
    )


def test_activation_and_answer() -> None:
    torch.testing.assert_close(*both(lambda ops: ops.silu_mul(random(5, 48))))
    torch.testing.assert_close(*both(lambda ops: ops.yes_no(random(6, 40), random(7, 40), 4)))


def test_float8_has_one_scale_per_token() -> None:
    """The interpreter does not round to the nearest; the card does, and `benchmarks.vlm_scorer` compares it there."""
    stream, weight = random(5, 24), random(24)
    calls: list[Callable[[Any], Any]] = [
        lambda ops: ops.quantise(stream),
        lambda ops: ops.silu_mul(random(5, 48), True),
        lambda ops: ops.add_rms_norm(stream.clone(), None, weight, 1e-6, True),
    ]
    for call in calls:
        (values, scale), (expected, expected_scale) = both(call)
        assert values.dtype == torch.float8_e4m3fn
        torch.testing.assert_close(scale, expected_scale)
        given = expected.float() * expected_scale
        assert float((values.float() * scale - given).norm() / given.norm()) < 0.06


def test_the_whole_forward_is_the_same_with_either(tmp_path: Path) -> None:
    """Strides and layouts as they really are: what single calls with tidy tensors do not show."""
    tiny.tiny_qwen3_vl(tmp_path)
    grid, half = GRIDS[0][0], [0.5] * 3
    pictures = torch.randint(0, 255, (1, 3, 256, 256), dtype=torch.uint8)
    config = tf.AutoConfig.from_pretrained(tmp_path)

    def run(ops: Any) -> tuple[torch.Tensor, ...]:
        tensors = Checkpoint(tmp_path, "cpu", torch.float32)
        model = Qwen3VL(config, half, half, tensors, suffix=[5, 6, 7], yes=[1, 2], no=[3, 4], ops=ops)
        prefix = model.prefill(range(20, 50))[:, :, None]
        lengths = torch.tensor([30], dtype=torch.int32)
        return prefix, *model.vision(pictures, grid)[1], model.log_odds(pictures, grid, prefix, lengths)

    with torch.inference_mode():
        torch.testing.assert_close(*both(run), atol=2e-3, rtol=1e-3)  # the CPU has no approximate gelu to fuse
