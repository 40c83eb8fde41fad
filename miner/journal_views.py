"""What the journal knows, read beside the writer: each view answers within a second at ten million rows."""

from __future__ import annotations

import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade.trace import Record
from cascade.verdict import Source, Stop, Verdict
from miner.journal import SCORE_BINS, picture_path
from miner.journal_schema import connect
from models.base import Failure, Opinion


@dataclass(frozen=True, slots=True)
class Known:
    """An answer that the cascade gave before. interval: (low, high) probabilities around it."""

    probability: float
    interval: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Example:
    """One labelled picture: its newest answer by the cascade, as `calibrate` and `replay` take it, with the label.

    at: Unix time of the label. source: who gave it ("testnet", "human", "consensus", or "base"). version: what
    answered. representative: not labelled for being hard; only such pictures can say what a fit is worth, or teach
    how sure the members are. embedding: float32 (D,), None where none is stored.
    """

    record: Record
    at: float
    source: str
    version: str
    representative: bool = True
    embedding: NDArray[np.float32] | None = field(default=None, compare=False)

    @property
    def label(self) -> int:
        return self.record.label


@dataclass(frozen=True, slots=True)
class Candidate:
    """One picture that waits for a reviewer, with what the models said. value: see `journal.review_value`."""

    sha256: str
    probability: float
    value: float
    reason: str
    phash: int
    evidence: dict[str, Any]
    lot: bool = False
    label: int | None = None


class Views:
    """Reading side of one journal; safe to use from several threads (one at a time inside)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._db = connect(directory / "journal.db", read_only=True)
        self._lock = threading.Lock()

    def close(self) -> None:
        self._db.close()

    def find(self, sha256: str, version: str) -> Known | None:
        """The first full answer of `version` to exactly these bytes."""
        with self._lock:
            row = self._db.execute(_FIRST_ANSWER, (version, bytes.fromhex(sha256))).fetchone()
        return Known(row[0], (row[1], row[2])) if row else None

    def stats(self, since: float = 0.0) -> dict[str, Any]:
        """Totals since a Unix time: requests, share answered as road work, faults, times, per version and caller."""
        names: dict[int, str] = dict(self._rows("SELECT id, name FROM names"))
        total = _Sums()
        versions: dict[str, _Sums] = defaultdict(_Sums)
        callers: dict[str, _Sums] = defaultdict(_Sums)
        for version, caller, *sums in self._rows(_HOURS, (since // 3600,)):
            for each in (versions[names[version]], callers[names[caller]], total):
                each.add(*sums)
        (kept, held) = self._rows("SELECT count(*), coalesce(sum(bytes), 0) FROM kept")[0]
        return {
            **total.report(),
            "pictures": self._rows("SELECT coalesce(max(id), 0) FROM pictures")[0][0],
            "kept": kept,
            "kept_bytes": held,
            "labels": dict(
                self._rows("SELECT label_source, count(*) FROM pictures WHERE label IS NOT NULL GROUP BY 1")
            ),
            "versions": {name: sums.report() for name, sums in versions.items()},
            "callers": {name: sums.report() for name, sums in callers.items()},
        }

    def scores(self, since: float, until: float, version: str | None = None) -> NDArray[np.int64]:
        """Histogram (20,) of answered probabilities in [since, until), whole hours."""
        rows = self._rows(
            "SELECT bin, sum(n) FROM scores WHERE hour >= ? AND hour < ?"
            " AND (? IS NULL OR version = (SELECT id FROM names WHERE name = ?)) GROUP BY bin",
            (since // 3600, until // 3600, version, version),
        )
        counts = np.zeros(SCORE_BINS, dtype=np.int64)
        for index, n in rows:
            counts[index] = n
        return counts

    def begun(self, version: str) -> float:
        """Unix time of the first hour with an answer of `version`; 0 for none."""
        row = self._rows(
            "SELECT min(hour) FROM scores WHERE version = (SELECT id FROM names WHERE name = ?)", (version,)
        )
        return 3600.0 * (row[0][0] or 0)

    def labelled(self, since: float = 0.0, embedder: str = "") -> list[Example]:
        """Pictures labelled since a Unix time, each with its newest opinions and the vector of `embedder`."""
        return [_example(row) for row in self._rows(_LABELLED, (embedder, since))]

    def labelled_share(self, since: float) -> tuple[int, int]:
        """Labels of representative pictures since a Unix time, and how many of them are road work."""
        (n, roadwork) = self._rows(_LABELLED_SHARE, (since,))[0]
        return n, roadwork or 0

    def waiting(self, most: int = 500) -> list[Candidate]:
        """Kept pictures that nobody labelled, the most valuable first."""
        return [_candidate(row) for row in self._rows(_WAITING, (most,))]

    def drawn(self, most: int = 500) -> list[Candidate]:
        """Pictures drawn by lot that nobody labelled, the newest first."""
        return [_candidate(row) for row in self._rows(_DRAWN, (most,))]

    def reviewed(self, most: int = 5000) -> list[Candidate]:
        """Kept pictures that a person labelled, newest first, with that label."""
        return [_candidate(row) for row in self._rows(_REVIEWED, (most,))]

    def progress(self, since: float) -> dict[str, Any]:
        """Labelling so far: waiting, labelled by people (since a Unix time and ever), and how labels agree."""
        human = dict(self._rows("SELECT coalesce(label, -1), count(*) FROM labels WHERE source = 'human' GROUP BY 1"))
        today = self._rows("SELECT count(*) FROM labels WHERE source = 'human' AND at >= ?", (since,))[0][0]
        return {
            "waiting": self._rows("SELECT count(*) FROM kept WHERE reviewed = 0")[0][0],
            "roadwork": human.get(1, 0),
            "clear": human.get(0, 0),
            "unsure": human.get(-1, 0),
            "today": today,
            "with_model": _share(self._rows(_HUMAN_AND_MODEL)[0]),
            "with_testnet": _share(self._rows(_HUMAN_AND_TESTNET)[0]),
            "with_itself": _share(self._rows(_HUMAN_AND_HUMAN)[0]),
        }

    def shadows(self, version: str) -> list[tuple[str, int, float, float]]:
        """(sha256, label, live probability, candidate's probability) of labelled pictures a candidate also saw."""
        return [(row[0].hex(), *row[1:]) for row in self._rows(_SHADOWS, (version,))]

    def shadow_totals(self, version: str) -> tuple[int, int, int]:
        """Pictures a candidate saw, those that got its answer, and those on which it took the live version's side."""
        (totals,) = self._rows(_SHADOW_TOTALS, (version,))
        return totals[0], totals[1], totals[2]

    def picture(self, sha256: str) -> Path | None:
        """The JPEG of a kept picture."""
        path = picture_path(self.directory, sha256)
        return path if path.is_file() else None

    def rows(self, since: float = 0.0) -> Iterator[dict[str, Any]]:
        """Every request since a Unix time, oldest first, flat: what `journal export` writes."""
        last = 0
        while chunk := self._rows(_EXPORT, (last, since)):
            for row in chunk:
                yield dict(zip(EXPORT_COLUMNS, row[1:], strict=True))
            last = chunk[-1][0]

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        with self._lock:
            return self._db.execute(query, values).fetchall()


@dataclass(slots=True)
class _Sums:
    requests: int = 0
    roadwork: int = 0
    faults: int = 0
    milliseconds: float = 0.0
    slowest: float = 0.0

    def add(self, n: int, roadwork: int, faults: int, milliseconds: float, slowest: float) -> None:
        self.requests += n
        self.roadwork += roadwork
        self.faults += faults
        self.milliseconds += milliseconds
        self.slowest = max(self.slowest, slowest)

    def report(self) -> dict[str, Any]:
        n = max(self.requests, 1)
        return {
            "requests": self.requests,
            "roadwork_share": round(self.roadwork / n, 4),
            "faults": self.faults,
            "mean_ms": round(self.milliseconds / n, 1),
            "slowest_ms": round(self.slowest, 1),
        }


def days_ago(days: float) -> float:
    """Unix time so many days back; 0 for no limit (`days` 0)."""
    return time.time() - 86400.0 * days if days else 0.0


_FIRST_ANSWER = """SELECT r.probability, r.low, r.high FROM pictures p JOIN requests r ON r.picture = p.id
    WHERE r.version = (SELECT id FROM names WHERE name = ?) AND p.sha256 = ?
    AND r.source = 'cascade' AND r.degraded = 0 ORDER BY r.id LIMIT 1"""
_HOURS = """SELECT version, caller, sum(n), sum(roadwork), sum(faults), sum(milliseconds), max(slowest)
    FROM hours WHERE hour >= ? GROUP BY 1, 2 ORDER BY 3 DESC"""
_LABELLED = """SELECT p.sha256, p.width, p.height, p.label, p.labelled, p.label_source, v.name, r.at, r.probability,
    r.low, r.high, r.source, r.stop, r.degraded, r.milliseconds, r.opinions, k.lot, e.vector
    FROM pictures p JOIN requests r ON r.id = (SELECT max(id) FROM requests WHERE picture = p.id
        AND source IN ('cascade', 'partial'))
    JOIN names v ON v.id = r.version LEFT JOIN kept k ON k.picture = p.id
    LEFT JOIN embeddings e ON e.picture = p.id AND e.model = ?
    WHERE p.label IS NOT NULL AND p.labelled >= ? ORDER BY p.labelled, p.id"""
_LABELLED_SHARE = """SELECT count(*), sum(p.label) FROM pictures p LEFT JOIN kept k ON k.picture = p.id
    WHERE p.label IS NOT NULL AND p.labelled >= ? AND (p.label_source <> 'human' OR k.lot = 1)"""
_WAITING = """SELECT p.sha256, k.probability, k.value, k.reason, k.phash, k.evidence, k.lot, NULL FROM kept k
    JOIN pictures p ON p.id = k.picture WHERE k.reviewed = 0 ORDER BY k.value DESC LIMIT ?"""
_DRAWN = """SELECT p.sha256, k.probability, k.value, k.reason, k.phash, k.evidence, k.lot, NULL FROM kept k
    JOIN pictures p ON p.id = k.picture WHERE k.reviewed = 0 AND k.lot = 1 ORDER BY k.picture DESC LIMIT ?"""
_REVIEWED = """SELECT p.sha256, k.probability, k.value, k.reason, k.phash, k.evidence, k.lot, l.label FROM labels l
    JOIN kept k ON k.picture = l.picture JOIN pictures p ON p.id = l.picture
    WHERE l.source = 'human' AND l.label IS NOT NULL
    AND l.id = (SELECT max(id) FROM labels WHERE picture = l.picture AND source = 'human')
    ORDER BY l.id DESC LIMIT ?"""
_HUMAN_AND_MODEL = """SELECT count(*), sum((k.probability > 0.5) = l.label) FROM labels l
    JOIN kept k ON k.picture = l.picture WHERE l.source = 'human' AND l.label IS NOT NULL"""
_HUMAN_AND_TESTNET = """SELECT count(*), sum(h.label = t.label) FROM labels h JOIN labels t ON t.picture = h.picture
    AND t.source = 'testnet' WHERE h.source = 'human' AND h.label IS NOT NULL"""
_HUMAN_AND_HUMAN = """SELECT count(*), sum(a.label = b.label) FROM labels a JOIN labels b ON b.picture = a.picture
    AND b.id > a.id AND b.source = 'human' WHERE a.source = 'human' AND a.label + b.label IS NOT NULL"""
_SHADOWS = """SELECT p.sha256, p.label, coalesce(s.live, r.probability), s.probability
    FROM shadows s JOIN pictures p ON p.sha256 = s.sha256
    JOIN requests r ON r.id = (SELECT max(id) FROM requests WHERE picture = p.id AND source = 'cascade')
    WHERE s.version = (SELECT id FROM names WHERE name = ?) AND p.label IS NOT NULL"""
_SHADOW_TOTALS = """SELECT count(*), coalesce(sum(answered), 0), coalesce(sum((live > 0.5) = (probability > 0.5)), 0)
    FROM shadows WHERE version = (SELECT id FROM names WHERE name = ?)"""
EXPORT_COLUMNS = (
    "at", "sha256", "width", "height", "caller", "version", "probability", "low", "high", "source", "stop",
    "degraded", "milliseconds", "fault", "opinions", "label", "label_source",
)  # fmt: skip
_EXPORT = """SELECT r.id, r.at, lower(hex(p.sha256)), p.width, p.height, c.name, v.name, r.probability, r.low,
    r.high, r.source, r.stop, r.degraded, r.milliseconds, r.fault, r.opinions, p.label, p.label_source
    FROM requests r LEFT JOIN pictures p ON p.id = r.picture JOIN names c ON c.id = r.caller
    JOIN names v ON v.id = r.version WHERE r.id > ? AND r.at >= ? ORDER BY r.id LIMIT 10000"""


def _example(row: Any) -> Example:
    digest, width, height, label, labelled, source, version, at, p, low, high, *row = row
    origin, stop, degraded, ms, said, lot, e = row
    answers: dict[str, Any] = json.loads(said)
    opinions = tuple(Opinion(model, *each) for model, each in answers.items() if isinstance(each, list))
    failures = tuple(Failure(model, each, "", 0.0) for model, each in answers.items() if isinstance(each, str))
    verdict = Verdict(p, (low, high), opinions, failures, (), Stop(stop), Source(origin), bool(degraded), ms)
    time = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    record = Record(time, digest.hex(), width, height, verdict, label, digest.hex())
    vector = None if e is None else np.frombuffer(e, dtype=np.float16).astype(np.float32)
    return Example(record, labelled, source, version, source != "human" or lot == 1, vector)


def _candidate(row: Any) -> Candidate:
    return Candidate(row[0].hex(), row[1], row[2], row[3], row[4], json.loads(row[5]), bool(row[6]), row[7])


def _share(row: tuple[int, int | None]) -> dict[str, Any]:
    n, agreeing = row
    return {"n": n, "share": None if not n else round((agreeing or 0) / n, 4)}
