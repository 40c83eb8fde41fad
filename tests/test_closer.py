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
        ((300, 300), [(300, 300)]),
        ((340, 300), [(340, 300)]),
        ((224, 224), []),
        ((260, 160), [(160, 160)] * 2),
    ],
)
def test_what_the_first_pass_has_seen_is_not_looked_at_again(
    size: tuple[int, int], expected: list[tuple[int, int]]
) -> None:
    assert [view.size for view in views(frame(*size))] == expected


def test_the_squares_reach_both_ends_and_the_mirror_image_is_one() -> None:
    ramp = np.broadcast_to((np.arange(400) // 2).astype(np.uint8)[None, :, None], (200, 400, 3))
    mirror, left, right = (view.pixels[0, :, 0] for view in views(Frame.of(ramp)))
    assert mirror.tolist() == ramp[0, ::-1, 0].tolist()
    assert (left[0], left[-1], right[0], right[-1]) == (0, 99, 100, 199)


def test_the_look_that_sees_most_is_believed_and_all_go_in_one_batch() -> None:
    network = Brightest()
    wide, square = Closer(network).assess([frame(512, 288, slice(480, 512)), frame(300, 300)])
    assert len(network.shapes) == 4
    assert wide.logit == max(wide.evidence["looks"]) == pytest.approx(200 * 32 / 256)  # mirrored, it lies on the left
    assert (wide.model, square.model, square.logit, len(square.evidence["looks"])) == (KEY, KEY, 0.0, 1)


def test_where_nothing_is_left_to_look_at_it_says_nothing_and_no_pass_is_spent() -> None:
    network = Brightest()
    bright = frame(224, 224, slice(0, 224))
    (said,) = Closer(network).assess([bright])
    assert (said.logit, said.evidence["looks"], network.shapes) == (0.0, [], [])
    wide, small = Closer(network).assess([frame(512, 288, slice(0, 512)), bright])
    assert (wide.logit, small.logit, len(network.shapes)) == (200.0, 0.0, 3)


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
    assert closer.spec.key == said.model == KEY
    assert 0.0 < said.milliseconds < 60_000.0
    closer.close()
    with pytest.raises(ModelUnavailable):
        closer.assess([picture])
