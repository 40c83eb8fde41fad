"""What several detectors see together: their boxes fused, as one more member of the cascade.

It loads nothing: it asks the detectors that live in the same process, and each of them looks at a picture once, however
many ask. Two detectors that see the same cone are better evidence than one that sees it twice. With the camera's focal
length in the catalog and a depth model beside it, a box whose size is impossible counts for less (`models.depth`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from models import boxes, depth, torch_model
from models.base import Frame, ModelUnavailable
from models.boxes import Box, Classes
from models.detecting import Detecting, detectors
from models.torch_model import Answer, TorchModel

LEAST = 2  # detectors; one alone is a member already


class Together(TorchModel):
    """The log-odds of the fused boxes; evidence: the boxes, and the share of detectors that agree on one."""

    def load(self, device: str) -> None:
        torch_model.require(self.entry.library, self.entry.minimum)
        self.device, self._loaded = device, True

    def _load(self, directory: Any) -> None:
        """Nothing: its detectors load themselves."""

    def warm_up(self) -> None:
        """Nothing: its detectors warm themselves up, and need not be there yet."""

    def _answer(self, frames: Sequence[Frame]) -> list[Answer]:
        chosen = detectors(self.device)
        if len(chosen) < LEAST:
            raise ModelUnavailable(
                f"{self.entry.key}: {len(chosen)} detectors are loaded on {self.device}, expected at least {LEAST}; "
                "name them in the profile beside it"
            )
        seen = [each.seen(frames) for each in chosen]
        table = boxes.merged([each.table for each in chosen])
        metres = self._metres(frames)
        return [self._fused(chosen, [own[index] for own in seen], table, metres[index]) for index in range(len(frames))]

    def _fused(
        self, chosen: Sequence[Detecting], found: Sequence[Sequence[Box]], table: Classes, metres: Any
    ) -> Answer:
        named = [[replace(box, label=box.label.lower()) for box in own] for own in found]
        together = boxes.fuse(named, [each.entry.trust for each in chosen])
        if metres is not None:
            sized = depth.check(together, metres, self.entry.focal)
            together = [replace(each.box, score=each.box.score * each.factor) for each in sized]
        shown = [box.as_json() for box in together if box.score >= boxes.SHOWN]
        return table.logit(boxes.best_scores(together)), {
            "boxes": shown[:50],
            "agreement": round(boxes.agreement(named), 4),
            "detectors": [each.entry.key for each in chosen],
        }

    def _metres(self, frames: Sequence[Frame]) -> list[Any]:
        """Depth per frame, or None where nothing can be said of sizes."""
        found = depth.live(self.device) if self.entry.focal else None
        return list(found.depth(frames)) if found else [None] * len(frames)
