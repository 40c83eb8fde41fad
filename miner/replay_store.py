"""The replay store: which signed messages were accepted inside the time window, across a restart of the miner.

A set per second of nonce time, so that forgetting is dropping whole seconds, and a file that every accepted message
is appended to. The file is not flushed to the disk's platter: it survives the death of the process, and a reboot of
the machine takes longer than the window.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import time
from hashlib import blake2b
from pathlib import Path

log = logging.getLogger(__name__)

SECOND = 1_000_000_000  # nanoseconds
RECORD = struct.Struct(">QQ")  # nonce in nanoseconds, key
FLOOR = 0  # the key of a record that says: everything up to this nonce is refused
FEWEST_RECORDS = 4096  # below this the file is not worth rewriting


class ReplayStore:
    """Messages accepted so far. Used by one thread.

    path: the file that outlives the process; None keeps everything in memory (tests, the in-memory network).
    window: seconds that a message is remembered; at least the greatest age the gate accepts.
    capacity: messages held at once. Beyond it the oldest second is forgotten and everything that old is refused,
    so a flood costs memory up to a bound and never lets a replay in.
    """

    def __init__(
        self, path: Path | None = None, window: float = 32.0, capacity: int = 200_000, now: int | None = None
    ) -> None:
        self._window = int(window * SECOND)
        self._capacity = capacity
        self._seconds: dict[int, set[int]] = {}
        self._count = 0
        self._floor = 0  # nonces up to this one are refused: their second was forgotten
        self._swept = 0
        self._path = path
        self._file: int | None = None
        self._failed = False  # the disk refused; it is tried again
        self._records = 0
        if path is not None:
            self._restore(path, time.time_ns() if now is None else now)

    def __len__(self) -> int:
        return self._count

    def add(self, message: bytes, nonce: int, now: int) -> bool:
        """True the first time a message is seen, and remembers it; False ever after.

        message: the signed bytes. nonce and now: unix time in nanoseconds.
        """
        self._forget(now)
        key = int.from_bytes(blake2b(message, digest_size=8).digest()) or 1  # 0 is FLOOR
        seen = self._seconds.setdefault(nonce // SECOND, set())
        if nonce <= self._floor or key in seen:
            return False
        seen.add(key)
        self._count += 1
        if self._count > self._capacity:
            self._drop_oldest()
        self._append(nonce, key)
        return True

    def close(self) -> None:
        """Let go of the file. Safe to call twice."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _forget(self, now: int) -> None:
        if now // SECOND == self._swept:
            return
        self._swept = now // SECOND
        oldest = (now - self._window) // SECOND
        for second in [second for second in self._seconds if second < oldest]:
            self._count -= len(self._seconds.pop(second))
            self._floor = max(self._floor, (second + 1) * SECOND - 1)  # should the clock be put back
        if self._failed and self._path is not None:
            self._try_again(self._path)

    def _drop_oldest(self) -> None:
        second = min(self._seconds)
        self._count -= len(self._seconds.pop(second))
        self._floor = max(self._floor, (second + 1) * SECOND - 1)
        self._append(self._floor, FLOOR)
        log.warning(
            "more than %d requests inside the replay window: those signed before now are refused", self._capacity
        )

    # The file: records of 16 bytes, appended; rewritten when most of them are forgotten.

    def _restore(self, path: Path, now: int) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stored = path.read_bytes() if path.exists() else b""
            whole = len(stored) - len(stored) % RECORD.size  # a record cut short by a crash was never answered
            for nonce, key in RECORD.iter_unpack(stored[:whole]):
                if abs(now - nonce) > self._window:
                    continue
                if key == FLOOR:
                    self._floor = max(self._floor, nonce)
                else:
                    self._seconds.setdefault(nonce // SECOND, set()).add(key)
            self._count = sum(map(len, self._seconds.values()))
            self._rewrite(path)
        except OSError as error:
            self._give_up(error)

    def _append(self, nonce: int, key: int) -> None:
        if self._file is None or self._path is None:
            return
        try:
            if os.write(self._file, RECORD.pack(nonce, key)) < RECORD.size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._records += 1
            if self._records > max(FEWEST_RECORDS, 2 * self._count):
                self._rewrite(self._path)
        except OSError as error:
            self._give_up(error)

    def _rewrite(self, path: Path) -> None:
        self.close()
        fresh = path.with_suffix(".new")
        # Only the second is kept: a nonce's place in it decides nothing.
        records = [RECORD.pack(second * SECOND, key) for second, keys in self._seconds.items() for key in keys]
        fresh.write_bytes(b"".join([RECORD.pack(self._floor, FLOOR), *records]))
        os.replace(fresh, path)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND)
        self._records = self._count

    def _try_again(self, path: Path) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._rewrite(path)
        except OSError as error:
            log.debug("the replay store still cannot be kept: %s", error)
            return
        self._failed = False
        log.info("the replay store is kept again in %s", path)

    def _give_up(self, error: OSError) -> None:
        self.close()
        self._failed = True
        log.error(
            "the replay store cannot be kept in %s (%s): after a restart, requests of the seconds before it could be "
            "replayed; give the miner a writable state directory",
            self._path,
            error,
        )
