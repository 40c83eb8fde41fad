"""Small charts as inline SVG, coloured by the page's own variables so that they follow light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

WIDTH, HEIGHT = 460, 340
LEFT, RIGHT, TOP, BOTTOM = 48, 14, 14, 44
ACROSS, DOWN = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
MOST_TIERS = 4  # colours there are


def reliability(columns: Sequence[Mapping[str, Any]]) -> str:
    """Said against seen: a dot a column, its area by the pictures in it, with the interval of the share."""
    if not columns:
        return "<p>No scored answers.</p>"
    most = max(column["count"] for column in columns)
    parts = [_grid("probability said", "share that was road work", 1.0, _hundredths)]
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
        x, y, label = _x(point["milliseconds"] / top), _y(point["prediction"]), point["label"]
        tiers = point["tiers"]
        kind = f"t{min(len(tiers), MOST_TIERS)}" if tiers is not None else "t0"
        wrong = label is not None and (point["prediction"] > 0.5) != (label == 1)
        words = {None: "organic", 0: "clear", 1: "road work"}[label]
        title = f"{words}: {point['prediction']:.3f} in {point['milliseconds']:.0f} ms"
        title += f", {' > '.join(tiers)}; {point['stop']}" if tiers is not None else ""
        shape = (
            f'<path d="M{x} {y - 5}l5 8.6h-10z"' if label == 1 else f'<circle cx="{x}" cy="{y}" r="4"'
        ) + f' class="{kind}{" wrong" if wrong else ""}"'
        tag = "path" if label == 1 else "circle"
        parts.append(f"{shape}><title>{escape(title)}</title></{tag}>")
    return _svg("Routing plot", parts) + _legend(points)


def _legend(points: Sequence[Mapping[str, Any]]) -> str:
    names = {len(point["tiers"]): " > ".join(point["tiers"]) for point in points if point["tiers"] is not None}
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
    parts = [_grid("milliseconds", f"answers (highest column {most})", top, _plain, labels_up=False)]
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


def _grid(across: str, up: str, top: float, form: Any, labels_up: bool = True) -> str:
    """Five lines each way with their figures. top: the value at the right edge."""
    parts = []
    for i in range(6):
        share = i / 5
        parts.append(f'<line class="grid" x1="{_x(0)}" y1="{_y(share)}" x2="{_x(1)}" y2="{_y(share)}"/>')
        parts.append(f'<text x="{_x(share)}" y="{_y(0) + 16}" text-anchor="middle">{form(share * top)}</text>')
        if labels_up:
            parts.append(f'<text x="{LEFT - 7}" y="{_y(share) + 4}" text-anchor="end">{_hundredths(share)}</text>')
    parts.append(f'<text x="{LEFT + ACROSS / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(across)}</text>')
    middle = TOP + DOWN / 2
    parts.append(f'<text transform="translate(13 {middle}) rotate(-90)" text-anchor="middle">{escape(up)}</text>')
    return "".join(parts)


def _x(share: float) -> float:
    return round(LEFT + ACROSS * share, 1)


def _y(share: float) -> float:
    return round(TOP + DOWN * (1 - share), 1)


def _hundredths(value: float) -> str:
    return f"{value:.1f}"


def _plain(value: float) -> str:
    return f"{value:g}"


def _round_up(value: float) -> float:
    """The next of a few round numbers: five equal steps of each are round too."""
    power = 10.0 ** math.floor(math.log10(max(value, 1e-3)))
    return next(step * power for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if step * power >= value)
