"""`loop.fit` of a linear network on fixed numbers, for as many processes as it is started in: `linear_run.py OUT`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from models.training.finetune import loop
from models.training.finetune.settings import Classify, parse


class Numbers:
    """Eight rows a number, every `world`-th of them here."""

    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world

    def __getitem__(self, number: int) -> dict[str, Any]:
        rows = np.random.default_rng(number).standard_normal((8, 4), np.float32)[self.rank :: self.world]
        return {"input": rows, "targets": rows @ np.array([[1.0], [-2.0], [0.5], [3.0]], np.float32)}


def main(out: Path) -> None:
    flags = ["--data", "none", "--out", str(out), "--steps", "20", "--learning-rate", "0.05", "--workers", "0"]
    device = Accelerator(cpu=True)
    torch.manual_seed(0)
    loop.fit(
        nn.Linear(4, 1, bias=False),
        Numbers(device.process_index, device.num_processes),
        lambda outputs, batch: nn.functional.mse_loss(outputs, batch["targets"]),
        parse(Classify, flags),
        device,
        identity={},
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
