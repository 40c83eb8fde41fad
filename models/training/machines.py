"""Work machines and sites as meshes: diggers, rollers, pavers, loaders, tippers, heaps with crews around them.

Each maker builds one thing around the origin, its length along y.
"""

from __future__ import annotations

import numpy as np

from models.training.meshes import (
    BLACK,
    GLASS,
    STEEL,
    WHITE,
    Builder,
    Colour,
    Rng,
    any_colour,
    orange,
    red,
    stripes,
    yellow,
)
from models.training.things import cone, worker


def _paint(rng: Rng) -> Colour:
    """Mostly yellow or orange, as makers paint their machines."""
    return [yellow, yellow, orange, lambda _: WHITE, any_colour][rng.integers(5)](rng)


def _cab(b: Builder, x: float, y: float, low: float, wide: float, tall: float, paint: Colour) -> None:
    b.box((x - wide / 2, y - 0.6, low), (x + wide / 2, y + 0.6, low + tall), GLASS)
    b.box((x - wide / 2 - 0.05, y - 0.7, low + tall), (x + wide / 2 + 0.05, y + 0.7, low + tall + 0.1), paint)
    for side in (-0.5, 0.5):
        for end in (-0.6, 0.6):
            b.beam((x + side * wide, y + end, low), (x + side * wide, y + end, low + tall), 0.09, paint)


def _beacon_lamp(b: Builder, x: float, y: float, z: float) -> None:
    b.revolved([(0.09, z), (0.09, z + 0.16), (0.0, z + 0.2)], (0.95, 0.5, 0.03), x, y)


def _chevrons(b: Builder, rng: Rng, wide: float, y: float, z: float) -> None:
    pair = (red(rng), (0.9, 0.7, 0.05)) if rng.random() < 0.5 else (orange(rng), WHITE)
    b.board(stripes(120, 60, pair[0], rng, pair[1]), 0, z, wide, wide * 0.4, y=y)


def excavator(b: Builder, rng: Rng) -> None:
    """On tracks, with boom, arm and bucket; small and large."""
    paint, b.size = _paint(rng), float(rng.uniform(0.6, 1.1))
    arm = paint if rng.random() < 0.7 else STEEL
    for x in (-0.95, 0.95):
        b.box((x - 0.3, -1.8, 0.0), (x + 0.3, 1.8, 0.75), (0.06, 0.055, 0.05))
    b.box((-1.2, -1.9, 0.95), (1.2, 1.0, 1.9), paint)
    b.box((-1.1, -2.2, 1.0), (1.1, -1.8, 1.7), BLACK)
    _cab(b, -0.7, 0.7, 0.95, 0.9, 1.7, paint)
    reach, lift = rng.uniform(2.2, 3.6), rng.uniform(3.2, 4.6)
    knee = (0.3, 1.0 + reach, lift)
    middle = (0.3, 1.0 + reach * 0.45, lift + rng.uniform(-0.2, 0.5))
    tip = (0.3, 1.0 + reach + rng.uniform(-0.5, 1.6), rng.uniform(0.6, 2.2))
    for start, end, thick in (((0.3, 0.8, 1.5), middle, 0.5), (middle, knee, 0.42), (knee, tip, 0.34)):
        b.beam(start, end, thick, arm)
    b.box((tip[0] - 0.55, tip[1] - 0.5, tip[2] - 0.8), (tip[0] + 0.55, tip[1] + 0.3, tip[2]), STEEL)


def roller(b: Builder, rng: Rng) -> None:
    """One or two drums, a canopy."""
    paint, wide = _paint(rng), rng.uniform(1.2, 1.9)
    b.wheel(0, -1.3, 0.6, wide, STEEL)
    if rng.random() < 0.5:
        b.wheel(0, 1.3, 0.6, wide, STEEL)
    else:
        for x in (-0.7, 0.7):
            b.wheel(x, 1.2, 0.65, 0.4)
    b.box((-wide * 0.4, -1.5, 0.7), (wide * 0.4, 1.7, 1.35), paint)
    for x in (-wide * 0.38, wide * 0.38):
        for y in (-0.5, 0.6):
            b.beam((x, y, 1.3), (x, y, 2.6), 0.08, paint)
    b.box((-wide * 0.45, -0.7, 2.6), (wide * 0.45, 0.9, 2.72), paint if rng.random() < 0.6 else BLACK)
    _beacon_lamp(b, 0.3, 0, 2.72)


def paver(b: Builder, rng: Rng) -> None:
    """A paver with its screed, or a milling machine with its conveyor."""
    paint, wide = _paint(rng), rng.uniform(2.2, 2.6)
    for x in (-wide * 0.4, wide * 0.4):
        b.box((x - 0.25, -2.0, 0), (x + 0.25, 2.0, 0.7), (0.06, 0.055, 0.05))
    b.box((-wide / 2, -2.2, 0.6), (wide / 2, 1.8, 1.9), paint)
    if rng.random() < 0.5:
        b.beam((0, 2.0, 1.2), (rng.uniform(-1.5, 1.5), 6.5, 3.8), 0.7, BLACK if rng.random() < 0.6 else paint)
    else:
        b.box((-wide * 0.7, -2.9, 0.15), (wide * 0.7, -2.2, 0.7), STEEL)
        b.box((-wide * 0.6, 1.8, 0.5), (wide * 0.6, 3.2, 1.2), STEEL)
    for x in (-wide * 0.4, wide * 0.4):
        for y in (-1.8, 0.6):
            b.beam((x, y, 1.8), (x, y, 3.0), 0.08, BLACK)
    b.box((-wide / 2, -2.1, 3.0), (wide / 2, 0.9, 3.12), paint if rng.random() < 0.5 else BLACK)
    _beacon_lamp(b, -0.6, 0, 3.12)


def loader(b: Builder, rng: Rng) -> None:
    """On wheels, a bucket in front, sometimes a digging arm behind."""
    paint, b.size = _paint(rng), float(rng.uniform(0.6, 1.1))
    for x in (-0.95, 0.95):
        for y, radius in ((-1.2, 0.75), (1.1, rng.uniform(0.5, 0.75))):
            b.wheel(x, y, radius, 0.45)
    b.box((-0.75, -2.0, 0.7), (0.75, 1.9, 1.6), paint)
    _cab(b, 0, -0.4, 1.5, 1.3, 1.5, paint)
    lift = rng.uniform(0.3, 2.2)
    for x in (-0.7, 0.7):
        b.beam((x, 0.6, 1.5), (x, 2.8, lift + 0.4), 0.22, paint)
    b.box((-1.25, 2.7, lift), (1.25, 3.5, lift + 0.9), STEEL if rng.random() < 0.6 else paint)
    if rng.random() < 0.4:
        b.beam((0, -2.0, 1.2), (0, -3.2, 3.3), 0.3, paint)
        b.beam((0, -3.2, 3.3), (0, -4.0, 1.2), 0.25, paint)
        b.box((-0.4, -4.3, 0.6), (0.4, -3.8, 1.3), STEEL)


def work_truck(b: Builder, rng: Rng) -> None:
    """A tipper with chevrons and a lamp, its bed up or down."""
    paint, bed = any_colour(rng) if rng.random() < 0.5 else _paint(rng), _paint(rng)
    for x in (-1.0, 1.0):
        for y in (-2.0, -0.8, 2.4):
            b.wheel(x, y, 0.5, 0.35)
    b.box((-1.0, -2.6, 0.6), (1.0, 3.2, 0.9), STEEL)
    b.box((-1.2, 1.7, 0.9), (1.2, 3.3, 2.6), paint)
    b.box((-1.1, 3.2, 1.7), (1.1, 3.35, 2.45), GLASS)
    if rng.random() < 0.4:
        b.beam((0, -2.6, 1.5), (0, 1.3, 3.6), 1.9, bed)
    else:
        b.box((-1.22, -2.7, 0.95), (1.22, 1.5, 2.3), bed)
    _chevrons(b, rng, 2.3, -2.8, 1.2)
    _beacon_lamp(b, 0.7, 2.4, 2.6)


def site(b: Builder, rng: Rng) -> None:
    """A heap of earth, gravel or asphalt, with a barrier, cones or workers before it."""
    earth = [(0.30, 0.18, 0.09), (0.36, 0.30, 0.24), (0.05, 0.05, 0.05), (0.42, 0.20, 0.08)][rng.integers(4)]
    wide, tall = rng.uniform(1.0, 2.2), rng.uniform(0.5, 1.5)
    _heap(b, rng, wide, tall, earth)
    for n in range(int(rng.integers(0, 4))):
        b.at = float(rng.uniform(-wide, wide)), wide * (1 - 2 * (n % 2))
        worker(b, rng)
    b.at = 0.0, -wide - 0.5
    if rng.random() < 0.5:
        for x in np.linspace(-wide, wide, int(rng.integers(2, 5))):
            b.at = float(x), -wide - 0.5
            cone(b, rng)
    else:
        for x in (-wide * 0.9, wide * 0.9):
            b.box((x - 0.04, 0, 0), (x + 0.04, 0.05, 1.0), STEEL)
        board = stripes(round(wide * 120), 24, red(rng) if rng.random() < 0.5 else orange(rng), rng)
        b.board(board, 0, 0.9, 2 * wide, 0.25)


def _heap(b: Builder, rng: Rng, wide: float, tall: float, colour: Colour) -> None:
    """A rough cone."""
    sides, rings = 24, 6
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    points = [
        np.column_stack([wide * r * np.cos(angle), wide * r * np.sin(angle), np.full(sides, tall * (1 - r) ** 0.8)])
        for r in np.linspace(1, 0.02, rings)
    ]
    rough = np.concatenate(points) + rng.normal(0, 0.06 * tall, (sides * rings, 3))
    rough[:, 2] = np.maximum(rough[:, 2], 0)
    faces = []
    for n in range(rings - 1):
        for k in range(sides):
            a, c = n * sides + k, n * sides + (k + 1) % sides
            faces += [(a, c, c + sides), (a, c + sides, a + sides)]
    b.mesh(rough, faces, colour)


def crew(b: Builder, rng: Rng) -> None:
    """Two to four workers side by side, some with a shovel."""
    for _ in range(int(rng.integers(2, 5))):
        b.at = float(rng.uniform(-1.6, 1.6)), float(rng.uniform(-0.8, 0.8))
        worker(b, rng)
        if rng.random() < 0.5:
            b.beam((0.3, -0.15, 1.1), (0.5, -0.7, 0.05), 0.05, (0.35, 0.22, 0.1))
