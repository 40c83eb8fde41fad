"""Sign reading on the street pictures of a file of opinions, as JSON lines for `benchmarks/embedded_traces.py`.

    python benchmarks/read_signs.py ../shared/data/streets --out docs/results/cascade-signs-2026-11-24.jsonl

A line: {"path", "logit" (natural log-odds of `models.ocr`), "cpu_ms" (of one core), "size" (height, width)}. Pictures
that the file has already are not read again. Those that the network finds most like road work come first: should the
reading be cut short, what a cascade would ask is there. A picture takes about 0.4 s.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.embedded_traces import OPINIONS, read, streets
from models.base import Frame
from models.ocr import SignReader

LEAST = 256  # pixels of the shorter side: smaller pictures are asked by no profile


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="with the pictures at the paths that the opinions name")
    parser.add_argument("--opinions", type=Path, default=OPINIONS, help="JSON in gzip (default: of what ships)")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, added to")
    arguments = parser.parse_args()
    wanted = paths(streets(read(arguments.opinions)))
    with arguments.out.open("a+", encoding="utf-8") as out:
        out.seek(0)
        known = {json.loads(line)["path"] for line in out}
        reader = SignReader(threads=1)
        reader.load("cpu")
        reader.warm_up()
        for path in wanted:
            if path not in known:
                print(json.dumps({"path": path, **said(reader, arguments.folder / path)}), file=out, flush=True)
        reader.close()
    return 0


def paths(opinions: dict[str, Any]) -> list[str]:
    """Of pictures large enough, the surest road work first."""
    order = np.argsort(-np.array(opinions["logits"]["native"]), kind="stable")
    return [opinions["path"][i] for i in order if min(opinions["width"][i], opinions["height"][i]) >= LEAST]


def said(reader: SignReader, file: Path) -> dict[str, Any]:
    """What signs say of one picture, and what reading them cost."""
    with Image.open(file) as picture:
        frame = Frame.of(np.asarray(picture.convert("RGB")))
    began = time.process_time()
    (opinion,) = reader.assess([frame])
    took = (time.process_time() - began) * 1e3
    return {"logit": opinion.logit, "cpu_ms": round(took, 1), "size": list(frame.pixels.shape[:2])}


if __name__ == "__main__":
    sys.exit(main())
