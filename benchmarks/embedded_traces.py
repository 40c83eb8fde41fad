"""Out-of-fold opinions of the embedded network and its helpers as trace lines, as if every tier had been asked.

    python benchmarks/embedded_traces.py docs/results/embedded-opinions-DATE.json --signs FILE --out traces.jsonl
    ./run_miner.sh calibrate --traces traces.jsonl --profile embedded [--check]
    python benchmarks/cascade_study.py --traces traces.jsonl --profile embedded

The first file is written by `python -m models.training.embedded`: logits of every picture by a network that never saw
its source, in each view. A picture becomes up to five records: as it is (`native`), and as the validators changed it in
January 2026 (`level0` to `level3`, 224 x 224). `closer-look` is made of the views that `models.embedded.closer` takes.
`--signs`: JSON lines {"path", "logit", "cpu_ms"} of `models.ocr` on the pictures as they are. Milliseconds are CPU time
of this machine, measured here on one core with the network that ships.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cascade.calibration import Array
from cascade.trace import Record, write
from cascade.verdict import Source, Stop, Verdict
from models.base import Frame, Model, Opinion
from models.embedded.closer import WIDE, Closer
from models.embedded.model import Embedded
from models.embedded.view import fitted, mirrored

WIRE = (224, 224)
LEVELS = ("level0", "level1", "level2", "level3")
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


def records(opinions: Mapping[str, Any], signs: Mapping[str, Mapping[str, float]]) -> Iterator[Record]:
    """Every picture in every view that is served. Those that `signs` leaves out have no opinion of sign reading."""
    first, closer = Embedded(), Closer()
    for model in (first, closer):
        model.load("cpu")
        model.warm_up()
    native = (512, 320)  # about what the pictures have
    milliseconds = {size: (cost(first, size), cost(closer, size)) for size in (WIRE, native)}
    print(f"milliseconds of (embedded, closer-look) by size: {milliseconds}", file=sys.stderr)
    said = log_odds(opinions)
    when = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    for i, path in enumerate(opinions["path"]):
        size = opinions["width"][i], opinions["height"][i]
        for kind in ("native", *(level for level in LEVELS if level in said)):
            at = native if kind == "native" else WIRE
            found = [Opinion("embedded", float(said[kind][i]), milliseconds[at][0])]
            shown = size if kind == "native" else WIRE
            looks = [] if mirrored(*fitted(*shown)) else ["flip"]
            if kind == "native" and max(size) >= WIDE * min(size):
                looks += SQUARES
            if all(look in said for look in looks):
                highest = max((float(said[look][i]) for look in looks), default=0.0)
                found.append(Opinion("closer-look", highest, milliseconds[at][1]))
            if kind == "native" and path in signs:
                found.append(Opinion("sign-reading", signs[path]["logit"], signs[path]["cpu_ms"]))
            verdict = Verdict(0.5, (0.0, 1.0), tuple(found), (), (), Stop.LAST_TIER, Source.CASCADE, False, 0.0)
            digest = hashlib.sha256(f"{opinions['sha256'][i]} {kind}".encode()).hexdigest()
            yield Record(when, digest, *shown, verdict, opinions["label"][i], opinions["group"][i])


def log_odds(opinions: Mapping[str, Any]) -> dict[str, Array]:
    """By kind of view, after the calibration that ships for it."""
    found = {}
    for kind, logits in opinions["logits"].items():
        calibration = opinions["calibrations"]["wire" if kind.startswith("level") else "native"]
        found[kind] = calibration["slope"] * (np.array(logits) - calibration["shift"])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("opinions", type=Path, help="JSON, or JSON in gzip")
    parser.add_argument("--signs", type=Path, help="what sign reading said of the pictures")
    parser.add_argument("--out", type=Path, required=True, help="trace lines")
    parser.add_argument("--all-sources", action="store_true", help="also those that are unlike what validators send")
    arguments = parser.parse_args()
    read = gzip.open if arguments.opinions.suffix == ".gz" else open
    with read(arguments.opinions, "rt", encoding="utf-8") as file:
        opinions = json.load(file)
    signs = {}
    if arguments.signs:
        lines = map(json.loads, arguments.signs.read_text(encoding="utf-8").splitlines())
        signs = {line["path"]: line for line in lines}
    if not arguments.all_sources:
        opinions = streets(opinions)
    with arguments.out.open("w", encoding="utf-8") as out:
        out.writelines(write(record) + "\n" for record in records(opinions, signs))
    return 0


def streets(opinions: Mapping[str, Any]) -> dict[str, Any]:
    """The opinions without the sources that are unlike what validators send."""
    rows = [i for i, source in enumerate(opinions["source"]) if source not in opinions["unlike"]]
    columns = ("path", "sha256", "source", "group", "label", "width", "height")
    kept = {name: [opinions[name][i] for i in rows] for name in columns}
    logits = {kind: [values[i] for i in rows] for kind, values in opinions["logits"].items()}
    return {**opinions, **kept, "logits": logits}


if __name__ == "__main__":
    sys.exit(main())
