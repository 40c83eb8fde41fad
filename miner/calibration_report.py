"""What `calibrate` found as one HTML page: how far the probabilities can be believed before and after, what routing
does, and what each exit band would cost and give.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import compress

import numpy as np

from cascade.worth import Fitted, Outcome
from miner.charts import Routed, escalation, reliability, trade_off
from miner.webpage import Tile, card, document, number, table
from models import metrics

MOST_POINTS = 1500  # in the routing plot; more hide each other and make the page heavy


def page(fitted: Fitted) -> str:
    """The page, without network or script."""
    profile, fit = fitted.profile, fitted.fit
    about = (
        f"profile {profile.name}, {fit.n} pictures ({fit.prevalence:.0%} road work), {fit.date}, pictures and labels "
        f"{fit.data_sha256[:12]}; every measure out of fold, and as it would be with {profile.prevalence:.0%} road work"
    )
    cards = [
        card("Before and after", _INTERVALS, _measures(fitted.ways)),
        card("What was learned", "", _learned(fitted)),
        card("Reliability before", _RELIABILITY, _diagram(fitted, fitted.before)),
        card("Reliability after", _RELIABILITY, _diagram(fitted, fitted.after)),
    ]
    if len(profile.tiers) > 1:
        cards.append(card("Routing", _routing_words(fitted), _routing(fitted)))
        cards.append(card("Exit bands", _bands(fitted), _trade_off(fitted)))
    return document(f"Calibration of {profile.name}", about, _tiles(fitted), cards)


_INTERVALS = f"95 % intervals; whole cameras are drawn where there are at least {metrics.FEWEST_GROUPS}."
_RELIABILITY = (
    "Of the pictures given a probability, how many were road work. On the dashed line, it means what it says. Bars are "
    "95 % intervals, areas count pictures."
)


def _tiles(fitted: Fitted) -> list[Tile]:
    before, after = fitted.before.worth, fitted.after.worth
    gain = metrics.gained(*fitted.gain)
    return [
        (
            "MCC",
            number(after["mcc"]["value"]),
            f"before {number(before['mcc']['value'])}; {gain}",
        ),
        ("ECE", number(after["ece"]["value"]), f"before {number(before['ece']['value'])}"),
        ("mean time", f"{after['mean_ms']:.0f} ms", f"every tier {fitted.every_tier.worth['mean_ms']:.0f} ms"),
        ("asked a second tier", f"{after['escalated']:.0%}", f"before {before['escalated']:.0%}"),
    ]


def _measures(ways: Mapping[str, Outcome]) -> str:
    rows: list[tuple[str, ...]] = [
        (name, *(_two_lines(way.worth[key]) for way in ways.values())) for key, name in metrics.TITLES.items()
    ]
    rows.append(("asked a second tier", *(f"{way.worth['escalated']:.1%}" for way in ways.values())))
    rows.append(("mean ms", *(f"{way.worth['mean_ms']:.1f}" for way in ways.values())))
    return table(("", *ways), rows)


def _two_lines(measure: Mapping[str, float]) -> str:
    return f"{measure['value']:.3f}<br><small>{metrics.bounds(measure, 3)}</small>"


def _diagram(fitted: Fitted, way: Outcome) -> str:
    return reliability(metrics.columns(fitted.labels, way.p, fitted.weight))


def _routing_words(fitted: Fitted) -> str:
    n = len(fitted.labels)
    words = (
        "Each picture by what the first tier said and what was answered, out of fold. The next tier was asked inside "
        "the shaded band, and where the interval around the probability touched it."
    )
    return f"{words} {MOST_POINTS} of {n} drawn by lot." if n > MOST_POINTS else words


def _routing(fitted: Fitted) -> str:
    drawn = np.sort(np.random.default_rng(0).permutation(len(fitted.labels))[:MOST_POINTS])
    names = [tier.name for tier in fitted.profile.tiers]
    first, last = fitted.first_tier.p[drawn], fitted.after.p[drawn]
    rows = zip(first, last, fitted.labels[drawn], fitted.after.asked[drawn], strict=True)
    points = [Routed(float(p), float(q), int(label), tuple(compress(names, asked))) for p, q, label, asked in rows]
    return escalation(points, fitted.fit.band)


def _bands(fitted: Fitted) -> str:
    chosen = fitted.chosen
    return (
        f"Each ring is one band. The filled one is in the fit: {chosen.low:g} to {chosen.high:g}, MCC {chosen.mcc:.3f} "
        f"in {chosen.mean_ms:.1f} ms."
    )


def _trade_off(fitted: Fitted) -> str:
    points = [(band.mean_ms, band.mcc) for band in fitted.candidates]
    return trade_off(points, (fitted.chosen.mean_ms, fitted.chosen.mcc))


def _learned(fitted: Fitted) -> str:
    fit = fitted.fit
    rows = [
        (key, fit.members[key].method if key in fit.members else "–", number(weight))
        for key, weight in fit.pooled.weights.items()
    ]
    sets = [
        (key, stack.n, stack.calibration.method, ", ".join(f"{name} {w:.2f}" for name, w in stack.weights.items()))
        for key, stack in fit.subsets.items()
    ]
    conditions = [(name, f"{c.slope:.2f}", f"{c.bias:+.2f}") for name, c in fit.conditions.items()]
    parts = [
        table(("member", "calibration", "pooled weight"), rows),
        table(("heard together", "pictures", "calibration", "weights"), sets),
    ]
    if conditions:
        parts.append(table(("condition", "slope", "log-odds"), conditions))
    parts.append(f"<p>Shift of the decision: {fit.shift:+.2f} in log-odds.</p>")
    return "".join(parts)
