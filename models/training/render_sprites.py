"""Things to paste, rendered in 3D: cones, drums, barricades, signs, arrow boards, workers, and harmless things.

    pip install mitsuba && python -m models.training.render_sprites --out DIR --count 30

Writes `<work|harmless>-<kind>-<height in cm>-<number>.png` (RGBA, trimmed). Every piece is a mesh under a sky and a sun
of its own, seen by a camera at the height of a windscreen; drawn sprites (paste.py) have neither shade nor perspective.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Rng = np.random.Generator
Colour = tuple[float, float, float]
Scene = dict[str, Any]  # pieces by name, as mitsuba's load_dict takes them
EDGE = 104  # pixels of a rendering's side
SAMPLES = 12
WHITE, BLACK, STEEL = (0.85, 0.85, 0.85), (0.03, 0.03, 0.03), (0.35, 0.36, 0.38)


def orange(rng: Rng) -> Colour:
    """Red-orange to yellow-orange, new or faded."""
    return float(rng.uniform(0.75, 0.95)), float(rng.uniform(0.10, 0.28)), float(rng.uniform(0.01, 0.08))


def red(rng: Rng) -> Colour:
    """Of reflecting sheets and plastic."""
    return float(rng.uniform(0.55, 0.8)), float(rng.uniform(0.02, 0.08)), float(rng.uniform(0.02, 0.08))


def any_colour(rng: Rng) -> Colour:
    """Of clothes, paint and plastic."""
    r, g, b = rng.uniform(0.03, 0.7, 3)
    return float(r), float(g), float(b)


class Builder:
    """Collects the pieces of one thing, standing at the origin; z is up, the camera looks along +y."""

    def __init__(self, folder: Path) -> None:
        self.pieces: Scene = {}
        self.folder = folder

    def mesh(self, vertices: NDArray[np.float64], faces: Sequence[Sequence[int]], colour: Colour) -> None:
        """Triangles over vertices (N, 3)."""
        name = f"piece{len(self.pieces)}"
        path = self.folder / f"{name}.obj"
        lines = ["v " + " ".join(f"{c:.5f}" for c in v) for v in vertices]
        lines += ["f " + " ".join(str(i + 1) for i in face) for face in faces]
        path.write_text("\n".join(lines) + "\n")
        self.pieces[name] = {"type": "obj", "filename": str(path), "face_normals": False, "bsdf": _two_sided(colour)}

    def revolved(self, profile: Sequence[tuple[float, float]], colour: Colour, x: float = 0.0, y: float = 0.0) -> None:
        """A surface of revolution around the vertical at (x, y). profile: (radius, height) from foot to top."""
        sides = 20
        angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
        rings = [np.stack([x + r * np.cos(angle), y + r * np.sin(angle), np.full(sides, z)], 1) for r, z in profile]
        faces = []
        for n in range(len(profile) - 1):
            for k in range(sides):
                a, b = n * sides + k, n * sides + (k + 1) % sides
                faces += [(a, b, b + sides), (a, b + sides, a + sides)]
        self.mesh(np.concatenate(rings), faces, colour)

    def box(self, low: Sequence[float], high: Sequence[float], colour: Colour) -> None:
        """Between two corners."""
        low_, high_ = np.asarray(low, float), np.asarray(high, float)
        import mitsuba

        matrix = mitsuba.ScalarTransform4f().translate((low_ + high_) / 2).scale((high_ - low_) / 2)
        self.pieces[f"piece{len(self.pieces)}"] = {"type": "cube", "to_world": matrix, "bsdf": _two_sided(colour)}

    def board(self, picture: Image.Image, x: float, z: float, wide: float, tall: float, y: float = -0.03) -> None:
        """A flat picture facing the camera, centred at (x, z). Transparent parts are cut away."""
        import mitsuba

        rgba = np.asarray(picture.convert("RGBA"))[::-1]  # mitsuba counts texture rows from the foot
        colour = mitsuba.Bitmap(np.ascontiguousarray(rgba[..., :3]))  # 8 bits: taken as sRGB
        alpha = mitsuba.Bitmap(np.ascontiguousarray(rgba[..., 3:]).astype(np.float32) / 255)
        matrix = mitsuba.ScalarTransform4f().translate([x, y, z]).rotate([1, 0, 0], 90).scale([wide / 2, tall / 2, 1])
        diffuse = {"type": "diffuse", "reflectance": {"type": "bitmap", "bitmap": colour, "raw": False}}
        self.pieces[f"piece{len(self.pieces)}"] = {
            "type": "rectangle",
            "to_world": matrix,
            "bsdf": {
                "type": "mask",
                "opacity": {"type": "bitmap", "bitmap": alpha, "raw": True},
                "nested": {"type": "twosided", "nested": diffuse},
            },
        }


def _two_sided(colour: Colour) -> Scene:
    return {"type": "twosided", "nested": {"type": "diffuse", "reflectance": {"type": "rgb", "value": list(colour)}}}


def _stripes(wide: int, tall: int, colour: Colour, rng: Rng, ground: Colour = WHITE) -> Image.Image:
    picture = Image.new("RGB", (wide, tall), _bytes(ground))
    draw, step = ImageDraw.Draw(picture), int(rng.integers(14, 30))
    lean = tall * int(rng.choice([-1, 1]))
    for x in range(-2 * tall - 2 * step, wide + 2 * tall, 2 * step):
        draw.polygon([(x, tall), (x + step, tall), (x + step + lean, 0), (x + lean, 0)], fill=_bytes(colour))
    return picture


def _bytes(colour: Colour) -> tuple[int, int, int]:
    r, g, b = (round(255 * c ** (1 / 2.2)) for c in colour)
    return r, g, b


def _banded(
    b: Builder, radius: Callable[[float], float], bands: Sequence[tuple[float, float, Colour]], x: float = 0.0
) -> None:
    for low, high, colour in bands:
        b.revolved([(radius(low), low), (radius(high), high)], colour, x)


def cone(b: Builder, rng: Rng) -> float:
    """A traffic cone with up to two bands."""
    tall, paint = rng.uniform(0.45, 1.0), orange(rng) if rng.random() < 0.75 else red(rng)
    half = tall * 0.24
    b.box((-half, -half, 0), (half, half, 0.05), paint if rng.random() < 0.5 else BLACK)
    edges = [(0.05, 1.0, paint)]
    if rng.random() < 0.8:
        edges = [(0.05, 0.35, paint), (0.35, 0.55, WHITE), (0.55, 1.0, paint)]
    if rng.random() < 0.4:
        edges = [(0.05, 0.3, paint), (0.3, 0.45, WHITE), (0.45, 0.6, paint), (0.6, 0.78, WHITE), (0.78, 1.0, paint)]
    _banded(b, lambda z: (0.19 - 0.155 * z / tall) * tall, [(a * tall, c * tall, colour) for a, c, colour in edges])
    return float(tall)


def drum(b: Builder, rng: Rng) -> float:
    """A channelising drum: orange and white, on a rubber ring."""
    paint, tall = orange(rng), rng.uniform(0.9, 1.1)
    b.revolved([(0.33, 0), (0.33, 0.07), (0.2, 0.1)], BLACK)
    cuts = np.linspace(0.08, tall, 6)
    colours = (paint, WHITE, paint, WHITE, paint)
    _banded(b, lambda z: 0.29 - 0.06 * z, [(cuts[n], cuts[n + 1], colours[n]) for n in range(5)])
    b.revolved([(0.29 - 0.06 * tall, tall), (0.0, tall + 0.01)], paint)
    return float(tall)


def tube(b: Builder, rng: Rng) -> float:
    """A slender delineator."""
    tall, paint = rng.uniform(0.75, 1.2), orange(rng)
    b.revolved([(0.18, 0), (0.16, 0.06), (0.05, 0.07)], BLACK)
    bands = [(0.05, 0.6, paint), (0.6, 0.7, WHITE), (0.7, 0.8, paint), (0.8, 0.9, WHITE), (0.9, 1.0, paint)]
    _banded(b, lambda z: 0.055, [(a * tall, c * tall, colour) for a, c, colour in bands])
    return float(tall)


def beacon(b: Builder, rng: Rng) -> float:
    """An upright striped panel with a lamp, as in Europe."""
    tall, paint = rng.uniform(0.9, 1.3), red(rng) if rng.random() < 0.7 else orange(rng)
    b.box((-0.4, -0.2, 0), (0.4, 0.2, 0.12), BLACK)
    b.board(_stripes(40, 160, paint, rng), 0, 0.15 + tall / 2, 0.26, tall)
    if rng.random() < 0.5:
        b.revolved([(0.0, tall + 0.15), (0.1, tall + 0.25), (0.0, tall + 0.36)], (0.9, 0.55, 0.05))
    return float(tall + 0.3)


def barricade(b: Builder, rng: Rng) -> float:
    """One to three striped boards on legs."""
    wide, boards = rng.uniform(0.7, 2.6), int(rng.integers(1, 4))
    tall, paint = (1.0 if boards == 1 else 1.5), orange(rng) if rng.random() < 0.6 else red(rng)
    for x in (-wide * 0.4, wide * 0.4):
        b.box((x - 0.03, -0.02, 0), (x + 0.03, 0.02, tall), WHITE if rng.random() < 0.4 else STEEL)
        b.box((x - 0.03, -0.4, 0), (x + 0.03, 0.4, 0.06), STEEL)
    for n in range(boards):
        b.board(_stripes(round(wide * 90), 22, paint, rng), 0, tall - 0.12 - 0.45 * n, wide, 0.22)
    return float(tall)


def water_barrier(b: Builder, rng: Rng) -> float:
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
    return 0.85


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


def work_sign(b: Builder, rng: Rng) -> float:
    """An orange diamond, a red-edged triangle or an orange board, on a post or a stand."""
    side, foot = rng.uniform(0.75, 1.2), rng.uniform(0.4, 1.6)
    kind, size = rng.random(), 128
    picture = Image.new("RGBA", (size, size), (0, 0, 0, 0))
    draw, middle = ImageDraw.Draw(picture), size // 2
    ground = _bytes(orange(rng))
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
            [(middle, 4), (size - 2, size - 14), (1, size - 14)], fill=inner, outline=_bytes(red(rng)), width=14
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
    return float(foot + side * 1.1)


def _text(draw: ImageDraw.ImageDraw, rng: Rng, size: int) -> None:
    draw.multiline_text(
        (size / 2, size / 2), str(rng.choice(TEXTS)), fill=(10, 10, 10), anchor="mm", align="center", font_size=20
    )


def arrow_board(b: Builder, rng: Rng) -> float:
    """Amber lamps in an arrow on a black board, on a trailer or behind a truck with chevrons."""
    picture = Image.new("RGB", (160, 80), (12, 12, 12))
    draw, turn = ImageDraw.Draw(picture), rng.random() < 0.5
    lamps = [(20 + 14 * k, 40) for k in range(8)] + [
        (104 + 10 * k, 40 - s * (30 - 10 * k)) for k in range(3) for s in (1, -1)
    ]
    amber = (255, 190, 40) if rng.random() < 0.8 else (90, 60, 20)
    for x, y in lamps:
        x = 160 - x if turn else x
        draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=amber)
    truck = rng.random() < 0.5
    low = 2.2 if truck else 1.4
    b.board(picture, 0, low + 0.6, 2.4, 1.2, y=-0.1)
    b.box((-1.25, -0.05, low - 0.05), (1.25, 0.05, low + 1.25), STEEL)
    if truck:
        b.box((-1.2, 0, 0.5), (1.2, 4, 2.3), WHITE if rng.random() < 0.5 else (0.8, 0.5, 0.05))
        pair = (red(rng), (0.9, 0.7, 0.05)) if rng.random() < 0.5 else (orange(rng), WHITE)
        b.board(_stripes(120, 60, pair[0], rng, pair[1]), 0, 1.0, 2.3, 1.0, y=-0.1)
        for x in (-0.95, 0.95):
            b.box((x - 0.15, 0.3, 0), (x + 0.15, 1.0, 0.8), BLACK)
    else:
        b.box((-0.06, 0, 0.5), (0.06, 0.1, low), STEEL)
        b.box((-0.8, 0, 0.45), (0.8, 0.8, 0.65), (0.8, 0.4, 0.05))
        for x in (-0.8, 0.8):
            b.box((x - 0.1, 0.2, 0), (x + 0.1, 0.75, 0.5), BLACK)
    return low + 1.3


def _human(b: Builder, rng: Rng, jacket: Colour, stripe: bool) -> float:
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
    return 1.78


def worker(b: Builder, rng: Rng) -> float:
    """In a vest with reflecting stripes and a helmet."""
    return _human(b, rng, orange(rng) if rng.random() < 0.5 else (0.55, 0.85, 0.08), stripe=True)


def person(b: Builder, rng: Rng) -> float:
    """In any clothes but a vest."""
    return _human(b, rng, any_colour(rng), stripe=False)


def vehicle(b: Builder, rng: Rng) -> float:
    """Car, van, lorry or rickshaw from behind or the front, often yellow, orange or red."""
    paint = [orange(rng), (0.85, 0.6, 0.03), red(rng), any_colour(rng)][rng.integers(4)]
    wide, tall, long = rng.uniform(1.3, 2.2), rng.uniform(1.4, 2.9), rng.uniform(2.5, 5)
    belt = tall * rng.uniform(0.5, 0.62)
    b.box((-wide / 2, 0, 0.25), (wide / 2, long, belt), paint)
    slim = rng.uniform(0.8, 1.0)
    b.box(
        (-wide * slim / 2, 0.2, belt),
        (wide * slim / 2, long * 0.8, tall),
        any_colour(rng) if rng.random() < 0.25 else paint,
    )
    b.box((-wide * slim * 0.42, 0.15, belt + 0.05), (wide * slim * 0.42, 0.25, tall - 0.12), (0.05, 0.06, 0.08))
    for x in (-wide * 0.4, wide * 0.4):
        b.box((x - 0.12, -0.02, 0), (x + 0.12, 0.6, 0.5), BLACK)
        b.box((x - 0.1, -0.03, belt * 0.6), (x + 0.1, 0.02, belt * 0.8), (0.6, 0.03, 0.03))
    return float(tall)


def hydrant(b: Builder, rng: Rng) -> float:
    """Red, yellow or white."""
    paint = [red(rng), (0.8, 0.55, 0.05), WHITE][rng.integers(3)]
    b.revolved([(0.16, 0), (0.16, 0.05), (0.1, 0.07), (0.11, 0.5), (0.14, 0.52), (0.1, 0.65), (0.0, 0.75)], paint)
    b.box((-0.2, -0.06, 0.36), (0.2, 0.06, 0.48), paint)
    return 0.75


def street_furniture(b: Builder, rng: Rng) -> float:
    """Bins, bollards, letter boxes, tree trunks, lamp posts."""
    kind, paint = rng.integers(4), any_colour(rng)
    if kind == 0:
        b.box((-0.3, -0.3, 0.05), (0.3, 0.3, 1.0), paint)
        b.box((-0.33, -0.33, 1.0), (0.33, 0.33, 1.08), any_colour(rng))
        return 1.08
    if kind == 1:
        tall, radius = rng.uniform(0.7, 1.2), rng.uniform(0.05, 0.15)
        b.revolved([(radius, 0), (radius, tall), (0, tall + radius)], paint)
        if rng.random() < 0.4:
            b.revolved([(radius * 1.03, tall * 0.75), (radius * 1.03, tall * 0.85)], WHITE)
        return float(tall)
    if kind == 2:
        b.box((-0.05, -0.05, 0), (0.05, 0.05, 1.0), STEEL)
        b.box((-0.2, -0.3, 0.95), (0.2, 0.3, 1.4), [red(rng), (0.8, 0.6, 0.03), (0.03, 0.08, 0.3)][rng.integers(3)])
        return 1.4
    tall = rng.uniform(2.0, 4.0)
    b.revolved([(0.2, 0), (0.14, 1.0), (0.12, tall)], (0.14, 0.1, 0.07))
    return float(tall)


def plain_sign(b: Builder, rng: Rng) -> float:
    """Stop, limit, give way, parking, yellow diamond: signs of an ordinary street."""
    picture = Image.new("RGBA", (128, 128), (0, 0, 0, 0))
    draw, kind, paint = ImageDraw.Draw(picture), rng.integers(6), _bytes(red(rng))
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
    return float(foot + 0.8)


WORK = (cone, drum, tube, beacon, barricade, water_barrier, work_sign, arrow_board, worker)
HARMLESS = (person, vehicle, hydrant, street_furniture, plain_sign)


def render(make: Callable[[Builder, Rng], float], rng: Rng) -> tuple[Image.Image, float]:
    """One thing as trimmed RGBA, and its height in metres."""
    import mitsuba

    with tempfile.TemporaryDirectory() as folder:
        builder = Builder(Path(folder))
        tall = make(builder, rng)
        distance, yaw = float(rng.uniform(7, 25)), float(rng.uniform(-28, 28))
        turn = mitsuba.ScalarTransform4f().rotate([0, 0, 1], yaw)
        for piece in builder.pieces.values():
            piece["to_world"] = turn @ piece.get("to_world", mitsuba.ScalarTransform4f())
        reach = max(3.4, 1.25 * tall) if tall > 1.2 or make in (barricade, water_barrier) else 1.5 * tall
        if make is water_barrier:
            reach = 5.2
        eye = mitsuba.ScalarTransform4f().look_at([0, -distance, 1.35], [0, 0, tall / 2], [0, 0, 1])
        azimuth, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 1.4)
        sun = [
            -float(np.cos(azimuth) * np.cos(height)),
            -float(np.sin(azimuth) * np.cos(height)),
            -float(np.sin(height)),
        ]
        sky = float(rng.uniform(0.35, 1.0))
        scene = {
            "type": "scene",
            "integrator": {"type": "path", "max_depth": 3, "hide_emitters": True},
            "sensor": {
                "type": "perspective",
                "fov": float(np.degrees(2 * np.arctan(reach / 2 / distance))),
                "to_world": eye,
                "film": {"type": "hdrfilm", "width": EDGE, "height": EDGE, "pixel_format": "rgba"},
                "sampler": {"type": "independent", "sample_count": SAMPLES, "seed": int(rng.integers(1 << 30))},
            },
            "sky": {"type": "constant", "radiance": {"type": "rgb", "value": [sky * 0.9, sky * 0.95, sky]}},
            "sun": {
                "type": "directional",
                "direction": sun,
                "irradiance": {"type": "rgb", "value": [c * float(rng.uniform(0, 3.0)) for c in (1.0, 0.95, 0.85)]},
            },
            **builder.pieces,
        }
        image = np.asarray(mitsuba.render(mitsuba.load_dict(scene)))
    alpha = image[..., 3:].clip(0, 1)
    colour = image[..., :3] / np.maximum(alpha, 1e-3)
    colour = (colour / max(float(np.percentile(colour[alpha[..., 0] > 0.5], 97)), 0.3)).clip(0, 1) ** (1 / 2.2)
    picture = Image.fromarray((np.dstack([colour, alpha]) * 255).round().astype(np.uint8), "RGBA")
    box = picture.getchannel("A").point(lambda a: 255 * (a > 40)).getbbox()
    assert box is not None, f"{make.__name__}: nothing to see"
    return picture.crop(box), tall


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(prog="python -m models.training.render_sprites", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=30, help="of each kind")
    parser.add_argument("--seed", type=int, default=72)
    options = parser.parse_args(arguments)
    import mitsuba

    mitsuba.set_variant("scalar_rgb")
    options.out.mkdir(parents=True, exist_ok=True)
    for n in range(options.count):  # kind after kind, so that a run that is cut short has some of each
        for work, makers in ((True, WORK), (False, HARMLESS)):
            for make in makers:
                sprite, tall = render(make, np.random.default_rng((options.seed, n, *make.__name__.encode())))
                sprite.save(options.out / f"{'work' if work else 'harmless'}-{make.__name__}-{tall * 100:.0f}-{n}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
