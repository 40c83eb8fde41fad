"""What the catalog has a card run from graphs can be recorded: its forward looks at no value and takes nothing from the
host.

A card refuses such a recording, and the model then runs as before, only slower. Here the operations that it would
refuse are watched for, in the second run, as a recording comes after runs that warm up.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_adapters import RUNNABLE, made
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from models import catalog
from models.cuda_graphs import Graphs, recordable
from models.torch_model import TorchModel

FROM_GRAPHS = [key for key in RUNNABLE if catalog.find(key).execution != "eager" and not catalog.find(key).engine]
FORBIDDEN = {  # they bring values to the host, or a tensor from there: on a card one waits for the other
    "aten::item",
    "aten::is_nonzero",
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::lift_fresh",
}


class Recording(TorchDispatchMode):
    """Raises RuntimeError where a card would."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.name()
        if name in FORBIDDEN or (name.startswith("aten::index") and _by_mask(args[1:])):
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        return function(*args, **kwargs or {})


def _by_mask(arguments: Any) -> bool:
    """Whether a tensor is indexed by a mask, which has to be counted first."""
    tensors = [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, torch.Tensor)]
    return any(tensor.dtype in (torch.bool, torch.uint8) for tensor in tensors)


def record(run: Any, pool: Any) -> Any:
    run()
    with Recording():
        outputs = run()
    return lambda: None, outputs


@pytest.mark.parametrize("key", FROM_GRAPHS)
def test_the_forward_can_be_recorded(key: str, checkpoints: Path) -> None:
    model = made(key, checkpoints)
    assert isinstance(model, TorchModel)
    model.load("cpu")
    forward, pictures = model.forward, model.pictures
    graphs = Graphs(recordable(forward), pictures.example, sizes=(1, 2), record=record)
    assert {len(leaf) for leaf in tree_leaves(graphs(pictures.example))} == {1}


@pytest.mark.parametrize(
    "reads",
    [
        lambda pixels: pixels if pixels.sum() > 0 else -pixels,
        lambda pixels: pixels[pixels > 0],
        lambda pixels: pixels + torch.arange(pixels.sum().int()).sum(),
        lambda pixels: pixels + float(pixels.sum()),
        lambda pixels: pixels + torch.FloatTensor([1.0]),
    ],
)
def test_a_forward_that_looks_at_values_is_noticed(reads: Any) -> None:
    with pytest.raises(RuntimeError, match="capturing: aten::"):
        Graphs(recordable(reads), torch.ones(1, 3, 4, 4), sizes=(1,), record=record)
