"""A closer look: the shipped network again, on the squares at both ends of the picture and on its mirror image.

One pass sees a wide picture small, and a cone at its edge hardly at all. The squares show each part by itself, and the
mirror image is a second opinion on the whole; the look that sees most road work is believed. Three looks take up to
three times as long as the first pass. On held-out pictures of 512 pixels that gained 0.003 to 0.004 MCC behind a fit
and nothing for certain without one: no shipped profile asks it (`docs/results/cascade-2026-11-24.md`). On
pictures of your own, `./run_miner.sh calibrate --check` tells.

Of pictures of the wire's size the first pass has seen the mirror image too. Of a square one nothing is left then: it
gets log-odds of 0, which say nothing either way, and no pass. A profile spares it the question by `min_side = 225`.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from models.base import Frame, Model, ModelSpec, Opinion
from models.embedded.model import Embedded
from models.embedded.view import fitted, mirrored

KEY = "closer-look"
WIDE = 1.2  # from this aspect on the squares differ enough from the whole picture and from each other


class Closer:
    """The highest log-odds of all looks. network: what looks. Keeps `models.base.Model`."""

    def __init__(self, network: Model | None = None) -> None:
        self._network = network or Embedded()

    @property
    def spec(self) -> ModelSpec:
        return replace(self._network.spec, key=KEY, class_name="models.embedded.closer.Closer")

    def load(self, device: str) -> None:
        """Raises BadWeights, ModelUnavailable."""
        self._network.load(device)

    def warm_up(self) -> None:
        """As the network itself: the squares of common pictures have the shapes that it warms up with."""
        self._network.warm_up()

    def assess(self, frames: Sequence[Frame]) -> list[Opinion]:
        """One opinion per frame, in order; `evidence["looks"]`: the log-odds of each look."""
        began = time.perf_counter()
        looks = [views(frame) for frame in frames]
        shown = [view for several in looks for view in several]
        said = iter(self._network.assess(shown) if shown else ())
        found = [[next(said).logit for _ in several] for several in looks]
        milliseconds = (time.perf_counter() - began) * 1e3
        return [
            Opinion(KEY, max(logits, default=0.0), milliseconds, {"looks": [round(z, 3) for z in logits]})
            for logits in found
        ]

    def close(self) -> None:
        self._network.close()


def views(frame: Frame) -> list[Frame]:
    """What the first pass has not seen: the mirror image, unless it looks at that itself, and of a picture that is not
    nearly square the squares at both ends."""
    height, width = frame.pixels.shape[:2]
    side = min(height, width)
    found = [] if mirrored(*fitted(width, height)) else [frame.pixels[:, ::-1]]
    if max(height, width) >= WIDE * side:
        for top, left in ((0, 0), (height - side, width - side)):
            found.append(frame.pixels[top : top + side, left : left + side])
    return [Frame(pixels, frame.sha256) for pixels in found]
