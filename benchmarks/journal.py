"""What the journal costs and how fast its views are.

    python -m benchmarks.journal --scratch DIR [--rows 10000000]

Three parts: the price of an observation on the event loop, the writer's throughput through the real writer, and every
view over a journal of `--rows` requests (six months, nine pictures for ten requests, 2 % of them kept, 2 % labelled).
The rows are made by bulk inserts in random order of digests; the tables and indexes are the real ones. The scratch
directory is emptied at the end (about 3.5 GB at ten million rows).
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import io
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cascade.verdict import Source, Stop, Verdict
from miner.journal import SCORE_BINS, Journal, Keep
from miner.journal_schema import connect
from miner.journal_views import Views
from miner.service import Answered
from models.base import Frame, Opinion

CHUNK = 100_000
DAYS = 180


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=10_000_000)
    options = parser.parse_args()
    try:
        observe_and_write(options.scratch / "live")
        views(options.scratch / "large", options.rows)
    finally:
        shutil.rmtree(options.scratch / "live", ignore_errors=True)
        shutil.rmtree(options.scratch / "large", ignore_errors=True)


def observe_and_write(directory: Path, requests: int = 20_000, pictures: int = 500) -> None:
    """The real journal with distinct 224 x 224 pictures, as fast as they can be put."""
    rng = np.random.default_rng(0)
    jpegs = [_jpeg(rng) for _ in range(pictures)]
    journal = Journal(directory, lambda: "v1", Keep(share=0.01))
    prices = []
    started = time.perf_counter()
    for number in range(requests):
        request = _request(jpegs[number % pictures], number, float(rng.beta(0.3, 0.3)))
        before = time.perf_counter()
        journal(request)
        prices.append(time.perf_counter() - before)
        while journal.counts.written < number - 2000:  # keep the buffer from overflowing: the writer sets the pace
            time.sleep(0.001)
    journal.flush(60)
    took = time.perf_counter() - started
    size = (directory / "journal.db").stat().st_size
    journal.close()
    p50, p99 = np.percentile(np.array(prices) * 1e6, [50, 99])
    print(f"observation on the event loop: p50 {p50:.1f} us, p99 {p99:.1f} us")
    print(f"writer: {requests / took:,.0f} requests/s (224 x 224, {journal.counts}), {size / requests:.0f} bytes each")


def _jpeg(rng: np.random.Generator) -> tuple[bytes, np.ndarray]:  # type: ignore[type-arg]
    coarse = Image.fromarray(rng.integers(0, 256, (7, 7, 3), dtype=np.uint8))
    pixels = coarse.resize((224, 224), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    pixels.save(buffer, "JPEG")
    return buffer.getvalue(), np.asarray(pixels)


def _request(picture: tuple[bytes, Any], number: int, p: float) -> Answered:
    jpeg, pixels = picture
    frame = Frame(pixels.copy(), hashlib.sha256(f"{number}".encode()).hexdigest())
    opinions = (Opinion("embedded", 1.2345, 31.2), Opinion("sign-reading", -0.5, 120.3))
    p = min(max(p, 1e-6), 1 - 1e-6)
    verdict = Verdict(p, (p, p), opinions, (), ("embedded", "signs"), Stop.DECIDED, Source.CASCADE, False, 151.0)
    image = base64.b64encode(jpeg).decode()
    return Answered(f"5Caller{number % 20}", -1, image, p, Source.CASCADE, 0.16, "", frame, verdict)


def views(directory: Path, rows: int) -> None:
    started = time.perf_counter()
    sha256 = fill(directory / "journal.db", rows)
    size = sum(path.stat().st_size for path in directory.iterdir())
    print(f"{rows:,} requests made in {time.perf_counter() - started:.0f} s: {size / 1e9:.2f} GB on disk,")
    print(f"  {1e6 * size / rows / 1e6:.0f} MB per million requests (all indexes, without pictures)")
    reading, now = Views(directory), time.time()
    cases: dict[str, Callable[[], object]] = {
        "find, same bytes": lambda: reading.find(sha256, "version-3"),
        "find, unknown picture": lambda: reading.find("ab" * 32, "version-3"),
        "stats, ever": lambda: reading.stats(0.0),
        "stats, last day": lambda: reading.stats(now - 86400),
        "scores, last week": lambda: reading.scores(now - 7 * 86400, now),
        "labelled, last week": lambda: reading.labelled(now - 7 * 86400),
        "waiting 500": lambda: reading.waiting(500),
        "reviewed 5000": lambda: reading.reviewed(5000),
        "progress": lambda: reading.progress(now - 86400),
    }
    print(f"{'view':28s} {'first ms':>9s} {'then ms':>9s}")
    worst = 0.0
    for name, view in cases.items():
        times = []
        for _ in range(6):
            before = time.perf_counter()
            view()
            times.append(1e3 * (time.perf_counter() - before))
        worst = max(worst, *times)
        print(f"{name:28s} {times[0]:9.1f} {np.median(times[1:]):9.1f}")
    reading.close()
    print(f"slowest: {worst:.0f} ms; {'all under' if worst < 1000 else 'NOT all under'} a second")


def fill(path: Path, rows: int) -> str:
    """A journal of `rows` requests. Gives the digest of one picture in it."""
    db = connect(path)
    db.execute("PRAGMA synchronous = OFF")
    db.execute("PRAGMA cache_size = -1500000")
    indexes = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'index' AND sql IS NOT NULL").fetchall()
    for name, _ in indexes:
        db.execute(f"DROP INDEX {name}")
    names = [(i + 1, f"5Caller{i}") for i in range(20)] + [(i + 21, f"version-{i}") for i in range(6)]
    db.executemany("INSERT INTO names VALUES (?, ?)", names)
    rng = np.random.default_rng(0)
    one = ""
    for start in range(0, rows, CHUNK):
        n = min(CHUNK, rows - start)
        db.execute("BEGIN")
        one = _chunk(db, rng, start, n, time.time() - DAYS * 86400 * (1 - np.arange(start, start + n) / rows))
        db.execute("COMMIT")
    for _, sql in indexes:
        db.execute(sql)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return one


def _chunk(db: sqlite3.Connection, rng: np.random.Generator, start: int, n: int, at: Any) -> str:
    pictures = n * 9 // 10
    first = start * 9 // 10 + 1
    digests = os.urandom(32 * pictures)
    labelled = rng.random(pictures) < 0.02
    times = at[:pictures]

    def picture_rows() -> Iterator[tuple[Any, ...]]:
        for i in range(pictures):
            label = (int(i % 2), "testnet", float(times[i])) if labelled[i] else (None, None, None)
            yield (first + i, digests[32 * i : 32 * i + 32], 224, 224, *label)

    db.executemany("INSERT INTO pictures VALUES (?, ?, ?, ?, ?, ?, ?)", picture_rows())
    p = rng.beta(0.3, 0.3, n)
    logits = rng.normal(0, 3, (n, 2)).round(4)
    which = np.concatenate([np.arange(pictures), rng.integers(0, pictures, n - pictures)]) + first
    callers, milliseconds = rng.integers(1, 21, n), rng.gamma(2, 40, n).round(1)
    version = 21 + min(int(6 * (start / 10_000_000)), 5) if start else 24
    db.executemany(
        "INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'cascade', 'decided', 0, ?, '', ?)",
        (
            (
                start + i + 1,
                round(float(at[i]), 3),
                int(which[i]),
                int(callers[i]),
                version,
                float(p[i]),
                float(p[i]) * 0.9,
                float(p[i]),
                float(milliseconds[i]),
                f'{{"embedded":[{logits[i, 0]},31.2],"sign-reading":[{logits[i, 1]},120.3]}}',
            )
            for i in range(n)
        ),
    )
    kept = np.flatnonzero(rng.random(pictures) < 0.02)
    hashes = _hashes(rng, len(kept))
    evidence = '{"embedded": {"logit": 0.3}, "sign-reading": {"logit": -0.1, "words": ["ROAD WORK AHEAD"]}}'
    db.executemany(
        "INSERT INTO kept VALUES (?, 12000, 'uncertain', ?, 1, ?, ?, ?, ?, ?)",
        (
            (int(first + i), int(i % 3 == 0), float(rng.random()), float(p[i]), evidence, int(labelled[i]), int(each))
            for i, each in zip(kept, hashes, strict=True)
        ),
    )
    db.executemany(
        "INSERT INTO labels (picture, at, label, source, rank, who) VALUES (?, ?, ?, ?, ?, 'someone')",
        (
            (int(first + i), float(times[i]), int(i % 2), *(("human", 2) if i % 4 == 0 else ("testnet", 3)))
            for i in np.flatnonzero(labelled)
        ),
    )
    hours, counts = np.unique(np.stack([at // 3600, callers]).astype(int), axis=1, return_counts=True)
    db.executemany(
        "INSERT INTO hours VALUES (?, ?, ?, ?, ?, 0, ?, 500.0) ON CONFLICT DO UPDATE SET n = n + excluded.n",
        ((int(h), int(c), version, int(k), int(k) // 2, 80.0 * k) for (h, c), k in zip(hours.T, counts, strict=True)),
    )
    bins, counts = np.unique(np.stack([at // 3600, p * SCORE_BINS]).astype(int), axis=1, return_counts=True)
    db.executemany(
        "INSERT INTO scores VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n",
        ((int(h), version, min(int(b), 19), int(k)) for (h, b), k in zip(bins.T, counts, strict=True)),
    )
    return digests[:32].hex()


def _hashes(rng: np.random.Generator, n: int) -> Any:
    """Perceptual hashes of smooth random fields: neighbouring bits agree as they do in pictures."""
    columns, rows = np.meshgrid(np.linspace(0, 1, 9), np.linspace(0, 1, 8))
    waves = [np.cos(np.pi * (i * columns + j * rows)) / (1 + i + j) for i in range(5) for j in range(5)]
    field = rng.standard_normal((n, 25), dtype=np.float32) @ np.stack(waves).reshape(25, 72).astype(np.float32)
    grey = field.reshape(n, 8, 9)
    return np.packbits(grey[:, :, :-1] > grey[:, :, 1:], axis=None).view(">i8")


if __name__ == "__main__":
    main()
