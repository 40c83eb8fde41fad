"""Labelled pictures through every tier of a profile: the records that `calibrate` and `replay` learn from."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cascade.deadline import Deadline
from cascade.engine import Engine
from cascade.trace import Record, TraceError, read_all
from miner.assembly import frame_of
from miner.settings import UsageError
from models.data.labelled import Labelled

SECONDS = 60.0  # a picture: nobody waits, so a slow machine loses no opinion


async def record(engine: Engine, picture: Labelled, max_pixels: int) -> Record:
    """One labelled picture, from an engine whose profile asks every tier. Raises UsageError for a broken file."""
    frame = await asyncio.to_thread(frame_of, picture.path, max_pixels)
    verdict = await engine.decide(frame, Deadline.after(SECONDS))
    return Record.of(verdict, frame, label=picture.label, group=picture.group)


def read_traces(path: Path) -> list[Record]:
    """The records of a trace file. Raises UsageError."""
    try:
        with path.open(encoding="utf-8") as lines:
            return list(read_all(lines))
    except OSError as error:
        raise UsageError(f"{path}: expected a file of trace lines, got: {error.strerror}") from None
    except (UnicodeDecodeError, TraceError) as error:
        raise UsageError(f"{path}: {error}") from None
