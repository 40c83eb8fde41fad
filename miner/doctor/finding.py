"""What a check says."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    """ok: as it should be. warn: works, but look. fail: the miner will not earn. unknown: could not be looked at."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """One check. figure: what was seen. remedy: what to do about it, empty when nothing."""

    name: str
    verdict: Outcome
    figure: str
    remedy: str = ""


Said = tuple[Outcome, str, str]


def ok(figure: str) -> Said:
    return Outcome.OK, figure, ""


def warn(figure: str, remedy: str) -> Said:
    return Outcome.WARN, figure, remedy


def fail(figure: str, remedy: str) -> Said:
    return Outcome.FAIL, figure, remedy


def unknown(figure: str, remedy: str = "") -> Said:
    return Outcome.UNKNOWN, figure, remedy
