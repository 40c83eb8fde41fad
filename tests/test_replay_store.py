"""The replay store: once means once, across a restart, within bounded memory and disk."""

from __future__ import annotations

import logging
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.replay_store import SECOND, ReplayStore

NOW = 1_795_435_661 * SECOND


def test_a_message_is_new_once() -> None:
    store = ReplayStore()
    assert store.add(b"one", NOW, NOW)
    assert not store.add(b"one", NOW, NOW)
    assert store.add(b"two", NOW, NOW)
    assert len(store) == 2


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=3), st.integers(0, 20)), max_size=60))
def test_within_the_window_it_is_a_set(messages: list[tuple[bytes, int]]) -> None:
    store, seen = ReplayStore(), set()
    for body, age in messages:
        message = b"%d.%b" % (age, body)  # the nonce is part of what is signed
        assert store.add(message, NOW - age * SECOND, NOW) is (message not in seen)
        seen.add(message)


def test_what_left_the_window_is_forgotten() -> None:
    store = ReplayStore(window=10.0)
    for second in range(100):
        now = NOW + second * SECOND
        assert store.add(b"%d" % second, now, now)
    assert len(store) == 11


def test_nothing_accepted_before_a_restart_is_accepted_after(tmp_path: Path) -> None:
    path = tmp_path / "state" / "replay"
    before = ReplayStore(path, now=NOW)
    messages = [(b"%d" % number, NOW - number * SECOND // 50) for number in range(500)]
    assert all(before.add(message, nonce, NOW) for message, nonce in messages)
    # No close: the process was killed.
    after = ReplayStore(path, now=NOW + SECOND)
    assert not any(after.add(message, nonce, NOW + SECOND) for message, nonce in messages)
    assert after.add(b"new", NOW + SECOND, NOW + SECOND)
    before.close()
    after.close()


def test_what_left_the_window_while_the_miner_was_down_is_forgotten(tmp_path: Path) -> None:
    store = ReplayStore(tmp_path / "replay", now=NOW)
    store.add(b"one", NOW, NOW)
    store.close()
    later = ReplayStore(tmp_path / "replay", now=NOW + 3600 * SECOND)
    assert len(later) == 0
    later.close()


def test_a_record_cut_short_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "replay"
    store = ReplayStore(path, now=NOW)
    store.add(b"one", NOW, NOW)
    store.close()
    path.write_bytes(path.read_bytes() + b"\x01\x02\x03")
    again = ReplayStore(path, now=NOW)
    assert not again.add(b"one", NOW, NOW)
    again.close()


def test_the_file_is_rewritten_and_stays_small(tmp_path: Path) -> None:
    path = tmp_path / "replay"
    store = ReplayStore(path, window=5.0, now=NOW)
    for number in range(20_000):
        now = NOW + number * SECOND // 100
        store.add(b"%d" % number, now, now)
    assert path.stat().st_size <= 16 * 5000
    store.close()
    again = ReplayStore(path, window=5.0, now=NOW + 200 * SECOND)
    assert not again.add(b"19999", NOW + 19_999 * SECOND // 100, NOW + 200 * SECOND)
    again.close()


def test_a_full_store_refuses_the_old_rather_than_forget_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "miner.replay_store")
    path = tmp_path / "replay"
    store = ReplayStore(path, capacity=100, now=NOW)
    old = [(b"old %d" % number, NOW + number) for number in range(90)]
    for message, nonce in old:
        store.add(message, nonce, NOW)
    for number in range(90):
        store.add(b"new %d" % number, NOW + SECOND + number, NOW + SECOND)
    assert len(store) <= 100
    assert "more than 100 requests" in caplog.text
    assert not any(store.add(message, nonce, NOW + SECOND) for message, nonce in old)
    store.close()
    after = ReplayStore(path, capacity=100, now=NOW + SECOND)
    assert not any(after.add(message, nonce, NOW + SECOND) for message, nonce in old)
    after.close()


def test_a_disk_that_cannot_be_written_costs_the_file_and_not_the_service(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.ERROR, "miner.replay_store"):
        store = ReplayStore(tmp_path / "file" / "replay", now=NOW)
    assert "writable state directory" in caplog.text
    assert store.add(b"one", NOW, NOW)
    assert not store.add(b"one", NOW, NOW)


def test_a_disk_that_fills_up_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = ReplayStore(tmp_path / "replay", now=NOW)
    assert store._file is not None
    full = os.open("/dev/full", os.O_WRONLY)  # every write fails with ENOSPC
    os.dup2(full, store._file)
    os.close(full)
    with caplog.at_level(logging.ERROR, "miner.replay_store"):
        assert store.add(b"one", NOW, NOW)
        assert store.add(b"two", NOW, NOW)
    assert caplog.text.count("No space left") == 1


def test_a_disk_that_has_room_again_is_written_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A disk that was full for a minute must not cost every later restart its memory."""
    state = tmp_path / "state"
    state.write_text("in the way")
    store = ReplayStore(state / "replay", now=NOW)
    assert store.add(b"one", NOW, NOW)
    state.unlink()
    with caplog.at_level(logging.INFO, "miner.replay_store"):
        assert store.add(b"two", NOW + SECOND, NOW + SECOND)
        assert store.add(b"three", NOW + SECOND, NOW + SECOND)
    assert caplog.text.count("kept again") == 1
    store.close()
    after = ReplayStore(state / "replay", now=NOW + 2 * SECOND)
    for message, nonce in ((b"one", NOW), (b"two", NOW + SECOND), (b"three", NOW + SECOND)):
        assert not after.add(message, nonce, NOW + 2 * SECOND)
    after.close()


def test_a_clock_that_jumps_ahead_and_back_lets_no_replay_in() -> None:
    store = ReplayStore()
    assert store.add(b"one", NOW, NOW)
    assert store.add(b"later", NOW + 3600 * SECOND, NOW + 3600 * SECOND)
    assert not store.add(b"one", NOW, NOW + SECOND), "it was forgotten, and is refused all the same"
    assert store.add(b"two", NOW + SECOND, NOW + SECOND)


@pytest.mark.slow
def test_a_million_requests_take_less_than_50_mb() -> None:
    store = ReplayStore()
    tracemalloc.start()
    for number in range(1_000_000):
        now = NOW + number * SECOND // 10_000  # 10,000 a second: as fast as signatures can be checked
        store.add(b"%d" % number, now, now)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(store) <= 200_000
    assert peak < 50e6, f"{peak / 1e6:.1f} MB"
