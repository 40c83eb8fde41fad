"""What the catalog's `execution` does to a model, as far as it can be seen without a card."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from test_fused import SIZE, dinov3
from torch import nn

from models import acceleration, catalog
from models.fused import Attention


def entry(execution: str) -> catalog.Entry:
    return catalog.find("dinov3-h-plus").model_copy(update={"execution": execution})


def broken(*_: Any, **__: Any) -> Any:
    raise RuntimeError("operation not permitted when stream is capturing\nmore")


def test_a_forward_that_cannot_be_recorded_runs_as_before(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(acceleration, "Graphs", broken)
    with caplog.at_level(logging.WARNING):
        forward = acceleration.accelerated(entry("graph"), None, lambda pixels: pixels * 2, torch.ones(1, 3), (1, 2))
    assert forward(torch.ones(2, 3)).tolist() == [[2] * 3] * 2
    assert caplog.messages == ["dinov3-h-plus runs without graphs: operation not permitted when stream is capturing"]


def test_a_full_card_is_no_reason_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(acceleration, "Graphs", full)
    with pytest.raises(torch.OutOfMemoryError):
        acceleration.accelerated(entry("graph"), None, lambda pixels: pixels, torch.ones(1, 3), (1,))


def test_graphs_are_recorded_for_the_sizes_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    class Recorded:
        def __init__(self, forward: Any, example: torch.Tensor, sizes: Any) -> None:
            asked.update(shape=example.shape, sizes=sizes, answer=forward(example))
            self.sizes, self.cost = sizes, type("", (), {"seconds": 1.0, "gb": 1.0})

    monkeypatch.setattr(acceleration, "Graphs", Recorded)
    acceleration.accelerated(entry("graph"), None, lambda pixels: pixels + 1, torch.ones(1, 3), (1, 4))
    assert asked["shape"] == (1, 3)
    assert asked["sizes"] == (1, 4)
    assert asked["answer"].tolist() == [[2, 2, 2]]


@pytest.mark.parametrize("execution", ["compiled", "fp8"])
def test_dinov3_is_rewritten_and_its_blocks_marked(execution: str) -> None:
    model = dinov3(use_gated_mlp=True)
    acceleration.changed(entry(execution), model, torch.empty(1, 3, SIZE, SIZE))
    assert all(isinstance(layer.attention, Attention) for layer in model.model.layer)
    assert all("forward" in vars(layer) for layer in model.model.layer)
    assert isinstance(model.model.layer[0].attention.qkv, nn.Linear)  # no CPU multiplies 8 bits itself
