"""Harmless large things as meshes: cars, three-wheelers, lorries, buses, stalls, hoardings, traffic lights.

Yellow, orange and striped as often as road work is: nothing but their shape tells them apart. Each maker builds one
thing around the origin, its length along y.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from models.training.meshes import (
    BLACK,
    GLASS,
    STEEL,
    WHITE,
    Builder,
    Colour,
    Rng,
    any_colour,
    in_bytes,
    lime,
    orange,
    red,
    stripes,
    yellow,
)

RED_LAMP: Colour = (0.6, 0.03, 0.03)
GREEN: Colour = (0.02, 0.25, 0.08)


def _bright(rng: Rng) -> Colour:
    return [yellow, orange, red, any_colour, any_colour][rng.integers(5)](rng)


def car(b: Builder, rng: Rng) -> None:
    """Saloon, estate or van, a taxi's colours among them."""
    paint = _bright(rng)
    wide, tall, long = rng.uniform(1.6, 1.9), rng.uniform(1.35, 2.1), rng.uniform(3.6, 5)
    belt = tall * rng.uniform(0.52, 0.62)
    b.box((-wide / 2, -long / 2, 0.25), (wide / 2, long / 2, belt), paint)
    back, front = -long * rng.uniform(0.3, 0.49), long * rng.uniform(0.1, 0.3)
    b.box((-wide * 0.44, back, belt), (wide * 0.44, front, tall - 0.08), GLASS)
    b.box((-wide * 0.45, back + 0.1, tall - 0.08), (wide * 0.45, front - 0.1, tall), paint)
    for x in (-wide * 0.44, wide * 0.44):
        for y in (back, (back + front) / 2, front):
            b.beam((x, y, belt), (x, y, tall - 0.05), 0.1, paint)
        for y in (-long * 0.3, long * 0.3):
            b.wheel(x, y, 0.32, 0.25)
        b.box((x - 0.12, -long / 2 - 0.02, belt * 0.65), (x + 0.12, -long / 2, belt * 0.85), RED_LAMP)
        b.box((x - 0.12, long / 2, belt * 0.6), (x + 0.12, long / 2 + 0.02, belt * 0.8), WHITE)
    b.board(_plate(rng), 0, belt * 0.5, 0.5, 0.14, y=-long / 2 - 0.03)
    if rng.random() < 0.25:
        lamps = [(0.05, 0.1, 0.7), RED_LAMP, (0.95, 0.6, 0.05)][rng.integers(3)]
        b.box((-0.5, -0.2, tall), (0.5, 0.05, tall + 0.14), lamps)


def _plate(rng: Rng) -> Image.Image:
    picture = Image.new("RGB", (60, 16), (240, 200, 30) if rng.random() < 0.4 else (230, 230, 230))
    ImageDraw.Draw(picture).text((30, 8), str(rng.integers(1000, 99999)), fill="black", anchor="mm", font_size=14)
    return picture


def three_wheeler(b: Builder, rng: Rng) -> None:
    """A motor rickshaw: rounded nose, cloth roof, open sides; yellow, black, green, blue; or with a loading bed."""
    body = [BLACK, GREEN, yellow(rng), _bright(rng)][rng.integers(4)]
    roof = [BLACK, yellow(rng), yellow(rng), body, any_colour(rng)][rng.integers(5)]
    wide, tall, belt = 1.3, rng.uniform(1.65, 1.85), rng.uniform(0.75, 0.95)
    band = yellow(rng) if rng.random() < 0.6 else body
    b.box((-wide / 2, -1.3, 0.3), (wide / 2, 0.1, belt), body)
    b.box((-wide / 2 - 0.01, -1.31, belt - 0.12), (wide / 2 + 0.01, 0.1, belt), band)
    for side in (-1, 1):  # the nose narrows towards the front wheel
        b.beam((side * wide * 0.4, 0.2, 0.55), (side * 0.15, 1.15, 0.5), 0.45, body)
        b.beam((side * wide * 0.42, 0.1, belt), (side * wide * 0.3, 1.0, belt), 0.18, band)
        b.beam((side * wide * 0.46, 0.75, belt), (side * wide * 0.42, 0.45, tall - 0.1), 0.07, roof)
        b.beam((side * wide * 0.46, -0.3, belt), (side * wide * 0.46, -0.3, tall - 0.1), 0.06, roof)
        b.wheel(side * wide * 0.42, -0.9, 0.24, 0.14)
        b.revolved([(0.0, 0.6), (0.09, 0.68), (0.0, 0.76)], WHITE, side * 0.35, 1.05)
    b.box((-wide * 0.4, 0.95, 0.45), (wide * 0.4, 1.1, belt), body)
    b.box((-wide * 0.4, 0.74, belt), (wide * 0.4, 0.8, tall - 0.15), GLASS)
    b.wheel(0, 1.1, 0.24, 0.14)
    b.box((-wide / 2, -1.25, tall - 0.14), (wide / 2, 0.85, tall), roof)
    b.box((-wide * 0.42, -1.0, tall), (wide * 0.42, 0.6, tall + 0.08), roof)
    b.box((-wide * 0.45, -0.5, 0.5), (wide * 0.45, -0.3, belt + 0.4), any_colour(rng))
    if rng.random() < 0.8:
        b.box((-wide / 2, -1.28, belt), (wide / 2, -1.18, tall), roof)
        b.box((-wide * 0.25, -1.3, belt + 0.3), (wide * 0.25, -1.28, tall - 0.3), GLASS)
    b.board(_plate(rng), 0, 0.6, 0.4, 0.12, y=-1.33)


def lorry(b: Builder, rng: Rng) -> None:
    """With a box, a tarpaulin, open boards or a tank; painted all over, as in Asia, or plain."""
    paint, load = _bright(rng), _bright(rng)
    wide, long = 2.3, rng.uniform(3.0, 5.5)
    for x in (-0.95, 0.95):
        for y in (-long / 2 + 0.6, -long / 2 + 1.7, long / 2 + 1.0):
            b.wheel(x, y, 0.48, 0.3)
    b.box((-1.0, -long / 2, 0.6), (1.0, long / 2 + 1.9, 0.85), STEEL)
    b.box((-wide / 2, long / 2 + 0.2, 0.6), (wide / 2, long / 2 + 2.0, 2.6), paint)
    b.box((-wide * 0.45, long / 2 + 2.0, 1.6), (wide * 0.45, long / 2 + 2.03, 2.4), GLASS)
    tall = rng.uniform(1.9, 3.4)
    b.box((-wide / 2, -long / 2, 0.85), (wide / 2, long / 2, tall), load)
    if rng.random() < 0.5:
        b.board(_painted(rng), 0, (tall + 0.85) / 2, wide, tall - 0.85, y=-long / 2 - 0.03)
    b.box((-wide / 2, -long / 2 - 0.05, 0.55), (wide / 2, -long / 2, 0.75), red(rng) if rng.random() < 0.5 else WHITE)


def bus(b: Builder, rng: Rng) -> None:
    """City bus or school bus."""
    paint, long, tall = _bright(rng), rng.uniform(6, 10), rng.uniform(2.7, 3.2)
    b.box((-1.2, -long / 2, 0.35), (1.2, long / 2, tall), paint)
    b.box((-1.22, -long / 2 + 0.4, 1.4), (1.22, long / 2 - 0.4, tall - 0.5), GLASS)
    b.box((-1.05, -long / 2 - 0.02, 1.5), (1.05, long / 2 + 0.02, tall - 0.4), GLASS)
    for y in np.arange(-long / 2 + 0.4, long / 2, 1.3):
        b.box((-1.24, y, 1.3), (1.24, y + 0.12, tall - 0.4), paint)
    for x in (-1.05, 1.05):
        for y in (-long * 0.28, long * 0.32):
            b.wheel(x, y, 0.5, 0.35)
        b.box((x - 0.12, -long / 2 - 0.03, 0.8), (x + 0.12, -long / 2, 1.2), RED_LAMP)


def stall(b: Builder, rng: Rng) -> None:
    """A market stall or a shop's awning: striped or plain cloth over posts, goods below; or a sunshade."""
    if rng.random() < 0.3:
        cloth, wide = _bright(rng), rng.uniform(0.9, 1.6)
        b.revolved([(0.03, 0), (0.03, 2.1)], STEEL)
        b.revolved([(wide, 1.9), (0.0, 2.5)], cloth)
        return
    wide, tall, cloth = rng.uniform(1.6, 3.5), rng.uniform(2.0, 2.6), _bright(rng)
    for x in (-wide / 2, wide / 2):
        for y in (-0.7, 0.7):
            b.beam((x, y, 0), (x, y, tall), 0.06, STEEL)
    b.box((-wide / 2 - 0.1, -0.9, tall - 0.05), (wide / 2 + 0.1, 0.8, tall + 0.05), cloth)
    if rng.random() < 0.5:
        b.board(stripes(round(wide * 60), 24, cloth, rng), 0, tall - 0.2, wide + 0.2, 0.4, y=-0.92)
    b.box((-wide / 2, -0.5, 0.1), (wide / 2, 0.6, 0.85), any_colour(rng))
    for x in np.arange(-wide / 2 + 0.2, wide / 2, 0.45):
        b.box((x - 0.18, -0.45, 0.85), (x + 0.18, 0.3, 1.0 + rng.uniform(0, 0.25)), _bright(rng))


def _painted(rng: Rng) -> Image.Image:
    """Blocks of colour, lettering, now and then stripes: an advertisement or a shop's sign."""
    if rng.random() < 0.15:
        return stripes(128, 64, _bright(rng), rng)
    picture = Image.new("RGB", (128, 64), in_bytes(_bright(rng)))
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(1, 5))):
        x, y, wide, tall = (int(rng.integers(low, high)) for low, high in ((0, 100), (0, 44), (10, 70), (6, 30)))
        draw.rectangle((x, y, x + wide, y + tall), fill=in_bytes(any_colour(rng)))
    words = "".join(rng.choice(list("ABCDEGHIKLMNOPRSTU"), int(rng.integers(3, 9))))
    draw.text((64, int(rng.integers(14, 50))), words, fill=in_bytes(_bright(rng)), anchor="mm", font_size=22)
    return picture


def hoarding(b: Builder, rng: Rng) -> None:
    """An advertisement on posts, or a shop's sign near the ground."""
    low, wide, tall = rng.uniform(0.1, 2.5), rng.uniform(0.8, 4.0), rng.uniform(0.6, 2.0)
    for x in (-wide * 0.4, wide * 0.4):
        b.box((x - 0.05, 0, 0), (x + 0.05, 0.1, low + tall), STEEL)
    b.board(_painted(rng), 0, low + tall / 2, wide, tall)


def traffic_light(b: Builder, rng: Rng) -> None:
    """A yellow, black or green case with lamps, on a pole; or a school's sign in fluorescent green."""
    tall, case = rng.uniform(2.4, 3.6), [yellow(rng), yellow(rng), BLACK, GREEN][rng.integers(4)]
    b.revolved([(0.07, 0), (0.06, tall)], [STEEL, BLACK, yellow(rng)][rng.integers(3)])
    if rng.random() < 0.3:
        picture = Image.new("RGBA", (96, 96), (0, 0, 0, 0))
        points = [(48, 1), (94, 36), (94, 94), (2, 94), (2, 36)]
        ImageDraw.Draw(picture).polygon(points, fill=in_bytes(lime(rng)), outline="black", width=4)
        ImageDraw.Draw(picture).text((48, 62), "XI", fill="black", anchor="mm", font_size=40)
        b.board(picture, 0, tall - 0.4, 0.8, 0.8, y=-0.1)
        return
    b.box((-0.18, -0.3, tall - 0.5), (0.18, -0.05, tall + 0.5), case)
    lit = int(rng.integers(3))
    for n, lamp in enumerate(((0.1, 0.7, 0.3), (0.95, 0.6, 0.05), (0.9, 0.05, 0.03))):
        z = tall - 0.33 + 0.33 * n
        b.box((-0.11, -0.32, z - 0.11), (0.11, -0.3, z + 0.11), lamp if n == lit else BLACK)
