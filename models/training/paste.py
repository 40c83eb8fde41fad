"""Work zones put together by hand: objects pasted onto clear frames, and harmless things pasted as controls.

Real dashcam frames with road work come from few cameras, so a network learns the camera. A clear frame of any camera
with cones, barriers, signs or machines pasted in is a positive of that camera; the same frame with harmless things
pasted in the same way keeps it from learning the paste instead. numpy and Pillow only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Pixels = NDArray[np.uint8]
Rng = np.random.Generator
Sprite = Image.Image  # RGBA, about TALL pixels high
Colour = tuple[int, int, int]

TALL = 96
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


def positive(frame: Pixels, objects: Sequence[Sprite], rng: Rng) -> Pixels:
    """A clear frame (H, W, 3) with a work zone pasted in. objects: cut-outs that may be used besides the drawn ones."""
    picture = Image.fromarray(frame)
    makers: list[Callable[[Rng], Sprite]] = [_cone, _barrel, _panel]
    if objects:
        makers += [lambda r: objects[int(r.integers(len(objects)))]] * 4
    scene = rng.random()
    if scene < 0.55:
        _row(picture, makers[rng.integers(len(makers))], rng)
    if 0.45 < scene < 0.75:
        _some(picture, _barrier, rng, most=3, heights=(0.05, 0.16))
    if scene > 0.65:
        _some(picture, _work_sign, rng, most=2, heights=(0.06, 0.22))
    if scene > 0.8:
        _some(picture, makers[rng.integers(len(makers))], rng, most=4, heights=(0.05, 0.35))
    if rng.random() < 0.3:
        _some(picture, _worker, rng, most=3, heights=(0.08, 0.3))
    return np.asarray(picture)


def control(frame: Pixels, donor: Pixels, rng: Rng) -> Pixels:
    """A clear frame with harmless things pasted in: pieces of another clear frame, plain signs, coloured vehicles."""
    picture = Image.fromarray(frame)
    makers: list[Callable[[Rng], Sprite]] = [_plain_sign, _vehicle, _hydrant, _person, _post]
    makers += [lambda r: _piece(donor, r)] * 3
    if rng.random() < 0.4:
        _row(picture, makers[rng.integers(len(makers))], rng)
    else:
        for _ in range(rng.integers(1, 4)):
            _some(picture, makers[rng.integers(len(makers))], rng, most=2, heights=(0.05, 0.3))
    return np.asarray(picture)


def _row(picture: Image.Image, maker: Callable[[Rng], Sprite], rng: Rng) -> None:
    """A line of things along one side of the road, larger and further out the nearer they are."""
    width, height = picture.size
    horizon = height * rng.uniform(0.42, 0.56)
    side, count = rng.choice([-1, 1]), int(rng.integers(2, 10))
    spread, sprite = rng.uniform(0.25, 0.5), maker(rng)
    far = rng.uniform(0.05, 0.25)
    for n in range(count):  # far to near, so that near ones cover far ones
        near = far + (1 - far) * (n + rng.uniform(0, 0.4)) / count
        foot = horizon + (height - horizon) * 0.9 * near**1.5
        tall = max(6.0, (foot - horizon) * rng.uniform(0.3, 0.42))
        x = width / 2 + side * width * (0.06 + spread * near**1.4) * rng.uniform(0.85, 1.1)
        _put(picture, sprite if rng.random() < 0.8 else maker(rng), x, foot, tall, rng)


def _some(
    picture: Image.Image, maker: Callable[[Rng], Sprite], rng: Rng, most: int, heights: tuple[float, float]
) -> None:
    """Up to `most` things anywhere below the horizon; heights as shares of the picture's."""
    width, height = picture.size
    for _ in range(rng.integers(1, most + 1)):
        tall = height * np.exp(rng.uniform(np.log(heights[0]), np.log(heights[1])))
        foot = rng.uniform(0.5, 0.8) * height + tall * 0.5
        _put(picture, maker(rng), rng.uniform(0.02, 0.98) * width, foot, tall, rng)


def _put(picture: Image.Image, sprite: Sprite, x: float, foot: float, tall: float, rng: Rng) -> None:
    """Scale, light like the surroundings, soften, lay a shadow, and paste with its foot at (x, foot)."""
    size = max(2, round(sprite.width * tall / sprite.height)), max(4, round(tall))
    scaled = sprite.resize(size, Image.Resampling.LANCZOS)
    if rng.random() < 0.5:
        scaled = scaled.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    left, top = round(x - size[0] / 2), round(foot) - size[1]
    around = picture.crop((left - size[0], top, left + 2 * size[0], top + size[1]))
    light = 0.5 + 0.5 * np.asarray(around).mean() / 118
    colours = np.asarray(scaled, dtype=np.float32)
    grey = colours[..., :3].mean(2, keepdims=True)
    toned = (grey + (colours[..., :3] - grey) * rng.uniform(0.55, 1.05)) * light * rng.uniform(0.75, 1.15)
    lit = Image.fromarray(np.dstack([toned.clip(0, 255), colours[..., 3:]]).astype(np.uint8), "RGBA")
    if rng.random() < 0.6:
        lit = lit.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 0.9)))
    if rng.random() < 0.5:
        shadow = Image.new("L", picture.size, 0)
        box = (left - size[0] * 0.1, foot - size[1] * 0.08, left + size[0] * 1.3, foot + size[1] * 0.06)
        ImageDraw.Draw(shadow).ellipse(box, fill=int(rng.integers(40, 120)))
        picture.paste((20, 20, 24), (0, 0), shadow)
    picture.paste(lit, (left, top), lit)


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


def _piece(donor: Pixels, rng: Rng) -> Sprite:
    """A piece of another clear frame; a third of them tinted orange, yellow or red."""
    height, width = donor.shape[:2]
    tall = int(rng.integers(max(8, height // 20), height // 3))
    wide = min(width - 1, int(tall * rng.uniform(0.4, 1.6)))
    top, left = int(rng.integers(height - tall)), int(rng.integers(width - wide))
    piece = Image.fromarray(donor[top : top + tall, left : left + wide]).convert("RGB")
    if rng.random() < 0.35:
        tint = Image.new("RGB", piece.size, _orange(rng) if rng.random() < 0.6 else (240, 190, 30))
        piece = Image.blend(piece, tint, rng.uniform(0.4, 0.9))
    mask = Image.new("L", piece.size, 0)
    draw = ImageDraw.Draw(mask)
    (draw.ellipse if rng.random() < 0.5 else draw.rectangle)((0, 0, wide - 1, tall - 1), fill=255)
    piece.putalpha(mask)
    return piece
