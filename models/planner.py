"""Places models on cards by exact search, before anything is downloaded.

All models of detectors and encoders share one perception process on one card; each VLM is an engine of its own. An
engine takes the best precision that lets everything fit (16 bits, then 8, then 4); one that fits on a card is never
split over several (independent replicas survive each other, tensor parallelism does not); room that is left goes to
replicas, cheapest first. GB are 10^9 bytes throughout; a card "80" is counted as 80 x 10^9 bytes, although an H100
reports 85.5 x 10^9: the difference is the margin.

What a model reserves is the measured figure where `docs/results/gpu-models*.json` has one (written by
`benchmarks/gpu_models.py`), else computed: weights + key-value cache + CUDA graphs and activations + context.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path

from models.catalog import Entry, find

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"

# What is reserved beside the weights, GB, until it is measured.
CONTEXT = 0.5  # CUDA context and libraries of one process
PERCEPTION_WORK = 1.0  # a batch of pictures and the allocator's slack, shared by the perception process
PERCEPTION_EACH = 0.35  # activations and graphs of one detector or encoder
ENGINE_WORK = 1.5  # graphs and activations of one engine
KV_TOKENS = 16_384  # e.g. 64 requests of 256 tokens at once
KV_UNKNOWN = 0.33  # MB per token, the largest known of the catalog, where an entry tells none
SCORER_TOKENS = 4_096  # a scorer keeps no request, only its questions: 32 of 128 tokens
SCORER_SHARE = (
    0.1  # of its weights; with it the three that were measured are covered (docs/results/scorer-2026-11-24.md)
)

MARGIN = 0.94  # of a card's memory is planned with: the driver and other users have some of it

LOSS = {"fp32": 0, "bf16": 0, "fp8": 1, "int4": 3}  # what a precision costs the search; 4 bits cost accuracy too
PERCEPTION = "perception"
STEP = 0.1  # GB; sizes are rounded up to this, so that the search meets equal states again


class DoesNotFit(ValueError):
    """The models cannot be placed on the cards. The message says which, and what to take instead."""


@dataclass(frozen=True, slots=True)
class Option:
    """One way to run a job. gb: reserved on each of `cards` cards. source: "measured", "computed", or in part each."""

    precision: str
    gb: float
    cards: int = 1
    source: str = "computed"

    @property
    def loss(self) -> int:
        """What the search minimises. Splitting outweighs any precision."""
        return LOSS[self.precision] + (100 * self.cards if self.cards > 1 else 0)


@dataclass(frozen=True, slots=True)
class Job:
    """One process: the perception process with its members, or the engine of one VLM. Options, best first."""

    key: str
    members: tuple[str, ...]
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class Placed:
    """A job on cards (numbers from 0). replica: counted from 0."""

    job: Job
    option: Option
    cards: tuple[int, ...]
    replica: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """Where everything goes. on_cpu: models that need no card. capacity: GB of each card."""

    capacity: tuple[float, ...]
    placed: tuple[Placed, ...]
    on_cpu: tuple[str, ...] = ()

    def used(self, card: int) -> float:
        """GB reserved on one card."""
        return sum(each.option.gb for each in self.placed if card in each.cards)

    @property
    def loss(self) -> int:
        return sum(each.option.loss for each in self.placed if each.replica == 0)

    def of(self, key: str) -> list[Placed]:
        """Where one model goes: its process, and the replicas of that; nothing for one that is not placed."""
        return [each for each in self.placed if key in each.job.members]


@cache
def measured(results: Path = RESULTS) -> Mapping[tuple[str, str], float]:
    """(key, precision) -> GB reserved, from every committed table; a later date wins."""
    found: dict[tuple[str, str], float] = {}
    tables = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("gpu-models*.json"))]
    for table in sorted(tables, key=lambda table: str(table["date"])):
        for row in table["models"]:
            if row.get("reserved_gb") is not None:
                found[row["key"], row["precision"]] = float(row["reserved_gb"])
    return found


def jobs(keys: Sequence[str], capacity: Sequence[float], results: Path = RESULTS) -> tuple[list[Job], list[str]]:
    """The processes that these models need, in the order given, and the models that need no card.

    Raises ModelUnavailable for an unknown key.
    """
    chosen = [find(key) for key in dict.fromkeys(keys)]
    seeing = [entry for entry in chosen if entry.isolated]
    work = [_perception(seeing, results)] if seeing else []
    work += [_engine(entry, capacity, results) for entry in chosen if entry.engine]
    return work, [entry.key for entry in chosen if not entry.isolated and not entry.engine]


def place(keys: Sequence[str], capacity: Sequence[float], results: Path = RESULTS) -> Placement:
    """The best placement: least loss of precision, nothing split that fits whole, then replicas in what is left.

    capacity: GB of each card. Raises DoesNotFit, ModelUnavailable.
    """
    work, on_cpu = jobs(keys, capacity, results)
    found = search(work, capacity)
    if found is None:
        raise DoesNotFit(_why(work, capacity))
    return Placement(tuple(capacity), tuple(found + _replicas(found, capacity)), tuple(on_cpu))


def what_fits(keys: Sequence[str], capacity: Sequence[float], results: Path = RESULTS) -> tuple[Placement, list[Job]]:
    """In the order given, each job that still fits beside those before it; and those that do not."""
    work, on_cpu = jobs(keys, capacity, results)
    kept: list[Job] = []
    left: list[Job] = []
    for job in work:
        (left if search([*kept, job], capacity) is None else kept).append(job)
    found = search(kept, capacity) or []
    return Placement(tuple(capacity), tuple(found), tuple(on_cpu)), left


def _perception(entries: Sequence[Entry], results: Path) -> Job:
    each = [member(entry, results) for entry in entries]
    sources = {option.source for option in each if option.gb}
    source = "in part measured" if len(sources) > 1 else next(iter(sources), "computed")
    gb = CONTEXT + PERCEPTION_WORK + sum(option.gb for option in each)
    return Job(PERCEPTION, tuple(entry.key for entry in entries), (Option("bf16", _rounded(gb), 1, source),))


def member(entry: Entry, results: Path = RESULTS) -> Option:
    """What one model adds to the perception process; one that only asks the others adds nothing."""
    known = measured(results).get((entry.key, "bf16"))
    if known is not None:
        return Option("bf16", known, 1, "measured")
    return Option("bf16", round(_smallest(entry) + PERCEPTION_EACH, 2) if entry.memory_gb else 0.0)


def _smallest(entry: Entry) -> float:
    """GB of weights as the perception process loads them: 16 bits."""
    return entry.memory_gb.get("bf16", min(entry.memory_gb.values(), default=0.0))


def _engine(entry: Entry, capacity: Sequence[float], results: Path) -> Job:
    largest = max(capacity, default=0.0)
    whole = [_option(entry, precision, 1, results) for precision in entry.memory_gb]
    if any(option.gb <= largest for option in whole):
        return Job(entry.key, (entry.key,), tuple(whole))
    widths = [n for n in (2, 4, 8) if n <= min(entry.tensor_parallel, len(capacity))]
    split = [_option(entry, precision, n, results) for n in widths for precision in entry.memory_gb]
    return Job(entry.key, (entry.key,), tuple(split or whole))


def _option(entry: Entry, precision: str, cards: int, results: Path) -> Option:
    known = measured(results).get((entry.key, precision))
    if known is not None and cards == 1:
        return Option(precision, _rounded(known), 1, "measured")
    weights = dict(entry.memory_gb)[precision]  # type: ignore[index]
    more = SCORER_SHARE * weights if entry.scorer else 0.0
    return Option(precision, _rounded((weights + cache_gb(entry)) / cards + more + ENGINE_WORK + CONTEXT), cards)


def cache_gb(entry: Entry) -> float:
    """GB of keys and values that an engine, or a scorer, keeps."""
    return (SCORER_TOKENS if entry.scorer else KV_TOKENS) * (entry.kv_mb_per_token or KV_UNKNOWN) / 1e3


def _rounded(gb: float) -> float:
    return round(-(-(gb - 1e-9) // STEP) * STEP, 1)


def search(work: Sequence[Job], capacity: Sequence[float]) -> list[Placed] | None:
    """The assignment of least total loss, or None. Exact: every loss in turn, largest jobs first, with memory of
    states (jobs left, room left) that led nowhere. Equal cards are tried once."""
    order = sorted(work, key=lambda job: -_least(job))
    least = [_least(job) for job in order]
    most = sum(max(option.loss for option in job.options) for job in order)
    best = sum(min(option.loss for option in job.options) for job in order)
    dead: set[tuple[int, tuple[float, ...], int]] = set()

    def fit(index: int, room: tuple[float, ...], loss: int) -> list[Placed] | None:
        if index == len(order):
            return []
        state = (index, tuple(sorted(room)), loss)
        if state in dead or sum(room) + 1e-6 < sum(least[index:]):
            return None
        for option in sorted(order[index].options, key=lambda option: option.loss):
            if option.loss > loss:
                continue
            for cards in _distinct(room, option):
                left = tuple(round(gb - option.gb, 1) if n in cards else gb for n, gb in enumerate(room))
                rest = fit(index + 1, left, loss - option.loss)
                if rest is not None:
                    return [Placed(order[index], option, cards), *rest]
        dead.add(state)
        return None

    if fit(0, tuple(capacity), most) is None:
        return None
    return next(found for loss in range(best, most + 1) if (found := fit(0, tuple(capacity), loss)) is not None)


def _distinct(room: Sequence[float], option: Option) -> list[tuple[int, ...]]:
    """Sets of cards with room for the option, fullest first; of sets with the same room only the first."""
    fitting = [n for n, gb in enumerate(room) if gb + 1e-6 >= option.gb]
    seen: dict[tuple[float, ...], tuple[int, ...]] = {}
    for cards in combinations(fitting, option.cards):
        seen.setdefault(tuple(room[n] for n in cards), cards)
    return sorted(seen.values(), key=lambda cards: (sum(room[n] for n in cards), cards))


def _replicas(found: Sequence[Placed], capacity: Sequence[float]) -> list[Placed]:
    """Second copies on other cards in the room that is left, perception first, then the smallest engine."""
    room = [gb - sum(each.option.gb for each in found if n in each.cards) for n, gb in enumerate(capacity)]
    copies: list[Placed] = []
    whole = [each for each in found if each.option.cards == 1]
    for each in sorted(whole, key=lambda each: (each.job.key != PERCEPTION, each.option.gb)):
        for card in range(len(capacity)):
            if card not in each.cards and room[card] + 1e-6 >= each.option.gb:
                count = sum(copy.job.key == each.job.key for copy in copies)
                copies.append(Placed(each.job, each.option, (card,), count + 1))
                room[card] -= each.option.gb
    return copies


def _why(work: Sequence[Job], capacity: Sequence[float]) -> str:
    cards = " + ".join(f"{gb:g}" for gb in capacity)
    alone = [job for job in work if search([job], capacity) is None]
    if alone:
        reasons = "; ".join(f"{job.key} {least_gb(job)}" for job in alone)
        notes = " ".join(find(job.key).note for job in alone if job.key != PERCEPTION)
        return f"not on {cards} GB, not even alone: {reasons}. {notes}".strip()
    total = sum(_least(job) for job in work)
    room = "" if total > sum(capacity) else ", in pieces that leave no valid packing"
    return f"together not on {cards} GB: at their smallest they reserve {total:.1f} GB{room}; drop the last tiers first"


def _least(job: Job) -> float:
    """GB, over all cards, of the job's smallest option."""
    return min(option.gb * option.cards for option in job.options)


def least_gb(job: Job) -> str:
    """The least that a job reserves, in words."""
    option = min(job.options, key=lambda option: option.gb * option.cards)
    return f"{option.gb * option.cards:.1f} GB at {option.precision}"
