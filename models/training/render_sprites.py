"""Things to paste, rendered in 3D: cones, drums, barricades, signs, arrow boards, workers, and harmless things.

    pip install mitsuba && python -m models.training.render_sprites --out DIR --count 36

Writes `<work|harmless>-<kind>-<height in cm>-<number>.png` (RGBA, trimmed). Every piece is a mesh under a sky and a sun
of its own, seen by a camera at the height of a windscreen; drawn sprites (paste.py) have neither shade nor perspective.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.training import machines, things, vehicles
from models.training.meshes import Builder, Rng, Scene

Point = NDArray[np.float64]  # x, y, z in metres

EDGE = 136  # pixels of a rendering's side
SAMPLES = 12
TURNED = 28.0  # degrees that boards and furniture may face away; vehicles and machines stand in any direction

MACHINES = (machines.excavator, machines.roller, machines.paver, machines.loader, machines.work_truck)
VEHICLES = (vehicles.car, vehicles.three_wheeler, vehicles.lorry, vehicles.bus)
WORK = (
    *(things.cone, things.drum, things.tube, things.beacon, things.barricade, things.water_barrier),
    *(things.work_sign, things.arrow_board, things.worker, machines.crew, machines.site, *MACHINES),
)
HARMLESS = (
    *(things.person, things.hydrant, things.street_furniture, things.plain_sign),
    *(vehicles.stall, vehicles.hoarding, vehicles.traffic_light, *VEHICLES),
)


def render(make: Callable[[Builder, Rng], None], rng: Rng) -> tuple[Image.Image, float]:
    """One thing as trimmed RGBA, and its height in metres."""
    import mitsuba

    with tempfile.TemporaryDirectory() as folder:
        builder = Builder(Path(folder))
        make(builder, rng)
        yaw = 360 * rng.random() if make in (*MACHINES, *VEHICLES) else rng.uniform(-TURNED, TURNED)
        turn = mitsuba.ScalarTransform4f().rotate([0, 0, 1], float(yaw))
        for piece in builder.pieces.values():
            piece["to_world"] = turn @ piece.get("to_world", mitsuba.ScalarTransform4f())
        low, high = _extent(builder, np.radians(yaw))
        scene = {"type": "scene", **_seen(low, high, rng), **builder.pieces}
        image = np.asarray(mitsuba.render(mitsuba.load_dict(scene)))
    alpha = image[..., 3:].clip(0, 1)
    colour = image[..., :3] / np.maximum(alpha, 1e-3)
    colour = (colour / max(float(np.percentile(colour[alpha[..., 0] > 0.5], 97)), 0.3)).clip(0, 1) ** (1 / 2.2)
    picture = Image.fromarray((np.dstack([colour, alpha]) * 255).round().astype(np.uint8), "RGBA")
    box = picture.getchannel("A").point(lambda a: 255 * (a > 40)).getbbox()
    assert box is not None, f"{make.__name__}: nothing to see"
    return picture.crop(box), float(high[2])


def _seen(low: Point, high: Point, rng: Rng) -> Scene:
    """Camera, sky and sun, for what lies between two corners: all of it in the picture, from 7 m or more."""
    import mitsuba

    tall, distance = float(high[2]), float(rng.uniform(7, 25)) - min(0.0, float(low[1]))
    reach = 1.1 * max(high[0] - low[0], tall) * distance / (distance + low[1])
    aim = [float(low[0] + high[0]) / 2, 0, tall / 2]
    azimuth, height = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 1.4)
    sun = [-np.cos(azimuth) * np.cos(height), -np.sin(azimuth) * np.cos(height), -np.sin(height)]
    sky = float(rng.uniform(0.35, 1.0))
    return {
        "integrator": {"type": "path", "max_depth": 3, "hide_emitters": True},
        "sensor": {
            "type": "perspective",
            "fov": float(np.degrees(2 * np.arctan(reach / 2 / distance))),
            "to_world": mitsuba.ScalarTransform4f().look_at([aim[0], -distance, 1.35], aim, [0, 0, 1]),
            "film": {"type": "hdrfilm", "width": EDGE, "height": EDGE, "pixel_format": "rgba"},
            "sampler": {"type": "independent", "sample_count": SAMPLES, "seed": int(rng.integers(1 << 30))},
        },
        "sky": {"type": "constant", "radiance": {"type": "rgb", "value": [sky * 0.9, sky * 0.95, sky]}},
        "sun": {
            "type": "directional",
            "direction": [float(part) for part in sun],
            "irradiance": {"type": "rgb", "value": [c * float(rng.uniform(0, 3.0)) for c in (1.0, 0.95, 0.85)]},
        },
    }


def _extent(builder: Builder, yaw: float) -> tuple[Point, Point]:
    """Lowest and highest x, y, z of what was built, turned by yaw (radians)."""
    x, y, z = builder.corners.T
    turned = np.stack([x * np.cos(yaw) - y * np.sin(yaw), x * np.sin(yaw) + y * np.cos(yaw), z])
    return turned.min(1), turned.max(1)


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
