"""Recorded opinions decided again: the same verdict under the same profile, another under another."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cascade_helpers import picture, profile_of, record, running, study_records, tier

from cascade.deadline import Deadline
from cascade.profile import Member
from cascade.replay import replay, what_if
from cascade.trace import Record
from cascade.verdict import Source, Stop
from models.base import Failure
from models.fake import Fake

PROFILE = profile_of(tier("cheap", "a", expected_ms=20), tier("dear", "b", expected_ms=300), band=(0.1, 0.9))


@pytest.mark.parametrize(
    ("a", "b", "size"),
    [
        (0.3, -0.2, (640, 400)),
        (0.3, 2.0, (224, 224)),
        (4.0, 1.0, (640, 400)),
        (-4.0, 0.0, (64, 64)),
        (-0.5, -3.0, (400, 640)),
    ],
)
async def test_a_replay_decides_as_the_engine_did(a: float, b: float, size: tuple[int, int]) -> None:
    profile = profile_of(tier("cheap", "a"), tier("signs", Member(model="b", min_side=320)))
    frame = picture(*size)
    async with running(profile, [Fake("a", a), Fake("b", b)]) as engine:
        verdict = await engine.decide(frame, Deadline.after(5.0))
    again = replay(Record.of(verdict, frame), profile)
    assert replace(again, milliseconds=verdict.milliseconds) == verdict


def test_another_band_asks_fewer_tiers() -> None:
    recorded = record({"a": 1.0, "b": 3.0}, milliseconds={"a": 20.0, "b": 300.0})
    wide, narrow = replay(recorded, PROFILE), replay(recorded, PROFILE.model_copy(update={"band": (0.4, 0.6)}))
    assert (wide.tiers, wide.milliseconds) == (("cheap", "dear"), 320.0)
    assert (narrow.tiers, narrow.milliseconds) == (("cheap",), 20.0)


def test_what_the_trace_does_not_hold_is_missing_and_counted() -> None:
    recorded = record({"a": 1.0})
    verdict = replay(recorded, PROFILE)
    assert (verdict.source, verdict.degraded, verdict.tiers) == (Source.PARTIAL, True, ("cheap",))
    assert verdict.failures == (Failure("b", "unavailable", "not in the trace", 0.0),)
    assert what_if([recorded, record({"a": 9.0})], PROFILE).incomplete == 0.5


def test_recorded_failures_stay_failures() -> None:
    failure = Failure("b", "crashed", "told to crash", 7.0)
    recorded = record({"a": 1.0})
    recorded = replace(recorded, verdict=replace(recorded.verdict, failures=(failure,)))
    verdict = replay(recorded, PROFILE)
    assert verdict.failures == (failure,)
    assert verdict.milliseconds == 17.0


def test_opinions_that_came_later_than_the_new_deadline_are_dropped() -> None:
    recorded = record({"a": 1.0, "b": 3.0}, milliseconds={"a": 20.0, "b": 400.0})
    verdict = replay(recorded, PROFILE, seconds=0.33)
    assert [f.detail for f in verdict.failures] == ["no opinion within 310 ms"]
    assert (verdict.stop, verdict.milliseconds) == (Stop.LAST_TIER, 330.0)
    assert replay(recorded, PROFILE, seconds=0.2).stop is Stop.NO_TIME


def test_what_if_table() -> None:
    records = study_records(400, seed=11)
    rows = [
        what_if(records, PROFILE.model_copy(update={"band": band})) for band in ((0.5, 0.5), (0.1, 0.9), (0.0, 1.0))
    ]
    print()
    for row in rows:
        print(f"MCC {row.mcc:.3f}, escalated {row.escalated:.2f}, mean {row.mean_ms:.0f} ms")
    assert rows[0].escalated < rows[1].escalated < rows[2].escalated == 1.0
    assert rows[0].mean_ms < rows[1].mean_ms < rows[2].mean_ms == pytest.approx(320.0)
    assert rows[2].mcc is not None
    assert rows[0].mcc is not None
    assert rows[2].mcc > rows[0].mcc
    assert (rows[0].n, rows[0].labelled) == (400, 400)


def test_what_if_without_labels_or_records() -> None:
    assert what_if([record({"a": 9.0})], PROFILE).mcc is None
    with pytest.raises(ValueError, match="expected at least one trace record, got none"):
        what_if([], PROFILE)
