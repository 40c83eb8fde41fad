"""A model's process may die, hang or run out of memory: the caller is told which, and the process comes back.

Real processes, really killed and stopped.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cascade.batching import Examiner
from models.base import (
    Frame,
    ModelCrashed,
    ModelError,
    ModelSpec,
    ModelTimeout,
    ModelUnavailable,
    Opinion,
    OutOfMemory,
    Unrecoverable,
)
from models.fake import Fake, FakeExaminer, hang, out_of_memory
from models.worker import Arena, Policy, Remote, RemoteExaminer, Worker, get_context

pytestmark = pytest.mark.slow

QUICK = Policy(hang=20.0, loading=60.0, first=0.01, longest=0.05, shared=4 << 20)


class Mean:
    """Answers with the mean brightness, so that a picture that came wrong shows."""

    def __init__(self, key: str) -> None:
        self.spec = ModelSpec(key, "t", "numpy", "Mean")

    def load(self, device: str) -> None:
        self.device = device

    def warm_up(self) -> None:
        """Nothing to warm."""

    def assess(self, frames: Sequence[Frame]) -> list[Opinion]:
        return [
            Opinion(self.spec.key, float(frame.pixels.mean()), 0.0, {"pid": os.getpid(), "sha256": frame.sha256})
            for frame in frames
        ]

    def close(self) -> None:
        """Nothing to give back."""


def mean() -> Mean:
    return Mean("mean")


def held() -> Mean:
    return Held("held")


def stuck() -> Fake:
    return Fake("stuck", fault=hang(threading.Event()))


def small() -> Fake:
    return Fake("small", fault=out_of_memory(above=1))


class Held(Mean):
    """Answers once there is a file `go` in its directory, which is the test's."""

    def assess(self, frames: Sequence[Frame]) -> list[Opinion]:
        while not Path("go").exists():
            time.sleep(0.002)
        return super().assess(frames)


class Parent(Mean):
    """Has a process of its own, as engines have, and says which."""

    def load(self, device: str) -> None:
        self._process = subprocess.Popen(["sleep", "600"])

    def assess(self, frames: Sequence[Frame]) -> list[Opinion]:
        return [Opinion(self.spec.key, 0.0, 0.0, {"child": self._process.pid}) for _ in frames]


class Lost(Mean):
    """Can never answer again in its process."""

    def assess(self, frames: Sequence[Frame]) -> list[Opinion]:
        raise Unrecoverable("the engine is dead")


class Brittle(Mean):
    """Answers no more once it was shown black, until it is loaded anew."""

    def load(self, device: str) -> None:
        self.broken = False
        super().load(device)

    def assess(self, frames: Sequence[Frame]) -> list[Opinion]:
        self.broken = self.broken or not any(frame.pixels.any() for frame in frames)
        if self.broken:
            raise RuntimeError("it broke")
        return [Opinion(self.spec.key, 1.0, 0.0, {"device": self.device}) for _ in frames]


class Waiting(Mean):
    """Loads once there is a file `go` in its directory, which is the test's; says that it waits by a file `waits`."""

    def load(self, device: str) -> None:
        Path("waits").touch()
        while not Path("go").exists():
            time.sleep(0.002)


class Doomed(Waiting):
    """Cannot be loaded, which shows after a while."""

    def load(self, device: str) -> None:
        super().load(device)
        raise ModelCrashed("cannot be loaded")


def parent() -> Parent:
    return Parent("parent")


def brittle() -> Brittle:
    return Brittle("brittle")


def waiting() -> Waiting:
    return Waiting("waiting")


def doomed() -> Doomed:
    return Doomed("doomed")


def lost() -> Lost:
    return Lost("lost")


def looking() -> FakeExaminer:
    return FakeExaminer("looking", logit=-2.0, crop_logit=3.0)


def fickle() -> Fake:
    """Loads unless the surroundings say otherwise by then."""
    return Fake("fickle", load_fault=hang(threading.Event()) if os.environ.get("FICKLE") else None)


FACTORIES = {
    "mean": mean,
    "held": held,
    "stuck": stuck,
    "small": small,
    "fickle": fickle,
    "parent": parent,
    "lost": lost,
    "looking": looking,
    "brittle": brittle,
    "waiting": waiting,
    "doomed": doomed,
}


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(FACTORIES, QUICK)
    yield worker
    worker.stop()


def remote(worker: Worker, key: str) -> Remote:
    model = Remote(FACTORIES[key]().spec, worker)
    model.load("cpu")
    return model


def frame(seed: int, size: tuple[int, int] = (32, 48)) -> Frame:
    return Frame.of(np.random.default_rng(seed).integers(0, 255, (*size, 3), np.uint8))


def until_asked(worker: Worker) -> Arena:
    """Come back once a picture is on its way to the process."""
    give_up = time.monotonic() + 60.0
    while worker._arena is None or worker._arena.in_use == 0:
        assert time.monotonic() < give_up, "nothing was asked"
        time.sleep(0.001)
    return worker._arena


def until_back(model: Remote, seconds: float = 60.0) -> list[Opinion]:
    """The first answer after a death. Waits for a state, and gives up loudly."""
    give_up = time.monotonic() + seconds
    while True:
        try:
            return model.assess([frame(0)])
        except (ModelUnavailable, ModelCrashed):
            assert time.monotonic() < give_up, "the worker did not come back"
            time.sleep(0.01)


def test_pictures_arrive_whole_in_another_process(worker: Worker) -> None:
    model = remote(worker, "mean")
    model.warm_up()
    frames = [frame(0), frame(1, (224, 224)), frame(2, (1, 1))]
    opinions = model.assess(frames)
    for each, opinion in zip(frames, opinions, strict=True):
        assert opinion.logit == pytest.approx(float(each.pixels.mean()))
        assert opinion.evidence["sha256"] == each.sha256
        assert opinion.evidence["pid"] == worker.pid != os.getpid()
    assert model.assess([]) == []
    assert model.loaded is not None
    assert 0 < model.loaded.seconds < 60


def test_only_places_go_through_the_pipe(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    model = remote(worker, "mean")
    child = worker._child
    assert child is not None
    sent: list[object] = []
    send = child._ours.send
    monkeypatch.setattr(child._ours, "send", lambda message: (sent.append(message), send(message)))
    model.assess([frame(0, (600, 600))])
    assert len(repr(sent)) < 300
    assert worker._arena is not None
    assert worker._arena.in_use == 0, "the picture's memory was not given back"


def test_models_of_one_worker_run_side_by_side(worker: Worker) -> None:
    fast, late = remote(worker, "mean"), remote(worker, "held")
    answered: list[str] = []
    thread = threading.Thread(target=lambda: (late.assess([frame(0)]), answered.append("held")))
    thread.start()
    until_asked(worker)
    for _ in range(3):
        fast.assess([frame(1)])
    answered.append("mean")
    Path("go").touch()
    thread.join(60)
    assert answered == ["mean", "held"]


def test_kill_9_in_the_middle_of_a_call_is_typed_and_the_worker_comes_back(worker: Worker) -> None:
    model, late = remote(worker, "mean"), remote(worker, "stuck")
    raised: list[BaseException] = []

    def ask() -> None:
        try:
            late.assess([frame(0)])
        except ModelError as error:
            raised.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    first = worker.pid
    assert first is not None
    arena = until_asked(worker)
    os.kill(first, signal.SIGKILL)
    thread.join(60)
    assert isinstance(raised[0], ModelCrashed)
    assert "SIGKILL" in str(raised[0])
    (opinion,) = until_back(model)
    assert opinion.evidence["pid"] != first
    assert worker.restarts == 1
    assert arena.in_use == 0


def test_it_survives_being_killed_again_and_again(worker: Worker) -> None:
    model = remote(worker, "mean")
    pids = set()
    for _ in range(5):
        (opinion,) = until_back(model)
        pids.add(opinion.evidence["pid"])
        os.kill(opinion.evidence["pid"], signal.SIGKILL)
        while worker._child is not None and opinion.evidence["pid"] == worker.pid:
            time.sleep(0.001)
    assert len(pids) == 5


def test_a_stopped_process_is_a_hang_and_is_replaced(worker: Worker) -> None:
    model = remote(worker, "mean")
    worker._policy = replace(QUICK, hang=0.3)
    pid = worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(ModelTimeout, match=r"mean: no answer to assess within 0\.3 s; worker 'perception' was killed"):
        model.assess([frame(0)])
    worker._policy = QUICK
    (opinion,) = until_back(model)
    assert opinion.evidence["pid"] != pid


def test_a_model_that_hangs_is_a_hang_and_the_others_come_back(worker: Worker) -> None:
    model, hanging = remote(worker, "mean"), remote(worker, "stuck")
    worker._policy = replace(QUICK, hang=0.3)
    with pytest.raises(ModelTimeout, match="stuck: no answer to assess"):
        hanging.assess([frame(0)])
    worker._policy = QUICK
    until_back(model)


def test_a_model_that_hangs_as_it_is_loaded_again_is_left_out_for_the_others_sake(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, fickle = remote(worker, "mean"), remote(worker, "fickle")
    call = worker._call

    def impatient(child: Any, verb: str, key: str, payload: Any, limit: float) -> Any:
        return call(child, verb, key, payload, 0.5 if key == "fickle" else limit)

    monkeypatch.setattr(worker, "_call", impatient)
    monkeypatch.setenv("FICKLE", "hangs")
    pid = worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    while worker.restarts < 2:
        time.sleep(0.01)
    until_back(model)
    with pytest.raises(ModelUnavailable):
        fickle.assess([frame(0)])
    assert worker.restarts == 2


def test_who_takes_over_a_model_waits_for_it_and_the_one_before_cannot_close_it(worker: Worker) -> None:
    before = remote(worker, "mean")
    pid = worker.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    while worker.pid == pid:
        time.sleep(0.001)
    after = remote(worker, "mean")  # returns when the replaced process has the model again
    before.close()
    assert after.assess([frame(0)])[0].evidence["pid"] == worker.pid != pid
    assert worker.restarts == 1
    after.close()
    assert not worker.alive


def test_who_takes_over_a_model_that_was_closed_while_it_came_back_has_it(worker: Worker) -> None:
    Path("go").touch()
    before = remote(worker, "waiting")
    Path("go").unlink()
    Path("waits").unlink()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    until_exists(Path("waits"))
    Path("waits").unlink()
    before.close()  # ends the process that was loading it
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(remote, worker, "waiting")
        until_exists(Path("waits"))
        while any(isinstance(thread, threading.Timer) for thread in threading.enumerate()):
            time.sleep(0.002)  # who brought it back has seen that this was in vain
        Path("go").touch()
        assert len(coming.result(60).assess([frame(0)])) == 1


def until_exists(path: Path) -> None:
    give_up = time.monotonic() + 60.0
    while not path.exists():
        assert time.monotonic() < give_up, f"no {path}"
        time.sleep(0.002)


def test_a_model_that_cannot_be_loaded_costs_none_that_is_loaded_beside_it(worker: Worker) -> None:
    failing = Remote(doomed().spec, worker)

    def load_and_close() -> None:
        """As the cascade does with what could not be loaded."""
        with pytest.raises(ModelCrashed, match="cannot be loaded"):
            failing.load("cpu")
        failing.close()

    with ThreadPoolExecutor(2) as pool:
        failed = pool.submit(load_and_close)
        until_exists(Path("waits"))
        other = pool.submit(remote, worker, "mean")
        while worker._child is None or len(worker._child._waiting) < 2:  # it waits for its turn
            time.sleep(0.002)
        Path("go").touch()
        failed.result(60)
        assert len(other.result(60).assess([frame(0)])) == 1


def test_a_model_that_fails_is_loaded_anew_in_the_same_process(worker: Worker) -> None:
    before = remote(worker, "brittle")
    pid = worker.pid
    with pytest.raises(ModelCrashed, match="it broke"):
        before.assess([Frame.of(np.zeros((8, 8, 3), np.uint8))])
    with pytest.raises(ModelCrashed, match="it broke"):
        before.assess([frame(0)])
    after = remote(worker, "brittle")
    before.close()
    assert after.assess([frame(0)])[0].logit == 1.0
    assert worker.pid == pid


def test_a_model_that_answers_is_not_loaded_again_unless_it_shall_go_to_another_device(worker: Worker) -> None:
    model = remote(worker, "brittle")
    assert worker.load("brittle", "cpu", model).seconds == 0
    assert model.assess([frame(0)])[0].evidence["device"] == "cpu"
    model.load("meta")
    assert model.assess([frame(0)])[0].evidence["device"] == "meta"


def test_a_model_that_is_closed_while_the_process_is_replaced_does_not_come_back(worker: Worker) -> None:
    Path("go").touch()
    waits, closed = remote(worker, "waiting"), remote(worker, "mean")
    Path("go").unlink()
    Path("waits").unlink()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    until_exists(Path("waits"))  # the other comes after it
    closed.close()
    Path("go").touch()
    until_back(waits)
    waits.close()
    assert not worker.alive, "the process was kept for a model that nobody has"


def test_a_process_that_cannot_be_started_is_tried_again(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    model = remote(worker, "mean")
    start, failures = worker._start, [OSError("Resource temporarily unavailable")] * 3

    def hardly() -> None:
        if failures:
            raise failures.pop()
        start()

    monkeypatch.setattr(worker, "_start", hardly)
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGKILL)
    until_back(model)
    assert not failures


def test_full_memory_is_typed_and_costs_no_process(worker: Worker) -> None:
    model = remote(worker, "small")
    pid = worker.pid
    with pytest.raises(OutOfMemory, match="1 would"):
        model.assess([frame(0), frame(1)])
    assert len(model.assess([frame(0)])) == 1
    assert worker.pid == pid


def test_pictures_that_do_not_fit_are_refused_and_leave_nothing_behind(worker: Worker) -> None:
    model = remote(worker, "mean")
    with pytest.raises(OutOfMemory, match="send smaller batches"):
        model.assess([frame(0, (800, 1000)), frame(1, (800, 1000))])
    model.assess([frame(0, (800, 1000))])


def test_before_load_and_after_close_it_is_unavailable(worker: Worker) -> None:
    model = Remote(mean().spec, worker)
    with pytest.raises(ModelUnavailable, match="not started; call load"):
        model.assess([frame(0)])
    assert not worker.alive
    model.load("cpu")
    model.close()
    model.close()
    assert not worker.alive
    with pytest.raises(ModelUnavailable):
        model.assess([frame(0)])


def test_the_process_ends_with_its_last_model_and_leaves_no_orphan(worker: Worker) -> None:
    first, second = remote(worker, "mean"), remote(worker, "small")
    pid = worker.pid
    assert pid is not None
    first.close()
    assert worker.pid == pid
    second.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_gaps_are_used_again() -> None:
    arena = Arena(get_context("spawn"), 64 * 1024)
    picture = frame(0, (64, 64))  # 12,288 bytes: five fit
    with arena.holding([picture, picture]), arena.holding([picture, picture, picture]):
        with pytest.raises(OutOfMemory), arena.holding([picture]):
            pass
        assert arena.in_use == 5 * 12_288
    with arena.holding([picture] * 5) as places:
        assert sorted(place[0] for place in places) == [0, 12_288, 24_576, 36_864, 49_152]
    assert arena.in_use == 0


def gone(pid: int, seconds: float = 60.0) -> bool:
    """Whether the process ended, or ends within a time; one that nobody has waited for yet has ended too."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("death", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_process_started_ends_with_it(worker: Worker, death: signal.Signals) -> None:
    model = remote(worker, "parent")
    child = model.assess([frame(0)])[0].evidence["child"]
    assert worker.pid is not None
    os.kill(worker.pid, death)
    again = until_back(model)[0].evidence["child"]
    assert gone(child), "the process outlived the one that started it"
    worker.stop()
    assert gone(again), "the process outlived the worker that was told to stop"


@pytest.mark.parametrize("ending", ["", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_nothing_outlives_the_owner_however_it_ends(ending: str) -> None:
    script = f"""
import os, signal, sys
sys.path[:0] = {sys.path!r}
from test_worker import FACTORIES, QUICK, Worker, frame, remote
if __name__ == "__main__":
    worker = Worker(FACTORIES, QUICK)
    print(remote(worker, "parent").assess([frame(0)])[0].evidence["child"], worker.pid, flush=True)
    {ending}
"""
    path = Path.cwd() / "owner.py"
    path.write_text(script)
    done = subprocess.run([sys.executable, str(path)], stdout=subprocess.PIPE, text=True, timeout=300)
    assert done.returncode == (-signal.SIGKILL if ending else 0)
    for pid in map(int, done.stdout.split()):
        assert gone(pid)


def test_a_model_that_can_never_answer_again_is_replaced_with_its_process(worker: Worker) -> None:
    model, other = remote(worker, "lost"), remote(worker, "mean")
    before = worker.pid
    assert worker.ready
    with pytest.raises(ModelCrashed, match="the engine is dead"):
        model.assess([frame(0)])
    assert until_back(other)[0].evidence["pid"] != before


def test_a_second_question_reaches_the_model_with_its_boxes(worker: Worker) -> None:
    worker.load("looking", "cpu")
    model = RemoteExaminer(looking().spec, worker)
    assert isinstance(model, Examiner)
    assert not isinstance(remote(worker, "mean"), Examiner)
    assert model.assess([frame(0)])[0].logit == -2.0
    assert model.assess_crop(frame(0), [{"box": [0.0, 0.0, 9.0, 9.0], "label": "cone"}]).logit == 3.0
