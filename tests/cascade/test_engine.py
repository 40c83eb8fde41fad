"""One picture in, one verdict out: routing, deadlines, the second question, reload."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest
from cascade_helpers import PATIENT, QUICK, Clock, picture, profile_of, running, tier, until

from cascade.calibration import sigmoid
from cascade.deadline import Deadline
from cascade.engine import Engine
from cascade.profile import Batching, Member, SecondQuestion
from cascade.verdict import Source, Stop
from models.base import BadWeights, Frame
from models.fake import Fake, FakeExaminer, crash, hang, slow

TWO = profile_of(tier("cheap", "a", expected_ms=1, required=True), tier("dear", "b", expected_ms=10))


def soon(seconds: float = 60.0) -> Deadline:
    return Deadline.after(seconds)


async def test_sure_after_the_first_tier_stops_there() -> None:
    b = Fake("b", 1.0)
    async with running(TWO, [Fake("a", 3.0), b]) as engine:
        verdict = await engine.decide(picture(), soon())
    assert verdict.probability == pytest.approx(sigmoid(3.0))
    assert (verdict.tiers, verdict.stop, verdict.source) == (("cheap",), Stop.DECIDED, Source.CASCADE)
    assert (verdict.degraded, b.batches) == (False, [])


async def test_unsure_asks_the_next_tier_and_pools() -> None:
    async with running(TWO, [Fake("a", 0.5), Fake("b", 0.4)]) as engine:
        verdict = await engine.decide(picture(), soon())
    assert verdict.probability == pytest.approx(sigmoid(0.9))
    assert (verdict.tiers, verdict.stop, verdict.source) == (("cheap", "dear"), Stop.LAST_TIER, Source.CASCADE)
    assert [opinion.model for opinion in verdict.opinions] == ["a", "b"]


async def test_members_of_a_tier_work_side_by_side() -> None:
    together = threading.Barrier(4)  # opens only while all four are at work

    def meet(frames: object) -> None:
        together.wait(30.0)

    profile = profile_of(tier("all", *"abcd"))
    async with running(profile, [Fake(key, 0.1, fault=meet) for key in "abcd"]) as engine:
        verdict = await engine.decide(picture(), soon())
    assert len(verdict.opinions) == 4


async def test_a_next_tier_that_does_not_fit_is_not_asked() -> None:
    profile = profile_of(tier("cheap", "a"), tier("dear", "b", expected_ms=61_000))
    b = Fake("b", 4.0)
    async with running(profile, [Fake("a", 0.5), b]) as engine:
        verdict = await engine.decide(picture(), soon())
    assert (verdict.stop, verdict.source, b.batches) == (Stop.NO_TIME, Source.PARTIAL, [])


async def test_nor_is_one_whose_members_have_a_backlog() -> None:
    gate = threading.Event()
    b = Fake("b", 4.0, fault=slow(0.5))
    one_by_one = Member(model="b", timeout_ms=PATIENT, batching=Batching(max_size=1))
    async with running(profile_of(tier("cheap", "a"), tier("dear", one_by_one)), [Fake("a", 0.5), b]) as engine:
        await engine.decide(picture(), soon())  # the engine learns what b takes
        b._fault = hang(gate)
        ahead = [asyncio.create_task(engine.decide(picture(), soon())) for _ in range(24)]
        await until(lambda: len(b.batches) == 2 and engine.state()["b"].queued == 23)
        verdict = await engine.decide(picture(), soon(10.0))  # 25 times half a second do not fit
        assert verdict.stop is Stop.NO_TIME
        gate.set()
        assert {len((await each).opinions) for each in ahead} == {2}


async def test_members_that_will_not_be_asked_cost_no_time() -> None:
    """One is for large pictures only, one is broken, one is waited for no longer than its time-out: none of them keeps
    a small picture from the second tier."""
    slow_ones = [Fake(key, 0.5) for key in ("large", "broken", "impatient")]
    members = [Member(model="large", min_side=300), "broken", Member(model="impatient", timeout_ms=100.0), "c"]
    profile = profile_of(tier("one", "a"), tier("two", *members))
    policy = replace(QUICK, failures=1, cooldown=60.0, longest=60.0)
    async with running(profile, [Fake("a", 0.5), *slow_ones, Fake("c", 3.0)], policy=policy) as engine:
        for key in ("large", "broken", "impatient"):
            worker = engine._plan.supervisors[key]._worker
            assert worker is not None
            worker._seconds = 600.0  # what a batch took lately
        slow_ones[1]._fault = crash()
        assert not await engine._plan.supervisors["broken"].canary()
        verdict = await engine.decide(picture(224, 224), soon())
    assert "c" in {opinion.model for opinion in verdict.opinions}


async def test_late_opinions_are_dropped_never_awaited() -> None:
    released, clock = threading.Event(), Clock()

    def last_moment(frame: Frame) -> float:
        clock.now = 59.9
        return 0.5

    async with running(TWO, [Fake("a", last_moment), Fake("b", 4.0, fault=hang(released))]) as engine:
        verdict = await engine.decide(picture(), Deadline(60.0, clock))  # comes back while "b" is still at it
        released.set()
    assert verdict.probability == pytest.approx(sigmoid(0.5))
    assert (verdict.source, verdict.degraded) == (Source.PARTIAL, True)
    assert verdict.tiers == ("cheap", "dear")  # it was asked, though it did not answer
    assert [(failure.model, failure.kind) for failure in verdict.failures] == [("b", "timeout")]


async def test_time_that_ran_out_stops_before_the_next_tier() -> None:
    clock = Clock()

    def too_long(frame: Frame) -> float:
        clock.now = 61.0
        return 0.0

    profile = profile_of(tier("one", "a"), tier("two", "b"), tier("three", "c"))
    async with running(profile, [Fake("a", 0.5), Fake("b", too_long), Fake("c", 4.0)]) as engine:
        verdict = await engine.decide(picture(), Deadline(60.0, clock))
    assert (verdict.stop, verdict.tiers) == (Stop.DEADLINE, ("one", "two"))


async def test_a_deadline_that_is_over_gives_the_prior() -> None:
    async with running(TWO, [Fake("a", 3.0), Fake("b")]) as engine:
        verdict = await engine.decide(picture(), soon(0.0))
    assert (verdict.probability, verdict.interval) == (0.5, (0.0, 1.0))
    assert (verdict.source, verdict.stop, verdict.tiers) == (Source.PRIOR, Stop.DEADLINE, ())


async def test_small_pictures_skip_members_they_do_not_concern() -> None:
    profile = profile_of(tier("cheap", "a"), tier("signs", Member(model="b", min_side=320)))
    async with running(profile, [Fake("a", 0.5), Fake("b", 4.0)]) as engine:
        small = await engine.decide(picture(224, 224), soon())
        large = await engine.decide(picture(640, 400), soon())
    assert (small.tiers, small.stop, small.source, small.degraded) == (
        ("cheap",),
        Stop.LAST_TIER,
        Source.CASCADE,
        False,
    )
    assert large.tiers == ("cheap", "signs")


async def test_under_load_the_first_tier_answers_alone() -> None:
    b = Fake("b", 4.0)
    async with running(TWO, [Fake("a", 0.5), b]) as engine:
        verdict = await engine.decide_cheap(picture(), soon())
    assert (verdict.tiers, b.batches) == (("cheap",), [])


DOUBT = SecondQuestion(model="vlm", when_logit_gap=3.0, timeout_ms=20_000.0)
BOXES = [{"box": [10, 10, 60, 80], "label": "traffic cone", "score": 0.9}]
LOOPED = profile_of(tier("all", "detector", "vlm"), second_questions=(DOUBT,))


async def test_strong_contradiction_asks_a_second_question_about_the_boxes() -> None:
    vlm = FakeExaminer("vlm", logit=-2.0, crop_logit=2.5)
    async with running(LOOPED, [Fake("detector", 1.5, boxes=BOXES), vlm]) as engine:
        verdict = await engine.decide(picture(), soon())
    assert vlm.boxes_shown == [BOXES]
    assert {opinion.model: opinion.logit for opinion in verdict.opinions} == {"detector": 1.5, "vlm": 2.5}
    assert verdict.probability == pytest.approx(sigmoid(4.0))
    assert verdict.tiers == ("all",)


@pytest.mark.parametrize(
    ("detector", "vlm_logit"),
    [
        (Fake("detector", 0.5, boxes=BOXES), -2.0),  # not far enough apart
        (Fake("detector", 1.5), -2.0),  # nothing to point at
        (Fake("detector", -2.0, boxes=BOXES), 2.0),  # the other way round
    ],
)
async def test_no_second_question_without_contradiction_and_boxes(detector: Fake, vlm_logit: float) -> None:
    vlm = FakeExaminer("vlm", logit=vlm_logit, crop_logit=2.5)
    async with running(LOOPED, [detector, vlm]) as engine:
        await engine.decide(picture(), soon())
    assert vlm.boxes_shown == []


@pytest.mark.parametrize(("crop_logit", "asked", "z"), [(-2.0, [BOXES], 1.5 - 2.0 + 0.5), (2.5, [], 1.5 + 2.5 - 1.0)])
async def test_another_model_is_asked_where_the_doubter_shown_the_boxes_stays_with_its_no(
    crop_logit: float, asked: list, z: float
) -> None:
    third = SecondQuestion(model="segmenter", doubter="vlm", when_logit_gap=3.0, timeout_ms=500.0)
    profile = profile_of(tier("all", "detector", "segmenter", "vlm"), second_questions=(DOUBT, third))
    segmenter = FakeExaminer("segmenter", logit=-1.0, crop_logit=0.5)
    vlm = FakeExaminer("vlm", logit=-2.0, crop_logit=crop_logit)
    async with running(profile, [Fake("detector", 1.5, boxes=BOXES), segmenter, vlm]) as engine:
        verdict = await engine.decide(picture(), soon())
    assert (vlm.boxes_shown, segmenter.boxes_shown) == ([BOXES], asked)
    assert verdict.probability == pytest.approx(sigmoid(z))


async def test_the_boxes_shown_are_those_of_the_loudest_that_points() -> None:
    other = [{"box": [1, 1, 9, 9], "label": "barrier", "score": 0.5}]
    profile = profile_of(tier("all", "quiet", "detector", "silent", "vlm"), second_questions=(DOUBT,))
    quiet, silent = Fake("quiet", 1.2, boxes=other), Fake("silent", 9.0)
    vlm = FakeExaminer("vlm", logit=-2.0, crop_logit=-2.0)
    async with running(profile, [quiet, Fake("detector", 1.5, boxes=BOXES), silent, vlm]) as engine:
        await engine.decide(picture(), soon())
    assert vlm.boxes_shown == [BOXES]


@pytest.mark.parametrize("broken", ["segmenter", "vlm"])
async def test_who_has_no_opinion_neither_doubts_nor_is_asked_again(broken: str) -> None:
    third = SecondQuestion(model="segmenter", doubter="vlm", when_logit_gap=3.0, timeout_ms=500.0)
    profile = profile_of(tier("all", "detector", "segmenter", "vlm"), second_questions=(third,))
    segmenter, vlm = FakeExaminer("segmenter", logit=-1.0, crop_logit=4.0), Fake("vlm", -2.0)
    {"segmenter": segmenter, "vlm": vlm}[broken]._fault = crash()
    async with running(profile, [Fake("detector", 1.5, boxes=BOXES), segmenter, vlm]) as engine:
        verdict = await engine.decide(picture(), soon())
    assert segmenter.boxes_shown == []
    assert [failure.model for failure in verdict.failures] == [broken]
    assert len(verdict.opinions) == 2


async def test_nobody_is_shown_its_own_boxes() -> None:
    third = SecondQuestion(model="detector", doubter="vlm", when_logit_gap=3.0)
    profile = profile_of(tier("all", "detector", "vlm"), second_questions=(third,))
    detector = FakeExaminer("detector", logit=1.5, crop_logit=4.0)
    detector._evidence = {"boxes": BOXES}
    async with running(profile, [detector, Fake("vlm", -2.0)]) as engine:
        await engine.decide(picture(), soon())
    assert detector.boxes_shown == []


async def test_the_second_question_is_asked_once_and_only_if_it_fits() -> None:
    profile = profile_of(tier("one", "detector", "vlm"), tier("two", "c"), band=(0.01, 0.99), second_questions=(DOUBT,))
    vlm = FakeExaminer("vlm", logit=-2.0, crop_logit=-2.0)
    models = [Fake("detector", 1.5, boxes=BOXES), vlm, Fake("c", 0.0)]
    async with running(profile, models) as engine:
        await engine.decide(picture(), soon())
        assert len(vlm.boxes_shown) == 1
        await engine.decide(picture(), soon(19.0))  # a second question may take 20 s here
        assert len(vlm.boxes_shown) == 1


async def test_a_second_question_that_fails_leaves_the_first_answer() -> None:
    vlm = FakeExaminer("vlm", logit=-2.0, crop_logit=2.5, crop_fault=crash())
    async with running(LOOPED, [Fake("detector", 1.5, boxes=BOXES), vlm]) as engine:
        verdict = await engine.decide(picture(), soon())
    assert verdict.probability == pytest.approx(sigmoid(-0.5))
    assert verdict.degraded
    assert verdict.failures[0].detail == "second question: told to crash"


async def test_a_second_question_has_its_own_time_out() -> None:
    released = threading.Event()
    rule = DOUBT.model_copy(update={"timeout_ms": 60.0})
    vlm = FakeExaminer("vlm", logit=-2.0, crop_logit=2.5, crop_fault=hang(released))
    profile = profile_of(tier("all", "detector", "vlm"), second_questions=(rule,))
    async with running(profile, [Fake("detector", 1.5, boxes=BOXES), vlm]) as engine:
        verdict = await engine.decide(picture(), soon())
        released.set()
    failure = verdict.failures[0]
    assert (failure.kind, len(verdict.opinions)) == ("timeout", 2)
    assert 59.0 <= failure.milliseconds < PATIENT


async def test_a_model_that_cannot_be_asked_again_is_not() -> None:
    async with running(LOOPED, [Fake("detector", 1.5, boxes=BOXES), Fake("vlm", -2.0)]) as engine:
        verdict = await engine.decide(picture(), soon())
    assert {opinion.model: opinion.logit for opinion in verdict.opinions} == {"detector": 1.5, "vlm": -2.0}
    assert not verdict.failures


async def test_the_model_of_the_second_question_may_come_in_a_later_tier() -> None:
    profile = profile_of(tier("one", "detector"), tier("two", "vlm"), second_questions=(DOUBT,), band=(0.01, 0.99))
    vlm = FakeExaminer("vlm", logit=-2.0, crop_logit=2.5)
    async with running(profile, [Fake("detector", 1.5, boxes=BOXES), vlm]) as engine:
        await engine.decide(picture(), soon())
    assert len(vlm.boxes_shown) == 1


def test_a_missing_model_is_named() -> None:
    with pytest.raises(ValueError, match=r"profile test: no model 'b' was given; got \['a'\]"):
        Engine(TWO, {"a": Fake("a")})


async def test_a_required_tier_that_cannot_be_loaded_refuses_to_start() -> None:
    def missing(frames: object) -> None:
        raise BadWeights("a.onnx is truncated; fetch it again")

    b = Fake("b")
    engine = Engine(TWO, {"a": Fake("a", load_fault=missing), "b": b}, policy=QUICK)
    with pytest.raises(BadWeights, match="fetch it again"):
        await engine.start()
    assert b.closed


async def test_another_tier_that_cannot_be_loaded_is_left_out_and_named() -> None:
    def missing(frames: object) -> None:
        raise BadWeights("b.onnx is missing")

    async with running(TWO, [Fake("a", 0.5), Fake("b", load_fault=missing)]) as engine:
        verdict = await engine.decide(picture(), soon())
        readiness = engine.readiness()
    assert verdict.failures[0].kind == "unavailable"
    assert (verdict.source, verdict.tiers) == (Source.PARTIAL, ("cheap",))
    assert [(r.name, r.required, r.ready) for r in readiness] == [("cheap", True, True), ("dear", False, False)]
    assert readiness[1].reason == "b: not loaded: b.onnx is missing"


async def test_each_model_goes_to_its_device_and_is_closed_with_the_engine() -> None:
    devices: list[tuple[dict[str, Any], tuple[str, str]]] = [
        ({}, ("cpu", "cpu")),
        ({"device": "cuda:0"}, ("cuda:0", "cuda:0")),
        ({"device": {"a": "cpu", "b": "cuda:1"}.get}, ("cpu", "cuda:1")),
    ]
    for device, expected in devices:
        a, b = Fake("a"), Fake("b")
        engine = Engine(TWO, {"a": a, "b": b}, **device)
        await engine.start()
        assert not a.closed
        await engine.close()
        assert (a.device, b.device) == expected
        assert a.closed
        assert b.closed
        await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})  # nobody looks after them any more


async def test_the_canary_goes_through_every_model() -> None:
    a, b = Fake("a"), Fake("b", fault=crash())
    async with running(TWO, [a, b]) as engine:
        readiness = await engine.canary()
        assert a.batches == [1]
        assert [(r.name, r.ready) for r in readiness] == [("cheap", True), ("dear", False)]
        assert "told to crash" in readiness[1].reason
        assert engine.state()["b"].breaker == "open"
        assert engine.state()["a"].breaker == "closed"


async def test_not_ready_before_the_models_are_loaded() -> None:
    engine = Engine(TWO, {"a": Fake("a"), "b": Fake("b")})
    assert [(r.ready, r.reason) for r in engine.readiness()] == [(False, "a: loading"), (False, "b: loading")]
    assert (await engine.decide(picture(), soon())).source is Source.PRIOR
    await engine.close()
    await engine.close()


async def test_reload_loses_no_request_and_closes_what_is_no_longer_needed() -> None:
    a, b, c = Fake("a", 0.5), Fake("b", 0.4, fault=slow(0.05)), Fake("c", 0.3)
    one_by_one = Member(model="b", timeout_ms=PATIENT, batching=Batching(max_size=1))  # so that some wait their turn
    async with running(profile_of(tier("cheap", "a"), tier("dear", one_by_one)), [a, b]) as engine:
        await engine.decide(picture(), soon())
        begun = [asyncio.create_task(engine.decide(picture(), soon())) for _ in range(5)]
        await until(lambda: len(b.batches) == 2)
        await engine.replace(profile_of(tier("cheap", "a"), tier("other", "c")), {"c": c})
        assert b.closed
        assert not a.closed
        after = await engine.decide(picture(), soon())
        before = await asyncio.gather(*begun)
    assert all(verdict.tiers == ("cheap", "dear") and not verdict.degraded for verdict in before)
    assert after.tiers == ("cheap", "other")
    assert engine.profile.tiers[1].name == "other"


async def test_new_weights_take_the_place_of_old_ones() -> None:
    old, new = Fake("a", 0.5), Fake("a", 0.7)
    async with running(TWO, [old, Fake("b", 0.1)]) as engine:
        await engine.replace(TWO, {"a": new})
        assert old.closed
        assert (await engine.decide(picture(), soon())).opinions[0].logit == 0.7


async def test_a_profile_that_cannot_be_served_is_refused_and_the_old_one_stays() -> None:
    def missing(frames: object) -> None:
        raise BadWeights("c is not there")

    async with running(TWO, [Fake("a", 0.5), Fake("b", 0.4)]) as engine:
        with pytest.raises(ValueError, match="no model 'c' was given"):
            await engine.replace(profile_of(tier("cheap", "c")))
        with pytest.raises(BadWeights, match="c is not there"):
            await engine.replace(
                profile_of(tier("cheap", "a"), tier("needed", "c", required=True)),
                {"c": Fake("c", load_fault=missing)},
            )
        assert engine.profile == TWO
        assert (await engine.decide(picture(), soon())).tiers == ("cheap", "dear")


async def test_reload_may_take_new_models_from_the_factory_and_new_settings() -> None:
    made: list[Fake] = []

    def factory(key: str) -> Fake:
        made.append(Fake(key, 0.2))
        return made[-1]

    async with running(TWO, [Fake("a", 0.5), Fake("b", 0.4)], factory=factory) as engine:
        await asyncio.gather(
            engine.replace(profile_of(tier("cheap", Member(model="a", timeout_ms=77.0)), tier("new", "c"))),
            engine.replace(profile_of(tier("cheap", "a"), tier("new", "d"))),
        )
        assert [(fake.spec.key, fake.closed) for fake in made] == [("c", True), ("d", False)]
        assert set(engine.state()) == {"a", "d"}
        assert len((await engine.decide(picture(), soon())).opinions) == 2


async def test_a_cancelled_request_leaves_nothing_behind() -> None:
    released = threading.Event()
    b = Fake("b", fault=hang(released))
    async with running(TWO, [Fake("a", 0.5), b]) as engine:
        deciding = asyncio.create_task(engine.decide(picture(), soon()))
        await until(lambda: b.batches)
        deciding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await deciding
        released.set()
        assert engine._plan.requests == 0


async def test_models_never_work_on_the_event_loop() -> None:
    seen: list[str] = []

    def note(frame: Frame) -> float:
        seen.append(threading.current_thread().name)
        return 3.0

    async with running(TWO, [Fake("a", note), Fake("b")]) as engine:
        await engine.decide(picture(), soon())
    assert seen == ["model a"]
