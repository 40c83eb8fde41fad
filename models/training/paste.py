"""Things to paste: cones, barriers, signs and workers for work zones, and harmless things as controls.

Real dashcam frames with road work come from few cameras, so a network learns the camera. A clear frame of any camera
with cones, barriers, signs or machines pasted in is a positive of that camera; the same frame with harmless things
pasted in the same way keeps it from learning the paste instead. numpy and Pillow only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Pixels = NDArray[np.uint8]
Rng = np.random.Generator
Sprite = Image.Image  # RGBA, about TALL pixels high
Colour = tuple[int, int, int]

TALL = 128
MACHINES = frozenset({"excavators-site"})  # whose close-ups show machines, not cones
CLOSE_UP = 0.003  # weight of one cut-out; the drawn kinds weigh about 0.7 together
RENDERED = 1.5  # weight of all rendered sprites of one label together
WHITE_BORDER = 0.85  # share of near-white border pixels above which a close-up can be cut out
WHITE: Colour = (238, 238, 238)
GREY: Colour = (95, 95, 95)
BLACK: Colour = (18, 18, 18)


def cut_out(pixels: Pixels) -> Sprite | None:
    """The object of a close-up on a white ground as RGBA, trimmed; None when the ground is not white."""
    picture = Image.fromarray(pixels).convert("RGB")
    picture.thumbnail((2 * TALL, 2 * TALL))
    near_white = np.asarray(picture).min(2) > 228
    border = np.concatenate([near_white[0], near_white[-1], near_white[:, 0], near_white[:, -1]])
    if border.mean() < WHITE_BORDER:
        return None
    ground = Image.fromarray(near_white.astype(np.uint8) * 255)
    framed = Image.new("L", (ground.width + 2, ground.height + 2), 255)
    framed.paste(ground, (1, 1))
    ImageDraw.floodfill(framed, (0, 0), 128)  # white that touches the border is ground; white stripes inside stay
    outside = np.asarray(framed)[1:-1, 1:-1] == 128
    alpha = Image.fromarray((~outside).astype(np.uint8) * 255).filter(ImageFilter.MinFilter(3))
    picture.putalpha(alpha)
    box = alpha.getbbox()
    return picture.crop(box) if box and 0.1 < np.asarray(alpha).mean() / 255 < 0.95 else None


@dataclass(frozen=True)
class Thing:
    """A sprite with what is needed to place it. metres: real height. chance: weight among those of its `work`."""

    sprite: Sprite
    metres: float
    work: bool
    chance: float
    source: str = ""


@dataclass(frozen=True)
class Kind:
    """How one kind of thing is drawn. metres: range of real heights. share: of the draws of its `work`."""

    make: Callable[[Rng], Sprite]
    metres: tuple[float, float]
    work: bool
    share: float


def draw(kind: Kind, count: int, rng: Rng) -> Iterator[Thing]:
    """`count` different sprites of one kind."""
    for _ in range(count):
        yield Thing(kind.make(rng), float(rng.uniform(*kind.metres)), kind.work, kind.share / count)


def cut_out_of(path: Path, source: str) -> Thing | None:
    """The object of a close-up. Broad ones are machines, the others cones."""
    with Image.open(path) as picture:
        sprite = cut_out(np.asarray(picture.convert("RGB")))
    if sprite is None:
        return None
    machine = source in MACHINES
    return Thing(sprite, 2.8 if machine else 0.75, True, CLOSE_UP * (0.4 if machine else 1.0), source)


def rendered(paths: Sequence[Path]) -> Iterator[Thing]:
    """What `render_sprites` wrote: its file names say what it is and how high. Every kind is drawn as often."""
    kinds = [path.name.split("-")[:2] for path in paths]
    for path, kind in zip(paths, kinds, strict=True):
        work = kind[0] == "work"
        alike = len({k[1] for k in kinds if k[0] == kind[0]}) * kinds.count(kind)
        with Image.open(path) as picture:
            yield Thing(picture.convert("RGBA"), int(path.name.split("-")[2]) / 100, work, RENDERED / alike)


def _blank(wide: float) -> tuple[Sprite, ImageDraw.ImageDraw]:
    sprite = Image.new("RGBA", (max(2, round(TALL * wide)), TALL), (0, 0, 0, 0))
    return sprite, ImageDraw.Draw(sprite)


def _orange(rng: Rng) -> Colour:
    return int(rng.integers(215, 256)), int(rng.integers(60, 130)), int(rng.integers(0, 50))


def _red(rng: Rng) -> Colour:
    return int(rng.integers(180, 230)), int(rng.integers(15, 50)), int(rng.integers(15, 50))


def _cone(rng: Rng) -> Sprite:
    sprite, draw = _blank(0.72)
    wide, foot = sprite.width, TALL * 0.9
    body = _orange(rng) if rng.random() < 0.7 else _red(rng)
    draw.polygon([(wide * 0.43, 0), (wide * 0.57, 0), (wide * 0.86, foot), (wide * 0.14, foot)], fill=body)
    for top, bottom in ((0.25, 0.42), (0.55, 0.68))[: rng.integers(0, 3)]:
        edge = [(0.43 - 0.29 * y, 0.57 + 0.29 * y, y * foot) for y in (top, bottom)]
        (a, b, y0), (c, d, y1) = edge
        draw.polygon([(wide * a, y0), (wide * b, y0), (wide * d, y1), (wide * c, y1)], fill=WHITE)
    draw.rectangle((0, foot, wide - 1, TALL - 1), fill=body if rng.random() < 0.5 else BLACK)
    return sprite


def _barrel(rng: Rng) -> Sprite:
    sprite, draw = _blank(0.62)
    draw.rounded_rectangle((2, 0, sprite.width - 3, TALL * 0.92), 5, fill=_orange(rng))
    for n in (1, 3):
        draw.rectangle((2, TALL * n * 0.18, sprite.width - 3, TALL * (n + 1) * 0.18 - 2), fill=WHITE)
    draw.rectangle((0, TALL * 0.9, sprite.width - 1, TALL - 1), fill=BLACK)
    return sprite


def _panel(rng: Rng) -> Sprite:
    """Upright board with slanted stripes, as European work zones use in rows."""
    sprite, draw = _blank(0.26)
    wide, step = sprite.width, TALL // 6
    draw.rectangle((0, 0, wide - 1, TALL * 0.88), fill=WHITE)
    colour = _red(rng) if rng.random() < 0.7 else _orange(rng)
    for y in range(-step, TALL, 2 * step):
        low = min(y + step, int(TALL * 0.86))
        draw.polygon([(0, y + step), (wide, y), (wide, low), (0, min(low + step, int(TALL * 0.88)))], fill=colour)
    draw.rectangle((0, TALL * 0.88, wide - 1, TALL - 1), fill=GREY)
    return sprite


def _barrier(rng: Rng) -> Sprite:
    """Boards with stripes on legs: one to three of them, red or orange and white."""
    sprite, draw = _blank(rng.uniform(1.2, 4.0))
    wide, colour = sprite.width, (_red(rng) if rng.random() < 0.5 else _orange(rng))
    for x in (0.08, 0.92):
        draw.rectangle((wide * x - 3, 0, wide * x + 3, TALL - 1), fill=GREY)
    boards = int(rng.integers(1, 4))
    for n in range(boards):
        top, bottom = int(TALL * n * 0.3), int(TALL * (n * 0.3 + 0.22))
        board = Image.new("RGBA", (wide, bottom - top), (*WHITE, 255))
        stripes = ImageDraw.Draw(board)
        for x in range(-TALL, wide + TALL, 44):
            stripes.polygon(
                [(x, 0), (x + 22, 0), (x + 22 - board.height, board.height), (x - board.height, board.height)],
                fill=colour,
            )
        sprite.paste(board, (0, top))
    return sprite


def _work_sign(rng: Rng) -> Sprite:
    """An orange diamond (Americas), a red-edged triangle (Europe) or a board with an arrow, on a post."""
    sprite, draw = _blank(0.7)
    wide, middle = sprite.width, sprite.width / 2
    draw.rectangle((middle - 2, wide, middle + 2, TALL - 1), fill=GREY)
    kind = rng.random()
    if kind < 0.5:
        draw.polygon(
            [(middle, 0), (wide - 1, middle), (middle, wide - 1), (0, middle)],
            fill=_orange(rng),
            outline=BLACK,
            width=2,
        )
        for y in (0.36, 0.52, 0.66):
            draw.rectangle((wide * 0.28, wide * y - 2, wide * 0.72, wide * y + 2), fill=BLACK)
    elif kind < 0.8:
        ground = (250, 205, 30) if rng.random() < 0.4 else WHITE
        draw.polygon([(middle, 0), (wide - 1, wide * 0.9), (0, wide * 0.9)], fill=ground, outline=_red(rng), width=7)
        draw.polygon([(wide * 0.3, wide * 0.8), (wide * 0.5, wide * 0.35), (wide * 0.62, wide * 0.8)], fill=BLACK)
    else:
        draw.rectangle((0, 4, wide - 1, wide * 0.7), fill=_orange(rng), outline=BLACK, width=2)
        draw.line((wide * 0.2, wide * 0.37, wide * 0.75, wide * 0.37), fill=BLACK, width=7)
        draw.polygon([(wide * 0.9, wide * 0.37), (wide * 0.65, wide * 0.18), (wide * 0.65, wide * 0.56)], fill=BLACK)
    return sprite


def _figure(rng: Rng, jacket: Colour, helmet: bool) -> tuple[Sprite, ImageDraw.ImageDraw]:
    sprite, draw = _blank(0.4)
    wide = sprite.width
    trousers = tuple(int(c) for c in rng.integers(20, 90, 3))
    draw.rectangle((wide * 0.25, TALL * 0.5, wide * 0.46, TALL - 1), fill=trousers)
    draw.rectangle((wide * 0.54, TALL * 0.5, wide * 0.75, TALL - 1), fill=trousers)
    draw.rounded_rectangle((wide * 0.15, TALL * 0.17, wide * 0.85, TALL * 0.55), 6, fill=jacket)
    draw.ellipse((wide * 0.33, 0, wide * 0.67, TALL * 0.17), fill=(190, 150, 125))
    if helmet:
        draw.pieslice((wide * 0.28, -4, wide * 0.72, TALL * 0.16), 180, 360, fill=(245, 200, 30))
    return sprite, draw


def _worker(rng: Rng) -> Sprite:
    """A person in a safety vest with a reflecting stripe."""
    vest = _orange(rng) if rng.random() < 0.6 else (205, 235, 40)
    sprite, draw = _figure(rng, vest, helmet=True)
    draw.rectangle((sprite.width * 0.15, TALL * 0.38, sprite.width * 0.85, TALL * 0.42), fill=WHITE)
    return sprite


def _person(rng: Rng) -> Sprite:
    colour = (int(rng.integers(20, 220)), int(rng.integers(20, 120)), int(rng.integers(20, 180)))
    return _figure(rng, colour, helmet=False)[0]


def _plain_sign(rng: Rng) -> Sprite:
    """Stop, speed limit, give way, parking, direction: signs of an ordinary street."""
    sprite, draw = _blank(0.62)
    wide, middle = sprite.width, sprite.width / 2
    draw.rectangle((middle - 2, wide, middle + 2, TALL - 1), fill=GREY)
    kind = rng.integers(5)
    if kind == 0:
        draw.regular_polygon((middle, middle, middle), 8, rotation=22, fill=_red(rng))
        draw.rectangle((wide * 0.2, wide * 0.42, wide * 0.8, wide * 0.58), fill=WHITE)
    elif kind == 1:
        draw.ellipse((0, 0, wide - 1, wide - 1), fill=WHITE, outline=_red(rng), width=8)
        draw.rectangle((wide * 0.35, wide * 0.35, wide * 0.65, wide * 0.65), fill=BLACK)
    elif kind == 2:
        draw.polygon([(0, 0), (wide - 1, 0), (middle, wide * 0.9)], fill=WHITE, outline=_red(rng), width=8)
    elif kind == 3:
        draw.rectangle((0, 0, wide - 1, wide - 1), fill=(30, 80, int(rng.integers(140, 210))))
    else:
        draw.polygon(
            [(middle, 0), (wide - 1, middle), (middle, wide - 1), (0, middle)],
            fill=(245, 205, 30),
            outline=BLACK,
            width=2,
        )
    return sprite


def _vehicle(rng: Rng) -> Sprite:
    """A rough rear view of a vehicle, often in the colours of a work zone: orange, yellow, red."""
    sprite, draw = _blank(rng.uniform(0.9, 1.6))
    wide = sprite.width
    paint = (int(rng.integers(150, 255)), int(rng.integers(30, 210)), int(rng.integers(0, 60)))
    draw.rounded_rectangle((wide * 0.12, 0, wide * 0.88, TALL * 0.6), 12, fill=paint)
    draw.rounded_rectangle((wide * 0.18, TALL * 0.08, wide * 0.82, TALL * 0.36), 8, fill=(40, 48, 58))
    draw.rounded_rectangle((0, TALL * 0.42, wide - 1, TALL * 0.86), 8, fill=paint)
    for x in (0.04, 0.84):
        draw.rectangle((wide * x, TALL * 0.5, wide * (x + 0.12), TALL * 0.62), fill=(200, 25, 25))
        draw.rectangle((wide * x, TALL * 0.86, wide * (x + 0.12), TALL - 1), fill=BLACK)
    return sprite


def _hydrant(rng: Rng) -> Sprite:
    sprite, draw = _blank(0.5)
    wide, colour = sprite.width, (_red(rng) if rng.random() < 0.6 else (235, 190, 40))
    draw.rounded_rectangle((wide * 0.25, 4, wide * 0.75, TALL - 1), 8, fill=colour)
    draw.rectangle((0, TALL * 0.35, wide - 1, TALL * 0.5), fill=colour)
    draw.rectangle((wide * 0.1, TALL * 0.92, wide * 0.9, TALL - 1), fill=colour)
    return sprite


def _post(rng: Rng) -> Sprite:
    """A bollard or bin of one colour."""
    sprite, draw = _blank(rng.uniform(0.15, 0.7))
    draw.rounded_rectangle((0, 0, sprite.width - 1, TALL - 1), 5, fill=tuple(int(c) for c in rng.integers(20, 230, 3)))
    return sprite


def _blob(wide: int, tall: int, rng: Rng, rough: float) -> Image.Image:
    """The mask of an irregular patch."""
    angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    radius = 1 - rough * rng.random(28)
    x, y = wide / 2 * (1 + radius * np.cos(angle)), tall / 2 * (1 + radius * np.sin(angle))
    mask = Image.new("L", (wide, tall), 0)
    ImageDraw.Draw(mask).polygon(list(zip(x.tolist(), y.tolist(), strict=True)), fill=255)
    return mask.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.5, 2))))


def _gravel(wide: int, tall: int, rng: Rng, colour: NDArray[np.float64], contrast: float) -> NDArray[np.float64]:
    grain = rng.normal(0, contrast, (tall, wide, 1)) + rng.normal(0, contrast / 4, (tall, wide, 3))
    return (colour + grain).clip(0, 255)


def _broken(rng: Rng) -> Sprite:
    """A pothole, with or without water in it, a puddle, or a patch of other asphalt, lying on the road."""
    wide = round(TALL * rng.uniform(1.5, 5.0))
    grey = rng.uniform(35, 130)
    earth = grey * np.array([1.0, rng.uniform(0.85, 1.0), rng.uniform(0.7, 1.0)])
    colours = _gravel(wide, TALL, rng, earth, float(rng.uniform(8, 40)))
    alpha = np.asarray(_blob(wide, TALL, rng, 0.35)) / 255
    if rng.random() < 0.6:  # water, brown or with the sky in it
        inner = np.zeros((TALL, wide))
        low, high, left, right = round(TALL * 0.25), round(TALL * 0.9), round(wide * 0.15), round(wide * 0.85)
        inner[low:high, left:right] = np.asarray(_blob(right - left, high - low, rng, 0.3)) / 255
        near, far = ([rng.uniform(90, 230), rng.uniform(90, 220), rng.uniform(70, 225)] for _ in range(2))
        share = np.linspace(0, 1, TALL)[:, None, None]
        water = np.asarray(near) * share + np.asarray(far) * (1 - share)
        colours = colours * (1 - inner[..., None]) + water * inner[..., None]
    else:  # deep: the far edge is dark
        colours *= 1 - rng.uniform(0, 0.7) * (np.linspace(1, 0, TALL)[:, None, None] ** 2)
    rgba = np.dstack([colours, 255 * alpha * rng.uniform(0.6, 1.0)])
    return Image.fromarray(rgba.round().astype(np.uint8), "RGBA")


KINDS = (
    Kind(_cone, (0.45, 1.0), True, 0.14),
    Kind(_barrel, (0.9, 1.15), True, 0.12),
    Kind(_panel, (0.9, 1.3), True, 0.10),
    Kind(_barrier, (0.9, 1.5), True, 0.14),
    Kind(_work_sign, (1.6, 2.8), True, 0.14),
    Kind(_worker, (1.6, 1.9), True, 0.08),
    Kind(_plain_sign, (1.8, 3.0), False, 0.25),
    Kind(_vehicle, (1.4, 3.2), False, 0.1),
    Kind(_hydrant, (0.6, 1.0), False, 0.1),
    Kind(_person, (1.5, 1.9), False, 0.1),
    Kind(_post, (0.5, 1.6), False, 0.1),
    Kind(_broken, (0.1, 0.5), False, 0.25),
)
