"""Things to paste: rendered and drawn ones, and how they stand in a picture. Needs torch and mitsuba."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.training import compose, fit, paste, render_sprites
from models.training.album import Album, sprites
from models.training.compose import KINDS, Composed, Dice, Order
from models.training.meshes import WHITE, Builder


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sprites")
    assert render_sprites.main(["--out", str(out), "--count", "1"]) == 0
    return out


def test_everything_is_rendered_whole_and_of_a_real_size(rendered: Path) -> None:
    made = {(work, make.__name__) for work in ("work", "harmless") for make in getattr(render_sprites, work.upper())}
    found = {tuple(path.stem.split("-")[:2]): path for path in rendered.iterdir()}
    assert found.keys() == made
    for name, path in found.items():
        with Image.open(path) as picture:
            opaque = np.asarray(picture.getchannel("A")) > 128
        assert render_sprites.EDGE / 2 < max(opaque.shape) < render_sprites.EDGE, f"{name}: small, or cut off"
        assert opaque.mean() > 0.15, name
        assert 40 < int(path.stem.split("-")[2]) < 600, f"{name}: height in cm"


def test_equal_seeds_render_equal_sprites(rendered: Path) -> None:
    """But for rounding: blocks of a rendering are added up in the order in which threads finish them."""
    make = render_sprites.WORK[0]
    again, _ = render_sprites.render(make, np.random.default_rng((72, 0, *make.__name__.encode())))
    (first,) = rendered.glob(f"work-{make.__name__}-*")
    with Image.open(first) as picture:
        assert np.asarray(again) == pytest.approx(np.asarray(picture), abs=2)


def test_every_rendered_kind_is_drawn_as_often(rendered: Path) -> None:
    things = list(paste.rendered(sorted(rendered.iterdir())))
    for work, makers in ((True, render_sprites.WORK), (False, render_sprites.HARMLESS)):
        chances = [thing.chance for thing in things if thing.work == work]
        assert len(chances) == len(makers)
        assert chances == pytest.approx([paste.RENDERED / len(makers)] * len(makers))


@pytest.mark.parametrize("piece", ["box", "board"])
def test_what_is_built_stands_where_and_is_as_large_as_the_builder_says(tmp_path: Path, piece: str) -> None:
    builder = Builder(tmp_path)
    builder.at, builder.size = (3.0, -1.0), 2.0
    if piece == "box":
        builder.box((-1, 0, 0), (1, 0.5, 2), WHITE)
    else:
        builder.board(Image.new("RGB", (8, 8)), 0, 1, 2, 2, y=0.0)
    low, high = builder.corners.min(0), builder.corners.max(0)
    assert (low[0], high[0], high[2]) == (4.0, 8.0, 4.0)
    assert low[1] == -2.0


@pytest.mark.parametrize("kind", paste.KINDS, ids=lambda kind: kind.make.__name__)
def test_every_drawn_kind_is_seen(kind: paste.Kind) -> None:
    for thing in paste.draw(kind, 3, np.random.default_rng(1)):
        assert thing.sprite.mode == "RGBA"
        assert thing.sprite.height == paste.TALL
        assert (np.asarray(thing.sprite.getchannel("A")) > 128).mean() > 0.1


def pasted(close: float, count: int = 24) -> Composed:
    """Views of grey streets with drawn road work in them."""
    grey = Album((), torch.full((1, 3, 128, 128), 120, dtype=torch.uint8), torch.tensor([[128.0, 96.0]]))
    bank = sprites({}, (), 1, "cpu", drawn=2)
    rows = torch.zeros(count, dtype=torch.long)
    order = Order(rows, rows, rows + KINDS.index("pasted"), rows + 1.0, torch.ones(count, len(bank.sources)))
    return compose.compose(grey, bank, order, (96, 128), False, Dice(0, "cpu"), close)


def test_things_right_before_the_camera_fill_much_of_the_view() -> None:
    far, near = (pasted(close).mask.mean((1, 2, 3)).median() for close in (0.0, 1.0))
    assert near > 3 * far > 0


def test_a_picture_counts_as_the_root_of_its_places_and_an_unknown_one_not_at_all() -> None:
    dense, places = torch.zeros(3, 8, 8, requires_grad=True), torch.zeros(3, 8, 8)
    places[0] = 1  # a machine right before the camera
    places[1, 3, 3] = places[2, 3, 3] = 1  # a cone
    fit._dense_loss(dense, places, torch.tensor([1.0, 1.0, 0.0])).backward()
    pull = (dense.grad * places).abs().sum((1, 2))
    assert pull[0] == pytest.approx(8 * pull[1])
    assert pull[1] > 0
    assert not dense.grad[2].any()
