"""Drawn streets: repeatable, of the size asked, the work zone in sight, and no single colour that gives it away."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from models import metrics
from models.data import drawn, props
from models.data.canvas import Brush, Camera, Light

WORK = ("cone", "barrel", "beacon", "barricade", "arrow_board", "excavator", "roller", "work_truck", "heap", "trench",
        "concrete_run", "water_run", "fence")  # fmt: skip


@pytest.fixture(scope="module")
def streets():
    """(labels, pictures, names of the `WORK` drawn in each): forty streets of each kind, small."""
    labels, pictures, things = np.tile([0, 1], 40), [], []

    def noting(name, draw):
        return lambda *args, **kwargs: (seen.add(name), draw(*args, **kwargs))[1]

    with pytest.MonkeyPatch.context() as patch:
        for name in WORK:
            patch.setattr(props, name, noting(name, getattr(props, name)))
        for i, label in enumerate(labels):
            seen = set()
            pictures.append(drawn.draw(i // 2, bool(label), (320, 180)).astype(int))
            things.append(seen)
    return labels, pictures, things


@pytest.mark.parametrize("roadwork", [False, True])
@pytest.mark.parametrize("size", [(640, 360), (1280, 720), (224, 224), (360, 640), (64, 64)])
def test_any_size_gives_a_picture_of_it(size, roadwork):
    picture = drawn.draw(3, roadwork, size)
    assert picture.shape == (size[1], size[0], 3)
    assert picture.dtype == np.uint8
    assert picture.std() > 10


def test_the_same_seed_draws_the_same_picture_and_another_seed_another():
    first = drawn.draw(5, True)
    assert (first == drawn.draw(5, True)).all()
    assert (first != drawn.draw(6, True)).mean() > 0.5
    assert (first != drawn.draw(5, False)).mean() > 0.2


def test_the_labels_share_their_hours_brightness_says_nothing(streets):
    labels, pictures, _ = streets
    brightness = np.array([p.mean() for p in pictures]) / 255
    assert 0.3 < metrics.auc(labels, brightness) < 0.7
    assert brightness.max() - brightness.min() > 0.3  # day and night


def test_orange_alone_does_not_tell_road_work_from_clear(streets):
    labels, pictures, _ = streets
    share = np.array([orange(p) for p in pictures])
    best = max(np.mean((share > t) == (labels == 1)) for t in share)
    assert best < 0.8
    assert (share[labels == 0] > 0.002).mean() > 0.3  # streets without road work have orange
    assert (share[labels == 1] < 0.002).mean() > 0.05  # and some work zones have none


def orange(picture):
    red, green, blue = (picture[..., i] for i in range(3))
    return ((red > 150) & (red - green > 60) & (green - blue > 20)).mean()


def test_what_makes_a_work_zone_is_drawn_with_road_work_only(streets):
    """Machines, cones, barriers and holes are in every road-work picture and in no clear one."""
    labels, _, things = streets
    assert [bool(each) for each in things] == [bool(label) for label in labels]
    assert set.union(*things) == set(WORK)


def test_a_zone_hidden_behind_a_lorry_does_not_count():
    camera = Camera(640, 360, 500.0, 170.0, 1.5)
    light = drawn.LIGHTS[0]
    rng = np.random.default_rng(0)
    zone = [drawn._at(rng, props.excavator, 0.0, 20.0)]
    assert drawn._visible_share(zone, [], camera, light) > drawn.ENOUGH
    assert drawn._visible_share(zone, [drawn._at(rng, props.truck, 0.0, 4.0)], camera, light) < drawn.ENOUGH
    assert drawn._visible_share([], [], camera, light) == 0.0


def test_a_crew_finds_room_on_a_strip_narrower_than_its_margins():
    crew = drawn._crew(np.random.default_rng(0), 2.0, 1.5, 8.0, 22.0)
    assert {thing.where["x"] for thing in crew} == {2.0}


def test_signs_are_printed_where_they_are_large_enough_to_read():
    def print_of(z):
        camera = Camera(1280, 720, 1000.0, 340.0, 1.5)
        brush = Brush(Image.new("RGB", (1280, 720)), camera, Light("day", (0, 0, 0), (0, 0, 0), (1, 1, 1), 1e9))
        before = np.asarray(brush.image).copy()
        brush.text(0, 2, z, ["ROAD"], 0.2, (255, 255, 255))
        return (np.asarray(brush.image) != before).any()

    assert print_of(10.0)
    assert not print_of(100.0)


def test_too_small_a_size_is_refused():
    with pytest.raises(ValueError, match="64 x 64"):
        drawn.draw(0, True, (640, 63))
