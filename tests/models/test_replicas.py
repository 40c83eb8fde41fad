"""Copies of a model behind one key: work is divided, and what one cannot do the others do."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from test_worker import FACTORIES, QUICK, gone

from cascade.batching import Examiner
from models.base import Frame, Model, ModelCrashed, ModelUnavailable, NotFinite, Opinion
from models.fake import Fake, FakeExaminer, crash, hang
from models.replicas import Replicas, ReplicasExaminer
from models.worker import Remote, Worker

FRAMES = [Frame.of(np.full((8, 8, 3), value, np.uint8)) for value in range(7)]


class Named(Fake):
    """Says in its evidence who answered which picture."""

    def assess(self, frames: list[Frame]) -> list[Opinion]:  # type: ignore[override]
        super().assess(frames)
        return [Opinion("m", float(frame.pixels.mean()), 0.0, {"by": self.spec.key}) for frame in frames]


def replicas(*models: Model, patience: float = 60.0) -> Replicas:
    made = Replicas([(model, "cpu") for model in models], patience)
    made.load("not used")
    made.warm_up()
    return made


def by(opinions: list[Opinion]) -> Counter[str]:
    return Counter(str(opinion.evidence["by"]) for opinion in opinions)


def test_a_batch_is_divided_and_comes_back_in_order() -> None:
    model = replicas(Named("one"), Named("two"))
    assert isinstance(model, Model)
    assert not isinstance(model, Examiner)
    opinions = model.assess(FRAMES)
    assert [opinion.logit for opinion in opinions] == [0, 1, 2, 3, 4, 5, 6]
    assert sorted(by(opinions).values()) == [3, 4]
    assert model.assess([]) == []
    model.close()
    model.close()


def test_single_pictures_go_to_each_in_turn() -> None:
    model = replicas(Named("one"), Named("two"))
    assert by([model.assess(FRAMES[:1])[0] for _ in range(6)]) == {"one": 3, "two": 3}
    model.close()


def test_what_a_dead_copy_does_not_answer_the_other_does() -> None:
    model = replicas(Named("one", fault=crash()), Named("two"))
    assert by(model.assess(FRAMES)) == {"two": 7}
    model.close()
    model = replicas(Named("one", fault=crash()), Named("two", fault=crash()))
    with pytest.raises(ModelCrashed):
        model.assess(FRAMES)
    model.close()


def test_a_copy_that_hangs_costs_the_others_patience_once() -> None:
    released = threading.Event()
    one = Named("one", fault=hang(released))
    model = replicas(one, Named("two"), patience=0.2)
    begun = time.monotonic()
    assert by(model.assess(FRAMES)) == {"two": 7}
    assert time.monotonic() - begun >= 0.2
    assert by(model.assess(FRAMES)) == {"two": 7}
    assert len(one.batches) == 1, "it is asked again, although it is still at work"
    released.set()
    while not model._copies[0].free:
        time.sleep(0.001)
    model._patience = 60.0
    assert set(by(model.assess(FRAMES))) == {"one", "two"}
    model.close()


def test_what_is_wrong_with_the_picture_is_not_blamed_on_a_copy() -> None:
    model = replicas(Fake("one", logit=float("nan")), Fake("two", logit=float("nan")))
    with pytest.raises(NotFinite):
        model.assess(FRAMES)
    model.close()


def test_one_copy_that_loads_is_enough_and_none_is_not() -> None:
    broken = Named("one", load_fault=crash())
    model = replicas(broken, Named("two"))
    model.assess(FRAMES)
    model.close()
    with pytest.raises(ModelCrashed):
        replicas(Named("one", load_fault=crash()))


def test_the_second_question_goes_to_a_copy_that_answers() -> None:
    copies = [(FakeExaminer("m", 0.0, 3.0, crop_fault=crash()), "a"), (FakeExaminer("m", 0.0, 3.0), "b")]
    model = ReplicasExaminer(copies)
    model.load("")
    assert isinstance(model, Examiner)
    assert [model.assess_crop(FRAMES[0], []).logit for _ in range(2)] == [3.0, 3.0]
    model.close()
    released = threading.Event()
    busy = ReplicasExaminer([(FakeExaminer("m", 0.0, 3.0), "a")])
    busy._copies[0].start(lambda _: released.wait())
    with pytest.raises(ModelUnavailable, match="busy"):
        busy.assess_crop(FRAMES[0], [])
    released.set()
    busy.close()


@pytest.fixture
def cards() -> Iterator[list[Worker]]:
    """Two processes that stand for two cards."""
    workers = [Worker(FACTORIES, QUICK, f"card-{index}") for index in range(2)]
    yield workers
    for worker in workers:
        worker.stop()


@pytest.mark.slow
@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGSTOP])
def test_the_worker_of_one_card_is_killed_or_stopped_and_the_other_goes_on(
    cards: list[Worker], death: signal.Signals
) -> None:
    spec = FACTORIES["mean"]().spec
    model = replicas(*(Remote(spec, worker) for worker in cards))
    pids = {opinion.evidence["pid"] for opinion in model.assess(FRAMES)}
    assert pids == {worker.pid for worker in cards}
    victim = cards[0].pid
    assert victim is not None
    os.kill(victim, death)
    model._patience = 0.5
    answered = 0
    deadline = time.monotonic() + 300
    while {opinion.evidence["pid"] for opinion in model.assess(FRAMES)} != {worker.pid for worker in cards}:
        answered += 1
        assert time.monotonic() < deadline, "the killed copy is not back"
    assert answered, "the other card answered meanwhile"
    assert cards[0].pid != victim
    assert gone(victim)
    model.close()
