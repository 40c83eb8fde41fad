"""Out-of-fold opinions of the embedded network and its helpers as trace lines, as if every tier had been asked.

    python benchmarks/embedded_traces.py --out traces.jsonl
    ./run_miner.sh calibrate --traces traces.jsonl --profile benchmarks/three_tiers.toml --check
    python benchmarks/cascade_study.py --traces traces.jsonl --profile benchmarks/three_tiers.toml

The opinions are written by `python -m models.training.embedded`: logits of every picture by a network that never saw
its source, in each view. A picture becomes up to five records: as it is (`native`), and as the validators changed it in
January 2026 (`level0` to `level3`, 224 x 224). `closer-look` is made of the views that `models.embedded.closer` takes.
As in serving, a member has no opinion of pictures below its `min_side`. Signs were read by `benchmarks/read_signs.py`.
Milliseconds are CPU time: of signs as read, of the rest measured here on one core with the network that ships.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cascade.calibration import Array
from cascade.profile import load
from cascade.trace import Record, write
from cascade.verdict import Source, Stop, Verdict
from models.base import Frame, Model, Opinion
from models.embedded.closer import WIDE, Closer
from models.embedded.model import Embedded
from models.embedded.view import fitted, mirrored

OPINIONS = Path(__file__).parents[1] / "docs/results/embedded-mirrored-2026-11-24.json.gz"  # of the network that ships
THREE_TIERS = Path(__file__).with_name("three_tiers.toml")
SIGNS = Path(__file__).parents[1] / "docs/results/cascade-signs-2026-11-24.jsonl"
WIRE = (224, 224)
NATIVE = (512, 320)  # about what the pictures have
KINDS = ("native", "level0", "level1", "level2", "level3")
SQUARES = ("left", "right")


def cost(model: Model, size: tuple[int, int], repeats: int = 9) -> float:
    """Milliseconds of CPU for one picture of `size`, the median."""
    frame = Frame.of(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    times = []
    for _ in range(repeats):
        began = time.process_time()
        model.assess([frame])
        times.append((time.process_time() - began) * 1e3)
    return statistics.median(times)


def records(
    opinions: Mapping[str, Any], signs: Mapping[str, Mapping[str, float]], kinds: Sequence[str] = KINDS
) -> Iterator[Record]:
    """Every picture in these kinds of view. Those that `signs` leaves out have no opinion of sign reading."""
    took = costs()
    said, members = log_odds(opinions), load(THREE_TIERS).members
    when = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    for i, path in enumerate(opinions["path"]):
        for kind in kinds:
            size = (opinions["width"][i], opinions["height"][i]) if kind == "native" else WIRE
            looks = {view: float(values[i]) for view, values in said.items()}
            first, closer = took[NATIVE if kind == "native" else WIRE]
            found = [
                Opinion("embedded", first_pass(looks, kind, size), first),
                Opinion("closer-look", closer_look(looks, kind, size), closer),
            ]
            if kind == "native" and path in signs:
                found.append(Opinion("sign-reading", signs[path]["logit"], signs[path]["cpu_ms"]))
            asked = {member.model for member in members if member.concerns(size)}
            heard = tuple(opinion for opinion in found if opinion.model in asked)
            verdict = Verdict(0.5, (0.0, 1.0), heard, (), (), Stop.LAST_TIER, Source.CASCADE, False, 0.0)
            digest = hashlib.sha256(f"{opinions['sha256'][i]} {kind}".encode()).hexdigest()
            yield Record(when, digest, *size, verdict, opinions["label"][i], opinions["group"][i])


def first_pass(looks: Mapping[str, float], kind: str, size: tuple[int, int]) -> float:
    """Small pictures are looked at twice. Those of the levels were when the opinions were kept, the others not."""
    if kind == "native" and mirrored(*fitted(*size)):
        return (looks["native"] + looks["flip"]) / 2
    return looks[kind]


def closer_look(looks: Mapping[str, float], kind: str, size: tuple[int, int]) -> float:
    """The highest of what the first pass has not seen, 0 where it has seen everything."""
    views = [] if mirrored(*fitted(*size)) else ["flip"]
    if kind == "native" and max(size) >= WIDE * min(size):
        views += SQUARES
    return max((looks[view] for view in views), default=0.0)


def costs() -> dict[tuple[int, int], tuple[float, float]]:
    """Milliseconds of the first pass and of the closer look, by size of picture."""
    first, closer = Embedded(), Closer()
    for model in (first, closer):
        model.load("cpu")
        model.warm_up()
    found = {size: (cost(first, size), cost(closer, size)) for size in (WIRE, NATIVE)}
    print(f"milliseconds of (embedded, closer-look) by size: {found}", file=sys.stderr)
    return found


def log_odds(opinions: Mapping[str, Any]) -> dict[str, Array]:
    """By kind of view, after the calibration that ships for it."""
    found = {}
    for kind, logits in opinions["logits"].items():
        calibration = opinions["calibrations"]["wire" if kind.startswith("level") else "native"]
        found[kind] = calibration["slope"] * (np.array(logits) - calibration["shift"])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--opinions", type=Path, default=OPINIONS, help="JSON in gzip (default: of what ships)")
    parser.add_argument("--signs", type=Path, default=SIGNS, help="JSON lines (default: those in docs/results)")
    parser.add_argument("--out", type=Path, required=True, help="trace lines")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of view (default: all)")
    parser.add_argument("--all-sources", action="store_true", help="also those that are unlike what validators send")
    arguments = parser.parse_args()
    opinions = read(arguments.opinions)
    if not arguments.all_sources:
        opinions = streets(opinions)
    signs = {line["path"]: line for line in map(json.loads, arguments.signs.read_text(encoding="utf-8").splitlines())}
    with arguments.out.open("w", encoding="utf-8") as out:
        out.writelines(write(record) + "\n" for record in records(opinions, signs, arguments.kinds))
    return 0


def read(file: Path) -> dict[str, Any]:
    """What `models.training.evaluate.opinions` made."""
    return dict(json.loads(gzip.decompress(file.read_bytes())))


def streets(opinions: Mapping[str, Any]) -> dict[str, Any]:
    """The opinions without the sources that are unlike what validators send."""
    rows = [i for i, source in enumerate(opinions["source"]) if source not in opinions["unlike"]]
    columns = ("path", "sha256", "source", "group", "label", "width", "height")
    kept = {name: [opinions[name][i] for i in rows] for name in columns}
    logits = {kind: [values[i] for i in rows] for kind, values in opinions["logits"].items()}
    return {**opinions, **kept, "logits": logits}


if __name__ == "__main__":
    sys.exit(main())
