"""Meshes of which things are built to be rendered: boxes, beams, wheels, revolved profiles, flat pictures; colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Rng = np.random.Generator
Colour = tuple[float, float, float]
Scene = dict[str, Any]  # pieces by name, as mitsuba's load_dict takes them
WHITE, BLACK, STEEL = (0.85, 0.85, 0.85), (0.03, 0.03, 0.03), (0.35, 0.36, 0.38)
GLASS: Colour = (0.05, 0.06, 0.08)
# Triangles of a box whose corner n has the high x, y, z where bits 0, 1, 2 of n are set.
BOX = (
    *((0, 1, 3), (0, 3, 2), (4, 5, 7), (4, 7, 6), (0, 1, 5), (0, 5, 4)),
    *((2, 3, 7), (2, 7, 6), (0, 2, 6), (0, 6, 4), (1, 3, 7), (1, 7, 5)),
)


def orange(rng: Rng) -> Colour:
    """Red-orange to yellow-orange, new or faded."""
    return float(rng.uniform(0.75, 0.95)), float(rng.uniform(0.10, 0.28)), float(rng.uniform(0.01, 0.08))


def red(rng: Rng) -> Colour:
    """Of reflecting sheets and plastic."""
    return float(rng.uniform(0.55, 0.8)), float(rng.uniform(0.02, 0.08)), float(rng.uniform(0.02, 0.08))


def yellow(rng: Rng) -> Colour:
    """Of machines, taxis and rickshaws."""
    return float(rng.uniform(0.7, 0.9)), float(rng.uniform(0.38, 0.6)), float(rng.uniform(0.01, 0.08))


def lime(rng: Rng) -> Colour:
    """Fluorescent yellow-green: vests, some cones, school signs."""
    return float(rng.uniform(0.5, 0.65)), float(rng.uniform(0.75, 0.9)), float(rng.uniform(0.03, 0.12))


def any_colour(rng: Rng) -> Colour:
    """Of clothes, paint and plastic."""
    r, g, b = rng.uniform(0.03, 0.7, 3)
    return float(r), float(g), float(b)


class Builder:
    """Collects the pieces of one thing, standing at the origin; z is up, the camera looks along +y."""

    def __init__(self, folder: Path) -> None:
        self.pieces: Scene = {}
        self.folder = folder
        self.at, self.size = (0.0, 0.0), 1.0  # of what is built next: where it stands, and how much larger
        self.corners = np.zeros((0, 3))  # of all that was built, in metres

    def _placed(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        points = (points + np.array([*self.at, 0.0])) * self.size
        self.corners = np.concatenate([self.corners, points])
        return points

    def mesh(self, vertices: NDArray[np.float64], faces: Sequence[Sequence[int]], colour: Colour) -> None:
        """Triangles over vertices (N, 3)."""
        vertices = self._placed(vertices)
        name = f"piece{len(self.pieces)}"
        path = self.folder / f"{name}.obj"
        lines = ["v " + " ".join(f"{c:.5f}" for c in v) for v in vertices]
        lines += ["f " + " ".join(str(i + 1) for i in face) for face in faces]
        path.write_text("\n".join(lines) + "\n")
        self.pieces[name] = {"type": "obj", "filename": str(path), "face_normals": True, "bsdf": _two_sided(colour)}

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
        corners = np.array([[(low, high)[n >> k & 1][k] for k in range(3)] for n in range(8)], float)
        self.mesh(corners, BOX, colour)

    def beam(self, start: Sequence[float], end: Sequence[float], thick: float, colour: Colour) -> None:
        """A square bar from one point to another."""
        a, b = np.asarray(start, float), np.asarray(end, float)
        along = (b - a) / np.linalg.norm(b - a)
        aside = np.cross(along, [1.0, 0.0, 0.0] if abs(along[0]) < 0.9 else [0.0, 0.0, 1.0])
        aside *= thick / 2 / np.linalg.norm(aside)
        over = np.cross(along, aside)
        ends = [(a, b)[n >> 2] + (aside, -aside)[n & 1] + (over, -over)[n >> 1 & 1] for n in range(8)]
        self.mesh(np.array(ends), BOX, colour)

    def wheel(self, x: float, y: float, radius: float, wide: float, colour: Colour = BLACK) -> None:
        """A disc that rolls along y on the ground, its middle at (x, y)."""
        angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        rim = np.column_stack([np.zeros(16), y + radius * np.cos(angle), radius + radius * np.sin(angle)])
        ends = [rim + np.array([side * wide / 2 + x, 0, 0]) for side in (-1, 1)]
        faces = [f for k in range(16) for f in ((k, (k + 1) % 16, (k + 1) % 16 + 16), (k, (k + 1) % 16 + 16, k + 16))]
        faces += [(e, e + k, e + k + 1) for e in (0, 16) for k in range(1, 15)]
        self.mesh(np.concatenate(ends), faces, colour)

    def board(self, picture: Image.Image, x: float, z: float, wide: float, tall: float, y: float = -0.03) -> None:
        """A flat picture facing the camera, centred at (x, z). Transparent parts are cut away."""
        import mitsuba

        rgba = np.asarray(picture.convert("RGBA"))[::-1]  # mitsuba counts texture rows from the foot
        colour = mitsuba.Bitmap(np.ascontiguousarray(rgba[..., :3]))  # 8 bits: taken as sRGB
        alpha = mitsuba.Bitmap(np.ascontiguousarray(rgba[..., 3:]).astype(np.float32) / 255)
        left, right = self._placed(np.array([[x - wide / 2, y, z + tall / 2], [x + wide / 2, y, z + tall / 2]]))
        middle = (left + right) / 2 - [0, 0, tall * self.size / 2]
        half = [wide * self.size / 2, tall * self.size / 2, 1]
        matrix = mitsuba.ScalarTransform4f().translate(middle).rotate([1, 0, 0], 90).scale(half)
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


def stripes(wide: int, tall: int, colour: Colour, rng: Rng, ground: Colour = WHITE) -> Image.Image:
    """Slanting stripes of a random width; wide, tall: pixels."""
    picture = Image.new("RGB", (wide, tall), in_bytes(ground))
    draw, step = ImageDraw.Draw(picture), int(rng.integers(14, 30))
    lean = tall * int(rng.choice([-1, 1]))
    for x in range(-2 * tall - 2 * step, wide + 2 * tall, 2 * step):
        draw.polygon([(x, tall), (x + step, tall), (x + step + lean, 0), (x + lean, 0)], fill=in_bytes(colour))
    return picture


def in_bytes(colour: Colour) -> tuple[int, int, int]:
    """Linear light to sRGB bytes, nearly."""
    r, g, b = (round(255 * c ** (1 / 2.2)) for c in colour)
    return r, g, b


def banded(
    b: Builder, radius: Callable[[float], float], bands: Sequence[tuple[float, float, Colour]], x: float = 0.0
) -> None:
    """A surface of revolution in bands of (low, high, colour); radius: at a height, all in metres."""
    for low, high, colour in bands:
        b.revolved([(radius(low), low), (radius(high), high)], colour, x)
