"""How often signs are read, what it costs, and how often it misleads.

    python benchmarks/sign_reading.py ../shared/data/streets --sample 600 --pixels 230000 500000 900000

For each picture size: pictures of each class in which a phrase of each level was read, the log-odds these counts
support (Laplace-smoothed, equal classes), milliseconds per picture on one core, and every false match by name.
Pictures come from <source>/<roadwork|clear>/*.jpg; the sample holds as many of each class.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from models.base import Frame
from models.ocr import PIXELS, SignReader

CLASSES = ("roadwork", "clear")


def main() -> None:
    options = _options()
    pictures = _sample(options.folder, options.sample, options.seed)
    print(f"{len(pictures)} pictures (seed {options.seed}), {options.threads} thread(s)\n")
    for pixels in options.pixels:
        _measure(pictures, SignReader(threads=options.threads, pixels=pixels))


def _measure(pictures: list[tuple[Path, str]], reader: SignReader) -> None:
    started = time.perf_counter()
    reader.load("cpu")
    reader.warm_up()
    ready = time.perf_counter() - started
    seen, with_text, found = Counter[str](), Counter[str](), Counter[tuple[str, float]]()
    wall, core, false_matches = [], [], []
    for path, label in pictures:
        frame = Frame.of(np.asarray(Image.open(path).convert("RGB")))
        begin, begin_core = time.perf_counter(), time.process_time()
        (opinion,) = reader.assess([frame])
        wall.append((time.perf_counter() - begin) * 1e3)
        core.append((time.process_time() - begin_core) * 1e3)
        seen[label] += 1
        with_text[label] += bool(opinion.evidence["texts"])
        if opinion.logit:
            found[label, opinion.logit] += 1
            if label == "clear":
                false_matches.append((path.parts[-3], opinion.evidence["matches"][0]))
    reader.close()
    print(f"### {reader.pixels:,} pixels; loaded in {ready:.2f} s")
    print("any text read:", ", ".join(f"{label} {with_text[label]}/{seen[label]}" for label in CLASSES))
    for logit in sorted({level for _, level in found}, reverse=True):
        road, clear = (found[label, logit] for label in CLASSES)
        odds = ((road + 1) / (seen["roadwork"] + 2)) / ((clear + 1) / (seen["clear"] + 2))
        print(f"log-odds {logit}: roadwork {road}, clear {clear}; the counts support {math.log(odds):+.2f}")
    for source, match in false_matches:
        print(f"false: {source}: {match['phrase']!r} in {match['sign']!r}")
    for name, values in (("wall", wall), ("core", core)):
        p50, p95 = np.percentile(values, [50, 95])
        print(f"{name} ms per picture: mean {np.mean(values):.0f}, p50 {p50:.0f}, p95 {p95:.0f}, max {max(values):.0f}")
    print(flush=True)


def _sample(folder: Path, size: int, seed: int) -> list[tuple[Path, str]]:
    chosen = []
    for label in CLASSES:
        files = sorted(folder.glob(f"*/{label}/*.jpg"))
        if not files:
            sys.exit(f"expected pictures under {folder}/<source>/{label}/, found none")
        chosen += [(path, label) for path in random.Random(seed).sample(files, min(len(files), size // 2))]
    return chosen


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the sign reader on labelled street pictures.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sample", type=int, default=600, help="pictures, half of them of each class")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pixels", type=int, nargs="+", default=[PIXELS])
    return parser.parse_args()


if __name__ == "__main__":
    main()
