"""DINOv3 rewritten is DINOv3: the library's features, with and without gated MLP, registers and a second resolution."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import transformers as tf
from tiny import randomised

from models import fp8, fused

SIZE = 64


def dinov3(**changed: Any) -> Any:
    torch.manual_seed(0)
    known: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 32,
        "patch_size": 16,
        "num_register_tokens": 4,
    }
    model = randomised(tf.DINOv3ViTModel(tf.DINOv3ViTConfig(**known | changed)), 2).eval()
    for name, parameter in model.named_parameters():  # a fresh LayerScale is 1, a fresh bias 0: both prove nothing
        if "lambda" in name or name.endswith("bias"):
            parameter.data = torch.rand_like(parameter) + 0.5
    return model


def rewritten(model: Any, size: int = SIZE) -> Any:
    changed = copy.deepcopy(model)
    fused.fuse(changed, size)
    return changed


@pytest.mark.parametrize(
    "changed", [{"use_gated_mlp": True}, {"use_gated_mlp": False}, {"num_register_tokens": 0}, {"key_bias": True}]
)
@torch.inference_mode()
def test_features_are_the_librarys(changed: dict[str, Any]) -> None:
    model = dinov3(**changed)
    pictures = torch.randn(3, 3, SIZE, SIZE)
    expected, found = model(pictures), rewritten(model)(pictures)
    assert expected.pooler_output.std() > 0.1
    assert torch.allclose(found.pooler_output, expected.pooler_output, atol=1e-4)
    assert torch.allclose(found.last_hidden_state, expected.last_hidden_state, atol=1e-4)


@torch.inference_mode()
def test_in_8_bits_the_features_point_the_same_way() -> None:
    model = dinov3(use_gated_mlp=True)
    pictures = torch.randn(3, 3, SIZE, SIZE)
    changed = rewritten(model).bfloat16()
    assert len(fp8.convert(changed)) == 4 * 3  # qkv, out, gate and up, down of three blocks
    found = changed(pictures).pooler_output.float()
    cosine = torch.cosine_similarity(found, model(pictures).pooler_output)
    assert 0.98 < cosine.min() < 0.99999


@pytest.mark.slow
@torch.inference_mode()
def test_compiled_blocks_give_the_same() -> None:
    model = dinov3(num_hidden_layers=2)
    changed = rewritten(model)
    assert fused.compile_blocks(changed) == 2
    for count in (4, 2, 1):  # as recorded: from the largest batch on
        pictures = torch.randn(count, 3, SIZE, SIZE)
        assert torch.allclose(changed(pictures).pooler_output, model(pictures).pooler_output, atol=1e-4)
