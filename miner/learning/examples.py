"""The labelled pictures: what a fit may learn from, the frozen gate set, and what the version in force never saw.

Whatever judges, and the calibrations and weights that are fitted, take representative pictures only: labels of the
testnet, and of pictures drawn by lot. A reviewer's queue is full of pictures that the members got wrong; a fit that
took them for the traffic would learn to distrust everybody, and in simulation did. Head and memory learn from all of
them, and are part of the version that is judged: in simulation a memory that took labels past the gate made the miner
worse.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cascade.trace import Record, read_all, write
from miner.journal_views import Example

WEEK = 7 * 86400.0
MOST_WEEKS = 4
ENOUGH = 60  # pictures of each label from which one week is enough
LEAST = 20  # pictures of each label a set needs to judge at all


class ImproveError(ValueError):
    """Nothing could be tried. The message says what is missing."""


@dataclass(frozen=True, slots=True)
class Data:
    """Labelled examples: what a fit may learn from, and the frozen gate set, which none ever does.

    new: those of `train` that the version in force did not learn from. They judge as well, by answers of fits that left
    them out (`steps.out_of_fold`). week: the newest of these; a network is not trained five times, so it never sees
    them.
    """

    train: tuple[Example, ...]
    gate: tuple[Example, ...]
    new: tuple[Example, ...]
    week: tuple[Example, ...]

    @property
    def sha256(self) -> str:
        """Of the training pictures and labels."""
        lines = sorted(f"{example.record.sha256} {example.label}" for example in self.train)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def base_examples(path: Path) -> list[Example]:
    """The labelled lines of a trace (`calibrate --record` writes them) as examples of no date."""
    with path.open(encoding="utf-8") as lines:
        return [Example(record, 0.0, "base", "base") for record in read_all(lines) if record.label >= 0]


def assemble(
    journal: Iterable[Example], base: Iterable[Example], gate_file: Path, since: float = 0.0, share: float = 0.3
) -> Data:
    """Split what is labelled; the gate set (a `share` of the groups) is drawn from what was labelled before the newest
    week, and written to `gate_file` as soon as it has enough of both labels to judge.

    since: Unix time after which no label was learned by the version in force (`Versions.made`). Raises ImproveError
    without any label.
    """
    known = {example.record.sha256: example for example in [*base, *journal]}  # the journal's answer is the newer one
    if not known:
        raise ImproveError("no labelled picture: label some on the review page, or give --base a labelled trace")
    honest = [example for example in known.values() if example.representative]
    gate = base_examples(gate_file) if gate_file.is_file() else []
    if not can_judge(gate):
        newest = {e.record.sha256 for e in _newest(honest)}
        gate = [e for e in honest if e.record.sha256 not in newest and _in_gate(e.record, share)]
        if can_judge(gate):
            _write_lines(gate_file, (write(example.record) for example in gate))
            gate = base_examples(gate_file)
    frozen = {example.record.sha256 for example in gate} | {example.record.group for example in gate} - {""}
    train = tuple(e for e in known.values() if not {e.record.sha256, e.record.group} & frozen)
    new = tuple(e for e in train if e.representative and e.at > since)  # the base has no date: it is never new
    return Data(train, tuple(_with_embedding(e, known) for e in gate), new, _newest(new))


def can_judge(examples: Sequence[Example]) -> bool:
    """Whether there are enough of both labels."""
    roadwork = sum(example.label for example in examples)
    return min(roadwork, len(examples) - roadwork) >= LEAST


def _newest(honest: Sequence[Example]) -> tuple[Example, ...]:
    """The newest week's pictures; those of up to four weeks, until both labels are there often enough."""
    newest = max((example.at for example in honest), default=0.0)
    found: list[Example] = []
    for weeks in range(1, MOST_WEEKS + 1):
        found = [example for example in honest if example.at > max(newest - weeks * WEEK, 0.0)]
        roadwork = sum(example.label for example in found)
        if min(roadwork, len(found) - roadwork) >= ENOUGH:
            break
    return tuple(found)


def _in_gate(record: Record, share: float) -> bool:
    digest = hashlib.sha256(f"gate {record.group or record.sha256}".encode()).digest()
    return int.from_bytes(digest[:4], "big") < share * 2**32


def _with_embedding(example: Example, known: dict[str, Example]) -> Example:
    fresh = known.get(example.record.sha256)
    return replace(example, embedding=fresh.embedding) if fresh else example


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    draft = path.with_name(path.name + ".new")
    draft.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    draft.replace(path)
