"""How a forward of fixed shape runs on a card: from graphs, of compiled blocks, in 8 bits, as the catalog says.

Whether 8 bits change the answer depends on the weights, so it is tried with the ones that were loaded: if the features
of some streets turn away from those at 16 bits by more than `NEAR` allows, the layers stay at 16.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from models import fp8, fused
from models.base import Frame
from models.catalog import Entry
from models.cuda_graphs import Graphs, recordable
from models.data.drawn import draw
from models.pictures import Pictures
from models.torch_model import Forward, is_out_of_memory

log = logging.getLogger(__name__)

NEAR = 0.99  # least cosine between a picture's features in 8 and in 16 bits
STREETS = 8  # drawn ones, half of them with road work


def accelerated(entry: Entry, model: Any, forward: Forward, pictures: Pictures, sizes: Sequence[int]) -> Forward:
    """Change `model` for `entry.execution` and record `forward`, which calls it, for these batch sizes.

    pictures: makes the pixel values that `forward` takes. A forward that cannot be recorded runs as before, and the log
    says why. Raises what torch raises when the card is full.
    """
    if entry.execution in ("compiled", "fp8"):
        if type(model).__name__ == "DINOv3ViTModel":
            fused.fuse(model, pictures.example.shape[-1])
        if entry.execution == "fp8" and fp8.supported(pictures.example.device):
            in_8_bits(entry, model, forward, pictures)
        fused.compile_blocks(model)
    else:
        forward = recordable(forward)
    try:
        graphs = Graphs(forward, pictures.example, sizes=sizes)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        log.warning("%s runs without graphs: %s", entry.key, str(error).splitlines()[0])
        return forward
    log.info("%s: %d graphs in %.1f s, %.2f GB", entry.key, len(graphs.sizes), graphs.cost.seconds, graphs.cost.gb)
    return graphs


@torch.inference_mode()
def in_8_bits(entry: Entry, model: Any, forward: Forward, pictures: Pictures) -> float:
    """Put the model's linear layers into 8 bits if that is harmless. Gives the least cosine found.

    forward: pixel values to features (N, D).
    """
    streets = pictures([Frame.of(draw(seed, seed % 2 == 0)) for seed in range(STREETS)])
    expected = forward(streets).float()
    replaced = fp8.convert(model)
    nearness = float(torch.cosine_similarity(forward(streets).float(), expected).min())
    if nearness < NEAR:
        fp8.restore(model, replaced)
        log.warning("%s stays at 16 bits: in 8, features turn to a cosine of %.4f (< %.2f)", entry.key, nearness, NEAR)
    else:
        log.info("%s: %d layers in 8 bits, cosine at least %.4f", entry.key, len(replaced), nearness)
    return nearness
