"""A deadline is a moment of a monotonic clock."""

from __future__ import annotations

from cascade_helpers import Clock

from cascade.deadline import Deadline


def test_it_counts_down_and_never_below_zero() -> None:
    clock = Clock()
    deadline = Deadline.after(8.0, clock)
    clock.now += 3.0
    assert deadline.remaining() == 5.0
    assert not deadline.passed
    clock.now += 5.0
    assert deadline.passed
    clock.now += 1.0
    assert deadline.remaining() == 0.0
    assert deadline.passed
