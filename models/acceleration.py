"""How a forward of fixed shape runs on a card: from graphs, of compiled blocks, in 8 bits, as the catalog says."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from models import fp8, fused
from models.catalog import Entry
from models.cuda_graphs import Graphs, recordable
from models.torch_model import Forward, is_out_of_memory

log = logging.getLogger(__name__)


def accelerated(entry: Entry, model: Any, forward: Forward, example: torch.Tensor, sizes: Sequence[int]) -> Forward:
    """Change `model` for `entry.execution` and record `forward`, which calls it, for these batch sizes.

    example: pixel values (1, 3, H, W) on the card. A forward that cannot be recorded runs as before, and the log says
    why. Raises what torch raises when the card is full.
    """
    if entry.execution in ("compiled", "fp8"):
        changed(entry, model, example)
    else:
        forward = recordable(forward)
    try:
        graphs = Graphs(forward, example, sizes=sizes)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        log.warning("%s runs without graphs: %s", entry.key, str(error).splitlines()[0])
        return forward
    log.info("%s: %d graphs in %.1f s, %.2f GB", entry.key, len(graphs.sizes), graphs.cost.seconds, graphs.cost.gb)
    return graphs


def changed(entry: Entry, model: Any, example: torch.Tensor) -> None:
    """Rewrite the model where a rewriting is known, and mark its blocks for compilation."""
    if type(model).__name__ == "DINOv3ViTModel":
        fused.fuse(model, example.shape[-1])
    if entry.execution == "fp8" and fp8.supported(example.device):
        log.info("%s: %d linear layers in 8 bits", entry.key, fp8.convert(model))
    fused.compile_blocks(model)
