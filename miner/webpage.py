"""The one look of all pages that stand alone: no network, no script, light and dark, wide and narrow, on paper too."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

TEMPLATE = Path(__file__).with_name("webpage.html")
Tile = tuple[str, str, str]  # name, figure, what it means


def document(title: str, about: str, tiles: Iterable[Tile], cards: Iterable[str], note: str = "") -> str:
    """One HTML document. title, about, note: plain text. tiles: the figures on top. cards: see `card`."""
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        note=f'<p class="note">{escape(note)}</p>' if note else "",
        about=escape(about),
        tiles="".join(f"<div class=tile><span>{n}</span><strong>{v}</strong><em>{h}</em></div>" for n, v, h in tiles),
        cards="\n".join(cards),
    )


def card(heading: str, words: str, body: str) -> str:
    """A part of the page. heading, words: plain text; body: HTML."""
    said = f"<p>{escape(words)}</p>" if words else ""
    return f"<section><h2>{escape(heading)}</h2>{said}{body}</section>"


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Cells are HTML."""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class=scroll><table><tr>{''.join(f'<th>{h}</th>' for h in head)}</tr>{body}</table></div>"


def number(value: float | None) -> str:
    """Three decimals; a dash for what there is none of."""
    return "–" if value is None else f"{value:.3f}"
