"""The journal's tables, and how a journal of an older version becomes one of this version.

`requests` has a row for each request, `pictures` one for each distinct picture (by SHA-256), `kept` one for each
picture whose JPEG lies on disk, `labels` every label anybody gave. `hours` and `scores` are sums that the writer keeps
up to date in the same transaction, so that a view of a month never reads ten million rows.
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

log = logging.getLogger(__name__)

V1 = """
CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE pictures (
    id INTEGER PRIMARY KEY, sha256 BLOB NOT NULL UNIQUE, phash INTEGER NOT NULL, width INTEGER NOT NULL,
    height INTEGER NOT NULL, label INTEGER, label_source TEXT, labelled REAL
);
CREATE INDEX pictures_band0 ON pictures ((phash >> 0) & 65535);
CREATE INDEX pictures_band1 ON pictures ((phash >> 16) & 65535);
CREATE INDEX pictures_band2 ON pictures ((phash >> 32) & 65535);
CREATE INDEX pictures_band3 ON pictures ((phash >> 48) & 65535);
CREATE INDEX pictures_labelled ON pictures (labelled, label_source, label) WHERE label IS NOT NULL;
CREATE TABLE requests (
    id INTEGER PRIMARY KEY, at REAL NOT NULL, picture INTEGER REFERENCES pictures, caller INTEGER NOT NULL,
    version INTEGER NOT NULL, probability REAL NOT NULL, low REAL, high REAL, source TEXT NOT NULL, stop TEXT,
    degraded INTEGER, milliseconds REAL NOT NULL, fault TEXT NOT NULL, opinions TEXT NOT NULL
);
CREATE INDEX requests_at ON requests (at);
CREATE INDEX requests_picture ON requests (picture);
CREATE TABLE kept (
    picture INTEGER PRIMARY KEY REFERENCES pictures, bytes INTEGER NOT NULL, reason TEXT NOT NULL,
    lot INTEGER NOT NULL, rank INTEGER NOT NULL, value REAL NOT NULL, probability REAL NOT NULL,
    evidence TEXT NOT NULL, reviewed INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX kept_rank ON kept (rank, picture, bytes);
CREATE INDEX kept_value ON kept (value) WHERE reviewed = 0;
CREATE INDEX kept_lot ON kept (picture) WHERE reviewed = 0 AND lot = 1;
CREATE TABLE labels (
    id INTEGER PRIMARY KEY, picture INTEGER NOT NULL REFERENCES pictures, at REAL NOT NULL, label INTEGER,
    source TEXT NOT NULL, rank INTEGER NOT NULL, who TEXT NOT NULL
);
CREATE INDEX labels_picture ON labels (picture, source, label);
CREATE INDEX labels_source ON labels (source, at, label, picture);
CREATE TABLE hours (
    hour INTEGER NOT NULL, caller INTEGER NOT NULL, version INTEGER NOT NULL, n INTEGER NOT NULL,
    roadwork INTEGER NOT NULL, faults INTEGER NOT NULL, milliseconds REAL NOT NULL, slowest REAL NOT NULL,
    PRIMARY KEY (hour, caller, version)
) WITHOUT ROWID;
CREATE TABLE scores (
    hour INTEGER NOT NULL, version INTEGER NOT NULL, bin INTEGER NOT NULL, n INTEGER NOT NULL,
    PRIMARY KEY (hour, version, bin)
) WITHOUT ROWID;
"""

# Embeddings for the memory and for heads; what a candidate said beside the live answer (by digest: the candidate
# speaks before the request, and with it the picture, is on record).
V2 = """
CREATE TABLE embeddings (
    picture INTEGER NOT NULL REFERENCES pictures, model TEXT NOT NULL, vector BLOB NOT NULL,
    PRIMARY KEY (picture, model)
) WITHOUT ROWID;
CREATE TABLE shadows (
    version INTEGER NOT NULL, sha256 BLOB NOT NULL, probability REAL NOT NULL, PRIMARY KEY (version, sha256)
) WITHOUT ROWID;
"""

# What the live version said of the same picture, and whether the candidate's answer is the one that left.
V3 = """
ALTER TABLE shadows ADD COLUMN live REAL;
ALTER TABLE shadows ADD COLUMN answered INTEGER NOT NULL DEFAULT 0;
"""

# The perceptual hash only of pictures that wait for a reviewer, who is shown unlike ones; nobody asks for others'.
# The table is copied, since SQLite before 3.35 cannot drop a column; its indexes on the hash go with it.
V4 = """
ALTER TABLE kept ADD COLUMN phash INTEGER NOT NULL DEFAULT 0;
UPDATE kept SET phash = (SELECT phash FROM pictures WHERE id = picture);
CREATE TABLE slimmer (
    id INTEGER PRIMARY KEY, sha256 BLOB NOT NULL UNIQUE, width INTEGER NOT NULL, height INTEGER NOT NULL,
    label INTEGER, label_source TEXT, labelled REAL
);
INSERT INTO slimmer SELECT id, sha256, width, height, label, label_source, labelled FROM pictures;
DROP TABLE pictures;
ALTER TABLE slimmer RENAME TO pictures;
CREATE INDEX pictures_labelled ON pictures (labelled, label_source, label) WHERE label IS NOT NULL;
"""

MIGRATIONS = (V1, V2, V3, V4)
VERSION = len(MIGRATIONS)


class JournalError(Exception):
    """The journal cannot be opened as asked. The message says what to do."""


def connect(path: Path, *, read_only: bool = False, migrations: tuple[str, ...] = MIGRATIONS) -> sqlite3.Connection:
    """A connection to the journal at `path`, brought to this version first (each step in one transaction).

    Transactions are explicit (`BEGIN IMMEDIATE`). Raises JournalError for a journal of a newer version, a file that
    is not one, and with `read_only` for one that is missing.
    """
    if read_only and not path.is_file():
        raise JournalError(
            f"no journal at {path}: the first run of `serve` makes it; for another miner's give its --network, "
            "--wallet-name, --wallet-hotkey and --state-dir"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10.0)
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"{path}: cannot be used as a journal: {error}") from error
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # two fsyncs a second at most; survives a power cut too
        _migrate(connection, path, migrations)
        connection.execute("PRAGMA cache_size = -65536")
        connection.execute(f"PRAGMA query_only = {int(read_only)}")
    except sqlite3.DatabaseError as error:
        connection.close()
        # An operational error (locked, full, read-only) is the machine's; what is left is a damaged file.
        remedy = (
            "" if isinstance(error, sqlite3.OperationalError) else "; move it away, and the next start makes a new one"
        )
        raise JournalError(f"{path}: cannot be used as a journal: {error}{remedy}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _migrate(connection: sqlite3.Connection, path: Path, migrations: tuple[str, ...]) -> None:
    if _version(connection) == len(migrations):
        return
    connection.execute("BEGIN IMMEDIATE")  # and look again: another process may have done it meanwhile
    try:
        found = _version(connection)
        if found > len(migrations):
            raise JournalError(
                f"{path} was written by a newer version (schema {found}, this one knows {len(migrations)}): "
                "update the miner, or start another journal with --state-dir"
            )
        if found:
            log.info(
                "%s: from schema %d to %d, once; some seconds for each million requests", path, found, len(migrations)
            )
        for statement in ";".join(migrations[found:]).split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
