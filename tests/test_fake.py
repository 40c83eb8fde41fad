"""The fakes keep the contract of a model, and fail as told."""

from __future__ import annotations

import math
import threading
import time

import numpy as np
import pytest

from models.base import Frame, Model, ModelCrashed, NotFinite, OutOfMemory
from models.fake import Fake, FakeExaminer, crash, hang, out_of_memory, slow

FRAME = Frame.of(np.zeros((8, 8, 3), np.uint8))


def test_it_keeps_the_contract() -> None:
    fake = Fake("sure", logit=3.0, boxes=[{"box": [0, 0, 4, 4]}])
    assert isinstance(fake, Model)
    fake.load("cpu")
    fake.warm_up()
    first, second = fake.assess([FRAME, FRAME])
    fake.close()
    fake.close()
    assert (first.model, first.logit, second.logit) == ("sure", 3.0, 3.0)
    assert first.evidence == {"boxes": [{"box": [0, 0, 4, 4]}]}
    assert (fake.loads, fake.batches, fake.closed) == (1, [2], True)


def test_it_may_look_at_the_picture() -> None:
    fake = Fake("mean", logit=lambda frame: float(frame.pixels.mean()))
    bright = Frame.of(np.full((8, 8, 3), 9, np.uint8))
    assert [opinion.logit for opinion in fake.assess([FRAME, bright])] == [0.0, 9.0]


def test_it_fails_on_command() -> None:
    with pytest.raises(OutOfMemory, match="batch of 3 does not fit; 2 would"):
        Fake("m", fault=out_of_memory(above=2)).assess([FRAME] * 3)
    assert len(Fake("m", fault=out_of_memory(above=2)).assess([FRAME] * 2)) == 2
    with pytest.raises(NotFinite):
        Fake("m", logit=math.nan).assess([FRAME])
    with pytest.raises(ModelCrashed):
        Fake("m", load_fault=crash()).load("cpu")


def test_it_crashes_as_often_as_told() -> None:
    fake = Fake("m", fault=crash(times=2))
    for _ in range(2):
        with pytest.raises(ModelCrashed):
            fake.assess([FRAME])
    assert len(fake.assess([FRAME])) == 1


def test_it_can_be_slow_or_hang_until_released() -> None:
    begun = time.monotonic()
    Fake("m", fault=slow(0.02)).assess([FRAME])
    assert time.monotonic() - begun >= 0.02
    released = threading.Event()
    thread = threading.Thread(target=Fake("m", fault=hang(released)).assess, args=([FRAME],))
    thread.start()
    thread.join(0.02)
    assert thread.is_alive()
    released.set()
    thread.join(60.0)
    assert not thread.is_alive()


def test_an_examiner_can_be_asked_again() -> None:
    examiner = FakeExaminer("vlm", logit=-2.0, crop_logit=3.0)
    opinion = examiner.assess_crop(FRAME, [{"box": [0, 0, 1, 1]}])
    assert (opinion.logit, examiner.boxes_shown) == (3.0, [[{"box": [0, 0, 1, 1]}]])
    with pytest.raises(ModelCrashed):
        FakeExaminer("vlm", -2.0, 3.0, crop_fault=crash()).assess_crop(FRAME, [])
