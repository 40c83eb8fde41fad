"""Verdicts as JSON lines: what was asked, what came back, how long it took. Written by the miner, read by `calibrate`
and `replay`.

    {"time", "sha256", "width", "height", "probability", "interval", "tiers", "stop", "source", "degraded",
     "milliseconds", "opinions": [{"model", "logit", "milliseconds", "evidence"}],
     "failures": [{"model", "kind", "detail", "milliseconds"}]}

and, where the truth is known, "label" (1 road work, 0 none) and "group" (pictures of one camera or place share it).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from cascade.verdict import Source, Stop, Verdict
from models.base import Failure, Frame, NotFinite, Opinion


class TraceError(ValueError):
    """A line is no trace. The message says which line, and what was expected."""


@dataclass(frozen=True, slots=True)
class Record:
    """One verdict and the picture it is about. time: ISO 8601, UTC. label: -1 if unknown."""

    time: str
    sha256: str
    width: int
    height: int
    verdict: Verdict
    label: int = -1
    group: str = ""

    @classmethod
    def of(
        cls, verdict: Verdict, frame: Frame, *, when: datetime | None = None, label: int = -1, group: str = ""
    ) -> Record:
        """A record of now, or of `when` (aware)."""
        time = (when or datetime.now(UTC)).astimezone(UTC).isoformat(timespec="milliseconds")
        width, height = frame.size
        return cls(time.replace("+00:00", "Z"), frame.sha256, width, height, verdict, label, group)

    @property
    def size(self) -> tuple[int, int]:
        return self.width, self.height


def write(record: Record) -> str:
    """One line of JSON, without the line break."""
    verdict = record.verdict
    data: dict[str, Any] = {
        "time": record.time,
        "sha256": record.sha256,
        "width": record.width,
        "height": record.height,
        "probability": verdict.probability,
        "interval": list(verdict.interval),
        "tiers": list(verdict.tiers),
        "stop": verdict.stop.value,
        "source": verdict.source.value,
        "degraded": verdict.degraded,
        "milliseconds": verdict.milliseconds,
        "opinions": [asdict(opinion) for opinion in verdict.opinions],
        "failures": [asdict(failure) for failure in verdict.failures],
    }
    if record.label >= 0:
        data |= {"label": record.label, "group": record.group}
    return json.dumps(data, separators=(",", ":"), allow_nan=False)


def read(line: str) -> Record:
    """The record of one line. Raises TraceError."""
    try:
        data = json.loads(line)
        verdict = Verdict(
            probability=float(data["probability"]),
            interval=(float(data["interval"][0]), float(data["interval"][1])),
            opinions=tuple(Opinion(**opinion) for opinion in data["opinions"]),
            failures=tuple(Failure(**failure) for failure in data["failures"]),
            tiers=tuple(data["tiers"]),
            stop=Stop(data["stop"]),
            source=Source(data["source"]),
            degraded=bool(data["degraded"]),
            milliseconds=float(data["milliseconds"]),
        )
        return Record(
            time=str(data["time"]),
            sha256=str(data["sha256"]),
            width=int(data["width"]),
            height=int(data["height"]),
            verdict=verdict,
            label=int(data.get("label", -1)),
            group=str(data.get("group", "")),
        )
    except KeyError as error:
        raise TraceError(f"expected a trace line, {error} is missing: {line[:80]!r}") from error
    except (ValueError, TypeError, LookupError, NotFinite) as error:
        raise TraceError(f"expected a trace line ({error}): {line[:80]!r}") from error


def read_all(lines: Iterable[str]) -> Iterator[Record]:
    """The records of a file; empty lines are skipped. Raises TraceError with the number of the line."""
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield read(line)
            except TraceError as error:
                raise TraceError(f"line {number}: {error}") from error
