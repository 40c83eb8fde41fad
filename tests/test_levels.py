"""The validators' change to a challenge picture, level by level.

Expectations come from elsewhere: `golden/levels.json` was written with torchvision and OpenCV, which the validators
use; the distributions are worked out here from geometry.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from models.data import levels

GOLDEN = json.loads((Path(__file__).parent / "golden" / "levels.json").read_text())


def picture(height=180, width=320):
    y, x = np.mgrid[0:height, 0:width]
    red = 127.5 + 100 * np.sin(x / 9.0) * np.cos(y / 13.0)
    green = 255.0 * x / width
    blue = 127.5 + 127.5 * np.sin((x + 2 * y) / 21.0)
    return np.stack([red, green, blue], -1).astype(np.uint8)


BASE = levels.central_square(picture())

AS_THE_VALIDATORS = {
    "level_0": (lambda: BASE, 0),
    "crop_top_10_left_40_side_150": (lambda: levels._resized(picture(), 10, 40, 150), 1),
    "rotate_minus_17_then_crop_top_30_left_100_side_110": (
        lambda: levels._resized(levels.rotate(picture(), -17), 30, 100, 110),
        2,
    ),
    "rotate_8_then_crop_top_30_left_100_side_110": (
        lambda: levels._resized(levels.rotate(picture(), 8), 30, 100, 110),
        2,
    ),
    "saturate_0.4": (lambda: levels.saturate(BASE, 0.4), 1),
    "saturate_0.3": (lambda: levels.saturate(BASE, 0.3), 1),
    "darken_0.85": (lambda: levels.darken(BASE, 0.85), 0),
    "darken_0.725": (lambda: levels.darken(BASE, 0.725), 0),
    "down_and_up_2": (lambda: levels.down_and_up(BASE, 2), 2),
    "down_and_up_3": (lambda: levels.down_and_up(BASE, 3), 2),
    "blur_7": (lambda: levels.blur(BASE, 7), 1),
    "blur_9": (lambda: levels.blur(BASE, 9), 1),
}


@pytest.mark.parametrize("name", AS_THE_VALIDATORS)
def test_every_step_agrees_with_torchvision_and_opencv_to_rounding(name):
    step, tolerance = AS_THE_VALIDATORS[name]
    ours = step()[7::30, 7::30].astype(int)
    assert np.abs(ours - np.array(GOLDEN[name])).max() <= tolerance


@pytest.mark.parametrize("variance", [0.001, 0.002])
def test_noise_has_the_deviation_that_opencvs_ycbcr_gives_each_channel(variance):
    gray = np.full((448, 448, 3), 128, np.uint8)
    noisy = levels.add_noise(gray, variance, np.random.default_rng(4)).astype(float)
    assert noisy.std((0, 1)) == pytest.approx(GOLDEN[f"noise_deviation_{variance}"], rel=0.02)
    assert noisy.mean((0, 1)) == pytest.approx([127.5] * 3, abs=0.3)  # cut, not rounded: half a step low


@pytest.mark.parametrize("level", levels.LEVELS)
@pytest.mark.parametrize("size", [(360, 640), (640, 360), (224, 224), (37, 500), (1, 1)])
def test_any_picture_at_any_level_becomes_224_by_224(level, size):
    out = levels.apply(picture(*size), level, np.random.default_rng(0))
    assert out.shape == (224, 224, 3)
    assert out.dtype == np.uint8


@pytest.mark.parametrize("level", levels.LEVELS)
def test_the_same_generator_state_gives_the_same_picture_and_the_input_is_left_alone(level):
    rgb = picture()
    rgb.flags.writeable = False
    first, second = (levels.apply(rgb, level, np.random.default_rng(11)) for _ in range(2))
    assert (first == second).all()
    if level:
        assert (first != levels.apply(rgb, level, np.random.default_rng(12))).any()


def test_level_0_of_a_square_224_picture_changes_nothing():
    rgb = picture(224, 224)
    assert (levels.apply(rgb, 0, np.random.default_rng(0)) == rgb).all()


@pytest.mark.parametrize("degrees", [0.0, 3.0, 11.0, -11.0, 20.0])
def test_rotation_keeps_the_size_and_leaves_the_octagons_area(degrees):
    """A unit square and itself turned by t share 2 / (1 + sin t + cos t); the rest is black."""
    turned = levels.rotate(np.full((400, 400, 3), 255, np.uint8), degrees)
    t = np.radians(abs(degrees))
    assert turned.shape == (400, 400, 3)
    assert (turned > 127).mean() == pytest.approx(2 / (1 + np.sin(t) + np.cos(t)), abs=0.003)


def boxes(height, width, n=4000):
    rng = np.random.default_rng(2)
    return np.array([levels.crop_box(height, width, rng) for _ in range(n)])


def test_crops_of_a_square_picture_are_uniform_in_area_from_a_fifth_to_all():
    side = boxes(1000, 1000)[:, 2]
    assert stats.kstest(side.astype(float) ** 2 / 1e6, stats.uniform(0.2, 0.8).cdf).pvalue > 0.01


def test_crops_of_a_wide_picture_are_cut_off_where_the_square_no_longer_fits():
    """At 16:9 a square of more than 9/16 of the area is taller than the picture: those draws are drawn again."""
    height, width = 720, 1280
    top, left, side = boxes(height, width).T
    area = side.astype(float) ** 2 / (height * width)
    fallback = (side == height) & (left == (width - height) // 2)
    assert stats.kstest(area[~fallback], stats.uniform(0.2, 9 / 16 - 0.2).cdf).pvalue > 0.01
    assert fallback.mean() == pytest.approx((1 - (9 / 16 - 0.2) / 0.8) ** 10, abs=0.004)
    assert (top + side <= height).all()
    assert (left + side <= width).all()


def test_a_picture_too_wide_for_any_crop_gives_the_central_square():
    assert (boxes(100, 1000, n=20) == (0, 450, 100)).all()


def test_crops_lie_anywhere_with_the_same_chance():
    top, left, side = boxes(1000, 1000).T
    for start in (top, left):
        assert stats.kstest((start + 0.5) / (1000 - side + 1), stats.uniform(0, 1).cdf).pvalue > 0.01


def geometry_of_level_1(n, rng):
    """Share of black of a turned and cropped white square, by throwing points: no picture is involved."""
    t = np.radians(rng.uniform(-20, 20, n))[:, None]
    side = np.sqrt(rng.uniform(0.2, 1.0, n))[:, None]
    x, y = ((rng.random((n, 1)) * (1 - side) + rng.random((n, 900)) * side) - 0.5 for _ in range(2))
    inside = (abs(np.cos(t) * x - np.sin(t) * y) < 0.5) & (abs(np.sin(t) * x + np.cos(t) * y) < 0.5)
    return 1 - inside.mean(axis=1)


def test_the_share_of_black_corners_at_level_1_is_distributed_as_geometry_says():
    rng = np.random.default_rng(8)
    white = np.full((160, 160, 3), 255, np.uint8)
    ours = np.array([(levels.apply(white, 1, rng)[..., 0] < 128).mean() for _ in range(400)])
    expected = geometry_of_level_1(4000, rng)
    assert ours.mean() == pytest.approx(expected.mean(), abs=4 * ours.std() / 20)
    for quantile in (0.5, 0.75, 0.9):
        assert np.quantile(ours, quantile) == pytest.approx(np.quantile(expected, quantile), abs=0.012)


def test_no_flips_a_picture_with_its_light_on_the_right_and_below_keeps_it_there():
    y, x = np.mgrid[0:200, 0:200]
    rgb = np.stack([x, y, np.full_like(x, 255)], -1).astype(np.uint8)
    rng = np.random.default_rng(5)
    for _ in range(50):
        out = levels.apply(rgb, 1, rng).astype(float)
        kept = out[..., 2] > 250  # not the black corners
        rows, columns = np.nonzero(kept)
        assert np.corrcoef(columns, out[..., 0][kept])[0, 1] > 0.8
        assert np.corrcoef(rows, out[..., 1][kept])[0, 1] > 0.8


def chroma(rgb):
    """Mean distance of red and blue from the brightness: what saturation multiplies."""
    values = rgb.astype(float)
    brightness = values @ (0.299, 0.587, 0.114)
    return np.abs(values[..., 0] - brightness).mean() + np.abs(values[..., 2] - brightness).mean()


def central_strengths(monkeypatch, level, n):
    """What saturation, contrast, ... were drawn in n calls, seen at the steps themselves."""
    seen = {}
    for name in ("saturate", "darken", "down_and_up", "add_noise", "blur"):

        def spy(rgb, strength, *rest, name=name):
            seen.setdefault(name, []).append(strength)
            return rgb

        monkeypatch.setattr(levels, name, spy)
    monkeypatch.setattr(levels, "rotate", lambda rgb, degrees: rgb)
    rng = np.random.default_rng(21)
    tiny = picture(40, 60)
    for _ in range(n):
        levels.apply(tiny, level, rng)
    return seen


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        (0, {}),
        (1, {}),
        (2, {"saturate": (1.0, 0.4), "darken": (1.0, 0.85), "down_and_up": (1, 2)}),
        (
            3,
            {
                "saturate": (1.0, 0.4, 0.3),
                "darken": (1.0, 0.85, 0.725),
                "down_and_up": (1, 2, 3),
                "add_noise": (0.0, 0.001, 0.002),
                "blur": (0, 7, 9),
            },
        ),
    ],
)
def test_each_distortion_takes_each_of_its_strengths_equally_often_and_independently(monkeypatch, level, expected):
    n = 240
    seen = central_strengths(monkeypatch, level, n)
    assert set(seen) == set(expected)
    for name, strengths in expected.items():
        assert set(seen[name]) == set(strengths)
        counts = [seen[name].count(s) for s in strengths]
        assert stats.chisquare(counts).pvalue > 0.001
    if level:
        for first, second in zip(list(seen)[:-1], list(seen)[1:], strict=True):
            table = stats.contingency.crosstab(seen[first], seen[second]).count
            assert stats.chi2_contingency(table).pvalue > 0.001


@pytest.mark.parametrize("factor", [0.4, 0.3])
def test_saturation_multiplies_the_chroma_and_keeps_the_brightness(factor):
    out = levels.saturate(BASE, factor)
    assert chroma(out) / chroma(BASE) == pytest.approx(factor, rel=0.03)
    assert out.mean() == pytest.approx(
        (BASE @ (0.299, 0.587, 0.114)).mean() * (1 - factor) + BASE.mean() * factor, abs=1
    )


def test_contrast_pulls_towards_black():
    assert (levels.darken(np.full((2, 2, 3), 200, np.uint8), 0.85) == 170).all()


def test_blur_is_a_gaussian_of_a_sixth_of_the_kernel():
    dot = np.zeros((31, 31, 3), np.uint8)
    dot[15, 15] = 255
    row = levels.blur(dot, 9)[15, :, 0].astype(float)
    offsets = np.arange(31) - 15
    assert np.sqrt((row * offsets**2).sum() / row.sum()) == pytest.approx(1.5, rel=0.05)
    assert (row[np.abs(offsets) > 4] == 0).all()


@pytest.mark.parametrize("rgb", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_other_arrays_are_refused(rgb):
    with pytest.raises(ValueError, match="expected uint8"):
        levels.apply(rgb, 0, np.random.default_rng(0))


def test_other_levels_are_refused():
    with pytest.raises(ValueError, match="expected a level"):
        levels.apply(picture(), 4, np.random.default_rng(0))
