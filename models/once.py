"""One forward pass for a picture, however many members ask for what came out of it.

A network, a head on its features and a memory of them are members of one tier and are asked side by side, in threads of
their own. Whoever comes first computes; the others wait for that. A model's own opinion is computed anew for each
question all the same (`fresh`), so that a canary tries the network and not what is remembered of it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

from models.base import Frame, ModelTimeout

T = TypeVar("T")
HELD = 256  # pictures whose result is remembered
PATIENCE = 10.0  # seconds; whoever computes is lost then


class _Pass(Future[T]):
    taken = False  # by a fresh question


class Once(Generic[T]):
    """compute: frames -> one result each, in order; called by several threads at a time."""

    def __init__(self, compute: Callable[[Sequence[Frame]], Sequence[T]]) -> None:
        self._compute = compute
        self._passes: OrderedDict[str, _Pass[T]] = OrderedDict()
        self._lock = threading.Lock()

    def __call__(self, frames: Sequence[Frame], fresh: bool = False) -> list[T]:
        """One result per frame. Raises what `compute` raises, and ModelTimeout when another thread never ends."""
        mine, wanted = self._claim(frames, fresh)
        try:
            results = self._compute([frame for frame, _ in mine]) if mine else []
        except BaseException as error:
            self._give_up(mine, error)
            raise
        for (_, each), result in zip(mine, results, strict=True):
            each.set_result(result)
        try:
            return [each.result(PATIENCE) for each in wanted]
        except TimeoutError:
            raise ModelTimeout(f"a forward pass begun by another member took more than {PATIENCE:.0f} s") from None

    def known(self, sha256: str) -> T | None:
        """The result for these bytes, if it is there; computes and waits for nothing."""
        with self._lock:
            found = self._passes.get(sha256)
        return found.result() if found and found.done() and not found.exception() else None

    def _claim(self, frames: Sequence[Frame], fresh: bool) -> tuple[list[tuple[Frame, _Pass[T]]], list[_Pass[T]]]:
        mine: list[tuple[Frame, _Pass[T]]] = []
        wanted: list[_Pass[T]] = []
        with self._lock:
            for frame in frames:
                found = self._passes.get(frame.sha256)
                if found is None or (fresh and found.taken):
                    found = self._passes[frame.sha256] = _Pass()
                    self._passes.move_to_end(frame.sha256)
                    mine.append((frame, found))
                found.taken |= fresh
                wanted.append(found)
            while len(self._passes) > HELD:
                self._passes.popitem(last=False)
        return mine, wanted

    def _give_up(self, mine: Sequence[tuple[Frame, _Pass[T]]], error: BaseException) -> None:
        with self._lock:
            for frame, each in mine:
                if self._passes.get(frame.sha256) is each:
                    del self._passes[frame.sha256]
        for _, each in mine:
            each.set_exception(error)
