"""Training that survives kill -9: accelerate for devices, one atomic file to go on from, every step a function of its
number.

`fit` knows nothing of pictures: it is given a module whose outputs `loss` turns into a number, and a map of batches.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torch.utils.tensorboard import SummaryWriter

from models.training.finetune.settings import Settings

WARM_UP = 0.05  # share of the steps in which the learning rate rises
AVERAGED = 0.6  # after this share of the steps the weights are averaged: steadier than the last step's
CLIPPED = 1.0  # norm of the gradient
FRESH = ("head", "map")  # modules that start at nothing
NAME = "checkpoint.pt"
REMEDY = "--checkpointing, --accumulate 2 (the same batch in two parts), or a smaller --batch"

Loss = Callable[[Any, Mapping[str, Tensor]], Tensor]
Show = Callable[[int, Mapping[str, Tensor]], Mapping[str, Tensor]]
Watch = Callable[[], Mapping[str, float]]


class Numbered(Protocol):
    """Batches by number, each a mapping of arrays or tensors."""

    def __getitem__(self, number: int) -> Mapping[str, Any]: ...


@dataclass
class State:
    """Where a run is. average: mean of the learning weights over the last steps, by name; empty before that."""

    step: int
    average: dict[str, Tensor]


class Machine(Accelerator):
    """accelerate's view of this machine: which device, how many processes; and in which precision they compute.

    The precision is not left to accelerate: it would take the module's `forward` over, and of a compiled one it gives
    back another.
    """

    def __init__(self, *, cpu: bool, bf16: bool) -> None:
        super().__init__(cpu=cpu, mixed_precision="no")
        self._bf16 = bf16

    def autocast(self, autocast_handler: Any = None) -> AbstractContextManager[Any]:
        """What is computed within is in 16 bits, if that was asked for."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._bf16)


def accelerator(settings: Settings) -> Accelerator:
    """The machine as the settings want it used. Seeds torch, so that what starts at random (LoRA matrices, a map of
    features) does so equally."""
    torch.manual_seed(settings.seed)
    on_card = settings.device == "auto" and torch.cuda.is_available()
    wanted = settings.precision if settings.precision != "auto" else ("bf16" if on_card else "fp32")
    return Machine(cpu=settings.device == "cpu", bf16=wanted == "bf16")


def fit(
    model: nn.Module,
    batches: Numbered,
    loss: Loss,
    settings: Settings,
    run: Accelerator,
    *,
    identity: Mapping[str, str],
    show: Show = lambda number, batch: batch,
    head_factor: float = 1.0,
    watch: Watch | None = None,
) -> None:
    """Train what of `model` requires a gradient, in place; ends with the averaged weights.

    batches: numbers 0 .. steps * accumulate - 1. show: number and batch, on the device, -> what model and loss take.
    identity: what makes the run what it is, settings and pictures; a run of another one is never resumed.
    head_factor: FRESH modules learn so much faster. watch: figures for TensorBoard, asked in evaluation mode.
    Raises ValueError when `settings.out` holds another run or the memory is full, FloatingPointError when the loss is
    not finite, OSError when the disk is full or a loader's process died.
    """
    optimizer = torch.optim.AdamW(_groups(model.to(run.device), settings, head_factor))
    state = _resume(settings.out / NAME, model, optimizer, identity, run.device)
    ready, optimizer = run.prepare(torch.compile(model) if settings.compile else model, optimizer)
    parts = settings.accumulate
    numbers = range(state.step * parts, settings.steps * parts)
    loader = DataLoader(
        batches,  # type: ignore[arg-type]  # a map-style data set by what it does
        batch_size=None,
        sampler=numbers,
        num_workers=settings.workers,
        pin_memory=run.device.type == "cuda",
    )
    incoming = (show(n, _moved(batch, run.device)) for n, batch in zip(numbers, loader, strict=True))
    saved = time.monotonic()
    with _bar(run, settings.steps) as advance, _board(run, settings.out, state.step) as board:
        advance(state.step, "")
        for step in range(state.step, settings.steps):
            torch.manual_seed((settings.seed << 32) + step * run.num_processes + run.process_index)
            rate = _rate(step, settings.steps)
            for group in optimizer.param_groups:
                group["lr"] = group["highest"] * rate
            _train_mode(ready)
            try:
                total = _update(ready, optimizer, incoming, loss, parts, run)
            except RuntimeError as error:
                raise (_explained(error) or error) from None
            if not math.isfinite(total):
                raise FloatingPointError(
                    f"step {step}: the loss is {total}; lower learning-rate, or use --precision fp32, then start again"
                )
            state.step = step + 1
            _average(state, model, settings.steps)
            board("loss", total, state.step)
            board("learning_rate", settings.learning_rate * rate, state.step)
            if watch and (state.step % settings.validate_every == 0 or state.step == settings.steps):
                model.eval()
                for name, value in watch().items():
                    board(name, value, state.step)
            if time.monotonic() - saved >= 60 * settings.checkpoint_minutes or state.step == settings.steps:
                _save(settings.out / NAME, model, optimizer, state, identity, run)
                saved = time.monotonic()
            advance(state.step, f"loss {total:.3f}")
    _load(model, state.average)
    model.eval()


def _update(
    ready: nn.Module, optimizer: Any, incoming: Iterator[Any], loss: Loss, parts: int, run: Accelerator
) -> float:
    """One step over `parts` batches. Gives this process's mean loss."""
    total = 0.0
    for part in range(parts):
        batch = next(incoming)
        with run.no_sync(ready) if part < parts - 1 else nullcontext():
            with run.autocast():
                found = loss(ready(**{k: v for k, v in batch.items() if k != "targets"}), batch) / parts
            run.backward(found)
        total += float(found.detach())
    run.clip_grad_norm_([p for p in ready.parameters() if p.requires_grad], CLIPPED)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def _explained(error: RuntimeError) -> Exception | None:
    """What to do about what torch tells of memory; None of anything else. Only a full card has a type of its own."""
    said = str(error).splitlines()[0] if str(error) else ""
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in said:
        return ValueError(f"the memory is full; try {REMEDY} ({said})")
    if "DataLoader worker" in said:
        return OSError(
            f"{said} Fewer --workers need less memory; a container must be given shared memory (--shm-size 1g). "
            "Then start again: it goes on from the last checkpoint"
        )
    return None


def _moved(batch: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {key: value.to(device, non_blocking=True) for key, value in batch.items()}


def learning(model: nn.Module) -> dict[str, nn.Parameter]:
    """The weights that learn, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def _groups(model: nn.Module, settings: Settings, head_factor: float) -> list[dict[str, Any]]:
    """Head and rest, with and without decay: biases, norms and scales are not pulled towards 0."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, p in learning(model).items():
        fresh = name.removeprefix("student.").split(".")[0] in FRESH
        highest = settings.learning_rate * (head_factor if fresh else 1.0)
        groups.setdefault((highest, settings.weight_decay if p.ndim > 1 else 0.0), []).append(p)
    return [
        {"params": params, "lr": highest, "highest": highest, "weight_decay": decay}
        for (highest, decay), params in groups.items()
    ]


def _rate(step: int, steps: int) -> float:
    """Share of the highest learning rate: up in a line, down in a cosine."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _train_mode(model: nn.Module) -> None:
    """Training mode, but batch normalisation keeps its statistics: a fine-tune's batches are small and mixed."""
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


@torch.no_grad()
def _average(state: State, model: nn.Module, steps: int) -> None:
    """Running mean of the learning weights over the last steps."""
    since = state.step - math.ceil(AVERAGED * steps)
    if since < 0 and state.step < steps:
        return
    now = learning(model)
    if not state.average:
        state.average = {name: p.detach().clone() for name, p in now.items()}
        return
    for name, p in now.items():
        state.average[name].lerp_(p, 1 / (since + 1))


@torch.no_grad()
def _load(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    for name, p in learning(model).items():
        p.copy_(weights[name])


def _save(
    path: Path, model: nn.Module, optimizer: Any, state: State, identity: Mapping[str, str], run: Accelerator
) -> None:
    """All or nothing: the file is either the last one or this one, whenever the machine stops."""
    if not run.is_main_process:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    kept = {
        "identity": dict(identity),
        "step": state.step,
        "average": state.average,
        "weights": {name: p.detach() for name, p in learning(model).items()},
        "optimizer": optimizer.state_dict(),
    }
    try:
        with draft.open("wb") as file:
            torch.save(kept, file)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, RuntimeError) as error:  # torch tells a full disk as a RuntimeError
        draft.unlink(missing_ok=True)
        raise OSError(
            f"{path} cannot be written ({error}); {shutil.disk_usage(path.parent).free / 1e9:.1f} GB are free there. "
            "Make room and start again: it goes on from the last whole checkpoint"
        ) from error
    draft.replace(path)


def _resume(path: Path, model: nn.Module, optimizer: Any, identity: Mapping[str, str], device: torch.device) -> State:
    if not path.is_file():
        return State(0, {})
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever reading a strange file raises
        raise ValueError(f"{path} is no whole checkpoint ({error!r}); remove it to start anew") from None
    then = kept.get("identity", {})
    changed = [f"{k} {then.get(k)} -> {v}" for k, v in identity.items() if then.get(k) != v]
    if changed:
        raise ValueError(
            f"{path} is of another run ({'; '.join(changed)}). Choose another --out, or ask for what was asked then, "
            "or remove that file to start anew"
        )
    _load(model, kept["weights"])
    optimizer.load_state_dict(kept["optimizer"])
    return State(int(kept["step"]), {name: mean.to(device) for name, mean in kept["average"].items()})


@contextmanager
def _bar(run: Accelerator, steps: int) -> Iterator[Callable[[int, str], None]]:
    """Progress on the terminal of the first process: call it with the steps done and a note."""
    times = (TimeElapsedColumn(), TimeRemainingColumn(), TextColumn("{task.fields[note]}"))
    columns = ("Training", BarColumn(), MofNCompleteColumn(), *times)
    with Progress(*columns, console=Console(stderr=True), disable=not run.is_main_process) as progress:
        task = progress.add_task("", total=steps, note="")
        yield lambda step, note: progress.update(task, completed=step, note=note)


@contextmanager
def _board(run: Accelerator, out: Path, step: int) -> Iterator[Callable[[str, float, int], None]]:
    """TensorBoard of the first process. What a cut-off run wrote after its last checkpoint is taken back."""
    if not run.is_main_process:
        yield lambda name, value, step: None
        return
    with SummaryWriter(str(out / "tensorboard"), purge_step=step + 1) as writer:
        yield lambda name, value, step: writer.add_scalar(name, value, step)
