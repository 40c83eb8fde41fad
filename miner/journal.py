"""Every request on record, written behind the answer's back.

Why SQLite (WAL): it is in the standard library, so an edge miner needs nothing more; a row is safe once its batch is
committed, whatever kills the process; and the review page, `stats` and `improve` read while the miner writes. DuckDB
would scan faster, but allows no second process beside a writer and adds 60 MB; Parquet cannot be appended to row by
row. What they are good at (a month at a glance) the sums in `hours` and `scores` give without any scan; `journal
export` writes Parquet for those who want it.

The event loop only puts the request into a bounded buffer. One thread takes it out, in batches, at least once a
second. What does not fit (buffer full, disk full) is dropped and counted: no fault here ever reaches an answer.
"""

from __future__ import annotations

import base64
import json
import logging
import math
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cascade.verdict import Verdict
from miner.journal_schema import JournalError, connect
from miner.perceptual import dhash
from miner.service import Answered
from models.base import Frame

log = logging.getLogger(__name__)

LINGER = 0.5  # seconds a request may wait for company before its batch is committed
BATCH = 500
SCORE_BINS = 20
ROOM = 64 * 2**20  # bytes of kept pictures given up at a time when the disk is full
RANKS = {"consensus": 1, "human": 2, "testnet": 3}  # whose label counts: the validators' own is what is scored

Embed = Callable[[Frame], NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Keep:
    """Which pictures are worth their place on disk; off by `enabled=False` (then no picture is ever written).

    uncertain: largest |p - 0.5|. disagreement: least log-odds between two opinions on opposite sides. novelty: least
    `novelty` that a member's evidence reports, in [0, 1]. share: of all pictures, drawn by lot whatever is said of
    them: only these tell what the traffic is like, the others were chosen for being hard.
    """

    enabled: bool = True
    quota_gb: float = 10.0
    uncertain: float = 0.2
    disagreement: float = 2.0
    novelty: float = 0.95
    share: float = 0.01

    def reason(self, verdict: Verdict, sha256: str) -> str:
        """Why to keep this picture; empty: do not."""
        if not self.enabled:
            return ""
        if abs(verdict.probability - 0.5) <= self.uncertain:
            return "uncertain"
        if disagreement(verdict) >= self.disagreement:
            return "disagreeing"
        if novelty(verdict) >= self.novelty:
            return "novel"
        return "random" if self.by_lot(sha256) else ""

    def by_lot(self, sha256: str) -> bool:
        """Whether a picture is among the share drawn by lot: its own digest is the lot."""
        return int(sha256[:8], 16) < self.share * 2**32


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the requests. dropped: the buffer was full. lost: the disk refused them."""

    written: int = 0
    dropped: int = 0
    lost: int = 0


@dataclass(frozen=True, slots=True)
class _Request:
    at: float
    version: str
    answered: Answered


@dataclass(frozen=True, slots=True)
class _Change:
    """Something a person or a program does to the journal; `done` tells it how that ended."""

    work: Callable[[sqlite3.Connection], Any]
    done: Future[Any]


class _Tally:
    """What one batch adds up to."""

    def __init__(self) -> None:
        self.hours: dict[tuple[int, int, int], list[float]] = {}
        self.scores: Counter[tuple[int, int, int]] = Counter()
        self.jpegs: dict[str, bytes] = {}
        self.ended: list[tuple[_Change, Any, Exception | None]] = []

    def add(self, at: float, caller: int, version: int, answered: Answered, milliseconds: float) -> None:
        hour = int(at // 3600)
        sums = self.hours.setdefault((hour, caller, version), [0, 0, 0, 0.0, 0.0])
        sums[0] += 1
        sums[1] += answered.probability > 0.5
        sums[2] += bool(answered.fault)
        sums[3] += milliseconds
        sums[4] = max(sums[4], milliseconds)
        self.scores[hour, version, min(int(answered.probability * SCORE_BINS), SCORE_BINS - 1)] += 1


def _outcome(change: _Change, db: sqlite3.Connection) -> tuple[Any, Exception | None]:
    try:
        return change.work(db), None
    except (KeyError, ValueError) as error:
        return None, error


class Buffer:
    """A queue bounded by number and bytes that never waits to put, and gives out what came within `linger` seconds."""

    def __init__(self, items: int, size: int) -> None:
        self._items, self._size = items, size
        self._held: deque[tuple[_Request | _Change, int]] = deque()
        self._bytes = 0
        self._urgent = self._closed = False
        self._changed = threading.Condition()

    def put(self, item: _Request | _Change, size: int = 0, urgent: bool = False) -> bool:
        """False when there is no room (or it is closed)."""
        with self._changed:
            full = len(self._held) >= self._items or self._bytes + size > self._size
            if self._closed or full:
                return False
            self._held.append((item, size))
            self._bytes += size
            self._urgent |= urgent
            self._changed.notify()
            return True

    def take(self, most: int, linger: float) -> list[_Request | _Change] | None:
        """Up to `most` items, in order; None when closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._held or self._closed)
            self._changed.wait_for(lambda: len(self._held) >= most or self._urgent or self._closed, linger)
            taken = [self._held.popleft() for _ in range(min(most, len(self._held)))]
            self._bytes -= sum(size for _, size in taken)
            self._urgent &= bool(self._held)
            return [item for item, _ in taken] or None

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()


class Journal:
    """The journal of one miner; itself an observer of the service. Reading is `miner.journal_views.Views`.

    directory: holds `journal.db` and `pictures/`. version: names the model that answers now. embed: gives the vector
    that is stored for each kept or labelled picture, called in the writer's thread; `embedder` is its name.
    """

    def __init__(
        self,
        directory: Path,
        version: Callable[[], str],
        keep: Keep = Keep(),
        embed: Embed | None = None,
        embedder: str = "embedder",
        clock: Callable[[], float] = time.time,
        connect: Callable[[Path], sqlite3.Connection] = connect,
        capacity: tuple[int, int] = (4096, 256 * 2**20),
    ) -> None:
        self.directory, self.path = directory, directory / "journal.db"
        self._version, self._keep, self._clock = version, keep, clock
        self._embed, self._embedder = embed, embedder
        self._buffer = Buffer(*capacity)
        self._counts: Counter[str] = Counter()
        self._connection = connect(self.path)
        self._names: dict[str, int] = {}
        kept = self._connection.execute("SELECT coalesce(sum(bytes), 0) FROM kept").fetchone()
        self._kept_bytes = int(kept[0])
        self._thread = threading.Thread(target=self._write_on, name="journal", daemon=True)
        self._thread.start()

    def __call__(self, answered: Answered) -> None:
        """Take note of one request. Returns at once and never raises."""
        pixels = answered.frame.pixels.nbytes if answered.frame else 0
        request = _Request(self._clock(), self._version(), answered)
        if not self._buffer.put(request, pixels + len(answered.image_base64)):
            self._counts["dropped"] += 1

    def label(self, sha256: str, label: int | None, source: str, who: str = "") -> Future[None]:
        """Add one label (1 road work, 0 clear, None unsure) of a known picture; done when it is on disk.

        source: "testnet", "human" or "consensus". The future raises KeyError for a picture that is not on record.
        """
        rank, at = RANKS[source], self._clock()
        return self._change(lambda db: _add_label(db, _picture_of(db, sha256), at, label, source, rank, who))

    def undo(self, who: str) -> Future[str | None]:
        """Take back the last human label of `who`; gives the picture's sha256, None when there is nothing."""
        return self._change(lambda db: _undo(db, who))

    def shadow(self, sha256: str, version: str, probability: float, live: float, answered: bool) -> Future[None]:
        """Note what a candidate said and what the live version said; answered: the candidate's is what left."""
        return self._change(
            lambda db: db.execute(
                "INSERT OR REPLACE INTO shadows (version, sha256, probability, live, answered) VALUES (?, ?, ?, ?, ?)",
                (self._name(version), bytes.fromhex(sha256), probability, live, int(answered)),
            ),
            urgent=False,
        )

    @property
    def counts(self) -> Counts:
        return Counts(self._counts["written"], self._counts["dropped"], self._counts["lost"])

    def flush(self, timeout: float | None = 60.0) -> None:
        """Wait until everything taken so far is on disk (tests and tools)."""
        self._change(lambda _: None).result(timeout)

    def close(self, timeout: float = 10.0) -> None:
        """Write what is left and stop. Safe to call twice."""
        self._buffer.close()
        self._thread.join(timeout)

    def _change(self, work: Callable[[sqlite3.Connection], Any], urgent: bool = True) -> Future[Any]:
        done: Future[Any] = Future()
        if not self._buffer.put(_Change(work, done), urgent=urgent):
            done.set_exception(JournalError("the journal is full of work or closed; nothing was written"))
        return done

    # Below: the writer's thread only.

    def _write_on(self) -> None:
        last_word = -math.inf
        while (taken := self._buffer.take(BATCH, LINGER)) is not None:
            # A change that nobody waits for any more is left out; from here on it cannot be cancelled.
            batch = [one for one in taken if isinstance(one, _Request) or one.done.set_running_or_notify_cancel()]
            problem = self._attempt(batch)
            if getattr(problem, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL and self._make_room():
                problem = self._attempt(batch)
            requests = sum(isinstance(item, _Request) for item in batch)
            self._counts["lost" if problem else "written"] += requests
            if problem is None:
                continue
            for item in batch:
                if isinstance(item, _Change):
                    item.done.set_exception(problem)
            if time.monotonic() - last_word > 60.0:  # a full disk stays full: say so once a minute
                last_word = time.monotonic()
                log.error("%d requests are not in the journal (%s); answers go on", requests, problem)
        self._connection.close()

    def _attempt(self, batch: Sequence[_Request | _Change]) -> Exception | None:
        try:
            tally = self._commit(batch)
        except Exception as error:
            return error
        try:
            self._keep_on_disk(tally.jpegs)
        except (OSError, sqlite3.Error) as error:  # the batch is on record: it must not be written again
            log.warning("kept pictures are not in order: %s", error)
        for change, result, problem in tally.ended:
            change.done.set_exception(problem) if problem else change.done.set_result(result)
        return None

    def _commit(self, batch: Sequence[_Request | _Change]) -> _Tally:
        """One transaction. Changes that fail by themselves (an unknown picture) do not take the batch with them."""
        tally = _Tally()
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            for item in batch:
                if isinstance(item, _Request):
                    self._add_request(item, tally)
                else:
                    tally.ended.append((item, *_outcome(item, self._connection)))
            self._connection.executemany(_ADD_HOUR, [(*key, *sums) for key, sums in tally.hours.items()])
            self._connection.executemany(_ADD_SCORE, [(*key, n) for key, n in tally.scores.items()])
            self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
                self._names.clear()  # names of the lost transaction have no row
        return tally

    def _keep_on_disk(self, jpegs: Mapping[str, bytes]) -> None:
        for sha256, jpeg in jpegs.items():
            self._write_picture(sha256, jpeg)
        over = self._kept_bytes - self._keep.quota_gb * 1e9
        if over > 0:
            self._give_up_pictures(over)

    def _add_request(self, item: _Request, tally: _Tally) -> None:
        answered, verdict = item.answered, item.answered.verdict
        caller, version = self._name(answered.caller), self._name(item.version)
        picture = None if answered.frame is None else self._picture(answered.frame)
        milliseconds = 1000.0 * answered.seconds
        repeated = verdict is not None and verdict.tiers == (JOURNAL_TIER,)
        self._connection.execute(
            _ADD_REQUEST,
            (
                round(item.at, 3),
                picture,
                caller,
                version,
                answered.probability,
                verdict.interval[0] if verdict else None,
                verdict.interval[1] if verdict else None,
                JOURNAL_TIER if repeated else answered.source.value,
                verdict.stop.value if verdict else None,
                int(verdict.degraded) if verdict else None,
                round(milliseconds, 1),
                answered.fault,
                opinions_json(verdict) if verdict else "{}",
            ),
        )
        tally.add(item.at, caller, version, answered, milliseconds)
        if picture is None or answered.frame is None:
            return
        kept = False
        if verdict is not None and not repeated:
            try:
                kept = self._keep_picture(picture, answered.frame, verdict, answered.image_base64, tally)
            except ValueError as error:  # base64 that is none must not cost the batch
                log.warning("picture not kept: %s", error)
        if answered.label in (0, 1):
            _add_label(self._connection, picture, item.at, answered.label, "testnet", RANKS["testnet"], answered.caller)
        if kept or answered.label in (0, 1):
            self._add_embedding(picture, answered.frame)

    def _add_embedding(self, picture: int, frame: Frame) -> None:
        """The vector of a picture that has a label, or waits for one."""
        if self._embed is None:
            return
        try:
            vector = np.asarray(self._embed(frame), dtype=np.float16)
        except Exception as error:  # an embedder's fault must not cost the batch
            log.warning("no embedding stored: %s: %s", type(error).__name__, error)
            return
        self._connection.execute(
            "INSERT OR REPLACE INTO embeddings VALUES (?, ?, ?)", (picture, self._embedder, vector.tobytes())
        )

    def _picture(self, frame: Frame) -> int:
        digest = bytes.fromhex(frame.sha256)
        found = self._connection.execute("SELECT id FROM pictures WHERE sha256 = ?", (digest,)).fetchone()
        if found:
            return int(found[0])
        row = (digest, *frame.size)
        added = self._connection.execute("INSERT INTO pictures (sha256, width, height) VALUES (?, ?, ?)", row).lastrowid
        assert added is not None
        return added

    def _keep_picture(self, picture: int, frame: Frame, verdict: Verdict, image_base64: str, tally: _Tally) -> bool:
        """Whether the picture is kept now, and was not before."""
        reason = self._keep.reason(verdict, frame.sha256)
        if not reason or self._connection.execute("SELECT 1 FROM kept WHERE picture = ?", (picture,)).fetchone():
            return False
        tally.jpegs[frame.sha256] = jpeg = base64.b64decode(image_base64)
        self._connection.execute(
            "INSERT INTO kept (picture, bytes, reason, lot, rank, value, probability, evidence, phash)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                picture,
                len(jpeg),
                reason,
                int(self._keep.by_lot(frame.sha256)),
                int(reason != "random"),
                review_value(verdict),
                verdict.probability,
                evidence_json(verdict),
                dhash(frame.pixels),
            ),
        )
        return True

    def _write_picture(self, sha256: str, jpeg: bytes) -> None:
        """After the commit: a crash in between leaves a row without a file, which ages out; never a stray file."""
        path = picture_path(self.directory, sha256)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(jpeg)
            self._kept_bytes += len(jpeg)
        except OSError as error:
            log.warning("picture not kept: %s", error)
            path.unlink(missing_ok=True)
            self._connection.execute("DELETE FROM kept WHERE picture = ?", (_picture_of(self._connection, sha256),))

    def _give_up_pictures(self, size: float) -> None:
        """Delete kept pictures of at least `size` bytes: ordinary ones first, then the oldest, labelled ones last.

        OSError, at the end, when one could not be deleted.
        """
        rows = self._connection.execute(
            "SELECT k.picture, k.bytes, hex(p.sha256) FROM kept k JOIN pictures p ON p.id = k.picture"
            " ORDER BY k.rank, k.picture LIMIT 1000"
        )
        gone: list[int] = []
        stuck: OSError | None = None
        for picture, held, sha256 in rows:
            if size <= 0:
                break
            try:
                picture_path(self.directory, sha256.lower()).unlink(missing_ok=True)
            except OSError as error:
                stuck = error
                continue
            size -= held
            self._kept_bytes -= held
            gone.append(picture)
        rows.close()
        self._connection.executemany("DELETE FROM kept WHERE picture = ?", [(picture,) for picture in gone])
        if stuck:
            raise stuck

    def _make_room(self) -> bool:
        """On a full disk kept pictures are worth less than the record of requests. False: nothing to give."""
        before = self._kept_bytes
        try:
            self._give_up_pictures(ROOM)
        except (OSError, sqlite3.Error) as error:
            log.debug("kept pictures, or the rows of deleted ones, stay for now: %s", error)
        return self._kept_bytes < before

    def _name(self, name: str) -> int:
        if name not in self._names:
            self._connection.execute("INSERT OR IGNORE INTO names (name) VALUES (?)", (name,))
            (self._names[name],) = self._connection.execute("SELECT id FROM names WHERE name = ?", (name,)).fetchone()
        return self._names[name]


JOURNAL_TIER = "journal"  # the tier that a repeated answer names; see `miner.duplicates`

_ADD_REQUEST = """INSERT INTO requests
    (at, picture, caller, version, probability, low, high, source, stop, degraded, milliseconds, fault, opinions)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
_ADD_HOUR = """INSERT INTO hours VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    n = n + excluded.n, roadwork = roadwork + excluded.roadwork, faults = faults + excluded.faults,
    milliseconds = milliseconds + excluded.milliseconds, slowest = max(slowest, excluded.slowest)"""
_ADD_SCORE = "INSERT INTO scores VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET n = n + excluded.n"


def picture_path(directory: Path, sha256: str) -> Path:
    """Where the JPEG of a kept picture lies."""
    return directory / "pictures" / sha256[:2] / f"{sha256}.jpg"


def opinions_json(verdict: Verdict) -> str:
    """`{"model": [logit, ms], "silent model": "kind of failure"}`."""
    said: dict[str, Any] = {o.model: [round(o.logit, 4), round(o.milliseconds, 1)] for o in verdict.opinions}
    said |= {failure.model: failure.kind for failure in verdict.failures}
    return json.dumps(said, separators=(",", ":"))


def evidence_json(verdict: Verdict) -> str:
    """What a reviewer sees beside the picture: per model its logit and evidence."""
    return json.dumps({o.model: {"logit": round(o.logit, 3), **_plain(o.evidence)} for o in verdict.opinions})


def disagreement(verdict: Verdict) -> float:
    """Log-odds between the highest and the lowest opinion if they take opposite sides, else 0."""
    logits = [opinion.logit for opinion in verdict.opinions]
    return max(logits) - min(logits) if logits and min(logits) < 0 < max(logits) else 0.0


def novelty(verdict: Verdict) -> float:
    """The largest `novelty` in the members' evidence, in [0, 1]; 0 when nobody measures it."""
    found = (opinion.evidence.get("novelty") for opinion in verdict.opinions)
    return max((float(value) for value in found if isinstance(value, int | float)), default=0.0)


def review_value(verdict: Verdict) -> float:
    """What a label of this picture is worth, 0..3: nearness to the threshold + disagreement + novelty."""
    near = 1.0 - abs(2.0 * verdict.probability - 1.0)
    return round(near + min(disagreement(verdict) / 6.0, 1.0) + novelty(verdict), 4)


def _plain(evidence: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        json.dumps(evidence)
    except (TypeError, ValueError):
        return {"unreadable": repr(evidence)[:500]}
    return evidence


def _picture_of(db: sqlite3.Connection, sha256: str) -> int:
    found = db.execute("SELECT id FROM pictures WHERE sha256 = ?", (bytes.fromhex(sha256),)).fetchone()
    if found is None:
        raise KeyError(f"no picture {sha256[:12]}... in this journal")
    return int(found[0])


def _add_label(
    db: sqlite3.Connection, picture: int, at: float, label: int | None, source: str, rank: int, who: str
) -> None:
    db.execute(
        "INSERT INTO labels (picture, at, label, source, rank, who) VALUES (?, ?, ?, ?, ?, ?)",
        (picture, at, label, source, rank, who),
    )
    _resolve(db, picture)


def _undo(db: sqlite3.Connection, who: str) -> str | None:
    last = db.execute(
        "SELECT id, picture FROM labels WHERE who = ? AND source = 'human' ORDER BY id DESC LIMIT 1", (who,)
    ).fetchone()
    if last is None:
        return None
    db.execute("DELETE FROM labels WHERE id = ?", (last[0],))
    _resolve(db, last[1])
    (digest,) = db.execute("SELECT sha256 FROM pictures WHERE id = ?", (last[1],)).fetchone()
    return str(digest.hex())


def _resolve(db: sqlite3.Connection, picture: int) -> None:
    """Bring the picture's own label in line with `labels`: the highest rank's newest counts."""
    rows: Iterable[Any] = db.execute(
        "SELECT label, source, at FROM labels WHERE picture = ? AND label IS NOT NULL ORDER BY rank DESC, id DESC",
        (picture,),
    )
    label, source, at = next(iter(rows), (None, None, None))
    db.execute(
        "UPDATE pictures SET label = ?, label_source = ?, labelled = ? WHERE id = ?", (label, source, at, picture)
    )
    (seen,) = db.execute("SELECT count(*) FROM labels WHERE picture = ?", (picture,)).fetchone()
    db.execute(
        "UPDATE kept SET reviewed = ?, rank = CASE WHEN ? IS NOT NULL THEN 2 WHEN reason = 'random' THEN 0 ELSE 1 END"
        " WHERE picture = ?",
        (int(seen > 0), label, picture),
    )
