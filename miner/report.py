"""What came of a run of the mock validator: values, then JSON, then one HTML page that needs nothing else.

`figures` turns exchanges (and the miner's trace, where there is one) into plain values; `page` draws them.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from cascade.trace import Record
from miner.charts import bars, latency, reliability, routing
from miner.scoring import ACCURACY_WINDOW, MCC_WINDOW, Scorer, Standing
from miner.webpage import card, document, number, table
from models import metrics

SCHEMA = 1
DRAWN = "drawn pictures: a demonstration, not a benchmark"


@dataclass(frozen=True, slots=True)
class Exchange:
    """One request and what came of it.

    at: seconds from the start of the run to the request. prediction: what the validator holds, -1 for none. cause: why
    the answer is no number in [0, 1]; empty when it is one. level, label, ...: as in `miner.challenge.Challenge`.
    """

    validator: int
    at: float
    milliseconds: float
    prediction: float
    cause: str
    sha256: str
    label: int
    era: str
    level: int | None
    source: str
    organic: bool

    @property
    def valid(self) -> bool:
        return not self.cause


@dataclass(frozen=True, slots=True)
class Run:
    """What was asked of whom. source_kind: drawn, folder or hub. started: ISO 8601, UTC. seconds: wall time."""

    miner: str
    hotkey: str
    uid: int | None
    network: str
    source_kind: str
    source: str
    eras: tuple[str, ...]
    validators: int
    seed: int
    started: str
    seconds: float


def cause_of(status: int | None, message: str, prediction: float | None) -> str:
    """Why an answer does not count; empty when it does. status: HTTP, as the dendrite gives it."""
    if status is None:
        return "no answer"
    if status != 200:
        return f"{status} {message.split(':')[0].strip()}".strip()[:80]
    if prediction is None or not math.isfinite(prediction):
        return "not a finite number"
    if prediction == -1:
        return "200 without a prediction (-1)"
    return "" if 0.0 <= prediction <= 1.0 else "outside [0, 1]"


class Board:
    """The standing with each validator and over all of them, kept up as answers come."""

    def __init__(self, validators: int) -> None:
        self.exchanges: list[Exchange] = []
        self._scorers = [Scorer() for _ in range(validators)]
        self._total = Scorer()

    def add(self, exchange: Exchange) -> None:
        """Take one exchange in; organic ones have no label and are not scored."""
        self.exchanges.append(exchange)
        if not exchange.organic:
            for scorer in (self._scorers[exchange.validator], self._total):
                scorer.record(exchange.prediction, exchange.label)

    @property
    def standings(self) -> list[Standing]:
        """By validator."""
        return [scorer.standing for scorer in self._scorers]

    @property
    def total(self) -> Standing:
        """As one validator who had asked everything would hold it."""
        return self._total.standing

    def of(self, validator: int | None = None) -> list[Exchange]:
        """The exchanges of one validator, or all."""
        return [e for e in self.exchanges if validator is None or e.validator == validator]


def figures(run: Run, board: Board, records: Iterable[Record] = ()) -> dict[str, Any]:
    """Everything a report says, as JSON values. records: the miner's trace; verdicts of other pictures are ignored."""
    exchanges = board.of()
    scored = [e for e in exchanges if e.valid and not e.organic]
    traced = {record.sha256: record for record in records}
    return {
        "schema": SCHEMA,
        "note": DRAWN if run.source_kind == "drawn" else "",
        "run": {**asdict(run), "eras": list(run.eras)},
        "answers": _answers(exchanges),
        "reward": {
            "windows": {"mcc": MCC_WINDOW, "accuracy": ACCURACY_WINDOW},
            "total": asdict(board.total),
            "validators": [{**asdict(standing), **_answers(board.of(i))} for i, standing in enumerate(board.standings)],
        },
        "quality": _quality(scored),
        "reliability": metrics.columns([e.label for e in scored], [e.prediction for e in scored]),
        "milliseconds": _times([e.milliseconds for e in exchanges if e.valid]),
        "views": _views(scored),
        "cascade": _cascade([traced[e.sha256] for e in exchanges if e.sha256 in traced]),
        "points": [_point(e, traced.get(e.sha256)) for e in exchanges],
    }


def write(values: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    """`report.json` and `report.html` in `folder`, which is made. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    data, web = folder / "report.json", folder / "report.html"
    data.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    web.write_text(page(values), encoding="utf-8")
    return data, web


# ---- values ---------------------------------------------------------------------------------------------------------


def _answers(exchanges: Sequence[Exchange]) -> dict[str, Any]:
    failures = Counter(e.cause for e in exchanges if not e.valid)
    return {
        "challenges": len(exchanges),
        "answered": sum(e.valid for e in exchanges),
        "organic": sum(e.organic for e in exchanges),
        "failures": dict(failures.most_common()),
    }


def _quality(scored: Sequence[Exchange]) -> dict[str, Any] | None:
    if not scored:
        return None
    return metrics.summary([e.label for e in scored], [e.prediction for e in scored])


def _times(milliseconds: Sequence[float]) -> dict[str, float] | None:
    if not milliseconds:
        return None
    values = [*np.percentile(milliseconds, [50, 95, 99]), max(milliseconds)]
    return {name: round(float(v), 1) for name, v in zip(("p50", "p95", "p99", "max"), values, strict=True)}


def _views(scored: Sequence[Exchange]) -> list[dict[str, Any]]:
    """One row an era and level."""
    rows: dict[tuple[str, int], list[Exchange]] = {}
    for e in scored:
        rows.setdefault((e.era, -1 if e.level is None else e.level), []).append(e)
    return [
        {"era": era, "level": None if level < 0 else level, **_summary_row(rows[era, level])}
        for era, level in sorted(rows)
    ]


def _summary_row(scored: Sequence[Exchange]) -> dict[str, Any]:
    labels, said = [e.label for e in scored], [e.prediction for e in scored]
    both = len(set(labels)) == 2
    return {
        "n": len(scored),
        "positives": sum(labels),
        "mcc": metrics.mcc(labels, said) if both else None,
        "accuracy": metrics.accuracy(labels, said),
        "brier": metrics.brier(labels, said),
        "p50": round(float(np.median([e.milliseconds for e in scored])), 1),
    }


def _cascade(records: Sequence[Record]) -> dict[str, Any] | None:
    """What the trace says of the verdicts: None without one."""
    if not records:
        return None
    verdicts = [record.verdict for record in records]
    opinions = [opinion for verdict in verdicts for opinion in verdict.opinions]
    models = sorted({opinion.model for opinion in opinions})
    return {
        "verdicts": len(verdicts),
        "tiers": dict(Counter(" > ".join(v.tiers) or "none" for v in verdicts).most_common()),
        "stops": dict(Counter(v.stop.value for v in verdicts).most_common()),
        "sources": dict(Counter(v.source.value for v in verdicts).most_common()),
        "degraded": sum(v.degraded for v in verdicts),
        "models": {
            model: {
                "opinions": sum(o.model == model for o in opinions),
                "p50": round(float(np.median([o.milliseconds for o in opinions if o.model == model])), 1),
            }
            for model in models
        },
    }


def _point(e: Exchange, record: Record | None) -> dict[str, Any]:
    tiers = list(record.verdict.tiers) if record else None
    return {
        "at": round(e.at, 3),
        "validator": e.validator,
        "milliseconds": round(e.milliseconds, 1),
        "prediction": e.prediction if math.isfinite(e.prediction) else None,
        "cause": e.cause,
        "label": None if e.organic else e.label,
        "era": e.era,
        "level": e.level,
        "source": e.source,
        "tiers": tiers,
        "stop": record.verdict.stop.value if record else None,
    }


# ---- page -----------------------------------------------------------------------------------------------------------


def page(values: Mapping[str, Any]) -> str:
    """The report as one HTML document: no network, no script, light and dark, wide and narrow, on paper too."""
    run, answers, total = values["run"], values["answers"], values["reward"]["total"]
    quality, times, cascade = values["quality"], values["milliseconds"], values["cascade"]
    answered = [p for p in values["points"] if not p["cause"]]
    tiles = [
        ("answered", f"{answers['answered']}/{answers['challenges']}", "finite numbers in [0, 1], in time"),
        (f"MCC, last {MCC_WINDOW}", f"{total['mcc']:.3f}", "as the validator computes it"),
        (f"accuracy, last {ACCURACY_WINDOW}", f"{total['accuracy']:.2f}", "as the validator computes it"),
        ("reward", f"{total['reward']:.3f}", "(MCC/2 + accuracy/2)³"),
        *_quality_tiles(quality),
        *(
            [("latency", f"{times['p50']:.0f} ms", f"p95 {times['p95']:.0f}, p99 {times['p99']:.0f} ms")]
            if times
            else []
        ),
    ]
    failures = answers["failures"]
    cards = (
        card(
            "Reliability",
            "Of the pictures given a probability, how many were road work. On the dashed line, the miner means what it "
            "says. Bars are 95 % intervals, areas count pictures.",
            reliability(values["reliability"]),
        ),
        card(
            "Routing",
            "Every answer by the time it took and the probability it gave. Colour tells the tiers that were asked.",
            routing(answered),
        ),
        card(
            "Latency",
            "From the signed request to the number, as the validators see it. They wait 9 seconds.",
            latency([p["milliseconds"] for p in answered], times),
        ),
        _cascade_card(cascade),
        card(
            "By era and level",
            "January 2026: 224 x 224, changed by level 0 to 3; crops may cut the road work out. May 2026: native size, "
            "unchanged.",
            _views_table(values["views"]),
        ),
        card(
            "Validators",
            "Each with its own key and its own windows. Organic requests carry no label and are not scored. Average: "
            "the moving average that becomes the weight.",
            _validators_table(values["reward"]["validators"]),
        ),
        card(
            "Failures by cause",
            "" if failures else "None.",
            table(("cause", "count"), [(escape(cause), n) for cause, n in failures.items()]) if failures else "",
        ),
    )
    title = f"StreetVision miner: {answers['answered']} of {answers['challenges']} challenges answered"
    return document(title, _about(run), tiles, cards, values["note"])


def _views_table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ("era", "level", "n", "road work", "MCC", "accuracy", "Brier", "p50")
    names = ("mcc", "accuracy", "brier")
    cells = [
        (
            r["era"],
            "native" if r["level"] is None else r["level"],
            r["n"],
            r["positives"],
            *(number(r[name]) for name in names),
            f"{r['p50']:.0f} ms",
        )
        for r in rows
    ]
    return table(head, cells)


def _validators_table(rows: Sequence[Mapping[str, Any]]) -> str:
    head = ("validator", "asked", "answered", "organic", "MCC", "accuracy", "reward", "average")
    names = ("mcc", "accuracy", "reward", "score")
    cells = [
        (f"#{i}", r["challenges"], r["answered"], r["organic"], *(number(r[name]) for name in names))
        for i, r in enumerate(rows)
    ]
    return table(head, cells)


def _quality_tiles(quality: Mapping[str, Any] | None) -> list[tuple[str, str, str]]:
    if quality is None:
        return []
    return [_quality_tile(metrics.TITLES[key], quality[key]) for key in ("auc", "ece", "brier")]


def _quality_tile(name: str, figure: Mapping[str, float | None]) -> tuple[str, str, str]:
    interval = metrics.bounds(figure, 3)
    return name, number(figure["value"]), f"95 %: {interval}" if interval else ""


def _about(run: Mapping[str, Any]) -> str:
    who = f"uid {run['uid']}" if run["uid"] is not None else "not registered"
    return (
        f"{run['hotkey']} ({who}) on {run['network']}; {run['validators']} validators, {run['source']}, "
        f"eras {' and '.join(run['eras'])}, seed {run['seed']}; {run['started']}, {run['seconds']:.1f} s"
    )


def _cascade_card(cascade: Mapping[str, Any] | None) -> str:
    if cascade is None:
        return ""
    models = table(
        ("model", "opinions", "p50"),
        [(escape(name), m["opinions"], f"{m['p50']:.0f} ms") for name, m in cascade["models"].items()],
    )
    share = f"{cascade['degraded']} of {cascade['verdicts']}"
    degraded = f"<p>{share} verdicts went without a member that should have answered.</p>"
    body = bars(cascade["tiers"], "tiers") + bars(cascade["stops"], "stopped because") + models
    return card("Tiers asked, and where it stopped", "", body + (degraded if cascade["degraded"] else ""))
