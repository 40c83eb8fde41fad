"""`train distil`: a student learns what a teacher said of each picture, and how a larger backbone sees it.

The teacher's verdicts are JSON lines with `sha256` and `probability`, as `predict` and the miner's trace write them.
Loss: (1 - share) * cross-entropy of the labels + share * T^2 * cross-entropy of the teacher's softened probability
(Hinton et al. 2015), plus 1 - cosine between the teacher backbone's features and a linear map of the student's, on
the same pixels.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from models.training.finetune import classify, data, loop
from models.training.finetune.network import Network, choose_what_learns, pretrained
from models.training.finetune.settings import Distil, parse

log = logging.getLogger(__name__)

MOST = 1 - 1e-6  # a teacher that is certain is taken to be this sure


class WithTeacher(nn.Module):
    """Student and, if there is one, a frozen backbone whose features it shall resemble."""

    def __init__(self, student: Network, backbone: Network | None) -> None:
        super().__init__()
        self.student = student
        self.backbone = backbone.requires_grad_(False) if backbone else None
        if backbone:
            self.map = nn.Linear(student.described.width, backbone.described.width)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """uint8 (N, side, side, 3) -> (N,) log-odds, and (N,) 1 - cosine of the features."""
        features = self.student.features(pixels)
        logits = self.student.head(features)[:, 0]
        if self.backbone is None:
            return logits, None
        with torch.no_grad():
            side = self.backbone.described.side
            shown = functional.interpolate(
                pixels.permute(0, 3, 1, 2).float(), (side, side), mode="bilinear", antialias=True
            )
            goal = self.backbone.eval().features(shown.permute(0, 2, 3, 1))
        return logits, 1 - functional.cosine_similarity(self.map(features).float(), goal.float())


def main(arguments: Sequence[str]) -> None:
    """Raises ValueError and ModelError that say what to do."""
    run(parse(Distil, arguments))


def run(settings: Distil) -> dict[str, Any]:
    """As `classify.run`, with a teacher's verdicts beside the labels."""
    device = loop.accelerator(settings)
    pictures = data.read(settings, log.info)
    parts = data.split(pictures, settings)
    teacher = verdicts(Path(settings.teacher))
    labels = np.array([p.label for p in pictures.pictures], np.float32)
    targets = np.column_stack([labels, [teacher.get(digest, np.nan) for digest in pictures.sha256]]).astype(np.float32)
    missing = int(np.isnan(targets[pictures.rows(parts["train"]), 1]).sum())
    log.info("the teacher has no verdict on %d of the training pictures; they are learned by label alone", missing)
    if missing == len(pictures.rows(parts["train"])):
        raise ValueError(f"{settings.teacher}: expected verdicts on the pictures of --data, got none on any of them")
    student = pretrained(settings.backbone, settings.side)
    choose_what_learns(student, settings.tune, settings.rank, settings.checkpointing)
    backbone = pretrained(settings.features) if settings.features else None
    classify.train(WithTeacher(student, backbone), loss_of(settings), pictures, parts, targets, settings, device)
    taught = {"teacher": Path(settings.teacher).name, "taught_by_label_alone": missing}
    return classify.finish(student, pictures, parts, settings, device, taught) if device.is_main_process else {}


def loss_of(settings: Distil) -> loop.Loss:
    """The three parts as one number. A picture without a verdict counts by its label alone."""

    def loss(outputs: tuple[Tensor, Tensor | None], batch: Mapping[str, Tensor]) -> Tensor:
        logits, unlike = outputs[0].float(), outputs[1]
        label, said = batch["targets"][:, 0], batch["targets"][:, 1]
        known = ~said.isnan()
        by_label = functional.binary_cross_entropy_with_logits(logits, label, reduction="none")
        soft = torch.sigmoid(torch.logit(torch.where(known, said, 0.5)) / settings.temperature)
        by_teacher = functional.binary_cross_entropy_with_logits(logits / settings.temperature, soft, reduction="none")
        share = settings.teacher_share * known
        total = ((1 - share) * by_label + share * settings.temperature**2 * by_teacher).mean()
        return total if unlike is None else total + settings.features_weight * unlike.mean()

    return loss


def verdicts(path: Path) -> dict[str, float]:
    """sha256 of a picture file -> the teacher's probability. Raises ValueError naming the line that is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"--teacher {path}: expected a file of verdicts, one JSON line each: {error}") from None
    found = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            found[str(row["sha256"])] = float(np.clip(row["probability"], 1 - MOST, MOST))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, line {number}: expected sha256 and probability ({error!r})") from None
    return found
