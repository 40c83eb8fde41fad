"""Street scenes that the project draws itself, with and without road work. A demonstration, not a benchmark.

`draw(seed, roadwork)` gives the same picture for the same arguments. Both kinds share the same streets,
hours, weather and distractors (orange cars and awnings, yellow buses, plain signs, hydrants, autumn trees),
so that no single colour tells them apart: a work zone is made of objects, and some zones hold nothing orange.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from models.data import props
from models.data.canvas import Brush, Camera, Colour, Light, Thing, add_glows, clouds

Rng = np.random.Generator

LIGHTS = (
    Light("day", (92, 146, 208), (196, 216, 232), (1.0, 1.0, 0.98), 420),
    Light("bright day", (70, 130, 206), (206, 222, 236), (1.1, 1.08, 1.0), 600, shadow=120),
    Light("overcast", (164, 172, 180), (206, 208, 210), (0.86, 0.88, 0.9), 260, shadow=50),
    Light("dusk", (74, 84, 130), (238, 168, 118), (0.66, 0.56, 0.54), 300, headlights=0.18, shadow=40),
    Light("night", (12, 15, 30), (34, 36, 50), (0.22, 0.23, 0.29), 170, headlights=0.75, shadow=20),
    Light("rain", (128, 136, 144), (176, 180, 184), (0.64, 0.67, 0.71), 110, headlights=0.06, shadow=25, rain=True),
)
ENOUGH = 0.006  # of the picture: less than this of a work zone would not deserve its label
MARK: Colour = (255, 0, 255)
BEFORE_ALL = 1e3  # metres: things on the ground are drawn before all that stands on it
LIGHT_SHARES = (0.3, 0.14, 0.18, 0.13, 0.13, 0.12)


@dataclass(frozen=True, slots=True)
class Street:
    """The road that everything stands on. left, right: edges of the carriageway; lanes counted across both ways."""

    kind: str  # city, suburb, highway, country
    left: float
    right: float
    lane: float
    ego: float  # x of the left edge of the camera's lane
    autumn: bool


def draw(seed: int, roadwork: bool, size: tuple[int, int] = (640, 360)) -> NDArray[np.uint8]:
    """A street as a dashboard camera sees it: uint8 (H, W, 3). size: (width, height), at least 64 each."""
    width, height = size
    if min(size) < 64:
        raise ValueError(f"expected a size of at least 64 x 64, got {width} x {height}")
    rng = np.random.default_rng([seed, int(roadwork)])
    fine = 2 if width * height <= 800 * 600 else 1  # drawn larger and reduced, so that edges are smooth
    camera = _camera(rng, width * fine, height * fine)
    light = LIGHTS[int(rng.choice(len(LIGHTS), p=LIGHT_SHARES))]
    street = _street(rng)
    brush = Brush(_sky(rng, camera, light), camera, light)
    _ground(brush, street, rng)
    things = [*_surroundings(street, rng), *_furniture(street, rng)]
    traffic = _traffic(street, rng)
    zone: list[Thing] = []
    while roadwork and _visible_share(zone, [*things, *traffic], camera, light) < ENOUGH:
        zone = _work_zone(street, rng)
        traffic = [thing for thing in _traffic(street, rng) if not _inside(thing, zone)]
    for thing in _far_first([*things, *traffic, *zone]):
        thing.paint(brush)
    image = brush.image.reduce(fine) if fine > 1 else brush.image
    glows = [(u / fine, v / fine, r / fine, c) for u, v, r, c in brush.glows]
    return _lens(rng, add_glows(image, glows), light, camera.horizon / fine)


def _visible_share(zone: list[Thing], others: list[Thing], camera: Camera, light: Light) -> float:
    """Share of the picture where the zone is seen: drawn small, in one colour, with all that may stand before it."""
    if not zone:
        return 0.0
    shrink = 160 / camera.width
    small = replace(
        camera,
        width=160,
        height=int(camera.height * shrink),
        focal=camera.focal * shrink,
        horizon=camera.horizon * shrink,
    )
    brush = Brush(Image.new("RGB", (small.width, small.height)), small, light)
    ours = {id(thing) for thing in zone}
    for thing in _far_first([*zone, *others]):
        brush.flat_colour = MARK if id(thing) in ours else (0, 0, 0)
        thing.paint(brush)
    return float((np.asarray(brush.image) == MARK).all(axis=-1).mean())


def _inside(thing: Thing, zone: list[Thing]) -> bool:
    """Whether a vehicle would stand on the stretch that the zone takes."""
    across = [other.where["x"] for other in zone if "x" in other.where]
    near = min(other.z for other in zone)
    return min(across) - 0.5 < thing.where["x"] < max(across) + 0.5 and thing.z > near - 5


def _far_first(things: list[Thing]) -> list[Thing]:
    return sorted(things, key=lambda thing: -thing.z)


def _camera(rng: Rng, width: int, height: int) -> Camera:
    focal = float(rng.uniform(0.72, 1.05)) * max(width, height * 1.3)
    horizon = height * float(rng.uniform(0.4, 0.54))
    curve = float(rng.normal(0, 0.0006)) if rng.random() < 0.5 else 0.0
    return Camera(width, height, focal, horizon, float(rng.uniform(1.25, 1.9)), curve)


def _street(rng: Rng) -> Street:
    kind = str(rng.choice(["city", "suburb", "highway", "country"], p=[0.4, 0.25, 0.2, 0.15]))
    lane = 3.6 if kind == "highway" else 3.2
    mine = int(rng.integers(2, 4)) if kind == "highway" else int(rng.choice([1, 2], p=[0.65, 0.35]))
    theirs = 0 if kind == "highway" else mine
    ego = -lane / 2 + float(rng.uniform(-0.3, 0.3))
    index = int(rng.integers(mine))  # lanes of my direction to my left
    left = ego - (index + theirs) * lane
    return Street(kind, left, left + (mine + theirs) * lane, lane, ego, bool(rng.random() < 0.3))


def _sky(rng: Rng, camera: Camera, light: Light) -> Image.Image:
    """Sky with clouds down to the horizon, and a skyline or hills on it. Soft, so a quarter of the size is enough."""
    width, height = camera.width // 4, int(camera.horizon / 4) + 1
    rows = np.linspace(0, 1, height, dtype=np.float32)[:, None, None] ** 0.8
    top, low = np.array(light.sky_top, np.float32), np.array(light.sky_low, np.float32)
    clear = top * (1 - rows) + low * rows
    cover = clouds(rng, width, height)
    amount = np.clip((cover - float(rng.uniform(0.45, 0.65))) * 4, 0, 1)[..., None] * float(rng.uniform(0.2, 0.75))
    sky = clear * (1 - amount) + np.minimum(low * (1.0 if light.dark else 1.08), 255) * amount
    image = Image.new("RGB", (camera.width, camera.height), light.sky_low)
    image.paste(Image.fromarray(sky.astype(np.uint8)).resize((camera.width, height * 4), Image.Resampling.BILINEAR))
    _skyline(rng, image, camera, light)
    return image


def _skyline(rng: Rng, image: Image.Image, camera: Camera, light: Light) -> None:
    draw = ImageDraw.Draw(image)
    tint = np.array(light.ambient) * (96, 104, 104) * 0.35 + np.array(light.sky_low) * 0.65
    red, green, blue = (int(min(c, 255)) for c in tint)
    at = np.linspace(0, camera.width, 40)
    if rng.random() < 0.5:
        steps = np.repeat(rng.uniform(0.0, 0.1, 20), 2) * camera.height
        outline = list(zip(np.repeat(at[::2], 2)[: steps.size], camera.horizon - steps, strict=True))
    else:
        phase = rng.uniform(0, 6, 3)
        waves = sum(np.sin(at / camera.width * k * 5 + p) / k for k, p in zip((1, 2, 4), phase, strict=True))
        outline = list(zip(at, camera.horizon - camera.height * (0.03 + 0.02 * (waves + 1.2)), strict=True))
    base = camera.horizon + 2
    draw.polygon(
        [(0, base), *((float(u), float(v)) for u, v in outline), (camera.width, base)], fill=(red, green, blue)
    )


def _ground(b: Brush, street: Street, rng: Rng) -> None:
    """Verges, pavements, carriageway and its marks, from the horizon to the bonnet."""
    grass = street.kind != "city"
    verge: Colour = (104, 124, 70) if grass else (150, 147, 142)
    if grass and street.autumn:
        verge = (138, 124, 74)
    b.draw.rectangle((0, b.camera.horizon, b.camera.width, b.camera.height), fill=b.lit(verge, 60))
    near, far = 0.9, 500.0
    for side, edge in ((-1, street.left), (1, street.right)):
        b.strip(min(edge, edge + side * 40), max(edge, edge + side * 40), near, far, verge, steps=12)
        if street.kind in ("city", "suburb"):
            walk = edge + side * 3.2
            b.strip(min(edge, walk), max(edge, walk), near, far, (170, 166, 158), steps=12)
            b.strip(min(edge, edge + side * 0.25), max(edge, edge + side * 0.25), near, far, (196, 193, 186), steps=12)
        else:
            shoulder = edge + side * 1.6
            b.strip(min(edge, shoulder), max(edge, shoulder), near, far, (112, 110, 106), steps=12)
    gray = int(rng.integers(74, 112))
    asphalt: Colour = (gray, gray, gray + 3)
    b.strip(street.left, street.right, near, far, asphalt, steps=16)
    _wear(b, street, rng, gray)
    _marks(b, street, rng)
    _grain(b, rng)


def _wear(b: Brush, street: Street, rng: Rng, gray: int) -> None:
    """Wheel tracks, tar seams and old patches: a worn road is no road work."""
    for x in np.arange(street.left, street.right - 1, street.lane):
        for track in (0.25, 0.75):
            at = float(x) + street.lane * track
            b.strip(at - 0.3, at + 0.3, 0.9, 120, props.shaded((gray, gray, gray + 3), 0.93), steps=10)
    for _ in range(int(rng.integers(0, 4))):
        x, z = float(rng.uniform(street.left, street.right - 1.4)), float(rng.uniform(5, 40))
        shade = float(rng.uniform(0.72, 0.92))
        b.strip(
            x,
            x + float(rng.uniform(0.8, 1.6)),
            z,
            z + float(rng.uniform(1, 4)),
            props.shaded((gray, gray, gray), shade),
        )
    if rng.random() < 0.3:
        x, z = float(rng.uniform(street.left + 0.5, street.right - 0.5)), float(rng.uniform(5, 20))
        u, v = b.camera.project(x, 0, z)
        r = 0.35 * b.camera.scale(z)
        b.draw.ellipse((u - r, v - r * 0.3, u + r, v + r * 0.3), fill=b.lit((62, 60, 60), z))


def _marks(b: Brush, street: Street, rng: Rng) -> None:
    white: Colour = (226, 226, 220)
    centre: Colour = (224, 178, 50) if rng.random() < 0.55 else white
    lanes = round((street.right - street.left) / street.lane)
    divide = 0 if street.kind == "highway" else lanes // 2
    for i in range(lanes + 1):
        x = street.left + i * street.lane
        if i in (0, lanes):
            if street.kind in ("highway", "country"):
                inner = x + (0.25 if i == 0 else -0.25)
                b.strip(inner - 0.08, inner + 0.08, 1, 200, white, steps=14)
        elif i == divide and rng.random() < 0.7:
            for off in (-0.15, 0.15):
                b.strip(x + off - 0.06, x + off + 0.06, 1, 200, centre, steps=14)
        else:
            start = float(rng.uniform(1, 6))
            for z in np.arange(start, 140, 9.0).tolist():
                b.strip(x - 0.07, x + 0.07, z, z + 3, centre if i == divide else white)
    if street.kind == "city" and rng.random() < 0.4:
        z = float(rng.uniform(7, 22))
        for x in np.arange(street.left + 0.3, street.right - 0.5, 1.0).tolist():
            b.strip(x, x + 0.5, z, z + 3, white)


def _grain(b: Brush, rng: Rng) -> None:
    """Fine texture on everything below the horizon, coarser towards the camera."""
    top = int(b.camera.horizon) + 2
    rows = b.camera.height - top
    if rows < 8:
        return
    spots = rng.normal(13, 7, (rows // 4 + 1, b.camera.width // 8 + 1)).clip(0, 40).astype(np.uint8)
    mask = Image.fromarray(spots).resize((b.camera.width, rows), Image.Resampling.BILINEAR)
    b.image.paste((0, 0, 0), (0, top), mask)


def _surroundings(street: Street, rng: Rng) -> list[Thing]:
    """What lines the road: buildings, houses, trees, guard rails."""
    things: list[Thing] = []
    for side, edge in ((-1, street.left), (1, street.right)):
        if street.kind == "city":
            z, line = float(rng.uniform(2, 8)), edge + side * 3.4
            while z < 130:
                far = z + float(rng.uniform(9, 24))
                if rng.random() < 0.88:
                    things.append(Thing(far, props.building, {"x": line, "near": z, "far": far}, _seed(rng)))
                z = far + (float(rng.uniform(4, 9)) if rng.random() < 0.25 else 0.0)
            things += _row(rng, props.tree, edge + side * 2.6, 6, 80, 11, 0.4, autumn=street.autumn)
        elif street.kind == "suburb":
            things += _row(rng, props.house, edge + side * 7.5, 8, 120, 15, 0.8, key="near")
            things += _row(rng, props.tree, edge + side * 4.2, 5, 100, 9, 0.5, autumn=street.autumn)
            things += _row(rng, props.bush, edge + side * 4.8, 4, 60, 5, 0.4)
        else:
            conifers = rng.random() < 0.4
            for distance in (6, 11, 17):
                row = (edge + side * distance, 8, 150, 9, 0.55)
                things += (
                    _row(rng, props.conifer, *row) if conifers else _row(rng, props.tree, *row, autumn=street.autumn)
                )
            things += _row(rng, props.bush, edge + side * 4.5, 4, 60, 6, 0.4)
            if street.kind == "highway":
                things.append(Thing(140.0, _rail, {"x": edge + side * 2.0}))
    return things


def _row(
    rng: Rng, what: Callable[..., None], x: float, near: float, far: float, gap: float, share: float, key: str = "z",
    **more: object,
) -> list[Thing]:  # fmt: skip
    """Things of one kind along the road, each there with probability `share`."""
    things: list[Thing] = []
    z = near + float(rng.uniform(0, gap))
    while z < far:
        if rng.random() < share:
            where = {"x": x + float(rng.normal(0, 0.25)), key: z, **more}
            things.append(Thing(z, what, where, _seed(rng)))
        z += gap * float(rng.uniform(0.8, 1.3))
    return things


def _rail(b: Brush, x: float) -> None:
    b.polygon([(x, 0.45, 2), (x, 0.8, 2), (x, 0.8, 140), (x, 0.45, 140)], (168, 172, 176))
    for z in np.arange(140, 3, -4.0).tolist():
        b.bar(x, z, (-0.06, 0.06), (0.0, 0.5), (128, 130, 134))


def _traffic(street: Street, rng: Rng) -> list[Thing]:
    """Vehicles in the lanes of both directions, and parked ones."""
    things: list[Thing] = []
    lanes = round((street.right - street.left) / street.lane)
    divide = 0 if street.kind == "highway" else lanes // 2
    for i in range(lanes):
        x = street.left + (i + 0.5) * street.lane
        mine = abs(x - (street.ego + street.lane / 2)) < 0.5
        z = float(rng.uniform(9, 40) if mine else rng.uniform(5, 35))
        while z < 110:
            if rng.random() < 0.45:
                things.append(_vehicle(rng, x, z, oncoming=i < divide))
            z += float(rng.uniform(10, 34))
    if street.kind in ("city", "suburb") and rng.random() < 0.6:
        things += [
            _at(rng, props.car, street.right + 0.1, z)
            for z in np.arange(float(rng.uniform(5, 14)), 70, 6.4).tolist()
            if rng.random() < 0.55
        ]
    return things


def _vehicle(rng: Rng, x: float, z: float, oncoming: bool) -> Thing:
    x += float(rng.normal(0, 0.15))
    kind = float(rng.random())
    if kind < 0.74:
        return _at(rng, props.car, x, z, oncoming=oncoming)
    if kind < 0.86 or oncoming:
        return _at(rng, props.van, x, z)
    return _at(rng, props.truck if kind < 0.94 else props.bus, x, z)


def _furniture(street: Street, rng: Rng) -> list[Thing]:
    """Lamps, signals, signs, bins, hydrants and passers-by: all of it on streets of both kinds."""
    things: list[Thing] = []
    town = street.kind in ("city", "suburb")
    for side, edge in ((-1, street.left - 0.6), (1, street.right + 0.6)):
        if town or rng.random() < 0.3:
            things += _row(rng, props.lamp_post, edge, 8, 110, 22, 0.8)
        things += _row(rng, props.plain_sign, edge + side * 0.3, 8, 60, 18, 0.4)
        if town:
            things += _row(rng, props.hydrant, edge + side * 0.2, 5, 40, 16, 0.3)
            things += _row(rng, props.bin_, edge + side * 0.9, 5, 50, 12, 0.3)
            things += _row(rng, props.person, edge + side * 1.4, 5, 60, 9, 0.35)
    if street.kind == "city" and rng.random() < 0.4:
        z = float(rng.uniform(14, 40))
        things.append(_at(rng, props.signal, street.right + 0.8, z))
    if street.kind == "highway" and rng.random() < 0.5:
        z, half = float(rng.uniform(35, 80)), max(-street.left, street.right) + 2
        things.append(Thing(z, props.gantry, {"z": z, "half": half}, _seed(rng)))
    return things


# ---- work zones: each takes the street and the near end, and gives what stands there --------------------------------


def _work_zone(street: Street, rng: Rng) -> list[Thing]:
    """One layout, at a distance from close to far, with signs before it more often than not."""
    layouts = (_lane_closure, _shoulder_works, _dig, _full_closure, _concrete_works, _european_works)
    near = float(rng.uniform(5.5, 16)) if rng.random() < 0.8 else float(rng.uniform(16, 30))
    layout = layouts[int(rng.choice(len(layouts), p=[0.28, 0.2, 0.16, 0.1, 0.12, 0.14]))]
    return layout(street, rng, near)


def _side_lane(street: Street, rng: Rng) -> tuple[float, float, int]:
    """(left, right, side) of the stretch that is taken from traffic: beside the camera's lane, or the kerb."""
    if rng.random() < 0.65:
        left = street.ego + street.lane
        return (left, max(street.right, left + 2.6), 1)
    return (max(street.left, street.ego - street.lane), street.ego, -1)


def _channel(rng: Rng, street: Street) -> Callable[..., None]:
    return (props.cone, props.barrel, props.beacon)[int(rng.choice(3, p=[0.5, 0.4, 0.1]))]


def _sign(rng: Rng, x: float, z: float) -> Thing:
    text = props.ROADWORK_TEXTS[int(rng.integers(len(props.ROADWORK_TEXTS)))]
    colour: Colour = props.ORANGE if rng.random() < 0.85 else (246, 200, 34)
    if rng.random() < 0.72:
        low = 1.5 if rng.random() < 0.6 else 0.5
        return Thing(z, props.diamond, {"x": x, "z": z, "lines": text, "colour": colour, "post": low})
    lines = (("DETOUR",), ("ROAD CLOSED",), ("LANE CLOSED",), ("END WORK",))[int(rng.integers(4))]
    return _board(x, z, lines, colour)


def _crew(rng: Rng, left: float, right: float, near: float, far: float, most: int = 4) -> list[Thing]:
    things: list[Thing] = []
    for _ in range(int(rng.integers(1, most + 1))):
        # A strip may be narrower than the margins that were taken off it: they stand at its edge then.
        x, z = float(rng.uniform(left, max(left, right))), float(rng.uniform(near, far))
        things.append(_at(rng, props.person, x, z, worker=True))
    return things


def _machine(rng: Rng, x: float, z: float) -> Thing:
    what = (props.excavator, props.roller, props.work_truck)[int(rng.choice(3, p=[0.45, 0.2, 0.35]))]
    return _at(rng, what, x, z)


def _line(
    rng: Rng, what: Callable[..., None], x: float, near: float, far: float, gap: float, taper: float
) -> list[Thing]:
    """Cones or barrels along a lane, drawn in from the side by `taper` metres over the first third."""
    zs = np.arange(near, far, gap)
    along = np.clip((zs - near) / max((far - near) / 3, 1), 0, 1)
    return [
        _at(rng, what, x + taper * float(1 - a) + float(rng.normal(0, 0.06)), float(z))
        for z, a in zip(zs, along, strict=True)
        if rng.random() < 0.95
    ]


def _lane_closure(street: Street, rng: Rng, near: float) -> list[Thing]:
    left, right, side = _side_lane(street, rng)
    edge = left if side > 0 else right
    far = near + float(rng.uniform(18, 45))
    channel = _channel(rng, street)
    things = _line(rng, channel, edge + side * 0.2, near, far, float(rng.uniform(2.2, 4)), side * 2.2)
    middle = (left + right) / 2
    things.append(_sign(rng, (right if side > 0 else left) + side * 0.8, near + float(rng.uniform(-1, 8))))
    if rng.random() < 0.45:
        z = near + float(rng.uniform(6, 14))
        things.append(_at(rng, props.arrow_board, middle, z))
    if rng.random() < 0.7:
        things.append(_machine(rng, middle, near + float(rng.uniform(12, 24))))
    if rng.random() < 0.7:
        things += _crew(rng, left + 0.5, right - 0.3, near + 3, near + 20)
    return things


def _shoulder_works(street: Street, rng: Rng, near: float) -> list[Thing]:
    x = street.right + float(rng.uniform(1.2, 2.4))
    things = _line(rng, _channel(rng, street), street.right - 0.3, near, near + 22, 3.0, 0.8)
    things.append(_machine(rng, x, near + float(rng.uniform(4, 14))))
    things += _crew(rng, street.right, x + 1.5, near + 1, near + 12, most=3)
    if rng.random() < 0.6:
        z = near + float(rng.uniform(2, 9))
        things.append(_at(rng, props.heap, x + 1.2, z))
    if rng.random() < 0.6:
        things.append(_sign(rng, street.right + 0.7, near + float(rng.uniform(0, 4))))
    return things


def _dig(street: Street, rng: Rng, near: float) -> list[Thing]:
    """A hole in the road with something around it."""
    left, right, side = _side_lane(street, rng)
    middle = (left + right) / 2
    things = [Thing(BEFORE_ALL, props.trench, {"x": middle, "near": near + 1.5}, _seed(rng))]
    for x in (left + 0.3, right - 0.3):
        things += _line(rng, _channel(rng, street), x, near, near + 10, 2.4, 0.0)
    front = (props.barricade, props.fence)[int(rng.choice(2, p=[0.7, 0.3]))]
    things.append(_at(rng, front, middle if front is props.barricade else left, near))
    heap_z = near + float(rng.uniform(4, 9))
    gravel: Colour = (150, 144, 134)
    colour = props.DIRT if rng.random() < 0.6 else gravel
    things.append(_at(rng, props.heap, middle + side * 1.2, heap_z, colour=colour))
    if rng.random() < 0.6:
        things += _crew(rng, left, right, near + 1, near + 9, most=3)
    if rng.random() < 0.5:
        things.append(_machine(rng, middle + side * 1.5, near + 11))
    return things


def _full_closure(street: Street, rng: Rng, near: float) -> list[Thing]:
    """Barricades across the road."""
    near += 4
    colour = props.ORANGE if rng.random() < 0.6 else props.RED
    things: list[Thing] = [
        _at(rng, props.barricade, x, near, colour=colour)
        for x in np.arange(street.left + 1.2, street.right - 0.5, 2.9).tolist()
    ]
    lines = (("ROAD CLOSED",), ("STREET", "CLOSED"), ("ROAD CLOSED", "TO THRU TRAFFIC"))[int(rng.integers(3))]
    fill = props.WHITE if rng.random() < 0.6 else props.ORANGE
    x = float(rng.uniform(-1.5, 1.5))
    things.append(_board(x, near - 0.1, lines, fill))
    if rng.random() < 0.7:
        things.append(_machine(rng, float(rng.uniform(-2, 2)), near + float(rng.uniform(8, 20))))
    if rng.random() < 0.5:
        things += _crew(rng, street.left, street.right, near + 3, near + 15)
    return things


def _concrete_works(street: Street, rng: Rng, near: float) -> list[Thing]:
    """A long wall of blocks with work behind it."""
    left, right, side = _side_lane(street, rng)
    x = (left if side > 0 else right) + side * 0.4
    run = props.concrete_run if rng.random() < 0.6 else props.water_run
    far = near + 42
    things = [Thing(far - 0.5, run, {"x": x, "near": near, "far": far}, _seed(rng))]
    behind = x + side * 2.2
    hidden = [_machine(rng, behind, near + 14), *_crew(rng, behind - 0.8, behind + 0.8, near + 8, near + 22)]
    things += [replace(thing, z=far) for thing in hidden]
    if rng.random() < 0.7:
        things.append(_sign(rng, x + side * 0.4, max(near - 1.5, 5)))
    if rng.random() < 0.5:
        things += _line(rng, props.barrel, x - side * 0.6, max(near - 1, 5), near + 6, 2.5, side * 0.8)
    return things


def _european_works(street: Street, rng: Rng, near: float) -> list[Thing]:
    """Red and white: triangle, beacons, water-filled blocks or fences; nothing of it is orange."""
    left, right, side = _side_lane(street, rng)
    edge = left if side > 0 else right
    kerb = street.right + 0.7
    inner: Colour = props.WHITE if rng.random() < 0.6 else (246, 208, 50)
    things = [Thing(near, props.works_triangle, {"x": kerb, "z": near, "inner": inner})]
    if rng.random() < 0.6:
        things += _line(rng, props.beacon, edge + side * 0.2, near + 1, near + 26, 3.2, side * 1.6)
    else:
        far = near + 18
        things.append(
            Thing(far - 0.5, props.water_run, {"x": edge + side * 0.4, "near": near + 1, "far": far}, _seed(rng))
        )
    things.append(Thing(BEFORE_ALL, props.trench, {"x": (left + right) / 2, "near": near + 4}, _seed(rng)))
    if rng.random() < 0.6:
        things.append(_machine(rng, (left + right) / 2 + side * 0.6, near + 20))
    if rng.random() < 0.6:
        things += _crew(rng, left + 0.4, right, near + 3, near + 14, most=3)
    return things


# ---- what the camera adds -------------------------------------------------------------------------------------------


def _lens(rng: Rng, image: Image.Image, light: Light, horizon: float) -> NDArray[np.uint8]:
    """Wet road, falling rain, bonnet, softness, vignette and sensor noise."""
    if light.rain:
        image = _wet(rng, image, int(horizon))
    if rng.random() < 0.3:
        _bonnet(rng, image, light)
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.BoxBlur(float(rng.uniform(0.1, 0.5)) * image.width / 640))
    pixels = np.asarray(image).astype(np.float32)
    height, width = pixels.shape[:2]
    y, x = np.linspace(-1, 1, height, dtype=np.float32)[:, None], np.linspace(-1, 1, width, dtype=np.float32)
    pixels *= (1 - float(rng.uniform(0.05, 0.22)) * (x * x + y * y) / 2)[..., None]
    grain = 5.0 if light.dark else 2.2
    small = rng.standard_normal((height, width), dtype=np.float32)[..., None]
    pixels += grain * small
    return np.clip(pixels, 0, 255).astype(np.uint8)


def _wet(rng: Rng, image: Image.Image, horizon: int) -> Image.Image:
    """The scene mirrored in the road, and streaks of rain."""
    height = image.height - horizon
    above = image.crop((0, max(0, horizon - height), image.width, horizon)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    mirror = above.resize((image.width, height)).filter(ImageFilter.GaussianBlur(image.width / 110))
    road = image.crop((0, horizon, image.width, image.height))
    image.paste(Image.blend(road, mirror, 0.3), (0, horizon))
    draw = ImageDraw.Draw(image, "RGBA")
    slant, length = float(rng.uniform(-0.15, 0.15)), image.height / 22
    for u, v in rng.uniform((0, 0), (image.width, image.height), (110, 2)).tolist():
        draw.line((u, v, u + slant * length, v + length), fill=(224, 228, 232, 60))
    for u, v in rng.uniform((0, 0), (image.width, image.height), (14, 2)).tolist():
        r = image.width / 640 * float(rng.uniform(2, 5))
        draw.ellipse((u - r, v - r, u + r, v + r * 1.2), fill=(214, 220, 226, 40))
    return image


def _bonnet(rng: Rng, image: Image.Image, light: Light) -> None:
    """The lower edge of the picture behind the wheel."""
    paint = props.shaded(
        props.pick(rng, ((30, 32, 36), (46, 48, 54), (70, 24, 26), (34, 44, 64))), light.ambient[1] + 0.1
    )
    top = image.height * float(rng.uniform(0.88, 0.95))
    ImageDraw.Draw(image).ellipse((-image.width * 0.2, top, image.width * 1.2, top + image.height * 0.6), fill=paint)


def _at(rng: Rng, what: Callable[..., None], x: float, z: float, **more: object) -> Thing:
    return Thing(z, what, {"x": x, "z": z, **more}, _seed(rng))


def _board(x: float, z: float, lines: Sequence[str], fill: Colour) -> Thing:
    return Thing(z, props.board, {"x": x, "z": z, "lines": lines, "fill": fill, "ink": props.BLACK})


def _seed(rng: Rng) -> int:
    return int(rng.integers(2**63))
