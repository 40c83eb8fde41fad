"""Every verdict as one JSON line in a file: what `calibrate` and `replay` read."""

from __future__ import annotations

from pathlib import Path

from cascade.trace import Record, write
from miner.service import Answered


class TraceFile:
    """An observer that appends. Lines are whole on disk as soon as they are written: the file is line-buffered."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", buffering=1, encoding="utf-8")

    def answered(self, answered: Answered) -> None:
        if answered.frame is not None and answered.verdict is not None:
            self._file.write(write(Record.of(answered.verdict, answered.frame, label=answered.label)) + "\n")

    def close(self) -> None:
        self._file.close()
