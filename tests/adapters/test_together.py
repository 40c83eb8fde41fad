"""Detectors together: one look per picture for all, their boxes fused, and what their sizes say of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from models import boxes, catalog
from models.base import Frame, ModelUnavailable
from models.boxes import Box
from models.depth import IMPOSSIBLE, ObjectSize
from models.detecting import Detecting
from models.together import Together

CONE = (40.0, 40.0, 60.0, 80.0)


class Told(Detecting):
    """A detector that sees what it is told, and counts its looks."""

    def __init__(self, key: str, found: Sequence[Box]) -> None:
        super().__init__(catalog.find(key))
        self.table, self.found, self.looks = boxes.classes(self.entry.classes), found, 0
        self._loaded = True
        self.join()

    def _load(self, directory: object) -> None:
        raise AssertionError("it is made loaded")

    def detect(self, frames: Sequence[Frame]) -> list[list[Box]]:
        self.looks += len(frames)
        return [list(self.found) for _ in frames]


class Flat(ObjectSize):
    """Everything ten metres away, through a camera of some focal length in pixels."""

    def __init__(self, focal: float) -> None:
        super().__init__(catalog.find("depth-anything-v2-s").model_copy(update={"focal": focal}))
        self._loaded = True

    def load(self, device: str) -> None:
        """Nothing."""

    def depth(self, frames: Sequence[Frame]) -> list[np.ndarray]:
        return [np.full(frame.pixels.shape[:2], 10.0, np.float32) for frame in frames]


@pytest.fixture
def pair() -> Iterator[list[Told]]:
    found = [Told("dfine-x", [Box("Traffic cone", 0.8, CONE)]), Told("llmdet-l", [Box("traffic cone", 0.6, CONE)])]
    yield found
    for each in found:
        each.close()


@pytest.fixture
def together() -> Together:
    model = catalog.make(catalog.find("detectors-together"))
    assert isinstance(model, Together)
    model.load("cpu")
    model.warm_up()
    return model


def picture(seed: int = 0, size: tuple[int, int] = (100, 100)) -> Frame:
    return Frame.of(np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8))


def test_boxes_are_fused_and_agreement_is_told(pair: list[Told], together: Together) -> None:
    (opinion,) = together.assess([picture()])
    (box,) = opinion.evidence["boxes"]
    (expected,) = boxes.fuse([[Box("traffic cone", 0.8, CONE)], [Box("traffic cone", 0.6, CONE)]], [1.4, 1.5])
    assert box == expected.as_json()
    assert opinion.evidence["agreement"] == 1.0
    assert opinion.evidence["detectors"] == ["dfine-x", "llmdet-l"]
    table = boxes.merged([each.table for each in pair])
    assert table.weights["traffic cone"] == 0.85  # the larger of the two
    assert opinion.logit == pytest.approx(table.logit({"traffic cone": expected.score}))


def test_two_that_agree_say_more_than_one_that_is_alone(pair: list[Told], together: Together) -> None:
    agreed = together.assess([picture(0)])[0].logit
    pair[1].found = []
    assert together.assess([picture(1)])[0].logit < agreed


def test_each_looks_once_whoever_asks(pair: list[Told], together: Together) -> None:
    frames = [picture(0), picture(1, (60, 80))]
    together.assess(frames)
    first = pair[0].assess(frames)
    assert pair[0].looks == 2
    assert [opinion.model for opinion in first] == ["dfine-x"] * 2
    pair[0].assess(frames)  # its own answer is computed anew, so that a canary tries the network
    assert pair[0].looks == 4


def test_an_impossible_size_is_evidence_against_the_detectors(pair: list[Told]) -> None:
    (opinion,) = Flat(focal=100.0).assess([picture()])  # 20 pixels at 10 m are 2 m: no cone
    fused = boxes.fuse([[Box("traffic cone", 0.8, CONE)], [Box("traffic cone", 0.6, CONE)]], [1.4, 1.5])[0].score
    table = boxes.merged([each.table for each in pair])
    lowered = table.logit({"traffic cone": fused * IMPOSSIBLE})
    assert opinion.logit == pytest.approx(lowered - table.logit({"traffic cone": fused}))
    assert opinion.logit < -1.0
    (size,) = opinion.evidence["sizes"]
    assert (size["label"], size["metres"], size["factor"]) == ("traffic cone", 2.0, IMPOSSIBLE)


@pytest.mark.parametrize("focal", [0.0, 700.0])  # unknown; 0.29 m, as a cone is
def test_without_a_focal_length_or_at_a_possible_size_nothing_is_said(pair: list[Told], focal: float) -> None:
    (opinion,) = Flat(focal).assess([picture()])
    assert opinion.logit == 0.0
    assert ("sizes" in opinion.evidence) == bool(focal)


def test_sizes_are_those_of_the_detectors_beside_it() -> None:
    with pytest.raises(ModelUnavailable, match="0 detectors are loaded on cpu, expected at least 1; name them"):
        Flat(focal=100.0).assess([picture()])


def test_one_detector_is_not_together(pair: list[Told], together: Together) -> None:
    pair[1].close()
    with pytest.raises(ModelUnavailable, match="1 detectors are loaded on cpu, expected at least 2; name them"):
        together.assess([picture()])
