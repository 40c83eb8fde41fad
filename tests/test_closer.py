"""The closer look: which parts of a picture the network is shown again, and what is made of its answers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from models.base import Frame, Model, ModelSpec, ModelUnavailable, Opinion
from models.catalog import find, make
from models.embedded.closer import KEY, Closer, views
from models.embedded.model import Embedded


class Brightest:
    """Stands for the network: says how bright the left half of a picture is."""

    spec = ModelSpec("embedded", "test", "test", "Brightest")

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def load(self, device: str) -> None:
        if device != "cpu":
            raise ModelUnavailable(device)

    def warm_up(self) -> None:
        pass

    def assess(self, frames: Sequence[Frame]) -> list[Opinion]:
        self.shapes = [frame.pixels.shape for frame in frames]
        return [Opinion("embedded", float(f.pixels[:, : f.size[0] // 2].mean()), 1.0) for f in frames]

    def close(self) -> None:
        pass


def frame(width: int, height: int, bright: slice = slice(0, 0)) -> Frame:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, bright] = 200
    return Frame.of(pixels)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 288), [(512, 288)] + [(288, 288)] * 2),
        ((288, 512), [(288, 512)] + [(288, 288)] * 2),
        ((224, 224), [(224, 224)]),
        ((260, 224), [(260, 224)]),
    ],
)
def test_a_square_picture_is_only_mirrored(size: tuple[int, int], expected: list[tuple[int, int]]) -> None:
    assert [view.size for view in views(frame(*size))] == expected


def test_the_squares_reach_both_ends_and_the_mirror_image_is_one() -> None:
    ramp = np.broadcast_to(np.arange(100, dtype=np.uint8)[None, :, None], (50, 100, 3))
    mirror, left, right = (view.pixels[0, :, 0] for view in views(Frame.of(ramp)))
    assert mirror.tolist() == list(range(99, -1, -1))
    assert (left[0], left[-1], right[0], right[-1]) == (0, 49, 50, 99)


def test_the_look_that_sees_most_is_believed_and_all_go_in_one_batch() -> None:
    network = Brightest()
    wide, small = Closer(network).assess([frame(512, 288, slice(480, 512)), frame(224, 224)])
    assert len(network.shapes) == 4
    assert wide.logit == max(wide.evidence["looks"]) == pytest.approx(200 * 32 / 256)  # mirrored, it lies on the left
    assert (wide.model, small.model, small.logit, len(small.evidence["looks"])) == (KEY, KEY, 0.0, 1)


def test_it_is_the_shipped_network_that_looks() -> None:
    closer, network = make(find(KEY)), Embedded()
    assert isinstance(closer, Model)
    for model in (closer, network):
        model.load("cpu")
        model.warm_up()
    picture = Frame.of(np.random.default_rng(3).integers(0, 256, (288, 512, 3), dtype=np.uint8))
    (said,) = closer.assess([picture])
    expected = [opinion.logit for opinion in network.assess(views(picture))]
    assert said.evidence["looks"] == [pytest.approx(z, abs=1e-3) for z in expected]
    assert said.logit == pytest.approx(max(expected), abs=1e-4)
    closer.close()
    with pytest.raises(ModelUnavailable):
        closer.assess([picture])
