"""Small things as meshes: cones, drums, barricades, signs, arrow boards, workers, and what else stands in a street.

Each maker builds one thing around the origin, facing -y.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from models.training.meshes import (
    BLACK,
    STEEL,
    WHITE,
    Builder,
    Colour,
    Rng,
    any_colour,
    banded,
    in_bytes,
    lime,
    orange,
    red,
    stripes,
    yellow,
)


def cone(b: Builder, rng: Rng) -> None:
    """A traffic cone with up to two bands."""
    tall, paint = rng.uniform(0.45, 1.0), [orange, orange, orange, red, lime][rng.integers(5)](rng)
    half = tall * 0.24
    b.box((-half, -half, 0), (half, half, 0.05), paint if rng.random() < 0.5 else BLACK)
    edges = [(0.05, 1.0, paint)]
    if rng.random() < 0.8:
        edges = [(0.05, 0.35, paint), (0.35, 0.55, WHITE), (0.55, 1.0, paint)]
    if rng.random() < 0.4:
        edges = [(0.05, 0.3, paint), (0.3, 0.45, WHITE), (0.45, 0.6, paint), (0.6, 0.78, WHITE), (0.78, 1.0, paint)]
    banded(b, lambda z: (0.19 - 0.155 * z / tall) * tall, [(a * tall, c * tall, colour) for a, c, colour in edges])


def drum(b: Builder, rng: Rng) -> None:
    """A channelising drum: orange and white, on a rubber ring."""
    paint, tall = orange(rng), rng.uniform(0.9, 1.1)
    b.revolved([(0.33, 0), (0.33, 0.07), (0.2, 0.1)], BLACK)
    cuts = np.linspace(0.08, tall, 6)
    colours = (paint, WHITE, paint, WHITE, paint)
    banded(b, lambda z: 0.29 - 0.06 * z, [(cuts[n], cuts[n + 1], colours[n]) for n in range(5)])
    b.revolved([(0.29 - 0.06 * tall, tall), (0.0, tall + 0.01)], paint)


def tube(b: Builder, rng: Rng) -> None:
    """A slender delineator."""
    tall, paint = rng.uniform(0.75, 1.2), orange(rng)
    b.revolved([(0.18, 0), (0.16, 0.06), (0.05, 0.07)], BLACK)
    bands = [(0.05, 0.6, paint), (0.6, 0.7, WHITE), (0.7, 0.8, paint), (0.8, 0.9, WHITE), (0.9, 1.0, paint)]
    banded(b, lambda z: 0.055, [(a * tall, c * tall, colour) for a, c, colour in bands])


def beacon(b: Builder, rng: Rng) -> None:
    """An upright striped panel with a lamp, as in Europe."""
    tall, paint = rng.uniform(0.9, 1.3), red(rng) if rng.random() < 0.7 else orange(rng)
    b.box((-0.4, -0.2, 0), (0.4, 0.2, 0.12), BLACK)
    b.board(stripes(40, 160, paint, rng), 0, 0.15 + tall / 2, 0.26, tall)
    if rng.random() < 0.5:
        b.revolved([(0.0, tall + 0.15), (0.1, tall + 0.25), (0.0, tall + 0.36)], (0.9, 0.55, 0.05))


def barricade(b: Builder, rng: Rng) -> None:
    """One to three striped boards on legs."""
    wide, boards = rng.uniform(0.7, 2.6), int(rng.integers(1, 4))
    tall, paint = (1.0 if boards == 1 else 1.5), orange(rng) if rng.random() < 0.6 else red(rng)
    for x in (-wide * 0.4, wide * 0.4):
        b.box((x - 0.03, -0.02, 0), (x + 0.03, 0.02, tall), WHITE if rng.random() < 0.4 else STEEL)
        b.box((x - 0.03, -0.4, 0), (x + 0.03, 0.4, 0.06), STEEL)
    for n in range(boards):
        b.board(stripes(round(wide * 90), 22, paint, rng), 0, tall - 0.12 - 0.45 * n, wide, 0.22)


def water_barrier(b: Builder, rng: Rng) -> None:
    """Plastic or concrete barrier sections in a line."""
    length, count = rng.uniform(0.9, 1.6), int(rng.integers(1, 4))
    pair = (
        (red(rng), WHITE)
        if rng.random() < 0.7
        else ((orange(rng),) * 2 if rng.random() < 0.6 else ((0.5, 0.5, 0.48),) * 2)
    )
    profile = np.array(
        [(-0.3, 0), (0.3, 0), (0.28, 0.2), (0.12, 0.4), (0.1, 0.85), (-0.1, 0.85), (-0.12, 0.4), (-0.28, 0.2)]
    )
    for n in range(count):
        x0 = (n - count / 2) * length
        ends = [np.column_stack([np.full(8, x), profile]) for x in (x0 + 0.02, x0 + length - 0.02)]
        faces = [f for k in range(8) for f in ((k, (k + 1) % 8, (k + 1) % 8 + 8), (k, (k + 1) % 8 + 8, k + 8))]
        faces += [(0, k, k + 1) for k in range(1, 7)] + [(8, k + 1, k) for k in range(9, 15)]
        b.mesh(np.concatenate(ends), faces, pair[n % 2])


TEXTS = (
    "ROAD\nWORK\nAHEAD",
    "LANE\nCLOSED",
    "DETOUR",
    "ROAD\nCLOSED",
    "WORKERS",
    "ONE LANE\nROAD",
    "SLOW",
    "UTILITY\nWORK",
)


def work_sign(b: Builder, rng: Rng) -> None:
    """An orange diamond, a red-edged triangle or an orange board, on a post or a stand."""
    side, foot = rng.uniform(0.75, 1.2), rng.uniform(0.4, 1.6)
    kind, size = rng.random(), 128
    picture = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    draw, middle = ImageDraw.Draw(picture), size // 2
    ground = in_bytes(orange(rng))
    if kind < 0.55:
        draw.polygon(
            [(middle, 1), (size - 2, middle), (middle, size - 2), (1, middle)],
            fill=ground,
            outline=(10, 10, 10),
            width=4,
        )
        _text(draw, rng, size)
    elif kind < 0.8:
        inner = (250, 205, 30) if rng.random() < 0.4 else (235, 235, 235)
        draw.polygon(
            [(middle, 4), (size - 2, size - 14), (1, size - 14)], fill=inner, outline=in_bytes(red(rng)), width=14
        )
        draw.polygon([(45, 100), (62, 55), (70, 62), (78, 100)], fill=(12, 12, 12))
        draw.polygon([(74, 100), (90, 84), (100, 100)], fill=(12, 12, 12))
        draw.ellipse((60, 46, 70, 56), fill=(12, 12, 12))
    else:
        draw.rectangle((0, 24, size - 1, size - 24), fill=ground, outline=(10, 10, 10), width=4)
        _text(draw, rng, size)
    b.box((-0.03, -0.01, 0), (0.03, 0.02, foot + side / 2), STEEL)
    if foot < 0.8:
        for x in (-0.5, 0.5):
            b.box((min(0, x), -0.02, 0.1), (max(0, x), 0.02, 0.14), STEEL)
    b.board(picture, 0, foot + side / 2, side * 1.2, side * 1.2)


def _text(draw: ImageDraw.ImageDraw, rng: Rng, size: int) -> None:
    draw.multiline_text(
        (size / 2, size / 2), str(rng.choice(TEXTS)), fill=(10, 10, 10), anchor="mm", align="center", font_size=20
    )


def arrow_board(b: Builder, rng: Rng) -> None:
    """Amber lamps in an arrow on a black board, on a trailer or behind a truck with chevrons."""
    picture = Image.new("RGB", (160, 80), (12, 12, 12))
    draw, turn = ImageDraw.Draw(picture), rng.random() < 0.5
    lamps = [(20 + 14 * k, 40) for k in range(8)] + [
        (104 + 10 * k, 40 - s * (30 - 10 * k)) for k in range(3) for s in (1, -1)
    ]
    amber = (255, 190, 40) if rng.random() < 0.8 else (90, 60, 20)
    for across, down in lamps:
        across = 160 - across if turn else across
        draw.ellipse((across - 4, down - 4, across + 4, down + 4), fill=amber)
    truck = rng.random() < 0.5
    low = 2.2 if truck else 1.4
    b.board(picture, 0, low + 0.6, 2.4, 1.2, y=-0.1)
    b.box((-1.25, -0.05, low - 0.05), (1.25, 0.05, low + 1.25), STEEL)
    if truck:
        b.box((-1.2, 0, 0.5), (1.2, 4, 2.3), WHITE if rng.random() < 0.5 else (0.8, 0.5, 0.05))
        pair = (red(rng), (0.9, 0.7, 0.05)) if rng.random() < 0.5 else (orange(rng), WHITE)
        b.board(stripes(120, 60, pair[0], rng, pair[1]), 0, 1.0, 2.3, 1.0, y=-0.1)
        for x in (-0.95, 0.95):
            b.box((x - 0.15, 0.3, 0), (x + 0.15, 1.0, 0.8), BLACK)
    else:
        b.box((-0.06, 0, 0.5), (0.06, 0.1, low), STEEL)
        b.box((-0.8, 0, 0.45), (0.8, 0.8, 0.65), (0.8, 0.4, 0.05))
        for x in (-0.8, 0.8):
            b.box((x - 0.1, 0.2, 0), (x + 0.1, 0.75, 0.5), BLACK)


def _human(b: Builder, rng: Rng, jacket: Colour, stripe: bool) -> None:
    trousers = any_colour(rng) if not stripe or rng.random() < 0.6 else jacket
    lean, stride = rng.uniform(-0.1, 0.1), rng.uniform(0.08, 0.2)
    for x in (-stride, stride):
        b.revolved([(0.09, 0.05), (0.09, 0.5), (0.11, 0.88)], trousers, x * 0.8, x * rng.uniform(-1, 1))
    b.revolved([(0.0, 0.8), (0.19, 0.85), (0.21, 1.15), (0.24, 1.4), (0.08, 1.5)], jacket, lean / 2)
    if stripe:
        for z in (0.98, 1.2):
            b.revolved([(0.215, z), (0.225, z + 0.06)], (0.8, 0.8, 0.75), lean / 2)
    for x in (-0.28, 0.28):
        b.revolved(
            [(0.05, rng.uniform(0.75, 1.1)), (0.07, 1.4)],
            jacket if rng.random() < 0.6 else (0.45, 0.3, 0.22),
            lean / 2 + x,
        )
    skin = (0.45, 0.3, 0.22) if rng.random() < 0.6 else (0.15, 0.09, 0.06)
    b.revolved([(0.0, 1.48), (0.1, 1.55), (0.11, 1.65), (0.0, 1.76)], skin, lean)
    hat = [(0.9, 0.7, 0.05), WHITE, orange(rng)][rng.integers(3)] if stripe else any_colour(rng)
    b.revolved([(0.14, 1.66), (0.12, 1.74), (0.0, 1.8)], hat, lean)


def worker(b: Builder, rng: Rng) -> None:
    """In a vest with reflecting stripes and a helmet."""
    _human(b, rng, orange(rng) if rng.random() < 0.5 else lime(rng), stripe=True)


def person(b: Builder, rng: Rng) -> None:
    """In any clothes but a vest; now and then in orange, red or yellow ones."""
    cloth = [orange, red, yellow][rng.integers(3)] if rng.random() < 0.25 else any_colour
    _human(b, rng, cloth(rng), stripe=False)


def hydrant(b: Builder, rng: Rng) -> None:
    """Red, yellow or white."""
    paint = [red(rng), (0.8, 0.55, 0.05), WHITE][rng.integers(3)]
    b.revolved([(0.16, 0), (0.16, 0.05), (0.1, 0.07), (0.11, 0.5), (0.14, 0.52), (0.1, 0.65), (0.0, 0.75)], paint)
    b.box((-0.2, -0.06, 0.36), (0.2, 0.06, 0.48), paint)


def street_furniture(b: Builder, rng: Rng) -> None:
    """Bins, bollards, letter boxes, tree trunks, lamp posts."""
    kind, paint = rng.integers(4), any_colour(rng)
    if kind == 0:
        b.box((-0.3, -0.3, 0.05), (0.3, 0.3, 1.0), paint)
        b.box((-0.33, -0.33, 1.0), (0.33, 0.33, 1.08), any_colour(rng))
        return
    if kind == 1:
        tall, radius = rng.uniform(0.7, 1.2), rng.uniform(0.05, 0.15)
        b.revolved([(radius, 0), (radius, tall), (0, tall + radius)], paint)
        if rng.random() < 0.4:
            b.revolved([(radius * 1.03, tall * 0.75), (radius * 1.03, tall * 0.85)], WHITE)
        return
    if kind == 2:
        b.box((-0.05, -0.05, 0), (0.05, 0.05, 1.0), STEEL)
        b.box((-0.2, -0.3, 0.95), (0.2, 0.3, 1.4), [red(rng), (0.8, 0.6, 0.03), (0.03, 0.08, 0.3)][rng.integers(3)])
        return
    tall = rng.uniform(2.0, 4.0)
    b.revolved([(0.2, 0), (0.14, 1.0), (0.12, tall)], (0.14, 0.1, 0.07))


def plain_sign(b: Builder, rng: Rng) -> None:
    """Stop, limit, give way, parking, yellow diamond: signs of an ordinary street."""
    picture = Image.new("RGBA", (128, 128), (0, 0, 0, 0))
    draw, kind, paint = ImageDraw.Draw(picture), rng.integers(6), in_bytes(red(rng))
    if kind == 0:
        draw.regular_polygon((64, 64, 63), 8, rotation=22, fill=paint)
        draw.text((64, 64), "STOP", fill="white", anchor="mm", font_size=36)
    elif kind == 1:
        draw.ellipse((1, 1, 126, 126), fill="white", outline=paint, width=16)
        draw.text((64, 64), str(rng.integers(2, 13) * 10), fill="black", anchor="mm", font_size=48)
    elif kind == 2:
        draw.polygon([(1, 8), (126, 8), (64, 118)], fill="white", outline=paint, width=16)
    elif kind == 3:
        draw.rectangle((10, 10, 118, 118), fill=(20, 60, int(rng.integers(120, 200))), outline="white", width=4)
        draw.text((64, 64), "P", fill="white", anchor="mm", font_size=80)
    elif kind == 4:
        draw.polygon([(64, 1), (126, 64), (64, 126), (1, 64)], fill=(250, 205, 20), outline="black", width=4)
        draw.text((64, 64), "^", fill="black", anchor="mm", font_size=70)
    else:
        draw.rectangle((24, 1, 104, 126), fill="white", outline="black", width=3)
        draw.multiline_text((64, 64), "SPEED\nLIMIT\n35", fill="black", anchor="mm", align="center", font_size=22)
    foot = rng.uniform(1.2, 2.2)
    b.box((-0.03, -0.01, 0), (0.03, 0.02, foot + 0.4), STEEL)
    b.board(picture, 0, foot + 0.4, 0.8, 0.8)
