"""The fused kernels compute what their reference in plain torch says, run by Triton's interpreter on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers as tf

from models.fp8 import E4M3
from models.vlm import reference_ops
from models.vlm.checkpoint import Checkpoint
from models.vlm.forward import Forward, family_of
from models.vlm.grids import GRIDS, Grid

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
        return ops.add_rms_norm(stream, added, weight, 1e-6, torch.float32), stream

    def layer(ops: Any) -> Any:
        stream = random(5, width)
        return ops.add_layer_norm(stream, added, weight, bias, 1e-6), stream

    for norm in (rms, layer):
        torch.testing.assert_close(*both(norm))


def columns_of_something_wider(rows: int, columns: int) -> torch.Tensor:
    return random(rows, columns + 8)[:, :columns]


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize(("heads", "keys", "size"), [(HEADS, KEYS, SIZE), (3, 3, 24)])
def test_rotation(normed: bool, heads: int, keys: int, size: int) -> None:
    angles = random(7, size // 2)
    norms = (random(size), random(size) + 2, 1e-6) if normed else None

    def run(ops: Any) -> torch.Tensor:
        qkv = columns_of_something_wider(14, (heads + 2 * keys) * size)
        ops.rotate(qkv, heads, keys, angles.cos(), angles.sin(), norms)
        return qkv

    torch.testing.assert_close(*both(run))


@pytest.mark.parametrize("queries", [0, 1])
@pytest.mark.parametrize("own", [7, 70])
@pytest.mark.parametrize("lengths", [(0,), (90, 5)])
def test_attention(queries: int, own: int, lengths: tuple[int, ...]) -> None:
    rows = 2
    qkv = columns_of_something_wider(rows * own, (HEADS + 2 * KEYS) * SIZE)
    prefix = random(len(lengths), 96 if any(lengths) else 0, 2, KEYS, SIZE)
    counts = torch.tensor(lengths, dtype=torch.int32)
    torch.testing.assert_close(
        *both(lambda ops: ops.attention(qkv, prefix, counts, rows, HEADS, KEYS, queries)), atol=1e-5, rtol=1e-4
    )


def test_gates() -> None:
    gate = columns_of_something_wider(5, 48)
    torch.testing.assert_close(*both(lambda ops: ops.gated(random(5, 48), gate)))
    torch.testing.assert_close(*both(lambda ops: ops.gated_rms_norm(random(5, 48), gate, random(16), 1e-6)))


@pytest.mark.parametrize("taps", [2, 4])
def test_short_convolution(taps: int) -> None:
    """Rows of three tokens, so that some reach back before the row; three rows of two questions."""
    x, before, weight = columns_of_something_wider(9, 40), random(2, taps - 1, 40), random(taps, 40)
    torch.testing.assert_close(*both(lambda ops: ops.conv_silu(x, before, weight, 3)))


@pytest.mark.parametrize("keeps", [True, False])
def test_delta_rule(keeps: bool) -> None:
    """Two questions whose texts left different memories, two rows of each; values of a head in two blocks."""
    rows, n, keys, heads, size, value = 4, 5, 2, 4, 8, 32
    qkv, steps = random(rows * n, 2 * keys * size + heads * value), 3 * random(rows * n, 2 * heads)
    rate, bias, before = random(heads) - 2, random(heads) + 1, random(2, heads, size, value)

    def run(ops: Any) -> tuple[torch.Tensor, ...]:
        after = torch.zeros(rows, heads, size, value) if keeps else None
        said = ops.delta_rule(qkv, steps, rate, bias, before, rows, keys, after)
        return (said,) if after is None else (said, after)

    torch.testing.assert_close(*both(run))


def test_activation_and_answer() -> None:
    torch.testing.assert_close(*both(lambda ops: ops.silu_mul(random(5, 48), torch.float32)))
    torch.testing.assert_close(*both(lambda ops: ops.yes_no(random(6, 40), random(7, 40), 4)))


def test_float8_has_one_scale_per_token() -> None:
    """The interpreter does not round to the nearest; the card does, and `benchmarks.vlm_scorer` compares it there."""
    stream, weight = random(5, 24), random(24)
    calls: list[Callable[[Any], Any]] = [
        lambda ops: ops.quantise(stream),
        lambda ops: ops.silu_mul(random(5, 48), E4M3),
        lambda ops: ops.add_rms_norm(stream.clone(), None, weight, 1e-6, E4M3),
    ]
    for call in calls:
        (values, scale), (expected, expected_scale) = both(call)
        assert values.dtype == torch.float8_e4m3fn
        torch.testing.assert_close(scale, expected_scale)
        given = expected.float() * expected_scale
        assert float((values.float() * scale - given).norm() / given.norm()) < 0.06


@pytest.mark.parametrize(
    ("write", "grid", "token"),
    [
        (tiny.tiny_qwen3_vl, GRIDS[0][0], 32),
        (partial(tiny.tiny_qwen3_5, layers="lf"), GRIDS[0][0], 32),
        (tiny.tiny_internvl, Grid(4, 4), 28),
    ],
)
def test_the_whole_forward_is_the_same_with_either(
    write: Callable[[Path], None], grid: Grid, token: int, tmp_path: Path
) -> None:
    """Strides and layouts as they really are: what single calls with tidy tensors do not show."""
    write(tmp_path)
    half = [0.5] * 3
    pictures = torch.randint(0, 255, (1, 3, grid.rows * token, grid.columns * token), dtype=torch.uint8)
    config = tf.AutoConfig.from_pretrained(tmp_path)
    family = family_of(config.architectures[0])

    def run(ops: Any) -> tuple[torch.Tensor, ...]:
        tensors = Checkpoint(tmp_path, "cpu", torch.float32, family.aliases)
        model = Forward(family, config, half, half, tensors, suffix=[5, 6, 7], yes=[1, 2], no=[3, 4], ops=ops)
        left = model.prefill(range(20, 50))
        memory = model.language.room(1, 40)
        memory.write(0, left, 30)
        kept = [each for layer in left for each in layer]
        return *kept, *model.tower(pictures, grid)[1], model.log_odds(pictures, grid, memory)

    with torch.inference_mode():
        torch.testing.assert_close(*both(run), atol=2e-3, rtol=1e-3)  # the CPU has no approximate gelu to fuse
