"""A forward pass recorded once per batch size and replayed: the card no longer waits for Python to name each kernel.

A graph has fixed shapes and fixed places in memory. So the batch is padded to the next recorded size, its pictures are
copied to where the graph reads, and what the graph wrote is copied out before the next replay overwrites it. All sizes
share one pool of memory, since only one of them runs at a time.

What is recorded must not look at values on the way (no `.item()`, no shapes that depend on data), must not move data
between host and card, and must treat the pictures of a batch independently.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map, tree_map_only

SIZES = (1, 2, 4, 8, 16, 32, 64)
WARM_UPS = 3  # runs before recording, in which libraries choose kernels and take their workspaces

Replay = Callable[[], None]
Record = Callable[[Callable[[], Any], Any], tuple[Replay, Any]]  # what to run, pool of memory -> replay, its outputs
_one_at_a_time = threading.Lock()  # neither compilers nor recordings of several threads mix


@dataclass(frozen=True, slots=True)
class Cost:
    """What recording took. seconds: compilation included. gb: 10^9 bytes of the card that the graphs hold."""

    seconds: float
    gb: float


def record(run: Callable[[], Any], pool: Any) -> tuple[Replay, Any]:
    """Record `run` on the current card. Gives its replay and the tensors that each replay writes anew."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UPS):
            run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"), _unseen():  # other threads go on
        outputs = run()
    return graph.replay, outputs


@contextmanager
def _unseen() -> Iterator[None]:
    """Libraries must not notice that they are recorded: transformers then masks attention, which takes another kernel
    (3 times the time of a whole ViT-B) and makes compiled blocks compile anew in the middle of a recording."""
    noticed, torch.cuda.is_current_stream_capturing = torch.cuda.is_current_stream_capturing, lambda: False
    try:
        yield
    finally:
        torch.cuda.is_current_stream_capturing = noticed


class Graphs:
    """`forward`, recorded for some batch sizes and called with any. Used from any thread and stream, one at a time.

    forward: takes tensors (N, ...) and gives a tensor, or a tuple, dict or library output of tensors (N, ...).
    examples: one tensor (1, ...) per argument, on the card: shape, type and device of what will come.
    sizes: batch sizes to record. A batch is padded to the next one; one larger than the largest is cut.

    Raises RuntimeError when `forward` cannot be recorded, and torch's OutOfMemoryError.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        *examples: torch.Tensor,
        sizes: Sequence[int] = SIZES,
        record: Record = record,
    ) -> None:
        self.sizes = sorted(sizes)
        self._forward, self._device = forward, examples[0].device
        self._lock = threading.Lock()
        on_card = self._device.type == "cuda"
        self._idle = torch.cuda.Event() if on_card else None  # the last replay has been copied out
        with _one_at_a_time, torch.inference_mode():
            started, before = time.perf_counter(), _held(self._device)
            self._inputs = [each.expand(self.sizes[-1], *each.shape[1:]).contiguous() for each in examples]
            pool = torch.cuda.graph_pool_handle() if on_card else None
            with torch.cuda.device(self._device if on_card else -1):
                self._graphs = {size: record(self._run(size), pool) for size in reversed(self.sizes)}
            self.cost = Cost(time.perf_counter() - started, (_held(self._device) - before) / 1e9)

    def _run(self, size: int) -> Callable[[], Any]:
        return lambda: self._forward(*(each[:size] for each in self._inputs))

    @torch.inference_mode()
    def __call__(self, *inputs: torch.Tensor) -> Any:
        """The forward's outputs for N pictures, on the current stream. Inputs may lie in pinned host memory."""
        count, largest = len(inputs[0]), self.sizes[-1]
        if count <= largest:
            return self._replayed(inputs)
        parts = [self._replayed([each[at : at + largest] for each in inputs]) for at in range(0, count, largest)]
        return tree_map(lambda *same: torch.cat(same), *parts)

    def _replayed(self, inputs: Sequence[torch.Tensor]) -> Any:
        count = len(inputs[0])
        replay, outputs = self._graphs[next(size for size in self.sizes if size >= count)]
        with self._lock:
            if self._idle:
                self._idle.wait()
            for place, given in zip(self._inputs, inputs, strict=True):
                place[:count].copy_(given, non_blocking=True)
            replay()
            answer = tree_map_only(torch.Tensor, lambda written: written[:count].clone(), outputs)
            if self._idle:
                self._idle.record()
        return answer


def _held(device: torch.device) -> int:
    return torch.cuda.memory_reserved(device) if device.type == "cuda" else 0


def recordable(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A library's forward without what cannot be recorded: small constants brought to the card, and checks of values.

    Tensors that it makes of Python's numbers are made by the warm-up, and are the same ones from then on.
    Not for what goes through `torch.compile`, which does this itself.
    """
    os.environ["TRANSFORMERS_DISABLE_TORCH_CHECK"] = "1"  # its checks bring a value back to the host
    constants = _Constants()

    def without(*inputs: Any) -> Any:
        with constants:
            return forward(*inputs)

    return without


class _Constants(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self._known: dict[str, torch.Tensor] = {}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if function is torch.Tensor.__setitem__ and isinstance(args[2], (int, float)):
            return args[0][args[1]].fill_(args[2])  # the number becomes part of a kernel, not a tensor of the host
        if function not in (torch.tensor, torch.as_tensor) or isinstance(args[0], torch.Tensor):
            return function(*args, **kwargs)
        key = f"{args} {kwargs}"
        if key not in self._known:
            self._known[key] = function(*args, **kwargs)
        return self._known[key]
