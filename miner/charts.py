"""Small charts as inline SVG, coloured by the page's own variables so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

WIDTH, HEIGHT = 460, 340
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 14, 44
ACROSS, DOWN = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
MOST_TIERS = 4  # colours there are
Form = Callable[[float], str]  # how a figure beside the grid is written


def _tenths(value: float) -> str:
    return f"{value:.1f}"


def _plain(value: float) -> str:
    return f"{value:g}"


def reliability(columns: Sequence[Mapping[str, Any]]) -> str:
    """Said against seen: a dot a column (see `metrics.Bin`), its area by the pictures in it, with the interval of the
    share."""
    if not columns:
        return "<p>No scored answers.</p>"
    most = max(column["count"] for column in columns)
    parts = [_grid("probability said", "share that was road work", 1.0, _tenths)]
    parts.append(f'<line class="ideal" x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}"/>')
    spots = [(_x(c["mean_probability"]), _y(c["share_of_roadwork"])) for c in columns]
    for (x, y), column in zip(spots, columns, strict=True):
        radius = 3.5 + 8 * math.sqrt(column["count"] / most)
        parts.append(f'<line class="whisker" x1="{x}" y1="{_y(column["low"])}" x2="{x}" y2="{_y(column["high"])}"/>')
        parts.append(
            f'<circle class="dot" cx="{x}" cy="{y}" r="{radius:.1f}"><title>{column["count"]} pictures: said '
            f"{column['mean_probability']:.2f}, seen {column['share_of_roadwork']:.2f}</title></circle>"
        )
    return _svg("Reliability diagram", parts)


def routing(points: Sequence[Mapping[str, Any]]) -> str:
    """Each answer by time and probability; colour: how many tiers were asked, shape: the label, ring: a wrong side."""
    if not points:
        return "<p>No answers.</p>"
    top = _round_up(max(point["milliseconds"] for point in points))
    parts = [_grid("milliseconds", "probability", top, _plain)]
    parts.append(f'<line class="half" x1="{_x(0)}" y1="{_y(0.5)}" x2="{_x(1)}" y2="{_y(0.5)}"/>')
    for point in points:
        label, tiers = point["label"], point["tiers"]
        words = {None: "organic", 0: "clear", 1: "road work"}[label]
        title = f"{words}: {point['prediction']:.3f} in {point['milliseconds']:.0f} ms"
        title += f", {' > '.join(tiers)}; {point['stop']}" if tiers is not None else ""
        x, y = _x(point["milliseconds"] / top), _y(point["prediction"])
        parts.append(_spot(x, y, label, tiers, point["prediction"], title))
    return _svg("Routing plot", parts) + _legend([point["tiers"] for point in points])


@dataclass(frozen=True, slots=True)
class Routed:
    """One picture: the probability after the first tier, the one that was answered, its label, the tiers asked."""

    first: float
    last: float
    label: int
    tiers: tuple[str, ...]


def escalation(points: Sequence[Routed], band: tuple[float, float]) -> str:
    """What the first tier said against what was answered; marks as in `routing`, the exit band shaded."""
    low, high = _x(band[0]), _x(band[1])
    parts = [f'<rect class="exit" x="{low}" y="{_y(1)}" width="{high - low:.1f}" height="{DOWN}"/>']
    parts.append(_grid("probability after the first tier", "probability answered", 1.0, _tenths))
    parts.append(f'<line class="half" x1="{_x(0)}" y1="{_y(0.5)}" x2="{_x(1)}" y2="{_y(0.5)}"/>')
    for point in points:
        truth = ("clear", "road work")[point.label]
        title = f"{truth}: {point.first:.3f}, then {point.last:.3f}, {' > '.join(point.tiers)}"
        parts.append(_spot(_x(point.first), _y(point.last), point.label, point.tiers, point.last, title))
    return _svg("Routing plot", parts) + _legend([point.tiers for point in points])


def _spot(x: float, y: float, label: int | None, tiers: Sequence[str] | None, said: float, title: str) -> str:
    """Colour: how many tiers were asked; shape: the label; ring: a wrong side."""
    kind = f"t{min(len(tiers), MOST_TIERS)}" if tiers is not None else "t0"
    wrong = " wrong" if label is not None and (said > 0.5) != (label == 1) else ""
    tag, shape = ("path", f'd="M{x} {y - 5}l5 8.6h-10z"') if label == 1 else ("circle", f'cx="{x}" cy="{y}" r="4"')
    return f'<{tag} {shape} class="{kind}{wrong}"><title>{escape(title)}</title></{tag}>'


def _legend(asked: Sequence[Sequence[str] | None]) -> str:
    names = {len(tiers): " > ".join(tiers) for tiers in asked if tiers is not None}
    colours = [f'<i class="key t{min(n, MOST_TIERS)}"></i>{escape(names[n] or "none")}' for n in sorted(names)]
    shapes = ["&#9650; road work", "&#9679; clear", '<i class="key ring"></i>wrong side of 0.5']
    return f'<p class="legend">{" ".join(f"<span>{entry}</span>" for entry in colours + shapes)}</p>'


def latency(milliseconds: Sequence[float], times: Mapping[str, float] | None) -> str:
    """How long answers took, as the validator sees it."""
    if not milliseconds or times is None:
        return "<p>No answers.</p>"
    top = _round_up(max(milliseconds))
    counts, edges = np.histogram(milliseconds, 24, (0, top))
    most = int(counts.max())
    parts = [_grid("milliseconds", f"answers (highest column {most})", top, _plain, rise=None)]
    for count, left, right in zip(counts.tolist(), edges[:-1], edges[1:], strict=True):
        x0, x1, y = _x(float(left) / top), _x(float(right) / top), _y(count / most * 0.94)
        parts.append(
            f'<rect class="bar" x="{x0}" y="{y}" width="{max(x1 - x0 - 1.5, 1):.1f}" height="{_y(0) - y:.1f}"/>'
        )
    for i, name in enumerate(("p50", "p95", "p99")):
        x = _x(times[name] / top)
        anchor = "end" if x > WIDTH - 60 else "start"
        shift = -4 if anchor == "end" else 4
        parts.append(f'<line class="mark" x1="{x}" y1="{_y(1)}" x2="{x}" y2="{_y(0)}"/>')
        parts.append(
            f'<text class="tag" x="{x + shift}" y="{_y(1) + 11 + 13 * i}" text-anchor="{anchor}">{name}</text>'
        )
    return _svg("Latency histogram", parts)


def trade_off(points: Sequence[tuple[float, float]], chosen: tuple[float, float]) -> str:
    """Each exit band by the mean milliseconds it takes and the MCC it gives; the chosen one is filled."""
    top = _round_up(max(ms for ms, _ in points))
    least, most = min(mcc for _, mcc in points), max(mcc for _, mcc in points)
    spread = max(most - least, 0.01)

    def height(mcc: float) -> float:
        return (mcc - least) / spread

    grid = _grid("mean milliseconds", "MCC", top, _plain, lambda share: f"{least + share * spread:.3f}")
    dots = [f'<circle class="band" cx="{_x(ms / top)}" cy="{_y(height(mcc))}" r="3"/>' for ms, mcc in points]
    ms, mcc = chosen
    dot = f'<circle class="dot" cx="{_x(ms / top)}" cy="{_y(height(mcc))}" r="6">'
    return _svg("Cost and worth of exit bands", [grid, *dots, f"{dot}<title>{mcc:.3f} in {ms:.1f} ms</title></circle>"])


def bars(counts: Mapping[str, int], caption: str) -> str:
    """One row a name, its length by the count."""
    total = sum(counts.values())
    rows = "".join(
        f'<div class="row"><span>{escape(name)}</span><b style="width:{max(100 * count / total, 0.6):.1f}%"></b>'
        f"<em>{count} ({100 * count / total:.0f} %)</em></div>"
        for name, count in counts.items()
    )
    return f'<div class="bars"><h3>{escape(caption)}</h3>{rows}</div>'


def _svg(name: str, parts: Sequence[str]) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{name}">{"".join(parts)}</svg>'


def _grid(across: str, up: str, top: float, form: Form, rise: Form | None = _tenths) -> str:
    """Five lines each way with their figures. top: the value at the right edge. rise: the figure at a share of the
    height, None for no figures."""
    parts = []
    for i in range(6):
        share = i / 5
        parts.append(f'<line class="grid" x1="{_x(0)}" y1="{_y(share)}" x2="{_x(1)}" y2="{_y(share)}"/>')
        parts.append(f'<text x="{_x(share)}" y="{_y(0) + 16}" text-anchor="middle">{form(share * top)}</text>')
        if rise:
            parts.append(f'<text x="{LEFT - 7}" y="{_y(share) + 4}" text-anchor="end">{rise(share)}</text>')
    parts.append(f'<text x="{LEFT + ACROSS / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(across)}</text>')
    middle = TOP + DOWN / 2
    parts.append(f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{escape(up)}</text>')
    return "".join(parts)


def _x(share: float) -> float:
    return round(LEFT + ACROSS * share, 1)


def _y(share: float) -> float:
    return round(TOP + DOWN * (1 - share), 1)


def _round_up(value: float) -> float:
    """The next of a few round numbers: five equal steps of each are round too."""
    power = 10.0 ** math.floor(math.log10(max(value, 1e-3)))
    return next(step * power for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value)
