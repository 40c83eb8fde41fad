"""A supervised process that holds the models of the card, so that one of them can die without the miner.

The process is spawned, not forked. Pictures reach it through shared memory: the pipe carries only where they lie. Each
model has a thread of its own there, and on a card a CUDA stream of its own, so that members of a tier overlap. Death,
hang and full memory come back as ModelCrashed, ModelTimeout and OutOfMemory; a process that died or was killed for
hanging is replaced in the background, with back-off, and gets back the models it had. Until then its models are
ModelUnavailable.

A thread that hangs cannot be stopped alone: a hang costs all models of the process, which is why engines of large
models have processes of their own. What a process starts belongs to its process group, and ends with it however it
ends: no orphan keeps the memory of a card.
"""

from __future__ import annotations

import atexit
import ctypes
import itertools
import logging
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from multiprocessing import connection, get_context
from typing import Any, NoReturn, cast
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from models.base import (
    BadWeights,
    Frame,
    Model,
    ModelCrashed,
    ModelError,
    ModelSpec,
    ModelTimeout,
    ModelUnavailable,
    NotFinite,
    Opinion,
    OutOfMemory,
    Unrecoverable,
)
from models.catalog import Entry, examines, make

log = logging.getLogger(__name__)

Factory = Callable[[], Model]  # picklable: it is called in the process
Boxes = Sequence[Mapping[str, Any]]  # evidence of detectors, as the second question shows them
Place = tuple[int, int, int, str]  # offset in shared memory, height, width, the frame's digest
KINDS: Mapping[str, type[ModelError]] = {
    kind.kind: kind
    for kind in (ModelError, ModelUnavailable, ModelTimeout, ModelCrashed, OutOfMemory, NotFinite, BadWeights)
}
ALIGNED = 64  # bytes


@dataclass(frozen=True, slots=True)
class Policy:
    """How patient a worker's owner is; seconds.

    hang: an assessment that takes longer hangs. loading: the same for load and warm_up. first, longest: wait before
    the process is replaced, doubled with each death until it lived for `calm`. shared: bytes of memory for pictures.
    """

    hang: float = 30.0
    loading: float = 900.0
    first: float = 0.5
    longest: float = 30.0
    calm: float = 60.0
    shared: int = 128 << 20


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading a model took: seconds, and 10^9 bytes of the card (of the process, on the CPU) more than before."""

    seconds: float
    gb: float


class Worker:
    """One process and its models. Used from any thread; calls of one model are worked on in order."""

    def __init__(
        self, factories: Mapping[str, Factory], policy: Policy | None = None, name: str = "perception"
    ) -> None:
        self.name = name
        self._factories, self._policy = dict(factories), policy or Policy()
        self._context = get_context("spawn")
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)  # what is ready, or wanted
        self._owners: dict[str, object] = {}
        self._devices: dict[str, str] = {}  # what was asked to be loaded, and is loaded again after a death
        self._ready: set[str] = set()
        self._failing: set[str] = set()  # models whose last call raised
        self._child: _Child | None = None
        self._arena: Arena | None = None
        self._deaths = 0
        self.restarts = 0

    @property
    def alive(self) -> bool:
        return self._child is not None and self._child.alive

    @property
    def ready(self) -> bool:
        """Whether all models that were loaded answer; not while the process is being replaced."""
        with self._lock:
            return self.alive and self._ready >= self._devices.keys()

    @property
    def pid(self) -> int | None:
        """The process's id, None while there is none."""
        return self._child.process.pid if self.alive and self._child else None

    def add(self, factories: Mapping[str, Factory]) -> None:
        """More models that may be loaded here."""
        with self._lock:
            self._factories |= factories

    def load(self, key: str, device: str, owner: object = None) -> Loaded:
        """Start the process if there is none, and load a model there; one that is coming back is waited for, and one
        that is there stays, unless its last call failed.

        owner: who may release it; the last one to load. Raises ModelError.
        """
        with self._lock:
            self._owners[key] = owner
            if self._comes_back(key, device):
                return Loaded(0.0, 0.0)
            if self._child is None:
                self._start()
            child = self._require()
            self._ready.discard(key)
            self._devices[key] = device  # wanted from now on: the process must not end with another model meanwhile
        try:
            loaded: Loaded = self._call(child, "load", key, (self._factories[key], device), self._policy.loading)
        except ModelError:
            self._is_lost(child, key)
            raise
        self._is_ready(child, key)
        return loaded

    def _comes_back(self, key: str, device: str) -> bool:
        """Whether the model is there already, or is there after waiting for the process's replacement."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._devices.get(key) != device or (key in self._ready and self.alive), self._policy.loading
            )
            return self._devices.get(key) == device and key in self._ready - self._failing

    def _is_ready(self, child: _Child, key: str) -> None:
        with self._changed:
            if child is self._child and key in self._devices:
                self._ready.add(key)
            self._changed.notify_all()

    def _is_lost(self, child: _Child, key: str) -> None:
        """It is wanted no more, unless its process was told to end: who wants it now has asked another one for it."""
        with self._changed:
            if not child.told_to_end:
                self._devices.pop(key, None)
            self._changed.notify_all()

    def warm_up(self, key: str) -> None:
        """Raises ModelError."""
        self._call(self._require(key), "warm_up", key, None, self._policy.loading)

    def assess(self, key: str, frames: Sequence[Frame]) -> list[Opinion]:
        """Raises ModelError; ModelUnavailable at once while the process is being replaced."""
        child = self._require(key)
        assert self._arena is not None
        with self._arena.holding(frames) as places:
            opinions: list[Opinion] = self._call(child, "assess", key, places, self._policy.hang)
        return opinions

    def assess_crop(self, key: str, frame: Frame, boxes: Boxes) -> Opinion:
        """The second question. Raises ModelError; ModelUnavailable at once while the process is being replaced."""
        child = self._require(key)
        assert self._arena is not None
        with self._arena.holding([frame]) as places:
            opinion: Opinion = self._call(child, "assess_crop", key, (places, boxes), self._policy.hang)
        return opinion

    def release(self, key: str, owner: object = None) -> None:
        """Close a model; the process ends with the last one. Nothing happens twice, or for who is not its owner."""
        with self._changed:
            if self._owners.get(key) is not owner:
                return
            known = self._devices.pop(key, None) is not None
            self._ready.discard(key)
            self._changed.notify_all()
            if not self._devices:
                self.stop()  # under the lock: who loads next must not be given a process that is about to end
                return
            child = self._child
        if known and child and child.alive:
            with suppress(ModelError):
                self._call(child, "close", key, None, self._policy.hang)

    def stop(self) -> None:
        """End the process: politely, then not. Safe to call twice."""
        with self._lock:
            child, self._child = self._child, None
            self._ready.clear()
            self._devices.clear()
            self._changed.notify_all()
        if child:
            child.end()

    def _start(self) -> None:
        self._arena = self._arena or Arena(self._context, self._policy.shared)
        self._child = _Child(self._context, self.name, self._arena.memory, self._on_death)

    def _require(self, key: str = "") -> _Child:
        with self._lock:
            if self._child is None or not self._child.alive or (key and key not in self._ready):
                state = "being replaced" if self._devices else "not started; call load(device) first"
                raise ModelUnavailable(f"{key or self.name}: worker process {self.name!r} is {state}")
            return self._child

    def _call(self, child: _Child, verb: str, key: str, payload: Any, limit: float) -> Any:
        future = child.send(verb, key, payload)
        try:
            answer = future.result(limit)
        except FutureTimeout:
            child.kill(f"{key} hung in {verb} for {limit:g} s")
            raise ModelTimeout(
                f"{key}: no answer to {verb} within {limit:g} s; worker {self.name!r} was killed"
            ) from None
        except ModelError:
            self._failing.add(key)
            raise
        self._failing.discard(key)
        return answer

    def _on_death(self, child: _Child, reason: str) -> None:
        """Called by the child's reader thread, once, when the process is gone."""
        with self._lock:
            if child is not self._child:
                return  # it was told to end
            self._ready.clear()
            lived = time.monotonic() - child.born
            self._deaths = 1 if lived > self._policy.calm else self._deaths + 1
            wait = min(self._policy.first * 2 ** (self._deaths - 1), self._policy.longest)
        log.warning("worker %s: %s; replaced in %.1f s", self.name, reason, wait)
        replacer = threading.Timer(wait, self._replace, (child,))
        replacer.daemon = True
        replacer.start()

    def _replace(self, dead: _Child) -> None:
        with self._lock:
            if self._child is not dead:
                return  # stopped in the meantime
            try:
                self._start()
            except OSError as error:  # no memory or no number for a process at the moment
                self._on_death(dead, f"no process can be started ({error})")
                return
            self.restarts += 1
            child, wanted = self._child, dict(self._devices)
        assert child is not None
        for key, device in wanted.items():
            if self._devices.get(key) != device:
                continue  # closed in the meantime
            try:
                self._call(child, "load", key, (self._factories[key], device), self._policy.loading)
                self._call(child, "warm_up", key, None, self._policy.loading)
            except ModelError as error:  # if it took the process with it, it must not do so again
                log.error("worker %s: %s is not back: %s", self.name, key, error)
                self._is_lost(child, key)
                if not child.alive:
                    return  # that death is being answered
            else:
                self._is_ready(child, key)
        log.info("worker %s: back as process %s", self.name, child.process.pid)


class Remote:
    """One model of a worker, as a `models.base.Model`."""

    def __init__(self, spec: ModelSpec, worker: Worker) -> None:
        self.spec, self.worker = spec, worker
        self.loaded: Loaded | None = None

    def load(self, device: str) -> None:
        self.loaded = self.worker.load(self.spec.key, device, self)

    def warm_up(self) -> None:
        self.worker.warm_up(self.spec.key)

    def assess(self, frames: Sequence[Frame]) -> list[Opinion]:
        return self.worker.assess(self.spec.key, frames) if frames else []

    def close(self) -> None:
        self.worker.release(self.spec.key, self)


class RemoteExaminer(Remote):
    """The same for a model that can be asked a second question."""

    def assess_crop(self, frame: Frame, boxes: Boxes) -> Opinion:
        return self.worker.assess_crop(self.spec.key, frame, boxes)


_workers: WeakValueDictionary[str, Worker] = WeakValueDictionary()  # of this miner, by name


def remotes(
    entries: Sequence[Entry], policy: Policy | None = None, name: str = "perception", *with_each: Any
) -> dict[str, Model]:
    """The models of these entries, in the worker of this process with this name, which starts when the first is loaded.

    with_each: what an adapter is made with beside its entry. A second model of the same key takes over from the first,
    which then can no longer close it.
    """
    worker = _workers.get(name) or Worker({}, policy, name)
    _workers[name] = worker
    worker.add({entry.key: partial(make, entry, *with_each) for entry in entries})
    return {entry.key: (RemoteExaminer if examines(entry) else Remote)(entry.spec, worker) for entry in entries}


class Arena:
    """Memory that the owner writes pictures into and the process reads them from."""

    def __init__(self, context: Any, size: int) -> None:
        self.memory = context.RawArray(ctypes.c_uint8, size)
        self._bytes = np.frombuffer(self.memory, np.uint8)
        self._lock = threading.Lock()
        self._held: dict[int, int] = {}  # offset -> end

    @property
    def in_use(self) -> int:
        """Bytes."""
        return sum(end - offset for offset, end in self._held.items())

    @contextmanager
    def holding(self, frames: Sequence[Frame]) -> Iterator[list[Place]]:
        """The frames in shared memory for the time of the block. Raises OutOfMemory."""
        offsets: list[int] = []
        try:
            places: list[Place] = []
            for frame in frames:
                offset = self._take(frame.pixels.nbytes)
                offsets.append(offset)
                target = self._bytes[offset : offset + frame.pixels.nbytes].reshape(frame.pixels.shape)
                np.copyto(target, frame.pixels)
                places.append((offset, *frame.pixels.shape[:2], frame.sha256))
            yield places
        finally:
            with self._lock:
                for offset in offsets:
                    del self._held[offset]

    def _take(self, size: int) -> int:
        """First gap that is large enough."""
        size = -(-size // ALIGNED) * ALIGNED
        with self._lock:
            start = 0
            for offset, end in sorted(self._held.items()):
                if offset - start >= size:
                    break
                start = end
            if start + size > len(self._bytes):
                raise OutOfMemory(
                    f"{size / 1e6:.1f} MB of pictures do not fit beside {self.in_use / 1e6:.1f} "
                    f"of {len(self._bytes) / 1e6:.1f} MB of shared memory; send smaller batches"
                )
            self._held[start] = start + size
            return start


class _Child:
    """One life of the process: its pipe, and the calls that wait for an answer."""

    def __init__(
        self,
        context: Any,
        name: str,
        memory: Any,
        on_death: Callable[[_Child, str], None],
    ) -> None:
        self._ours, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, memory), name=f"worker-{name}", daemon=False)
        self.process.start()
        theirs.close()
        atexit.register(self._kill_all)  # multiprocessing ends no process by itself that may have children
        self.born = time.monotonic()
        self.told_to_end = False
        self._on_death = on_death
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[Any]] = {}
        self._gone = ""
        threading.Thread(target=self._read, name=f"worker-{name}-replies", daemon=True).start()

    @property
    def alive(self) -> bool:
        return not self._gone and self.process.is_alive()

    def send(self, verb: str, key: str, payload: Any) -> Future[Any]:
        """The answer to come. Raises ModelCrashed if the process is gone."""
        future: Future[Any] = Future()
        with self._lock:
            if self._gone:
                raise ModelCrashed(f"{key}: {self._gone}")
            number = next(self._numbers)
            self._waiting[number] = future
            try:
                self._ours.send((number, verb, key, payload))
            except OSError:  # the reader is about to see it too, and fails all that wait
                del self._waiting[number]
                raise ModelCrashed(f"{key}: the worker process is gone") from None
        return future

    def kill(self, reason: str) -> None:
        with self._lock:
            self._gone = self._gone or f"worker killed: {reason}"
        self._kill_all()

    def end(self) -> None:
        self.told_to_end = True
        with self._lock, suppress(OSError):
            self._ours.send(None)
        self.process.join(5)
        if self.process.is_alive():
            self._kill_all()
            self.process.join(5)  # what not even that ends hangs in the kernel: the reader waits for it, nobody else

    def _kill_all(self) -> None:
        """The process and all that it started: they are one process group, as soon as it has begun to run."""
        self.process.kill()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid or 0, signal.SIGKILL)

    def _read(self) -> None:
        with suppress(EOFError, OSError):
            while True:
                number, error, value = self._ours.recv()
                with self._lock:
                    future = self._waiting.pop(number)
                if error is None:
                    future.set_result(value)
                else:
                    future.set_exception(KINDS[error](value))
        self._kill_all()  # before the process is waited for: until then nobody else can have its number
        self.process.join()
        atexit.unregister(self._kill_all)
        with self._lock:
            self._gone = self._gone or f"worker process ended with {_how(self.process.exitcode)}"
            waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(ModelCrashed(self._gone))
        self._ours.close()
        self._on_death(self, self._gone)


def _how(code: int | None) -> str:
    return f"signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"exit code {code}"


# ---- in the process --------------------------------------------------------------------------------------------------


def _serve(pipe: connection.Connection, memory: Any) -> None:
    """The process's life: hand each model's calls to its thread, until the owner says so or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner decides when to end
    os.setsid()  # and this process leads a group of all that it starts
    pixels = np.frombuffer(memory, np.uint8)
    threads: dict[str, _Thread] = {}
    loading, answering = threading.Lock(), threading.Lock()

    def answer(number: int, error: str | None, value: Any) -> None:
        with answering, suppress(OSError):
            pipe.send((number, error, value))

    with suppress(EOFError, OSError, KeyboardInterrupt):
        while (call := pipe.recv()) is not None:
            number, verb, key, payload = call
            if key not in threads:
                threads[key] = _Thread(key, pixels, loading, answer)
            threads[key].calls.put((number, verb, payload))
    _end()


def _end() -> NoReturn:
    """End this process and all that it started; no model may hold it back with its threads or its exit handlers."""
    os.killpg(0, signal.SIGKILL)
    raise AssertionError("not reached")


class _Thread:
    """One model and its calls, in order, on a CUDA stream of its own."""

    def __init__(
        self,
        key: str,
        pixels: NDArray[np.uint8],
        loading: threading.Lock,
        answer: Callable[[int, str | None, Any], None],
    ) -> None:
        self.calls: queue.SimpleQueue[tuple[int, str, Any]] = queue.SimpleQueue()
        self._pixels, self._loading, self._answer = pixels, loading, answer
        self._model: Model | None = None
        self._stream: Any = None
        threading.Thread(target=self._run, name=key, daemon=True).start()

    def _run(self) -> None:
        while True:
            number, verb, payload = self.calls.get()
            try:
                with import_module("torch").cuda.stream(self._stream) if self._stream else nullcontext():
                    value = getattr(self, f"_{verb}")(payload)
            except ModelError as error:
                self._answer(number, error.kind, str(error))
                if isinstance(error, Unrecoverable):
                    _end()
            except Exception as error:
                log.exception("a model raised what no model may raise")
                self._answer(number, ModelCrashed.kind, f"{type(error).__name__}: {error}")
            else:
                self._answer(number, None, value)

    def _load(self, wanted: tuple[Factory, str]) -> Loaded:
        factory, device = wanted
        with self._loading:  # one at a time, so that what each takes can be told
            self._close(None)
            self._model = factory()
            here = device if getattr(self._model, "launches_kernels", True) else "cpu"  # of this process itself
            started, before = time.monotonic(), _bytes_in_use(here)
            self._model.load(device)
            if here.startswith("cuda"):
                self._stream = import_module("torch").cuda.Stream(here)
            return Loaded(time.monotonic() - started, (_bytes_in_use(here) - before) / 1e9)

    def _warm_up(self, _: None) -> None:
        self._loaded.warm_up()

    def _assess(self, places: Sequence[Place]) -> list[Opinion]:
        return self._loaded.assess(self._frames(places))

    def _assess_crop(self, wanted: tuple[Sequence[Place], Boxes]) -> Opinion:
        places, boxes = wanted
        opinion: Opinion = cast(Any, self._loaded).assess_crop(*self._frames(places), boxes)
        return opinion

    def _frames(self, places: Sequence[Place]) -> list[Frame]:
        return [
            Frame(self._pixels[offset : offset + height * width * 3].reshape(height, width, 3), sha256)
            for offset, height, width, sha256 in places
        ]

    def _close(self, _: None) -> None:
        if self._model:
            self._model.close()
            self._model = None

    @property
    def _loaded(self) -> Model:
        if self._model is None:
            raise ModelUnavailable("not loaded; call load(device) first")
        return self._model


def _bytes_in_use(device: str) -> int:
    """Bytes of the card that this process holds; of its own memory on the CPU."""
    if device.startswith("cuda"):
        return int(import_module("torch").cuda.memory_reserved(device))
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
