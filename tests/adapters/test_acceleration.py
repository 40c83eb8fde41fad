"""What the catalog's `execution` does to a model, as far as it can be seen without a card."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import pytest
import torch
import transformers as tf
from test_fused import SIZE, dinov3
from torch import nn

from models import acceleration, catalog
from models.cuda_graphs import Cost
from models.foundation import pooled
from models.fp8 import Fp8Linear
from models.fused import Attention
from models.pictures import Pictures


def entry(execution: str) -> catalog.Entry:
    return catalog.find("dinov3-h-plus").model_copy(update={"execution": execution})


def pictures(side: int = SIZE) -> Pictures:
    return Pictures(tf.DINOv3ViTImageProcessor(size={"height": side, "width": side}), "cpu", torch.float32)


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("operation not permitted when stream is capturing\nmore")


def test_a_forward_that_cannot_be_recorded_runs_as_before(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(acceleration, "Graphs", broken)
    with caplog.at_level(logging.WARNING):
        forward = acceleration.accelerated(entry("graph"), None, lambda pixels: pixels * 2, pictures(), (1, 2))
    assert forward(torch.ones(2, 3)).tolist() == [[2] * 3] * 2
    assert caplog.messages == ["dinov3-h-plus runs without graphs: operation not permitted when stream is capturing"]


def test_a_full_card_is_no_reason_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(acceleration, "Graphs", full)
    with pytest.raises(torch.OutOfMemoryError):
        acceleration.accelerated(entry("graph"), None, lambda pixels: pixels, pictures(), (1,))


class Recorded:
    """Stands for `Graphs`, and keeps what it was given."""

    def __init__(self, forward: Any, example: torch.Tensor, sizes: Any) -> None:
        self.forward, self.example, self.sizes = forward, example, sizes
        self.cost = Cost(1.0, 1.0)


@pytest.mark.parametrize("execution", ["graph", "compiled", "fp8"])
def test_dinov3_is_rewritten_and_recorded_as_the_catalog_says(execution: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acceleration, "Graphs", Recorded)
    model = dinov3(use_gated_mlp=True)
    found = acceleration.accelerated(entry(execution), model, partial(pooled, model), pictures(), (1, 4))
    assert isinstance(found, Recorded)
    assert found.example.shape == (1, 3, SIZE, SIZE)
    assert found.sizes == (1, 4)
    changed = execution != "graph"
    for layer in model.model.layer:
        assert isinstance(layer.attention, Attention) == changed
        assert ("forward" in vars(layer)) == changed
        assert type(next(layer.mlp.children())) is nn.Linear  # no CPU multiplies 8 bits itself


@pytest.mark.parametrize(("near", "kept"), [(0.9, True), (1.1, False)])
def test_layers_are_in_8_bits_only_if_the_features_stay(
    near: float, kept: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(acceleration, "NEAR", near)
    model = dinov3(use_gated_mlp=True).bfloat16()
    with caplog.at_level(logging.INFO):
        nearness = acceleration.in_8_bits(entry("fp8"), model, partial(pooled, model), pictures())
    assert 0.9 < nearness < 1.0
    assert any(isinstance(module, Fp8Linear) for module in model.modules()) == kept
    assert ("stays at 16 bits" in caplog.text) != kept
