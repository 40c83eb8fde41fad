"""A verdict as one JSON line: the format must not drift, and what was written can be read again."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from cascade_helpers import picture
from hypothesis import given
from hypothesis import strategies as st

from cascade.trace import Record, TraceError, read, read_all, write
from cascade.verdict import Source, Stop, Verdict
from models.base import Failure, Opinion

GOLDEN = Path(__file__).parents[1] / "golden" / "trace.jsonl"
BOXES = {"boxes": [{"box": [1, 2, 30, 40], "label": "cone", "score": 0.9}]}
VERDICT = Verdict(
    probability=0.8125,
    interval=(0.75, 0.9),
    opinions=(Opinion("embedded", 0.25, 31.5), Opinion("sign-reading", 2.0, 412.0, BOXES)),
    failures=(Failure("dfine-x", "timeout", "no opinion within 1500 ms", 1500.25),),
    tiers=("embedded", "signs"),
    stop=Stop.DECIDED,
    source=Source.CASCADE,
    degraded=True,
    milliseconds=1932.5,
)
RECORD = Record("2026-11-23T12:00:00.125Z", "ab" * 32, 640, 360, VERDICT, label=1, group="camera 7")


def test_the_format_does_not_drift() -> None:
    assert write(RECORD) + "\n" == GOLDEN.read_text(encoding="utf-8")


def test_what_was_written_can_be_read() -> None:
    assert read(write(RECORD)) == RECORD
    assert list(read_all(["\n", write(RECORD) + "\n", "", write(RECORD)])) == [RECORD, RECORD]


numbers = st.floats(allow_nan=False, allow_infinity=False)
probabilities = st.floats(0.0, 1.0)
texts = st.text(max_size=20)


@given(
    st.builds(
        Record,
        time=texts,
        sha256=texts,
        width=st.integers(1, 10_000),
        height=st.integers(1, 10_000),
        label=st.just(-1),
        group=st.just(""),
        verdict=st.builds(
            Verdict,
            probability=probabilities,
            interval=st.tuples(probabilities, probabilities),
            opinions=st.lists(st.builds(Opinion, texts, numbers, numbers, st.just({})), max_size=3).map(tuple),
            failures=st.lists(st.builds(Failure, texts, texts, texts, numbers), max_size=2).map(tuple),
            tiers=st.lists(texts, max_size=3).map(tuple),
            stop=st.sampled_from(Stop),
            source=st.sampled_from(Source),
            degraded=st.booleans(),
            milliseconds=numbers,
        ),
    )
)
def test_any_record_survives(record: Record) -> None:
    line = write(record)
    assert "\n" not in line
    assert read(line) == record


def test_label_and_group_are_written_only_where_the_truth_is_known() -> None:
    frame = picture(320, 200)
    record = Record.of(VERDICT, frame)
    assert (record.label, record.size, record.sha256) == (-1, (320, 200), frame.sha256)
    assert not {"label", "group"} & set(json.loads(write(record)))


def test_the_time_is_universal() -> None:
    noon = datetime(2026, 11, 23, 13, tzinfo=timezone(timedelta(hours=1)))
    assert Record.of(VERDICT, picture(), when=noon).time == "2026-11-23T12:00:00.000Z"
    now = datetime.fromisoformat(Record.of(VERDICT, picture()).time)
    assert abs(now - datetime.now(UTC)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: expected a trace line"),
        ("[1, 2]", "line 2: expected a trace line"),
        ('{"time": "now"}', "line 2: expected a trace line, 'probability' is missing"),
        (write(RECORD).replace("0.8125", "1.8125"), r"probability: expected a finite number in \[0, 1\]"),
        (write(RECORD).replace("0.75,0.9", "0.75"), "line 2: expected a trace line"),
        (write(RECORD).replace('"logit":0.25', '"logit":NaN'), "logit is nan"),
        (write(RECORD).replace('"decided"', '"bored"'), "'bored' is not a valid Stop"),
        (write(RECORD).replace('"logit"', '"lodgit"'), "lodgit"),
    ],
)
def test_what_is_no_trace_is_named_with_its_line(line: str, message: str) -> None:
    with pytest.raises(TraceError, match=message):
        list(read_all([write(RECORD), line]))
