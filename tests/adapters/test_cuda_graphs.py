"""Batches padded, cut and copied out. Recording itself needs a card: here a recording runs its function again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from models.cuda_graphs import Graphs, recordable


def record(run: Callable[[], Any], pool: Any) -> tuple[Callable[[], None], Any]:
    """As on a card: each replay reads the same places and writes over its last outputs."""
    outputs = run()

    def replay() -> None:
        tree_map(lambda written, fresh: written.copy_(fresh), outputs, run())

    return replay, outputs


def graphs(sizes: tuple[int, ...] = (1, 2, 4)) -> tuple[Graphs, list[int]]:
    """A function of two arguments, and the batch sizes it was run with."""
    ran: list[int] = []

    def forward(pictures: torch.Tensor, shift: torch.Tensor) -> dict[str, torch.Tensor]:
        ran.append(len(pictures))
        return {"sum": pictures.sum(1) + shift, "twice": pictures * 2}

    return Graphs(forward, torch.zeros(1, 3), torch.zeros(1), sizes=sizes, record=record), ran


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 9])
def test_any_batch_is_answered_in_order(count: int) -> None:
    model, _ = graphs()
    pictures, shift = torch.randn(count, 3), torch.randn(count)
    found = model(pictures, shift)
    assert torch.equal(found["sum"], pictures.sum(1) + shift)
    assert torch.equal(found["twice"], pictures * 2)


def test_a_batch_takes_the_next_recorded_size() -> None:
    model, ran = graphs()
    assert ran == [4, 2, 1]  # recorded from the largest on, so that the smaller find its memory
    for count, expected in ((1, [1]), (3, [4]), (9, [4, 4, 1])):
        ran.clear()
        model(torch.ones(count, 3), torch.zeros(count))
        assert ran == expected


def test_an_answer_outlives_the_next_call() -> None:
    model, _ = graphs()
    first = model(torch.ones(2, 3), torch.zeros(2))
    model(torch.zeros(2, 3), torch.zeros(2))
    assert first["sum"].tolist() == [3, 3]


def test_what_a_larger_batch_left_behind_shows_in_no_answer() -> None:
    model, _ = graphs()
    model(torch.full((4, 3), float("nan")), torch.zeros(4))
    assert model(torch.ones(3, 3), torch.zeros(3))["sum"].tolist() == [3, 3, 3]


def test_inputs_of_another_shape_are_refused() -> None:
    model, _ = graphs()
    with pytest.raises(RuntimeError, match="size"):
        model(torch.ones(1, 4), torch.zeros(1))


def test_constants_are_made_once() -> None:
    """What a library brings to the card by `torch.tensor` cannot be recorded; the same numbers are the same tensor."""
    seen: list[torch.Tensor] = []

    def forward(pictures: torch.Tensor) -> torch.Tensor:
        seen.append(torch.as_tensor([[2, 3]], dtype=torch.long))
        return pictures + torch.tensor(len(seen)) + torch.as_tensor(pictures)

    safe = recordable(forward)
    assert safe(torch.ones(1)).tolist() == [3]
    assert safe(torch.ones(1) * 5).tolist() == [12]
    assert seen[0] is seen[1]
    assert torch.as_tensor([[2, 3]], dtype=torch.long) is not seen[0]


def test_a_number_put_into_a_tensor_stays_a_number() -> None:
    def forward(pictures: torch.Tensor) -> torch.Tensor:
        shapes = torch.empty((2, 2), dtype=torch.long)
        for level in range(2):
            shapes[level, 0] = level + 3
            shapes[level, 1] = 7
        shapes[0, 1:] = shapes[1, :1]
        return shapes

    class Watched(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            assert "lift_fresh" not in str(function), "a tensor was made on the host"
            return function(*args, **kwargs or {})

    with Watched():
        assert recordable(forward)(torch.ones(1)).tolist() == [[3, 4], [4, 7]]
