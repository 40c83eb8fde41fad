"""The journal remembers every request, costs an answer nothing, and no fault of the disk reaches an answer."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from cascade.verdict import Verdict
from miner.journal import LINGER, Buffer, Journal, Keep, disagreement, picture_path
from miner.journal_schema import MIGRATIONS, VERSION, JournalError, connect
from miner.journal_views import Views
from models.base import Failure, Opinion
from tests.journal.making import VERSION as MODEL
from tests.journal.making import answered, journal, jpeg_of, sha, verdict, wait_for


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[tuple[Journal, Views]]:
    with_journal = journal(tmp_path, keep=Keep(share=1.0))
    views = Views(tmp_path)
    yield with_journal, views
    with_journal.close()
    views.close()


def columns(path: Path, query: str) -> list[tuple[object, ...]]:
    db = sqlite3.connect(path)
    try:
        return db.execute(query).fetchall()
    finally:
        db.close()


def test_a_request_is_on_record_with_all_that_was_said(kept: tuple[Journal, Views]) -> None:
    journal, views = kept
    before = time.time()
    said = verdict(
        0.8, opinions=(Opinion("first", 1.25, 12.34),), failures=(Failure("second", "timeout", "late", 99.0),)
    )
    journal(answered(1, said, "5F...", label=1))
    journal.flush()
    (row,) = views.rows()
    assert row | {"at": 0} == {
        "at": 0,
        "sha256": sha(1),
        "width": 64,
        "height": 48,
        "caller": "5F...",
        "version": MODEL,
        "probability": 0.8,
        "low": 0.7,
        "high": 0.9,
        "source": "cascade",
        "stop": "decided",
        "degraded": 0,
        "milliseconds": 13.0,
        "fault": "",
        "opinions": '{"first":[1.25,12.3],"second":"timeout"}',
        "label": 1,
        "label_source": "testnet",
    } | {"low": row["low"]}
    assert row["low"] == pytest.approx(0.7)
    assert before - 0.001 <= row["at"] <= time.time() + 0.001  # kept in milliseconds


def test_a_request_whose_picture_was_never_read_is_on_record_with_its_fault(kept: tuple[Journal, Views]) -> None:
    journal, views = kept
    journal(answered(fault="PictureError"))
    journal.flush()
    (row,) = views.rows()
    assert (row["fault"], row["sha256"], row["source"], row["opinions"]) == ("PictureError", "", "prior", "{}")


def test_one_row_for_each_request_and_one_for_each_picture(kept: tuple[Journal, Views]) -> None:
    journal, views = kept
    for seed in (1, 2, 1, 1):
        journal(answered(seed))
    journal.flush()
    stats = views.stats()
    assert (stats["requests"], stats["pictures"]) == (4, 2)
    assert [row["sha256"] for row in views.rows()] == [sha(1), sha(2), sha(1), sha(1)]


def test_sums_are_kept_by_version_and_caller(kept: tuple[Journal, Views]) -> None:
    journal, views = kept
    journal(answered(1, verdict(0.9), "a"))
    journal(answered(2, verdict(0.2), "a"))
    journal(answered(3, verdict(0.2), "b"))
    journal(answered(caller="b", fault="PictureError"))
    journal.flush()
    stats = views.stats()
    assert stats["callers"]["a"] == {
        "requests": 2,
        "roadwork_share": 0.5,
        "faults": 0,
        "mean_ms": 13.0,
        "slowest_ms": 13.0,
    }
    assert stats["callers"]["b"]["faults"] == 1
    assert stats["versions"][MODEL]["requests"] == 4
    histogram = views.scores(time.time() - 7200, time.time() + 7200)
    assert histogram.sum() == 4
    assert (histogram[18], histogram[4], histogram[10]) == (1, 2, 1)


# --- which pictures stay ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (verdict(0.6), "uncertain"),
        (verdict(0.31), "uncertain"),
        (verdict(0.95, opinions=(Opinion("a", 4.0, 1.0), Opinion("b", -1.0, 1.0))), "disagreeing"),
        (verdict(0.95, opinions=(Opinion("a", 4.0, 1.0), Opinion("b", 0.5, 1.0))), ""),
        (verdict(0.95, opinions=(Opinion("memory", 3.0, 1.0, {"novelty": 0.99}),)), "novel"),
        (verdict(0.95, opinions=(Opinion("memory", 3.0, 1.0, {"novelty": 0.5}),)), ""),
    ],
)
def test_pictures_stay_by_policy(said: Verdict, reason: str) -> None:
    assert Keep(share=0.0).reason(said, "ff" * 32) == reason


def test_one_ordinary_picture_in_a_hundred_stays() -> None:
    chosen = [Keep().reason(verdict(0.99), f"{i * 2654435761 % 2**32:08x}" + "0" * 56) for i in range(20_000)]
    assert chosen.count("random") == pytest.approx(200, abs=60)
    assert set(chosen) == {"random", ""}


def test_the_lot_falls_on_hard_pictures_as_on_easy_ones(tmp_path: Path) -> None:
    made = journal(tmp_path, keep=Keep(share=0.5))
    for seed in range(40):
        made(answered(seed, verdict(0.5), label=-1))
    made.flush()
    views = Views(tmp_path)
    drawn = {candidate.sha256 for candidate in views.drawn()}
    assert drawn == {sha(seed) for seed in range(40) if int(sha(seed)[:8], 16) < 2**31}
    assert len(views.waiting()) == 40
    for candidate in views.waiting():
        made.label(candidate.sha256, 1, "human", "me").result(60)
    assert {e.record.sha256 for e in views.labelled() if e.representative} == drawn
    made.close()
    views.close()


def test_switched_off_no_picture_is_ever_written(tmp_path: Path) -> None:
    off = journal(tmp_path, keep=Keep(enabled=False, share=1.0))
    off(answered(1, verdict(0.5)))
    off.close()
    assert not (tmp_path / "pictures").exists()
    assert columns(tmp_path / "journal.db", "SELECT count(*) FROM requests") == [(1,)]


def test_the_received_bytes_stay_as_they_came(kept: tuple[Journal, Views]) -> None:
    journal, views = kept
    journal(answered(1, verdict(0.5)))
    journal.flush()
    path = views.picture(sha(1))
    assert path is not None
    assert path.read_bytes() == jpeg_of(1)


def test_over_quota_ordinary_pictures_go_first_then_the_oldest_and_labelled_ones_last(tmp_path: Path) -> None:
    size = max(len(jpeg_of(seed)) for seed in range(6))
    full = journal(tmp_path, keep=Keep(share=1.0, quota_gb=3 * size / 1e9))
    for seed, p in enumerate((0.5, 0.5, 0.99, 0.5)):
        full(answered(seed, verdict(p)))
        full.flush()
        if seed == 0:
            full.label(sha(0), 1, "human", "me").result(60)
    full.flush()
    left = {seed for seed in range(6) if picture_path(tmp_path, sha(seed)).exists()}
    assert 2 not in left  # ordinary
    for seed in (4, 5):
        full(answered(seed, verdict(0.5)))
        full.flush()
    full.close()
    left = {seed for seed in range(6) if picture_path(tmp_path, sha(seed)).exists()}
    assert 0 in left  # labelled, though the oldest
    assert 5 in left
    assert 1 not in left
    assert columns(tmp_path / "journal.db", "SELECT sum(bytes) FROM kept")[0][0] <= 3 * size


def test_disagreement_is_between_opposite_sides_only() -> None:
    assert disagreement(verdict(opinions=(Opinion("a", 3.0, 1.0), Opinion("b", -2.0, 1.0)))) == 5.0
    assert disagreement(verdict(opinions=(Opinion("a", 3.0, 1.0), Opinion("b", 1.0, 1.0)))) == 0.0
    assert disagreement(verdict(opinions=())) == 0.0


# --- embeddings -------------------------------------------------------------------------------------------------------


def test_kept_pictures_get_a_vector_and_an_embedder_that_fails_costs_only_that(tmp_path: Path) -> None:
    def embed(frame: object) -> np.ndarray:  # type: ignore[type-arg]
        if len(seen) == 1:
            seen.append(2)
            raise RuntimeError("no memory")
        seen.append(1)
        return np.array([0.5, -1.0], dtype=np.float32)

    seen: list[int] = []
    with_vectors = journal(tmp_path, embed=embed, embedder="e")
    views = Views(tmp_path)
    for seed in (1, 2):
        with_vectors(answered(seed, verdict(0.5), label=1))
    with_vectors.close()
    first, second = views.labelled(embedder="e")
    assert first.embedding is not None
    assert first.embedding.tolist() == [0.5, -1.0]
    assert second.embedding is None
    assert with_vectors.counts.written == 2
    views.close()


# --- labels -----------------------------------------------------------------------------------------------------------


def test_the_validators_label_wins_over_a_persons_and_that_over_the_consensus(kept: tuple[Journal, Views]) -> None:
    journal, views = kept
    journal(answered(1, verdict(0.5)))
    journal.flush()
    for label, source in ((0, "consensus"), (1, "human"), (0, "consensus")):
        journal.label(sha(1), label, source, "me").result(60)
    (example,) = views.labelled()
    assert (example.label, example.source) == (1, "human")
    journal(answered(1, verdict(0.5), label=0))
    journal.flush()
    (example,) = views.labelled()
    assert (example.label, example.source) == (0, "testnet")


def test_unsure_is_remembered_but_is_no_label(kept: tuple[Journal, Views]) -> None:
    journal, views = kept
    journal(answered(1, verdict(0.5)))
    journal.label(sha(1), None, "human", "me").result(60)
    assert views.labelled() == []
    assert views.waiting() == []
    assert views.progress(0)["unsure"] == 1


def test_undo_takes_back_the_last_label_of_that_person(kept: tuple[Journal, Views]) -> None:
    journal, views = kept
    for seed in (1, 2):
        journal(answered(seed, verdict(0.5)))
    journal.label(sha(1), 1, "human", "me").result(60)
    journal.label(sha(2), 1, "human", "you").result(60)
    assert journal.undo("me").result(60) == sha(1)
    assert journal.undo("me").result(60) is None
    assert [example.record.sha256 for example in views.labelled()] == [sha(2)]
    assert [candidate.sha256 for candidate in views.waiting()] == [sha(1)]


def test_a_label_of_an_unknown_picture_is_refused_and_takes_nothing_with_it(kept: tuple[Journal, Views]) -> None:
    journal, views = kept
    journal(answered(1))
    with pytest.raises(KeyError, match="no picture"):
        journal.label("ab" * 32, 1, "human").result(60)
    assert views.stats()["requests"] == 1


def test_labelled_pictures_come_as_records_that_can_be_replayed(kept: tuple[Journal, Views]) -> None:
    journal, views = kept
    said = verdict(0.8, opinions=(Opinion("first", 1.25, 12.3),), failures=(Failure("second", "timeout", "", 0.0),))
    journal(answered(1, said, label=1))
    journal.flush()
    (example,) = views.labelled()
    assert example.record.verdict.opinions == said.opinions
    assert example.record.verdict.failures == said.failures
    assert (example.record.label, example.record.size, example.version) == (1, (64, 48), MODEL)


# --- it never stands in the way ---------------------------------------------------------------------------------------


class Stuck:
    """A connection whose commits wait until let go: a disk that hangs."""

    def __init__(self, path: Path) -> None:
        self._db, self.go, self.waiting = connect(path), threading.Event(), threading.Event()

    def execute(self, query: str, *values: object) -> object:
        if query == "BEGIN IMMEDIATE":
            self.waiting.set()
            self.go.wait(600)
        return self._db.execute(query, *values)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> object:
        return getattr(self._db, name)


def test_a_disk_that_hangs_costs_an_answer_nothing(tmp_path: Path) -> None:
    made: list[Stuck] = []

    def stuck(path: Path) -> Stuck:
        made.append(Stuck(path))
        return made[0]

    slow = journal(tmp_path, connect=stuck, capacity=(50, 2**30))
    request = answered(1)
    slow(request)
    assert made[0].waiting.wait(60)
    for _ in range(1000):
        slow(request)  # comes back, although the disk does not
    assert slow.counts.dropped == 950
    made[0].go.set()
    slow.close()
    assert slow.counts.written == 51


def test_the_buffer_is_bounded_in_bytes_too() -> None:
    buffer = Buffer(items=10, size=100)
    assert buffer.put("a", 60)  # type: ignore[arg-type]
    assert not buffer.put("b", 60)  # type: ignore[arg-type]
    assert buffer.put("c", 40)  # type: ignore[arg-type]
    assert buffer.take(10, 0.0) == ["a", "c"]
    assert buffer.put("d", 100)  # type: ignore[arg-type]
    buffer.close()
    assert not buffer.put("e")  # type: ignore[arg-type]
    assert buffer.take(10, 60.0) == ["d"]
    assert buffer.take(10, 60.0) is None


def test_what_was_taken_waits_half_a_second_for_company_and_no_longer(tmp_path: Path) -> None:
    quick = journal(tmp_path)
    started = time.monotonic()
    quick(answered(1))
    wait_for(lambda: quick.counts.written == 1)
    assert time.monotonic() - started >= LINGER == 0.5
    quick.close()


def test_a_closed_journal_drops_and_says_so(tmp_path: Path) -> None:
    closed = journal(tmp_path)
    closed.close()
    closed.close()
    closed(answered(1))
    assert closed.counts.dropped == 1
    with pytest.raises(JournalError, match="closed"):
        closed.label(sha(1), 1, "human").result(60)


def small_disk(path: Path) -> sqlite3.Connection:
    db = connect(path)
    db.execute("PRAGMA max_page_count = 60")
    return db


def test_a_full_disk_loses_records_never_answers_and_is_over_when_it_is_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened: list[sqlite3.Connection] = []

    def opening(path: Path) -> sqlite3.Connection:
        opened.append(small_disk(path))
        return opened[0]

    full = journal(tmp_path, connect=opening, keep=Keep(enabled=False))
    request = answered(1)
    for _ in range(20):
        for _ in range(200):
            full(request)
        with_error = full._change(lambda _: None)
        wait_for(with_error.done)
    lost = full.counts.lost
    assert lost > 0
    assert full.counts.written + lost == 4000
    assert caplog.text.count("full") == 1  # said once, not once a batch
    told = [full.label(sha(1), 1, "human", "w" * 4000) for _ in range(100)]
    wait_for(lambda: all(label.done() for label in told))
    assert any(isinstance(label.exception(), sqlite3.OperationalError) for label in told)
    full._change(lambda db: db.execute("PRAGMA max_page_count = 100000"), urgent=True)
    wait_for(lambda: opened[0].execute("PRAGMA max_page_count").fetchone()[0] == 100000)
    full(request)
    full.flush()
    assert full.counts.lost == lost
    full.close()
    assert columns(tmp_path / "journal.db", "PRAGMA integrity_check") == [("ok",)]
    assert columns(tmp_path / "journal.db", "SELECT count(*) FROM requests") == [(full.counts.written,)]


def test_a_full_disk_gives_up_kept_pictures_for_the_record(tmp_path: Path) -> None:
    full = journal(tmp_path, connect=small_disk, keep=Keep(share=1.0))
    requests = [answered(seed) for seed in range(40)]
    for _ in range(200):
        for request in requests:
            full(request)
        done = full._change(lambda _: None).done
        wait_for(done)
        if full.counts.lost:
            break
    assert full.counts.written > 400
    assert full.counts.lost > 0
    full.close()
    assert not list((tmp_path / "pictures").rglob("*.jpg"))


def test_only_a_full_disk_costs_kept_pictures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Who holds the journal for long (a backup, a shell) once made it delete every picture in it."""

    def impatient(path: Path) -> sqlite3.Connection:
        db = connect(path)
        db.execute("PRAGMA busy_timeout = 0")
        return db

    locked = journal(tmp_path, connect=impatient, keep=Keep(share=1.0))
    locked(answered(1))
    locked.flush()
    with closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        locked(answered(2))
        wait_for(lambda: locked.counts.lost == 1)
    assert "database is locked" in caplog.text
    assert picture_path(tmp_path, sha(1)).is_file()
    locked.close()


def test_a_picture_that_cannot_be_deleted_does_not_end_the_writing(tmp_path: Path) -> None:
    full = journal(tmp_path, connect=small_disk, keep=Keep(share=1.0))
    full(answered(1))
    full.flush()
    stuck = picture_path(tmp_path, sha(1))
    stuck.unlink()
    (stuck / "in the way").mkdir(parents=True)  # stands for a folder that became read-only
    told = [full.label(sha(1), 1, "human", "w" * 4000) for _ in range(100)]
    wait_for(lambda: all(label.done() for label in told))
    assert any(isinstance(label.exception(), sqlite3.OperationalError) for label in told)
    full.close()


class Refusing:
    """A connection that can no longer forget pictures: there was room for the commit, and none for what comes after."""

    def __init__(self, path: Path) -> None:
        self._db = connect(path)

    def executemany(self, query: str, values: object) -> object:
        if query.startswith("DELETE FROM kept"):
            raise sqlite3.OperationalError("database or disk is full")
        return self._db.executemany(query, values)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> object:
        return getattr(self._db, name)


def test_what_fails_after_the_commit_writes_nothing_twice_and_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    full = journal(tmp_path, connect=Refusing, keep=Keep(share=1.0, quota_gb=0.0))
    full(answered(1))
    full.label(sha(1), 1, "human").result(60)
    full(answered(2))
    full.close()
    assert (full.counts.written, full.counts.lost) == (2, 0)
    assert columns(tmp_path / "journal.db", "SELECT picture, count(*) FROM requests GROUP BY 1") == [(1, 1), (2, 1)]
    assert "disk is full" in caplog.text


def test_who_no_longer_waits_for_a_change_harms_nobody(tmp_path: Path) -> None:
    made: list[Stuck] = []

    def stuck(path: Path) -> Stuck:
        made.append(Stuck(path))
        return made[0]

    slow = journal(tmp_path, connect=stuck)
    slow(answered(1))
    assert made[0].waiting.wait(60)
    gone = slow.label(sha(1), 1, "human")
    assert gone.cancel()  # the page was closed
    made[0].go.set()
    slow.flush()
    slow(answered(2))
    slow.close()
    assert columns(tmp_path / "journal.db", "SELECT picture, count(*) FROM requests GROUP BY 1") == [(1, 1), (2, 1)]
    assert columns(tmp_path / "journal.db", "SELECT count(*) FROM labels") == [(0,)]


# --- versions of the file ---------------------------------------------------------------------------------------------


def test_a_journal_of_the_first_version_opens_and_its_rows_are_there(tmp_path: Path) -> None:
    old = connect(tmp_path / "journal.db", migrations=MIGRATIONS[:1])
    assert old.execute("PRAGMA user_version").fetchone() == (1,)
    old.executescript(
        "INSERT INTO names VALUES (1, 'caller'), (2, 'v');"
        f"INSERT INTO pictures VALUES (1, x'{sha(1)}', 7, 64, 48, 1, 'testnet', 5.0);"
        "INSERT INTO requests VALUES (1, 4.0, 1, 1, 2, 0.9, 0.8, 1.0, 'cascade', 'decided', 0, 9.0, '',"
        " '{\"m\":[2.0,5.0]}');"
    )
    old.close()
    now = journal(tmp_path)
    now(answered(2, label=0))
    now.close()
    views = Views(tmp_path)
    assert [(e.record.sha256, e.label) for e in views.labelled()] == [(sha(1), 1), (sha(2), 0)]
    views.close()
    assert columns(tmp_path / "journal.db", "PRAGMA user_version") == [(VERSION,)]


def test_a_journal_that_hashed_every_picture_keeps_its_records_and_gets_smaller(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path, n = tmp_path / "journal.db", 500
    old = connect(path, migrations=MIGRATIONS[:3])
    pictures = [(i, bytes.fromhex(f"{i:064x}"), i << 20, i % 2 if i % 9 == 0 else None) for i in range(1, n + 1)]
    old.executemany("INSERT INTO pictures VALUES (?, ?, ?, 64, 48, ?, 'human', 5.0)", pictures)
    old.executescript(
        "INSERT INTO names VALUES (1, 'caller'), (2, 'v');"
        "INSERT INTO requests SELECT id, 4.0, id, 1, 2, 0.9, 0.8, 1.0, 'cascade', 'decided', 0, 9.0, '', '{}'"
        " FROM pictures;"
        "INSERT INTO kept SELECT id, 9, 'random', 1, 0, 0.5, 0.9, '{}', 0 FROM pictures WHERE id <= 3;"
        "INSERT INTO labels SELECT id, id, 5.0, label, 'human', 2, 'me' FROM pictures WHERE label IS NOT NULL;"
    )
    told = "SELECT id, sha256, width, height, label, label_source, labelled FROM pictures ORDER BY id"
    used = "SELECT page_count - freelist_count FROM pragma_page_count, pragma_freelist_count"
    before, pages = columns(path, told), columns(path, used)[0][0]
    old.close()
    assert caplog.text == "", "a new journal needs no patience"
    connect(path).close()
    assert f"from schema 3 to {VERSION}, once" in caplog.text
    assert columns(path, told) == before
    assert columns(path, "SELECT picture, phash FROM kept") == [(i, i << 20) for i in (1, 2, 3)]
    assert [columns(path, f"SELECT count(*) FROM {table}") for table in ("requests", "labels")] == [[(n,)], [(n // 9,)]]
    assert columns(path, "SELECT name FROM sqlite_master WHERE name LIKE '%band%'") == []
    assert columns(path, "PRAGMA foreign_key_check") == []
    assert columns(path, used)[0][0] < pages, "what the indexes took is free again"
    views = Views(tmp_path)
    assert len(views.labelled()) == n // 9
    assert {candidate.phash for candidate in views.waiting(9)} == {1 << 20, 2 << 20, 3 << 20}
    views.close()


def test_every_step_leads_to_the_same_tables(tmp_path: Path) -> None:
    for version in range(1, VERSION + 1):
        connect(tmp_path / "steps.db", migrations=MIGRATIONS[:version]).close()
    connect(tmp_path / "once.db").close()
    query = "SELECT type, name, sql FROM sqlite_master ORDER BY 1, 2"
    assert columns(tmp_path / "steps.db", query) == columns(tmp_path / "once.db", query)


def test_a_step_that_fails_leaves_the_older_version_whole(tmp_path: Path) -> None:
    connect(tmp_path / "journal.db", migrations=MIGRATIONS[:1]).close()
    with pytest.raises(JournalError, match="syntax error"):
        connect(tmp_path / "journal.db", migrations=(MIGRATIONS[0], "CREATE TABLE extra (x); NONSENSE"))
    assert columns(tmp_path / "journal.db", "PRAGMA user_version") == [(1,)]
    assert columns(tmp_path / "journal.db", "SELECT name FROM sqlite_master WHERE name = 'extra'") == []


def test_a_journal_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    db = connect(tmp_path / "journal.db")
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(JournalError, match="newer version"):
        connect(tmp_path / "journal.db")


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"holiday pictures" * 100)
    with pytest.raises(JournalError, match=r"cannot be used.*move it away"):
        connect(tmp_path / "journal.db")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("in the way")
    with pytest.raises(JournalError, match=r"cannot be used.*exists"):
        connect(tmp_path / "journal" / "journal.db")


def test_reading_needs_a_journal_and_cannot_write(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no journal"):
        Views(tmp_path)
    connect(tmp_path / "journal.db").close()
    read_only = connect(tmp_path / "journal.db", read_only=True)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        read_only.execute("DELETE FROM names")
    read_only.close()


def test_candidates_answers_stand_beside_the_live_ones(kept: tuple[Journal, Views]) -> None:
    journal, views = kept
    journal(answered(1, verdict(0.9), label=1))
    journal.shadow(sha(1), "candidate-7", 0.3, 0.8, True)
    journal.shadow(sha(2), "candidate-7", 0.9, 0.8, False)
    journal.flush()
    assert views.shadows("candidate-7") == [(sha(1), 1, 0.8, 0.3)]
    assert views.shadow_totals("candidate-7") == (2, 1, 1)
    assert views.shadow_totals("other") == (0, 0, 0)
    assert views.shadows("other") == []


def test_evidence_is_there_for_the_reviewer_even_if_it_is_no_json(kept: tuple[Journal, Views]) -> None:
    journal, views = kept
    boxes = Opinion("detector", 0.2, 1.0, {"boxes": [[1, 2, 3, 4]]})
    strange = Opinion("strange", 0.1, 1.0, {"what": object()})
    journal(answered(1, verdict(0.5, opinions=(boxes, strange))))
    journal.flush()
    (candidate,) = views.waiting()
    assert candidate.evidence["detector"] == {"logit": 0.2, "boxes": [[1, 2, 3, 4]]}
    assert "unreadable" in candidate.evidence["strange"]
    json.dumps(candidate.evidence)
