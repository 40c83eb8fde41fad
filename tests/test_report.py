"""The report: values that a golden file holds, and a page that needs nothing else to be read."""

from __future__ import annotations

import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from cascade.trace import Record
from cascade.verdict import Source, Stop, Verdict
from miner import charts, report
from miner.report import Board, Exchange, Run, cause_of, figures, page
from miner.scoring import Scorer
from models import metrics
from models.base import Frame, Opinion

GOLDEN = Path(__file__).parent / "golden" / "report.json"
RUN = Run(
    miner="http://127.0.0.1:9100",
    hotkey="5FgftxVraVbuovQZABVyATbWWE9HSknZvsvkBypW5NKQNFfH",
    uid=16,
    network="mock",
    source_kind="drawn",
    source="drawn streets",
    eras=("2026-01", "2026-05"),
    validators=2,
    seed=0,
    started="2026-05-01T12:00:00Z",
    seconds=12.5,
)


def exchange(i, **other):
    """The i-th of a made-up run: right four times out of five, two eras, now and then organic or failed."""
    label = i % 2
    right = i % 5 != 0
    failed = i % 17 == 16
    values = {
        "validator": i % 3 // 2,
        "at": i * 0.1,
        "milliseconds": 30.0 + 7 * (i % 11) + (900 if failed else 0),
        "prediction": -1.0
        if failed
        else round((0.6 + 0.03 * (i % 13)) if right == bool(label) else 0.03 * (i % 14), 3),
        "cause": "408 Request timeout after 9 seconds" if failed else "",
        "sha256": hashlib.sha256(str(i).encode()).hexdigest(),
        "label": label,
        "era": "2026-01" if i % 3 else "2026-05",
        "level": i % 4 if i % 3 else None,
        "source": "drawn",
        "organic": i % 12 == 7,
    }
    return Exchange(**{**values, **other})


def board(exchanges, validators=2):
    board = Board(validators)
    for each in exchanges:
        board.add(each)
    return board


def record(each, tiers=("glance",)):
    opinions = tuple(Opinion(name, 0.5, 10.0 + 20 * i) for i, name in enumerate(tiers))
    stop = Stop.DECIDED if len(tiers) == 1 else Stop.LAST_TIER
    p = max(each.prediction, 0.0)
    verdict = Verdict(p, (p, p), opinions, (), tiers, stop, Source.CASCADE, len(tiers) > 1, 12.0)
    return Record.of(verdict, Frame(np.zeros((2, 2, 3), np.uint8), each.sha256))


def everything():
    exchanges = [exchange(i) for i in range(130)]
    records = [
        record(e, ("glance", "signs") if i % 6 == 0 else ("glance",)) for i, e in enumerate(exchanges) if e.valid
    ]
    return figures(RUN, board(exchanges), records)


def rounded(value):
    if isinstance(value, float):
        return round(value, 9)
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    return [rounded(each) for each in value] if isinstance(value, list) else value


def test_the_json_keeps_its_form():
    """Whoever changes the form on purpose raises `report.SCHEMA` and writes the file anew."""
    assert rounded(json.loads(json.dumps(everything(), allow_nan=False))) == json.loads(GOLDEN.read_text())


def test_the_rewards_are_those_of_scorers_fed_in_the_order_of_the_answers():
    exchanges = [exchange(i) for i in range(130)]
    values = figures(RUN, board(exchanges))
    for validator in (0, 1, None):
        scorer = Scorer()
        for each in exchanges:
            if not each.organic and validator in (each.validator, None):
                scorer.record(each.prediction, each.label)
        reward = values["reward"]
        told = reward["total"] if validator is None else reward["validators"][validator]
        assert (told["mcc"], told["accuracy"], told["reward"], told["score"]) == (
            scorer.standing.mcc,
            scorer.standing.accuracy,
            scorer.standing.reward,
            scorer.standing.score,
        )


def test_quality_is_measured_on_valid_answers_with_a_label():
    exchanges = [exchange(i) for i in range(130)]
    scored = [e for e in exchanges if e.valid and not e.organic]
    values = figures(RUN, board(exchanges))
    assert values["quality"] == metrics.summary([e.label for e in scored], [e.prediction for e in scored])
    assert sum(row["n"] for row in values["views"]) == len(scored)
    assert sum(column["count"] for column in values["reliability"]) == len(scored)


def test_a_measure_stands_with_its_interval_and_without_one_where_there_is_none():
    values = figures(RUN, board([exchange(i) for i in range(130)]))
    assert f"95 %: {metrics.bounds(values['quality']['auc'], 3)}" in page(values)
    alike = figures(RUN, board([exchange(i) for i in range(0, 130, 2)]))
    assert alike["quality"]["auc"]["value"] is None, "one label only"
    assert page(alike).count("95 %: ") == 2


def test_failures_are_counted_by_cause_and_organic_requests_by_number():
    answers = figures(RUN, board([exchange(i) for i in range(130)]))["answers"]
    assert answers["challenges"] == 130
    assert answers["failures"] == {"408 Request timeout after 9 seconds": 7}
    assert answers["answered"] == 123
    assert answers["organic"] == 11


def test_without_a_trace_the_page_leaves_the_cascade_out():
    values = figures(RUN, board([exchange(i) for i in range(20)]))
    assert values["cascade"] is None
    assert "Tiers asked" not in page(values)


def test_verdicts_of_other_pictures_are_ignored():
    strangers = [record(exchange(i)) for i in range(100, 110)]
    assert figures(RUN, board([exchange(i) for i in range(20)]), strangers)["cascade"] is None


def test_a_run_in_which_nothing_came_back_still_makes_a_report(tmp_path):
    lost = [exchange(i, prediction=-1.0, cause="503 Service unavailable") for i in range(10)]
    values = figures(RUN, board(lost))
    assert values["quality"] is None
    assert values["milliseconds"] is None
    data, web = report.write(values, tmp_path / "deep" / "er")
    assert json.loads(data.read_text()) == values
    assert "503 Service unavailable" in web.read_text()


class Elements(HTMLParser):
    """Every element opened and closed, in order."""

    VOID = frozenset({"meta", "link", "br"})

    def __init__(self, text):
        super().__init__()
        self.open = []
        self.names = set()
        self.addresses = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.names.add(tag)
        self.addresses += [v for k, v in attributes if k in ("src", "href", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.names.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_no_network_and_no_script():
    text = page(everything())
    elements = Elements(text)
    assert elements.open == []
    assert elements.addresses == []
    assert not {"script", "link", "img", "iframe"} & elements.names
    assert not re.search(r"url\(|@import|\$\w", text)
    assert text.count("<svg") == 3
    for svg in re.findall(r"<svg.*?</svg>", text, re.S):
        ElementTree.fromstring(svg)
    assert "prefers-color-scheme: dark" in text


def test_drawn_pictures_are_called_a_demonstration_and_others_are_not():
    assert report.DRAWN in page(everything())
    values = everything()
    folder = figures(Run(**{**values["run"], "source_kind": "folder", "eras": ("2026-05",)}), board([exchange(1)]))
    assert report.DRAWN not in page(folder)


def test_names_from_outside_are_escaped():
    values = figures(
        Run(**{**everything()["run"], "source": "<b>bold</b>"}),
        board([exchange(1, cause="500 <script>alert(1)</script>", prediction=-1.0)]),
    )
    assert "<script>" not in page(values)
    assert "<b>bold" not in page(values)


@pytest.mark.parametrize(
    ("status", "message", "prediction", "cause"),
    [
        (200, "Success", 0.5, ""),
        (200, "Success", 0.0, ""),
        (200, "Success", 1.0, ""),
        (200, "Success", 1.01, "outside [0, 1]"),
        (200, "Success", -0.2, "outside [0, 1]"),
        (200, "Success", -1.0, "200 without a prediction (-1)"),
        (200, "Success", None, "not a finite number"),
        (200, "Success", float("nan"), "not a finite number"),
        (408, "Request timeout after 9.0 seconds", -1.0, "408 Request timeout after 9.0 seconds"),
        (503, "Service unavailable at 1.2.3.4:5/ImageSynapse", -1.0, "503 Service unavailable at 1.2.3.4"),
        (None, "", -1.0, "no answer"),
    ],
)
def test_every_way_to_fail_has_a_name(status, message, prediction, cause):
    assert cause_of(status, message, prediction) == cause


def centres(svg, kind):
    root = ElementTree.fromstring(svg.split("</svg>")[0] + "</svg>")
    return [(float(e.get("cx")), float(e.get("cy"))) for e in root.iter() if (e.get("class") or "").startswith(kind)]


def test_reliability_dots_stand_where_the_figures_say():
    columns = [
        {"count": 10, "mean_probability": 0.0, "share_of_roadwork": 0.0, "low": 0.0, "high": 0.3},
        {"count": 40, "mean_probability": 1.0, "share_of_roadwork": 1.0, "low": 0.9, "high": 1.0},
    ]
    low, high = centres(charts.reliability(columns), "dot")
    assert low == (charts.LEFT, charts.TOP + charts.DOWN)
    assert high == (charts.LEFT + charts.ACROSS, charts.TOP)


def test_routing_colours_by_tiers_and_rings_what_is_wrong():
    values = figures(
        RUN,
        board([exchange(i, label=0, prediction=p, cause="", organic=False) for i, p in enumerate((0.2, 0.9))]),
        [record(exchange(0), ("a",)), record(exchange(1), ("a", "b"))],
    )
    drawn = charts.routing(values["points"])
    assert 'class="t1"' in drawn
    assert 'class="t2 wrong"' in drawn
    assert "a &gt; b" in drawn


@pytest.mark.parametrize(("value", "top"), [(143, 150), (900, 1000), (1001, 1500), (0.7, 0.8), (100, 100), (6.1, 8)])
def test_axes_end_on_round_numbers(value, top):
    assert charts._round_up(value) == pytest.approx(top)


def test_charts_without_points_say_so():
    assert charts.reliability([]) == "<p>No scored answers.</p>"
    assert charts.routing([]) == charts.latency([], None) == "<p>No answers.</p>"
