"""Drift is noticed, a quiet world raises no alarm, and what is corrected by itself stays within its limits."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cascade.calibration import sigmoids
from cascade.deadline import Deadline
from cascade.verdict import Source, Verdict
from miner.journal import Keep
from miner.journal_views import Views
from miner.learning.drift import EVERY, WINDOW, Corrected, Limits, Martingale, Watch, prevalence, shifted
from miner.stability import psi
from models.base import Frame, Opinion
from tests.journal.making import VERSION, answered, journal, verdict

QUIET = Limits(threshold=math.inf)


def scores(n: int, share: float, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Probabilities calibrated at even odds, of pictures of which `share` shows road work."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < share).astype(np.int64)
    z = np.where(labels == 1, 2.0, -2.0) + 2.0 * rng.standard_normal(n)  # log-odds of two normals: z itself
    return sigmoids(z), labels


def watch(limits: Limits | None = None) -> Watch:
    return Watch(0.5, lambda: VERSION, limits or Limits())


def show(watch: Watch, probabilities: Iterable[float], novelty: float | None = None) -> None:
    evidence = {} if novelty is None else {"novelty": novelty}
    for p in probabilities:
        watch.observe(verdict(float(p), opinions=(Opinion("m", 0.0, 1.0, evidence),)))


# --- martingale -------------------------------------------------------------------------------------------------------


def test_a_quiet_world_makes_nobody_rich() -> None:
    random.seed(0)
    worst = []
    for seed in range(10):
        martingale = Martingale()
        worst.append(max(martingale.observe(p) for p in scores(3000, 0.5, seed)[0]))
    assert max(worst) < 1e4  # thirty thousand answers: an alarm at 10^6 is expected once in a million


def test_scores_that_move_make_a_fortune_within_some_hundreds() -> None:
    random.seed(0)
    martingale = Martingale()
    for p in scores(3000, 0.5, 0)[0]:
        martingale.observe(p)
    moved = (sigmoids(np.log(p / (1 - p)) - 2.0) for p in scores(2000, 0.5, 1)[0])
    answers = next(i for i, p in enumerate(moved) if martingale.observe(float(p)) > 1e6)
    assert answers < 1000


@given(st.lists(st.floats(0, 1), max_size=50))
def test_wealth_is_finite_and_never_below_one(values: list[float]) -> None:
    martingale = Martingale()
    for value in values:
        assert 1.0 - 1e-9 <= martingale.observe(value) < math.inf


def test_ties_do_not_make_anybody_rich() -> None:
    random.seed(0)
    martingale = Martingale()
    assert max(martingale.observe(0.5) for _ in range(3000)) < 1e4


# --- prevalence -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.8])
def test_the_share_of_road_work_is_found_without_a_label(share: float) -> None:
    p, _ = scores(2000, share, 3)
    found, error = prevalence(p, 0.5)
    assert abs(found - share) < 3 * error < 0.1


def test_a_shift_beyond_doubt_is_corrected_and_pays() -> None:
    watching = watch(QUIET)
    p, labels = scores(6000, 0.2, 4)
    show(watching, p)
    assert watching.prevalence == pytest.approx(0.27, abs=0.04)  # as far as the limit of 1.0 in log-odds lets it
    corrected = sigmoids(np.log(p / (1 - p)) + watching.shift)
    assert ((corrected > 0.5) == labels).mean() > ((p > 0.5) == labels).mean()


def test_even_odds_are_left_alone() -> None:
    for seed in range(5):
        watching = watch(QUIET)
        show(watching, scores(4000, 0.5, seed)[0])
        assert watching.shift == 0.0


def test_the_correction_moves_slowly_and_stops_at_its_limit_with_an_alarm() -> None:
    watching = watch(Limits(threshold=math.inf, most=0.5))
    show(watching, scores(WINDOW // 4, 0.02, 5)[0])
    assert watching.shift == pytest.approx(-0.1)
    show(watching, scores(20 * EVERY, 0.02, 6)[0])
    assert watching.shift == pytest.approx(-0.5)
    assert [alarm.kind for alarm in watching.alarms] == ["prevalence"]


# --- the watch --------------------------------------------------------------------------------------------------------


def test_alarms_say_what_to_do_and_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    random.seed(0)
    watching = watch()
    show(watching, scores(2000, 0.5, 0)[0], novelty=0.3)
    show(watching, np.full(2000, 0.9), novelty=0.99)
    kinds = {alarm.kind: alarm.action for alarm in watching.alarms}
    assert {"scores", "novelty"} <= set(kinds)
    assert "improve" in kinds["scores"]
    assert "novel" in kinds["novelty"]
    assert caplog.text.count("scores no longer rank") == 1


def test_a_new_version_starts_afresh() -> None:
    version = ["a"]
    watching = Watch(0.5, lambda: version[0], QUIET)
    show(watching, scores(3000, 0.2, 0)[0])
    assert watching.shift != 0.0
    version[0] = "b"
    show(watching, [0.5])
    assert watching.shift == 0.0


def test_answers_without_an_opinion_say_nothing() -> None:
    watching = watch(QUIET)
    for _ in range(3000):
        watching.observe(verdict(0.1, source=Source.PRIOR))
        watching.observe(verdict(0.1, opinions=()))
    assert watching.shift == 0.0


async def test_the_corrected_cascade_adds_the_shift_to_all_but_the_prior() -> None:
    async def decide(frame: Frame, deadline: Deadline, caller: str) -> Verdict:
        return said[0]

    watching = watch(QUIET)
    show(watching, scores(3000, 0.2, 0)[0])
    said = [verdict(0.5)]
    corrected, frame = Corrected(decide, watching), Frame.of(np.zeros((2, 2, 3), dtype=np.uint8))
    moved = await corrected.decide(frame, Deadline.after(1), "")
    assert moved.probability == pytest.approx(1 / (1 + math.exp(-watching.shift)))
    assert moved.interval[0] <= moved.probability <= moved.interval[1]
    said[0] = verdict(0.5, source=Source.PRIOR)
    assert (await corrected.decide(frame, Deadline.after(1), "")).probability == 0.5


@given(st.floats(0.0, 1.0), st.floats(-2, 2))
def test_a_shift_keeps_a_probability_a_probability(p: float, shift: float) -> None:
    moved = shifted(replace(verdict(), probability=p, interval=(p, p)), shift)
    assert 0.0 <= moved.probability <= 1.0


# --- psi --------------------------------------------------------------------------------------------------------------


def test_psi_of_the_same_is_nothing_and_of_another_world_is_large() -> None:
    same = np.array([100, 200, 600, 100])
    assert psi(same, same * 3) < 0.001
    assert psi(same, same[::-1]) > 0.25
    assert psi(same, same[::-1]) == psi(same[::-1], same)


def test_an_empty_bin_counts_as_half_a_picture_and_the_less_the_more_were_seen() -> None:
    # (1, 3) and (3, 1) quarters after half a count on each side: 2 * (1/4 - 3/4) * ln(1/3) = ln(3)
    assert psi(np.array([0, 1]), np.array([1, 0])) == pytest.approx(math.log(3))
    few, many = (psi(np.array([n, 0]), np.array([n - 1, 1])) for n in (100, 10_000))
    assert 0 < 50 * many < few


def test_without_a_change_the_index_is_what_chance_makes_of_it() -> None:
    rng = np.random.default_rng(0)
    drawn = [psi(*rng.multinomial(500, np.full(10, 0.1), size=2)) for _ in range(400)]
    assert np.mean(drawn) == pytest.approx(9 * (1 / 500 + 1 / 500), rel=0.1)


def test_the_journal_remembers_what_a_version_scored_when_it_was_new(tmp_path: Path) -> None:
    now = [1e9]
    remembers = journal(tmp_path, keep=Keep(enabled=False), clock=lambda: now[0])
    request = {p: answered(1, verdict(p)) for p in (0.1, 0.9)}
    for day in range(10):
        now[0] = 1e9 + 86400 * day
        for number in range(600):
            remembers(request[0.9 if day == 9 and number % 5 else 0.1])
        remembers.flush()
    remembers.close()
    views = Views(tmp_path)
    watching = Watch(0.5, lambda: VERSION, clock=lambda: now[0])
    index = watching.compare(views)
    assert index is not None
    assert index > 0.25
    assert [alarm.kind for alarm in watching.alarms] == ["psi"]
    assert Watch(0.5, lambda: "unknown", clock=lambda: now[0]).compare(views) is None
    views.close()


@pytest.mark.parametrize(("roadwork", "shifts"), [(20, True), (50, False)])
def test_labels_decide_where_scores_alone_are_in_doubt(roadwork: int, shifts: bool) -> None:
    watching = watch(QUIET)
    watching.told(100, roadwork)
    show(watching, scores(4000, 0.35, 0)[0])  # a share that could as well be the weather
    assert (watching.shift < -0.5) == shifts
    assert (watching.shift == 0.0) != shifts


def test_a_few_labels_are_no_argument() -> None:
    watching = watch(QUIET)
    watching.told(10, 0)
    show(watching, scores(4000, 0.4, 0)[0])
    assert watching.shift == 0.0


def test_weather_that_scores_cannot_tell_from_road_work_is_not_corrected() -> None:
    watching = watch(QUIET)
    p, _ = scores(4000, 0.5, 1)
    z = np.log(p / (1 - p)) + np.where(np.random.default_rng(2).random(4000) < 0.3, 2.0, 0.0)  # a third in the rain
    show(watching, sigmoids(z))
    assert watching.shift == 0.0
