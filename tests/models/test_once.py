"""One forward pass shared by several members, in the threads they live in."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from models import once
from models.base import Frame, ModelCrashed, ModelTimeout
from models.once import HELD, Once


def frame(n: int) -> Frame:
    return Frame.of(np.full((1, 1, 3), (n // 256, n % 256, 0), np.uint8))


class Counter:
    """Counts what it is asked; waits for `go` first."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.begun, self.go = threading.Event(), threading.Event()

    def __call__(self, frames: Sequence[Frame]) -> list[str]:
        self.asked += [each.sha256 for each in frames]
        self.begun.set()
        assert self.go.wait(60)
        return [each.sha256.upper() for each in frames]


def test_the_second_waits_for_the_first() -> None:
    count = Counter()
    shared = Once(count)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(shared, [frame(1), frame(2)])
        assert count.begun.wait(60)
        second = pool.submit(shared, [frame(2)], True)
        count.go.set()
        assert second.result(60) == [frame(2).sha256.upper()] == first.result(60)[1:]
    assert len(count.asked) == 2


def test_a_fresh_question_is_computed_anew_once_its_result_was_taken() -> None:
    count = Counter()
    count.go.set()
    shared = Once(count)
    shared([frame(1)])
    shared([frame(1)], fresh=True)  # the pass that another member began
    assert len(count.asked) == 1
    shared([frame(1)], fresh=True)
    shared([frame(1)])
    assert len(count.asked) == 2


def test_a_fault_reaches_all_who_wait_and_is_not_remembered() -> None:
    begun, go = threading.Event(), threading.Event()
    passes: list[int] = []

    def fail(frames: Sequence[Frame]) -> list[int]:
        passes.append(len(frames))
        begun.set()
        assert go.wait(60)
        raise ModelCrashed("on purpose")

    shared = Once(fail)
    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(shared, [frame(1)])]
        assert begun.wait(60)
        both.append(pool.submit(shared, [frame(1)]))
        go.set()
        for each in both:
            with pytest.raises(ModelCrashed):
                each.result(60)
    assert shared.known(frame(1).sha256) is None
    with pytest.raises(ModelCrashed):
        shared([frame(1)])
    assert passes == [1, 1], "who asks later has it tried again"


def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(once, "PATIENCE", 0.05)
    count = Counter()
    shared = Once(count)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(shared, [frame(1)])
        assert count.begun.wait(60)
        with pytest.raises(ModelTimeout):
            shared([frame(1)])
        assert shared.known(frame(1).sha256) is None, "not there yet"
        count.go.set()


def test_it_is_bounded() -> None:
    count = Counter()
    count.go.set()
    shared = Once(count)
    shared([frame(n) for n in range(300)])
    assert shared.known(frame(0).sha256) is None
    assert sum(shared.known(frame(n).sha256) is not None for n in range(300)) == HELD
