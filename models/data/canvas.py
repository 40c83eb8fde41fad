"""A camera above a road, the light of an hour, and a brush that draws in metres. Pillow and numpy only.

Coordinates: x to the right of the camera, y up from the road, z ahead, in metres.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

Colour = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Camera:
    """focal, horizon: in pixels of a picture `width` x `height`. curve: sideways metres per squared metre ahead."""

    width: int
    height: int
    focal: float
    horizon: float
    eye: float
    curve: float = 0.0

    def project(self, x: float, y: float, z: float) -> Point:
        """Where a point in front of the camera appears, in pixels."""
        return (
            self.width / 2 + self.focal * (x / z + self.curve * z),
            self.horizon + self.focal * (self.eye - y) / z,
        )

    def scale(self, z: float) -> float:
        """Pixels per metre at distance z."""
        return self.focal / z


@dataclass(frozen=True, slots=True)
class Light:
    """An hour and its weather. ambient: factor per channel. visibility: metres. headlights: what they add nearby."""

    name: str
    sky_top: Colour
    sky_low: Colour
    ambient: tuple[float, float, float]
    visibility: float
    headlights: float = 0.0
    shadow: int = 90
    rain: bool = False

    @property
    def dark(self) -> bool:
        """Whether lamps are lit."""
        return self.headlights > 0.1


@dataclass(slots=True)
class Brush:
    """Draws shapes given in metres. Glows are collected and added when everything is drawn.

    flat_colour: when set, everything gets it, so that one can see who covers whom.
    """

    image: Image.Image
    camera: Camera
    light: Light
    flat_colour: Colour | None = None
    glows: list[tuple[float, float, float, Colour]] = field(default_factory=list)
    draw: ImageDraw.ImageDraw = field(init=False)

    def __post_init__(self) -> None:
        self.draw = ImageDraw.Draw(self.image, "RGBA")

    def lit(self, colour: Colour, z: float, reflective: bool = False, shade: float = 1.0) -> Colour:
        """The colour as seen at distance z in this light."""
        if self.flat_colour is not None:
            return self.flat_colour
        beam = self.light.headlights * math.exp(-z / (40 if reflective else 16)) * (1.5 if reflective else 1.0)
        clear = math.exp(-z / self.light.visibility)
        mixed = (
            min(255.0, c * shade * (a + beam)) * clear + low * (1 - clear)
            for c, a, low in zip(colour, self.light.ambient, self.light.sky_low, strict=True)
        )
        red, green, blue = map(int, mixed)
        return red, green, blue

    def polygon(self, points: Sequence[tuple[float, float, float]], colour: Colour, shade: float = 1.0) -> None:
        """A flat shape anywhere in space."""
        z = min(p[2] for p in points)
        self.draw.polygon([self.camera.project(*p) for p in points], fill=self.lit(colour, z, shade=shade))

    def ground(self, points: Sequence[Point], colour: Colour, alpha: int = 255) -> None:
        """A shape of (x, z) points on the road."""
        fill = (*self.lit(colour, min(z for _, z in points)), alpha)
        self.draw.polygon([self.camera.project(x, 0, z) for x, z in points], fill=fill)

    def strip(self, left: float, right: float, near: float, far: float, colour: Colour, steps: int = 1) -> None:
        """A band of road from x = left to right; more steps follow the curve of the road."""
        zs = np.geomspace(near, far, steps + 1).tolist()
        for z0, z1 in itertools.pairwise(zs):
            self.ground([(left, z0), (right, z0), (right, z1), (left, z1)], colour)

    def box(
        self, x: Point, y: Point, z: Point, colour: Colour, top: float = 1.12, side: float = 0.72, front: float = 1.0
    ) -> None:
        """An upright box: the faces that the camera sees, shaded. x, y, z: (low, high)."""
        (x0, x1), (y0, y1), (z0, z1) = x, y, z
        if x0 > 0:
            self.polygon([(x0, y0, z0), (x0, y1, z0), (x0, y1, z1), (x0, y0, z1)], colour, side)
        elif x1 < 0:
            self.polygon([(x1, y0, z0), (x1, y1, z0), (x1, y1, z1), (x1, y0, z1)], colour, side)
        if y1 < self.camera.eye:
            self.polygon([(x0, y1, z0), (x1, y1, z0), (x1, y1, z1), (x0, y1, z1)], colour, top)
        self.polygon([(x0, y0, z0), (x1, y0, z0), (x1, y1, z0), (x0, y1, z0)], colour, front)

    def flat(
        self, x: float, z: float, points: Sequence[Point], colour: Colour, reflective: bool = False, y: float = 0.0
    ) -> None:
        """A shape facing the camera, its (right, up) points in metres from (x, y, z)."""
        fill = self.lit(colour, z, reflective)
        self.draw.polygon([self.camera.project(x + right, y + up, z) for right, up in points], fill=fill)

    def bar(self, x: float, z: float, across: Point, up: Point, colour: Colour, reflective: bool = False) -> None:
        """An upright rectangle facing the camera."""
        (left, right), (low, high) = across, up
        self.flat(x, z, [(left, low), (right, low), (right, high), (left, high)], colour, reflective)

    def disc(
        self, x: float, y: float, z: float, radius: float, colour: Colour, reflective: bool = False, squash: float = 1.0
    ) -> None:
        """A circle facing the camera; squash < 1 flattens it."""
        u, v = self.camera.project(x, y, z)
        r = radius * self.camera.scale(z)
        self.draw.ellipse((u - r, v - r * squash, u + r, v + r * squash), fill=self.lit(colour, z, reflective))

    def shadow(self, x: float, z: float, half_width: float, half_depth: float) -> None:
        """A soft patch under an object."""
        corners = [self.camera.project(x + s * half_width, 0, max(z + s * half_depth, 0.5)) for s in (-1, 1)]
        (u0, v0), (u1, v1) = corners
        self.draw.ellipse((min(u0, u1), min(v0, v1), max(u0, u1), max(v0, v1)), fill=(0, 0, 0, self.light.shadow))

    def stroke(self, points: Sequence[tuple[float, float, float]], thickness: float, colour: Colour) -> None:
        """A line through space, as thick as `thickness` metres at its first point."""
        z = points[0][2]
        width = max(1, round(thickness * self.camera.scale(z)))
        self.draw.line([self.camera.project(*p) for p in points], self.lit(colour, z), width, joint="curve")

    def text(
        self, x: float, y: float, z: float, lines: Sequence[str], height: float, colour: Colour, spacing: float = 1.12
    ) -> None:
        """Centred lines of capitals `height` metres tall each; too small to print becomes nothing."""
        size = round(height * self.camera.scale(z) * 1.4)
        if size < 5:
            return
        fill = self.lit(colour, z, reflective=True)
        for i, line in enumerate(lines):
            up = ((len(lines) - 1) / 2 - i) * height * spacing
            self.draw.text(self.camera.project(x, y + up, z), line, fill, font(min(size, 200)), anchor="mm")

    def glow(self, x: float, y: float, z: float, radius: float, colour: Colour) -> None:
        """Light that spreads around a lamp. radius: metres."""
        self.glows.append((*self.camera.project(x, y, z), radius * self.camera.scale(z), colour))


@lru_cache(maxsize=256)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font: the same on every machine."""
    return ImageFont.load_default(size)


def add_glows(image: Image.Image, glows: Sequence[tuple[float, float, float, Colour]]) -> Image.Image:
    """Every glow as a soft disc, added to the picture."""
    if not glows:
        return image
    quarter = Image.new("RGB", (image.width // 4, image.height // 4))
    draw = ImageDraw.Draw(quarter)
    for u, v, radius, colour in glows:
        r = min(max(radius, 3.0), image.width / 6) / 4
        draw.ellipse((u / 4 - r, v / 4 - r, u / 4 + r, v / 4 + r), fill=colour)
    soft = quarter.filter(ImageFilter.GaussianBlur(image.width / 320))
    lights = np.asarray(soft.resize(image.size, Image.Resampling.BILINEAR))
    return Image.fromarray(np.minimum(np.asarray(image).astype(np.uint16) + lights, 255).astype(np.uint8))


def clouds(
    rng: np.random.Generator, width: int, height: int, grain: tuple[int, int] = (9, 4)
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    """Smooth noise in about 0..1, (height, width): the sum of two sizes of blobs."""
    total = np.zeros((height, width), np.float32)
    for factor, weight in ((1, 0.65), (3, 0.35)):
        small = rng.random((grain[1] * factor, grain[0] * factor), dtype=np.float32)
        resized = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        total += weight * np.asarray(resized)
    return total


@dataclass(frozen=True, slots=True)
class Thing:
    """Something to draw, far things first. z: what its place in that order is decided by.

    seed: of the generator that varies it, so that it looks the same however often it is drawn; None if nothing varies.
    """

    z: float
    what: Callable[..., None]
    where: Mapping[str, Any]
    seed: int | None = None

    def paint(self, brush: Brush) -> None:
        if self.seed is None:
            self.what(brush, **self.where)
        else:
            self.what(brush, rng=np.random.default_rng(self.seed), **self.where)
