"""What stands and moves on a drawn street. Each function draws one thing at (x, z); the generator varies it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from models.data.canvas import Brush, Colour

Rng = np.random.Generator

ORANGE: Colour = (240, 98, 22)
LIME: Colour = (196, 232, 40)
MACHINE: Colour = (240, 178, 20)
WHITE: Colour = (242, 242, 238)
BLACK: Colour = (28, 28, 30)
RED: Colour = (200, 32, 30)
STEEL: Colour = (120, 122, 126)
CONCRETE: Colour = (176, 172, 164)
DIRT: Colour = (124, 92, 62)
SKIN: tuple[Colour, ...] = ((224, 178, 148), (168, 118, 84), (104, 72, 52))
CLOTHES: tuple[Colour, ...] = (
    (52, 58, 74),
    (92, 40, 44),
    (70, 84, 62),
    (188, 180, 168),
    (206, 120, 60),
    (60, 100, 150),
)
PAINT: tuple[Colour, ...] = (
    (232, 232, 232), (150, 154, 160), (40, 42, 48), (28, 48, 96), (138, 24, 28), (98, 108, 98), (222, 104, 26),
    (236, 188, 40), (70, 110, 140), (196, 190, 176),
)  # fmt: skip
ROADWORK_TEXTS: tuple[Sequence[str], ...] = (
    ("ROAD", "WORK", "AHEAD"), ("LANE", "CLOSED"), ("DETOUR", "AHEAD"), ("UTILITY", "WORK"), ("RIGHT LANE", "CLOSED"),
    ("WORKERS", "AHEAD"), ("BE PREPARED", "TO STOP"), ("SHOULDER", "WORK"), ("ONE LANE", "ROAD"),
)  # fmt: skip
WARNING_TEXTS: tuple[Sequence[str], ...] = (
    ("SLOW",), ("BUMP",), ("SCHOOL",), ("DEAD", "END"), ("SIGNAL", "AHEAD"), ("PED", "XING"), ("NO", "OUTLET"),
)  # fmt: skip


def shaded(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, int(c * factor)) for c in colour)
    return red, green, blue


def pick(rng: Rng, options: Sequence[Colour]) -> Colour:
    return options[int(rng.integers(len(options)))]


# ---- vehicles -------------------------------------------------------------------------------------------------------


def car(b: Brush, x: float, z: float, rng: Rng, paint: Colour | None = None, oncoming: bool = False) -> None:
    paint = paint or pick(rng, PAINT)
    tall = float(rng.choice([1.38, 1.45, 1.65]))
    length, half, belt = 4.4, 0.9, tall * 0.58
    b.shadow(x, z + length / 2, half + 0.35, length * 0.62)
    b.box((x - half + 0.08, x + half - 0.08), (0.0, 0.32), (z + 0.1, z + length - 0.2), BLACK)
    b.box((x - half, x + half), (0.26, belt), (z, z + length), paint)
    _cabin(b, x, z, half, belt, tall, length, paint)
    b.bar(x, z, (-half + 0.05, half - 0.05), (0.26, 0.38), BLACK)
    b.bar(x, z, (-0.27, 0.27), (0.5, 0.62) if not oncoming else (0.36, 0.48), (206, 206, 196))
    for side in (-1, 1):
        b.bar(x + side * (half - 0.2), z, (-0.12, 0.12), (0.0, 0.3), BLACK)
        lamp = (side * (half - 0.2) - 0.17, side * (half - 0.2) + 0.17)
        b.bar(x, z, lamp, (belt - 0.26, belt - 0.1), (236, 236, 224) if oncoming else (150, 18, 22))
        if b.light.dark or b.light.rain:
            b.glow(
                x + side * (half - 0.2),
                belt - 0.18,
                z,
                0.5 if oncoming else 0.2,
                (255, 244, 214) if oncoming else (220, 20, 16),
            )


def _cabin(b: Brush, x: float, z: float, half: float, belt: float, tall: float, length: float, paint: Colour) -> None:
    low, high, z0, z1, front = half - 0.06, half - 0.24, z + 0.3, z + length - 1.3, z + 0.75
    glass: Colour = (46, 58, 70)
    for side in (-1, 1):
        if side * x < 0:  # the flank that the camera sees
            xl, xh = x + side * low, x + side * high
            b.polygon([(xl, belt, z0), (xh, tall, front), (xh, tall, z1 - 0.5), (xl, belt, z1 + 0.4)], glass, 0.9)
            b.box((x + side * half - 0.02, x + side * half + 0.02), (0.0, 0.6), (z + 0.5, z + 1.1), BLACK)
    b.polygon([(x - low, belt, z0), (x + low, belt, z0), (x + high, tall, front), (x - high, tall, front)], paint)
    w = 0.86
    b.polygon(
        [
            (x - low * w, belt + 0.05, z0),
            (x + low * w, belt + 0.05, z0),
            (x + high * w, tall - 0.08, front),
            (x - high * w, tall - 0.08, front),
        ],
        glass,
    )


def van(b: Brush, x: float, z: float, rng: Rng, paint: Colour | None = None) -> None:
    paint = paint or pick(rng, ((236, 236, 232), (204, 206, 208), (60, 84, 120), (240, 150, 30), (228, 190, 60)))
    b.shadow(x, z + 2.6, 1.4, 3.2)
    b.box((x - 0.95, x + 0.95), (0.0, 0.4), (z + 0.1, z + 5.0), BLACK)
    b.box((x - 1.0, x + 1.0), (0.35, 2.35), (z, z + 5.2), paint)
    for side in (-1, 1):
        b.bar(x, z, (side * 0.48 - 0.38, side * 0.48 + 0.38), (1.35, 2.1), (44, 54, 66))
        b.bar(x, z, (side * 0.9 - 0.07, side * 0.9 + 0.07), (0.8, 1.3), (160, 22, 24))
    b.bar(x, z, (-0.3, 0.3), (0.7, 0.84), (210, 208, 196))


def truck(b: Brush, x: float, z: float, rng: Rng, paint: Colour | None = None, tall: float = 3.4) -> None:
    """A lorry from behind; also the school bus and the rubbish lorry by colour."""
    paint = paint or pick(rng, ((226, 226, 222), (58, 92, 72), (150, 44, 40), (72, 88, 128), (238, 186, 36)))
    b.shadow(x, z + 4, 1.7, 5)
    b.box((x - 1.1, x + 1.1), (0.1, 1.0), (z + 0.2, z + 8), (44, 44, 46))
    b.box((x - 1.25, x + 1.25), (0.8, tall), (z, z + 8), paint)
    b.bar(x, z, (-1.15, 1.15), (0.9, tall - 0.12), shaded(paint, 0.93))
    b.bar(x, z, (-0.02, 0.02), (0.9, tall - 0.12), STEEL)
    for side in (-1, 1):
        b.bar(x + side * 0.85, z, (-0.22, 0.22), (0.0, 0.85), BLACK)
        b.bar(x, z, (side * 1.0 - 0.18, side * 1.0 + 0.18), (0.58, 0.74), (170, 20, 22), reflective=True)


def bus(b: Brush, x: float, z: float, rng: Rng) -> None:
    paint: Colour = (
        (244, 180, 24) if rng.random() < 0.5 else pick(rng, ((196, 40, 40), (60, 110, 170), (226, 226, 222)))
    )
    truck(b, x, z, rng, paint, tall=3.1)
    b.bar(x, z, (-1.0, 1.0), (1.9, 2.7), (44, 54, 66))
    if paint[0] == 244:
        b.text(x, 2.88, z, ["SCHOOL BUS"], 0.2, BLACK)


# ---- people ---------------------------------------------------------------------------------------------------------


def person(b: Brush, x: float, z: float, rng: Rng, worker: bool = False) -> None:
    """Someone on foot; a worker wears a vest with stripes and a helmet, and often holds a tool."""
    lean, step = float(rng.uniform(-0.06, 0.06)), float(rng.uniform(0.04, 0.2))
    trousers = (38, 44, 62) if worker else pick(rng, CLOTHES)
    torso = (ORANGE if rng.random() < 0.5 else LIME) if worker else pick(rng, CLOTHES)
    b.shadow(x, z, 0.4, 0.3)
    for side in (-1, 1):
        b.flat(
            x,
            z,
            [(side * step - 0.09, 0), (side * step + 0.09, 0), (side * 0.1 + 0.1, 0.86), (side * 0.1 - 0.1, 0.86)],
            trousers,
        )
    b.flat(x, z, [(-0.21, 0.82), (0.21, 0.82), (0.25 + lean, 1.45), (-0.25 + lean, 1.45)], torso, reflective=worker)
    sleeve = torso if not worker or rng.random() < 0.4 else (70, 78, 96)
    for side in (-1, 1):
        reach, drop = float(rng.uniform(0.02, 0.35)), float(rng.uniform(0.85, 1.2))
        b.flat(
            x,
            z,
            [
                (side * 0.22 + lean, 1.44),
                (side * 0.3 + lean, 1.4),
                (side * (0.28 + reach), drop),
                (side * (0.2 + reach), drop),
            ],
            sleeve,
        )
    if worker:
        for low in (0.96, 1.14):
            b.bar(x, z, (-0.21, 0.22), (low, low + 0.07), (222, 224, 214), reflective=True)
        for side in (-1, 1):
            b.bar(x + side * 0.12, z, (-0.03, 0.03), (1.14, 1.44), (222, 224, 214), reflective=True)
    b.disc(x + lean, 1.6, z, 0.115, pick(rng, SKIN))
    if worker:
        helmet = pick(rng, (WHITE, (244, 200, 30), ORANGE, (40, 90, 170)))
        b.flat(x + lean, z, [(-0.16, 1.62), (0.16, 1.62), (0.11, 1.74), (0, 1.78), (-0.11, 1.74)], helmet)
        if rng.random() < 0.5:
            tilt = float(rng.uniform(-0.4, 0.4))
            b.stroke([(x + 0.3, 1.2, z), (x + 0.3 + tilt, 0.0, z)], 0.05, (130, 96, 60))
    else:
        b.flat(
            x + lean,
            z,
            [(-0.11, 1.62), (0.11, 1.62), (0.08, 1.73), (-0.08, 1.73)],
            pick(rng, ((40, 30, 26), (96, 70, 44), (180, 176, 170))),
        )


# ---- work zone ------------------------------------------------------------------------------------------------------


def cone(b: Brush, x: float, z: float, rng: Rng, tall: float = 0.75) -> None:
    w = tall * 0.26
    b.shadow(x, z, w * 1.7, 0.25)
    b.flat(x, z, [(-w * 1.35, 0), (w * 1.35, 0), (w * 1.2, 0.05), (-w * 1.2, 0.05)], (54, 44, 40))
    _tapered(
        b,
        x,
        z,
        w,
        tall,
        [(0.05, 0.42, ORANGE), (0.42, 0.62, WHITE), (0.62, 0.74, ORANGE), (0.74, 0.84, WHITE), (0.84, 1.0, ORANGE)],
    )


def _tapered(
    b: Brush, x: float, z: float, half: float, tall: float, bands: Sequence[tuple[float, float, Colour]]
) -> None:
    def width(share: float) -> float:
        return half * (1 - 0.86 * share)

    for low, high, colour in bands:
        outline = [
            (-width(low), low * tall),
            (width(low), low * tall),
            (width(high), high * tall),
            (-width(high), high * tall),
        ]
        b.flat(x, z, outline, colour, reflective=True)
        edge = [
            (width(low) * 0.35, low * tall),
            (width(low), low * tall),
            (width(high), high * tall),
            (width(high) * 0.35, high * tall),
        ]
        b.flat(x, z, edge, shaded(colour, 0.8), reflective=True)


def barrel(b: Brush, x: float, z: float, rng: Rng) -> None:
    b.shadow(x, z, 0.5, 0.3)
    b.bar(x, z, (-0.36, 0.36), (0.0, 0.1), BLACK)
    for i in range(5):
        colour = ORANGE if i % 2 == 0 else WHITE
        half = 0.3 - 0.012 * i
        low, high = 0.08 + 0.19 * i, 0.27 + 0.19 * i
        b.bar(x, z, (-half, half), (low, high), colour, reflective=True)
        b.bar(x, z, (half * 0.45, half), (low, high), shaded(colour, 0.8), reflective=True)
    if rng.random() < 0.25:
        b.disc(x, 1.12, z, 0.09, (250, 170, 30), reflective=True)
        if b.light.dark:
            b.glow(x, 1.12, z, 0.35, (255, 150, 20))


def stripes(
    b: Brush, x: float, z: float, across: tuple[float, float], up: tuple[float, float], first: Colour, second: Colour
) -> None:
    """A panel with diagonal stripes."""
    (left, right), (low, high) = across, up
    b.bar(x, z, across, up, second, reflective=True)
    pitch, slant = 0.36, high - low
    at = left - slant
    while at < right:
        corners = [(at, low), (at + pitch / 2, low), (at + pitch / 2 + slant, high), (at + slant, high)]
        b.flat(x, z, [(min(max(u, left), right), v) for u, v in corners], first, reflective=True)
        at += pitch


def barricade(b: Brush, x: float, z: float, rng: Rng, colour: Colour = ORANGE, half: float = 1.2) -> None:
    b.shadow(x, z, half, 0.4)
    for side in (-1, 1):
        b.bar(x + side * half * 0.75, z, (-0.05, 0.05), (0.0, 1.5), STEEL)
        b.bar(x + side * half * 0.75, z, (-0.12, 0.12), (0.0, 0.08), BLACK)
    for low in (0.42, 0.84, 1.26):
        stripes(b, x, z, (-half, half), (low, low + 0.24), colour, WHITE)
    if b.light.dark:
        b.glow(x - half * 0.75, 1.6, z, 0.3, (255, 150, 20))


def beacon(b: Brush, x: float, z: float, rng: Rng) -> None:
    """The red and white panel of European work zones."""
    b.shadow(x, z, 0.3, 0.25)
    b.bar(x, z, (-0.24, 0.24), (0.0, 0.12), BLACK)
    stripes(b, x, z, (-0.14, 0.14), (0.16, 1.1), RED, WHITE)


def concrete_run(b: Brush, x: float, near: float, far: float, rng: Rng) -> None:
    """A wall of concrete blocks along the road."""
    for z in np.arange(far, near, -3.0).tolist():
        b.box((x - 0.28, x + 0.28), (0.0, 0.3), (z - 2.9, z), CONCRETE)
        b.box((x - 0.13, x + 0.13), (0.3, 0.85), (z - 2.9, z), CONCRETE)
        b.bar(x, z - 2.9, (-0.05, 0.05), (0.62, 0.76), (250, 190, 60), reflective=True)


def water_run(b: Brush, x: float, near: float, far: float, rng: Rng) -> None:
    """Plastic blocks, red and white (or orange and white) in turn."""
    first = RED if rng.random() < 0.6 else ORANGE
    for i, z in enumerate(np.arange(far, near, -2.0).tolist()):
        b.box((x - 0.22, x + 0.22), (0.0, 0.9), (z - 1.9, z), first if i % 2 else WHITE)


def fence(b: Brush, x: float, z: float, rng: Rng, panels: int = 3) -> None:
    for i in range(panels):
        left = x + i * 2.2
        for up in np.linspace(0.15, 1.05, 4).tolist():
            b.stroke([(left, up, z), (left + 2.1, up, z)], 0.04, (206, 60, 40) if i % 2 else (226, 226, 222))
        for across in np.linspace(0, 2.1, 8).tolist():
            b.stroke([(left + across, 0.1, z), (left + across, 1.05, z)], 0.03, (200, 196, 190))


def diamond(
    b: Brush, x: float, z: float, lines: Sequence[str], colour: Colour, size: float = 0.85, post: float = 1.5
) -> None:
    """A square on its corner with black text; size: half its diagonal in metres."""
    centre = post + size
    if post > 0.8:
        b.bar(x, z, (-0.04, 0.04), (0.0, post + 0.3), STEEL)
    else:
        b.stroke([(x - 0.5, 0, z), (x, post + 0.3, z), (x + 0.5, 0, z)], 0.05, STEEL)
    for half, fill in ((size, BLACK), (size * 0.955, colour)):
        b.flat(x, z, [(0, centre - half), (half, centre), (0, centre + half), (-half, centre)], fill, reflective=True)
    # Letters are about 0.9 of their height wide; a line further from the middle of a diamond has less room.
    off = [abs(i - (len(lines) - 1) / 2) * 1.12 for i in range(len(lines))]
    height = min(1.8 * size / (0.9 * len(line) + 2 * d + 1) for line, d in zip(lines, off, strict=True))
    b.text(x, centre, z, lines, min(0.3, height), BLACK)


def board(
    b: Brush,
    x: float,
    z: float,
    lines: Sequence[str],
    fill: Colour,
    ink: Colour,
    size: tuple[float, float] = (1.5, 0.75),
    post: float = 1.2,
) -> None:
    """A rectangular sign. size: metres."""
    half = size[0] / 2
    for side in (-0.7, 0.7):
        b.bar(x + side * half, z, (-0.035, 0.035), (0.0, post + 0.1), STEEL)
    b.bar(x, z, (-half, half), (post, post + size[1]), ink, reflective=True)
    b.bar(x, z, (-half + 0.03, half - 0.03), (post + 0.03, post + size[1] - 0.03), fill, reflective=True)
    longest = max(len(line) for line in lines)
    b.text(x, post + size[1] / 2, z, lines, min(size[0] * 1.02 / longest, size[1] * 0.72 / len(lines)), ink)


def works_triangle(
    b: Brush, x: float, z: float, inner: Colour = WHITE, post: float = 1.4, pictogram: bool = True
) -> None:
    """The European warning sign; its pictogram is a digging man, or an exclamation mark on plain ones."""
    b.bar(x, z, (-0.035, 0.035), (0.0, post), STEEL)
    for grow, colour in ((1.0, RED), (0.74, inner)):
        base, top, half = post + 0.26 * (1 - grow), post + 0.86 - 0.26 * (1 - grow) * 1.1, 0.52 * grow
        b.flat(x, z, [(-half, base), (half, base), (0, top)], colour, reflective=True)
    if not pictogram:
        b.bar(x, z, (-0.035, 0.035), (post + 0.3, post + 0.55), BLACK, reflective=True)
        b.bar(x, z, (-0.035, 0.035), (post + 0.17, post + 0.24), BLACK, reflective=True)
        return
    b.disc(x - 0.01, post + 0.5, z, 0.045, BLACK, reflective=True)
    b.stroke([(x - 0.02, post + 0.44, z), (x - 0.08, post + 0.3, z), (x - 0.14, post + 0.13, z)], 0.06, BLACK)
    b.stroke([(x - 0.08, post + 0.3, z), (x - 0.01, post + 0.13, z)], 0.06, BLACK)
    b.stroke([(x - 0.03, post + 0.42, z), (x + 0.12, post + 0.22, z)], 0.045, BLACK)
    b.flat(x, z, [(0.06, post + 0.12), (0.26, post + 0.12), (0.16, post + 0.25)], BLACK, reflective=True)


def arrow_board(b: Brush, x: float, z: float, rng: Rng) -> None:
    """A trailer with a panel of amber lamps that form an arrow."""
    b.shadow(x, z + 0.8, 1.3, 1.2)
    b.box((x - 0.7, x + 0.7), (0.25, 0.65), (z + 0.1, z + 1.6), ORANGE)
    for side in (-1, 1):
        b.disc(x + side * 0.75, 0.3, z + 0.5, 0.3, BLACK)
    b.bar(x, z, (-0.06, 0.06), (0.6, 1.4), STEEL)
    b.bar(x, z, (-1.2, 1.2), (1.3, 2.5), (22, 22, 24))
    way = -1 if rng.random() < 0.5 else 1
    lamps = [(way * u, 1.9) for u in (-0.9, -0.6, -0.3, 0.0, 0.3, 0.6, 0.9)]
    lamps += [(way * (0.9 - d), 1.9 + s * d) for d in (0.2, 0.4) for s in (-1, 1)]
    for right, up in lamps:
        b.disc(x + right, up, z, 0.085, (255, 186, 40), reflective=True)
        if b.light.dark or b.light.rain:
            b.glow(x + right, up, z, 0.16, (255, 150, 20))


def excavator(b: Brush, x: float, z: float, rng: Rng) -> None:
    paint = pick(rng, (MACHINE, MACHINE, (226, 96, 20), (200, 200, 190)))
    way = -1 if rng.random() < 0.5 else 1
    b.shadow(x, z + 1.2, 1.9, 1.6)
    for side in (-1, 1):
        b.box((x + side * 0.95 - 0.3, x + side * 0.95 + 0.3), (0.0, 0.8), (z, z + 3.0), (46, 44, 44))
    b.box((x - 1.3, x + 1.3), (0.85, 1.9), (z + 0.3, z + 2.8), paint)
    b.box((x + way * 0.75 - 0.5, x + way * 0.75 + 0.5), (1.5, 2.9), (z + 0.5, z + 1.9), (66, 70, 72))
    b.bar(x + way * 0.75, z + 0.5, (-0.4, 0.4), (1.75, 2.75), (104, 132, 150))
    low, reach = float(rng.uniform(0.2, 1.2)), float(rng.uniform(3.2, 4.4))
    boom = [(x + way * 0.3, 1.6, z + 0.4), (x + way * reach * 0.55, 4.1, z + 0.3), (x + way * reach, 2.6, z + 0.2)]
    b.stroke(boom, 0.42, paint)
    b.stroke([(x + way * reach, 2.7, z + 0.2), (x + way * reach * 0.92, low + 0.7, z + 0.2)], 0.3, paint)
    bucket = x + way * reach * 0.9
    b.flat(
        bucket,
        z + 0.2,
        [(-0.5, low + 0.8), (0.45, low + 0.7), (0.4, low + 0.1), (-0.1, low - 0.1), (-0.5, low + 0.2)],
        (60, 58, 56),
    )


def roller(b: Brush, x: float, z: float, rng: Rng) -> None:
    b.shadow(x, z + 1.2, 1.5, 1.8)
    b.box((x - 0.85, x + 0.85), (0.5, 1.5), (z + 0.5, z + 3.2), MACHINE)
    b.bar(x, z, (-0.95, 0.95), (0.0, 1.05), (92, 92, 96))
    b.bar(x, z, (-0.95, 0.95), (0.35, 0.6), (120, 120, 124))
    for side in (-1, 1):
        b.bar(x + side * 0.75, z + 0.8, (-0.04, 0.04), (1.5, 2.7), BLACK)
    b.box((x - 0.95, x + 0.95), (2.65, 2.8), (z + 0.6, z + 2.4), MACHINE)


def work_truck(b: Brush, x: float, z: float, rng: Rng) -> None:
    """A lorry of the road service: stripes behind and a lamp on the roof."""
    truck(b, x, z, rng, pick(rng, (ORANGE, MACHINE, WHITE)), tall=2.6)
    stripes(b, x, z, (-1.15, 1.15), (0.95, 1.75), RED, (246, 214, 40))
    b.disc(x, 2.72, z, 0.14, (255, 176, 30), reflective=True)
    b.glow(x, 2.72, z, 0.35, (220, 130, 10))


def heap(b: Brush, x: float, z: float, rng: Rng, colour: Colour = DIRT) -> None:
    half, tall = float(rng.uniform(0.8, 1.8)), float(rng.uniform(0.6, 1.3))
    at = np.linspace(-1, 1, 11)
    rough = rng.uniform(0.85, 1.1, at.size)
    b.shadow(x, z, half * 1.2, 0.8)
    profile = [(float(a) * half, float(max(0.0, (1 - a * a) * r)) * tall) for a, r in zip(at, rough, strict=True)]
    b.flat(x, z, profile, colour)
    b.flat(x, z, [(0, 0), *[(u, v * 0.92) for u, v in profile if u >= 0]], shaded(colour, 0.78))


def trench(b: Brush, x: float, near: float, rng: Rng) -> None:
    """Torn-up surface: earth with ragged edges."""
    half, depth = float(rng.uniform(0.7, 1.4)), float(rng.uniform(3, 8))
    zs = np.linspace(near, near + depth, 6).tolist()
    left = [(x - half * float(rng.uniform(0.8, 1.15)), at) for at in zs]
    right = [(x + half * float(rng.uniform(0.8, 1.15)), at) for at in reversed(zs)]
    b.ground(left + right, DIRT)
    b.ground(
        [(u + (0.2 if i < 6 else -0.3), max(w, near + 0.3)) for i, (u, w) in enumerate(left + right)], (72, 54, 40)
    )


# ---- furniture of any street ----------------------------------------------------------------------------------------


def tree(b: Brush, x: float, z: float, rng: Rng, autumn: bool = False) -> None:
    tall = float(rng.uniform(4, 9))
    green: tuple[Colour, ...] = ((58, 92, 44), (74, 108, 52), (48, 78, 46))
    leaf = pick(rng, ((206, 112, 36), (190, 140, 40), (168, 76, 34)) if autumn else green)
    b.shadow(x, z, tall * 0.3, 0.9)
    b.bar(x, z, (-0.14, 0.14), (0.0, tall * 0.55), (74, 60, 48))
    for _ in range(9):
        right, up = rng.normal(0, tall * 0.13), rng.uniform(tall * 0.45, tall * 0.95)
        shade = float(rng.uniform(0.72, 1.15)) * (0.8 + 0.3 * up / tall)
        b.disc(x + float(right), float(up), z, tall * float(rng.uniform(0.11, 0.2)), shaded(leaf, shade), squash=0.85)


def conifer(b: Brush, x: float, z: float, rng: Rng) -> None:
    tall = float(rng.uniform(5, 11))
    b.shadow(x, z, tall * 0.18, 0.7)
    for i in range(4):
        low = tall * (0.08 + 0.2 * i)
        half = tall * (0.2 - 0.04 * i)
        shade = 0.8 + 0.1 * i
        b.flat(x, z, [(-half, low), (half, low), (0, low + tall * 0.36)], shaded((46, 74, 52), shade))


def bush(b: Brush, x: float, z: float, rng: Rng) -> None:
    colour = pick(
        rng, ((66, 98, 50), (90, 112, 60), (206, 104, 52)) if rng.random() < 0.3 else ((66, 98, 50), (90, 112, 60))
    )
    for _ in range(5):
        b.disc(
            x + float(rng.uniform(-0.9, 0.9)),
            float(rng.uniform(0.2, 0.6)),
            z,
            float(rng.uniform(0.35, 0.6)),
            colour,
            squash=0.8,
        )


def lamp_post(b: Brush, x: float, z: float, rng: Rng) -> None:
    way = -1 if x > 0 else 1
    b.bar(x, z, (-0.08, 0.08), (0.0, 7.6), (96, 98, 102))
    b.stroke([(x, 7.5, z), (x + way * 0.9, 8.0, z), (x + way * 1.8, 8.0, z)], 0.12, (96, 98, 102))
    b.bar(x + way * 1.8, z, (-0.35, 0.35), (7.9, 8.05), (200, 200, 196))
    if b.light.dark:
        b.glow(x + way * 1.8, 7.9, z, 0.9, (255, 206, 130))
        b.ground(
            [(x + way * 4.5, z - 3), (x - way * 0.5, z - 3), (x - way * 0.5, z + 4), (x + way * 4.5, z + 4)],
            (255, 210, 150),
            alpha=22,
        )


def signal(b: Brush, x: float, z: float, rng: Rng) -> None:
    way = -1 if x > 0 else 1
    b.bar(x, z, (-0.09, 0.09), (0.0, 5.8), (70, 72, 74))
    b.stroke([(x, 5.6, z), (x + way * 3.6, 5.7, z)], 0.14, (70, 72, 74))
    on = int(rng.integers(3))
    for at in (2.0, 3.5):
        b.bar(x + way * at, z, (-0.18, 0.18), (4.9, 5.9), (34, 36, 36))
        for i, colour in enumerate(((232, 40, 30), (246, 180, 30), (40, 200, 90))):
            lit = colour if i == on else (50, 46, 44)
            b.disc(x + way * at, 5.7 - 0.3 * i, z, 0.12, lit, reflective=i == on)
            if i == on and b.light.dark:
                b.glow(x + way * at, 5.7 - 0.3 * i, z, 0.3, colour)


def hydrant(b: Brush, x: float, z: float, rng: Rng) -> None:
    colour = pick(rng, ((196, 40, 34), (236, 180, 30), (226, 100, 30)))
    b.shadow(x, z, 0.25, 0.2)
    b.bar(x, z, (-0.13, 0.13), (0.0, 0.62), colour)
    b.bar(x, z, (-0.22, 0.22), (0.36, 0.48), colour)
    b.disc(x, 0.64, z, 0.13, colour)


def bin_(b: Brush, x: float, z: float, rng: Rng) -> None:
    colour = pick(rng, ((60, 96, 66), (70, 74, 80), (222, 106, 34), (50, 80, 140)))
    b.shadow(x, z, 0.4, 0.3)
    b.box((x - 0.28, x + 0.28), (0.05, 0.98), (z, z + 0.55), colour)
    b.box((x - 0.31, x + 0.31), (0.98, 1.08), (z - 0.03, z + 0.6), shaded(colour, 0.8))


def plain_sign(b: Brush, x: float, z: float, rng: Rng) -> None:
    """A sign that any street has: stop, speed, warning, no parking, direction, or a triangle with a bang."""
    kind = int(rng.integers(7))
    if kind == 0:
        b.bar(x, z, (-0.035, 0.035), (0.0, 2.0), STEEL)
        for half, colour in ((0.4, WHITE), (0.37, RED)):
            corners = [
                (half * 1.08 * math.cos(a), 2.3 + half * 1.08 * math.sin(a))
                for a in np.arange(8) * math.pi / 4 + math.pi / 8
            ]
            b.flat(x, z, corners, colour, reflective=True)
        b.text(x, 2.3, z, ["STOP"], 0.22, WHITE)
    elif kind == 1:
        board(b, x, z, ["SPEED", "LIMIT", str(rng.choice([25, 35, 45, 55]))], WHITE, BLACK, (0.62, 0.8), 1.7)
    elif kind == 2:
        diamond(b, x, z, WARNING_TEXTS[int(rng.integers(len(WARNING_TEXTS)))], (246, 200, 34), 0.55, 1.6)
    elif kind == 3:
        b.bar(x, z, (-0.035, 0.035), (0.0, 2.1), STEEL)
        b.disc(x, 2.3, z, 0.34, RED, reflective=True)
        b.disc(x, 2.3, z, 0.26, (36, 80, 170), reflective=True)
    elif kind == 4:
        board(b, x, z, ["MAIN ST", "AIRPORT"], (24, 110, 70), WHITE, (1.9, 0.9), 2.0)
    elif kind == 5:
        works_triangle(b, x, z, pictogram=False)
    else:
        b.bar(x, z, (-0.035, 0.035), (0.0, 2.0), STEEL)
        b.disc(x, 2.3, z, 0.36, RED, reflective=True)
        b.disc(x, 2.3, z, 0.29, WHITE, reflective=True)
        b.text(x, 2.3, z, [str(rng.choice([30, 50, 70]))], 0.26, BLACK)


def gantry(b: Brush, z: float, half: float, rng: Rng) -> None:
    """Direction signs over a wide road."""
    for side in (-1, 1):
        b.bar(side * half, z, (-0.2, 0.2), (0.0, 7.4), STEEL)
    b.bar(0, z, (-half, half), (7.0, 7.3), STEEL)
    for at in (-half * 0.45, half * 0.4):
        b.bar(at, z, (-2.3, 2.3), (5.4, 7.6), (18, 98, 64), reflective=True)
        b.text(
            at,
            6.6,
            z,
            [
                str(rng.choice(["CENTER CITY", "NORTH", "EXIT 24", "AIRPORT"])),
                str(rng.choice(["2 MILES", "RIGHT LANE", "EXIT ONLY"])),
            ],
            0.5,
            WHITE,
        )


def building(b: Brush, x: float, near: float, far: float, rng: Rng) -> None:
    """A block along the street whose inner wall stands at x; shops below have awnings, some of them orange."""
    storeys = int(rng.integers(2, 7))
    tall = storeys * 3.2 + 0.8
    wall = pick(
        rng, ((168, 142, 118), (146, 88, 70), (190, 184, 172), (124, 122, 124), (206, 190, 160), (158, 166, 170))
    )
    way = 1 if x > 0 else -1
    outer = x + way * 14
    b.box((min(x, outer), max(x, outer)), (0.0, tall), (near, far), wall, side=0.86, front=0.74)
    shop = rng.random() < 0.5
    awning = pick(rng, ((226, 106, 34), (150, 36, 38), (40, 92, 66), (60, 80, 130), (230, 200, 90)))
    columns = int(np.clip((far - near) / 2.8, 1, 7))
    pitch = (far - near) / columns
    for storey in range(storeys):
        if shop and storey == 0:
            b.polygon(
                [(x, 0.3, near + 0.4), (x, 2.5, near + 0.4), (x, 2.5, far - 0.4), (x, 0.3, far - 0.4)], (58, 66, 74)
            )
            out = x - way * 1.2
            b.polygon(
                [(x, 3.1, near + 0.4), (out, 2.5, near + 0.4), (out, 2.5, far - 0.4), (x, 3.1, far - 0.4)], awning
            )
            continue
        for column in range(columns):
            z0 = near + pitch * (column + 0.25)
            y0 = storey * 3.2 + 1.1
            lit = b.light.dark and rng.random() < 0.35
            z1 = z0 + pitch * 0.5
            points = [(x, y0, z0), (x, y0 + 1.5, z0), (x, y0 + 1.5, z1), (x, y0, z1)]
            if lit:
                b.draw.polygon(
                    [b.camera.project(*p) for p in points], fill=pick(rng, ((250, 214, 140), (220, 226, 230)))
                )
            else:
                b.polygon(points, (70, 84, 98))
    for storey in range(1 if shop else 0, storeys):
        for right in (2.0, 6.0, 10.0):
            b.bar(x + way * right, near, (-0.8, 0.8), (storey * 3.2 + 1.1, storey * 3.2 + 2.6), (62, 74, 88))


def house(b: Brush, x: float, near: float, rng: Rng) -> None:
    way = 1 if x > 0 else -1
    wall = pick(rng, ((206, 198, 184), (176, 190, 200), (200, 176, 140), (158, 96, 78), (226, 220, 206)))
    roof = pick(rng, ((92, 78, 74), (140, 74, 58), (84, 88, 96)))
    far, outer = near + 9, x + way * 8
    x0, x1 = min(x, outer), max(x, outer)
    b.box((x0, x1), (0.0, 4.6), (near, far), wall, side=0.88)
    ridge = near + 4.5
    b.polygon([(x, 4.5, near - 0.3), (x, 7.2, ridge), (outer, 7.2, ridge), (outer, 4.5, near - 0.3)], roof)
    b.polygon([(x, 4.5, near - 0.3), (x, 7.2, ridge), (x, 4.5, far + 0.3)], wall, 0.8)
    for z0 in (near + 1.2, near + 5.6):
        for y0 in (0.9, 2.9):
            b.polygon(
                [(x, y0, z0), (x, y0 + 1.2, z0), (x, y0 + 1.2, z0 + 1.6), (x, y0, z0 + 1.6)],
                (240, 206, 130) if b.light.dark and rng.random() < 0.5 else (76, 88, 100),
            )
    for right in (0.3, 0.7):
        at = x0 + (x1 - x0) * right
        b.bar(at, near, (-0.7, 0.7), (1.0, 2.3), (76, 88, 100))
