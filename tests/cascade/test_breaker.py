"""closed -> open -> half-open -> closed, on an injected clock."""

from __future__ import annotations

import pytest
from cascade_helpers import Clock

from cascade.breaker import Breaker, State


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(failures=3, cooldown=2.0, longest=5.0, clock=clock)


def test_it_opens_after_failures_in_a_row_only(breaker: Breaker) -> None:
    for _ in range(5):
        breaker.failure("bad")
        breaker.failure("bad")
        assert breaker.closed
        breaker.success()
    breaker.failure("worse")
    breaker.failure("worse")
    assert breaker.closed
    breaker.failure("worse")
    assert breaker.state is State.OPEN
    assert breaker.reason == "worse"


def test_one_trial_after_the_cooldown(breaker: Breaker, clock: Clock) -> None:
    assert not breaker.try_half_open()  # closed: nothing to try
    breaker.trip("down")
    clock.now = 1.9
    assert not breaker.try_half_open()
    clock.now = 2.0
    assert breaker.try_half_open()
    assert not breaker.try_half_open()  # the one trial is on its way
    breaker.success()
    assert breaker.closed
    assert breaker.reason == ""


def test_the_wait_doubles_with_each_failed_trial_up_to_the_longest(breaker: Breaker, clock: Clock) -> None:
    waits = []
    breaker.trip("down")
    for _ in range(4):
        begun = clock.now
        while not breaker.try_half_open():
            clock.now += 0.5
        waits.append(clock.now - begun)
        breaker.failure("still down")  # the trial
        assert breaker.state is State.OPEN
    assert waits == [2.0, 4.0, 5.0, 5.0]


def test_after_a_success_the_wait_is_the_shortest_again(breaker: Breaker, clock: Clock) -> None:
    breaker.trip("down")
    breaker.success()
    breaker.trip("down again")
    clock.now = 2.0
    assert breaker.try_half_open()


def test_failures_of_requests_that_were_under_way_do_not_prolong_it(breaker: Breaker, clock: Clock) -> None:
    breaker.trip("down")
    clock.now = 1.0
    for _ in range(3):
        breaker.failure("late news")
    clock.now = 2.0
    assert breaker.try_half_open()
