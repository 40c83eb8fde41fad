"""What `./run_miner.sh train` costs on one card: pictures a second and memory, by backbone and by what learns.

    python benchmarks/train_card.py --out DIR             # a card: ViT-B/16 and DINOv3-L, at real size
    python benchmarks/train_card.py --out DIR --tiny      # the same on the CPU with tiny networks

Weights are random and written to DIR once; pictures are drawn, 1280 x 720. Each row is the command's own training loop
(pasting and wear, forward, backward, AdamW) on two batches that were decoded before: what the card does while the
loader keeps up. Views: pasting and wear alone. One loader: what one of the command's --workers processes decodes.
First steps: from the start to the fifth step, which is where --compile compiles; all other times are of later steps.

The most valuable rows come first. One process takes them in turn; where a row fails or is not done in --limit seconds
(four times as many if it compiles), the table says so and a new process goes on with the next. What does not fit into
--minutes is left out. After each row train_card.md and train_card.json in DIR are written anew; train_card.log there
has what was said on the way.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers as tf
from PIL import Image
from torch import Tensor

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models.data.drawn import draw  # noqa: E402
from models.training.finetune import classify, composer, data, loop, network  # noqa: E402
from models.training.finetune.settings import Classify, parse  # noqa: E402

BACKBONES: dict[str, dict[str, int]] = {
    "vit-b": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "dinov3-l": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "num_register_tokens": 4,
    },
}
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
Row = tuple[str, str, int, tuple[str, ...]]  # backbone, what learns, batch, flags
ROWS: tuple[Row, ...] = (
    ("dinov3-l", "lora", 64, ()),
    ("vit-b", "full", 128, ()),
    ("dinov3-l", "full", 64, ()),
    ("vit-b", "lora", 128, ()),
    ("vit-b", "head", 256, ()),
    ("dinov3-l", "head", 256, ()),
    ("dinov3-l", "lora", 64, ("--checkpointing",)),
    ("vit-b", "full", 128, ("--checkpointing",)),
    ("vit-b", "full", 128, ("--compile",)),  # these take long to begin
    ("dinov3-l", "full", 64, ("--compile",)),
    ("dinov3-l", "lora", 64, ("--compile",)),
)
TINY_ROWS: tuple[Row, ...] = (("vit-b", "head", 4, ()), ("dinov3-l", "lora", 4, ("--checkpointing",)))
SOURCES = ("avenue", "bridge", "crossing")
WARM, TIMED = 4, 12  # steps: the first ones compile, and fill the allocator
COMPILING = 4  # times as long as other rows may one take that compiles
HEAD = (
    "| backbone | learns | batch | flags | pictures/s | ms a step | of it views | one loader | first steps | peak GiB "
    "| learning |"
)

Found = Mapping[str, Any]
Batch = Mapping[str, Tensor]


class Enough(Exception):
    """All steps that are to be timed were taken."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where weights, pictures and figures go")
    parser.add_argument("--tiny", action="store_true", help="tiny networks on the CPU, to see that everything works")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds that a row may take, times 4 with --compile")
    parser.add_argument("--minutes", type=float, default=15.0, help="that all rows together may take")
    parser.add_argument("--first", type=int, help=argparse.SUPPRESS)  # the process that takes rows in turn, from here
    asked = parser.parse_args(arguments)
    if not (asked.tiny or torch.cuda.is_available()):
        parser.error("expected a card that torch can use; --tiny tries everything on the CPU")
    rows = TINY_ROWS if asked.tiny else ROWS
    if asked.first is not None:
        return in_turn(rows[asked.first :], asked.out, asked.tiny)
    began = time.monotonic()
    prepare(asked.out, asked.tiny)
    facts = {
        "device": "cpu" if asked.tiny else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformers": tf.__version__,
        "prepared_in_s": round(time.monotonic() - began, 1),
    }
    print(json.dumps(facts), flush=True)
    words = list(sys.argv[1:] if arguments is None else arguments)

    def start(first: int) -> subprocess.Popen[bytes]:
        with (asked.out / "train_card.log").open("a") as log:
            command = [sys.executable, str(Path(__file__).resolve()), *words, "--first", str(first)]
            return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, bufsize=0, start_new_session=True)

    found: list[dict[str, Any]] = []
    limits = [limit_of(row, asked.limit) for row in rows]
    for (backbone, learns, batch, flags), figures in zip(
        rows, answers(start, limits, began + 60 * asked.minutes), strict=True
    ):
        found.append({"backbone": backbone, "learns": learns, "batch": batch, "flags": " ".join(flags), **figures})
        print(line(found[-1]), flush=True)
        (asked.out / "train_card.json").write_text(json.dumps({**facts, "rows": found}, indent=1) + "\n")
        (asked.out / "train_card.md").write_text(table(found) + "\n")
    print(f"\n{table(found)}\n\n{time.monotonic() - began:.0f} s in all", flush=True)
    return 1 if any("failed" in row for row in found) else 0


def limit_of(row: Row, limit: float) -> float:
    """Seconds that this row may take, where one that does not compile may take `limit`."""
    return limit * COMPILING if "--compile" in row[3] else limit


def answers(
    start: Callable[[int], subprocess.Popen[bytes]], limits: Sequence[float], until: float
) -> Iterator[dict[str, Any]]:
    """The figures of each row, or {"failed": why}. start: a process, unbuffered, that writes a line of JSON for each
    row from the given one on, and ends when one fails. limits: seconds, of each row. until: as `time.monotonic` tells
    it."""
    process: subprocess.Popen[bytes] | None = None
    try:
        for number, limit in enumerate(limits):
            left = min(limit, until - time.monotonic())
            if left < 1:
                yield {"failed": "no time left"}
                continue
            process = process or start(number)
            said = _line(process, left)
            if "failed" in said:
                end(process)
                process = None
            yield said
    finally:
        if process:
            end(process)


def _line(process: subprocess.Popen[bytes], seconds: float) -> dict[str, Any]:
    """What the process says next."""
    assert process.stdout
    if not select.select([process.stdout], [], [], seconds)[0]:
        return {"failed": f"not done in {seconds:.0f} s"}
    text = process.stdout.readline()
    return dict(json.loads(text)) if text else {"failed": f"died: exit code {process.wait()}"}


def end(process: subprocess.Popen[bytes]) -> None:
    """With everything that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout:
        process.stdout.close()


def in_turn(rows: Sequence[Row], out: Path, tiny: bool) -> int:
    """A line of JSON for each row on what was standard output; ends with the first that fails: it may have spoilt the
    card for the next."""
    results = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print goes to the log
    for row in rows:
        print(*row, file=sys.stderr, flush=True)
        try:
            figures = measured(*row, out, tiny)
        except Exception as error:
            traceback.print_exc()
            figures = {"failed": f"{type(error).__name__}: {error}".splitlines()[0][:160]}
        print(json.dumps(figures), file=results, flush=True)
        if "failed" in figures:
            return 1
        torch._dynamo.reset()
        gc.collect()
        torch.cuda.empty_cache()
    return 0


def table(found: Sequence[Found]) -> str:
    """Markdown."""
    return "\n".join([HEAD, "|---" * HEAD.count(" | ") + "|---|", *map(line, found)])


def line(row: Found) -> str:
    """One row of the table."""
    told = row.get("failed") or (
        f"{row['pictures_per_s']:.0f} | {row['ms_per_step']:.1f} | {row['views_ms']:.1f} | "
        f"{row['loader_pictures_per_s']:.0f}/s | {row['first_s']:.1f} s | {row['peak_gib']:.2f} | "
        f"{row['learning'] / 1e6:.2f} M"
    )
    return f"| {row['backbone']} | {row['learns']} | {row['batch']} | {row['flags'] or '-'} | {told} |"


def measured(backbone: str, learns: str, batch: int, flags: Sequence[str], out: Path, tiny: bool) -> dict[str, Any]:
    """Times of the steps after the first ones, and of what precedes them."""
    settings = asked_of_train(batch, out, tiny, "--backbone", str(out / backbone), "--tune", learns, *flags)
    made = network.pretrained(settings.backbone)
    network.choose_what_learns(made, settings.tune, settings.rank, settings.checkpointing)
    two, views, rate = shown(batch, made.described.side, out, tiny)
    device = loop.accelerator(settings)
    at: list[float] = []

    def loss(logits: Tensor, targets: Batch) -> Tensor:
        at.append(time.perf_counter())  # the step before has been waited for: its loss was read
        if len(at) > WARM + TIMED:
            raise Enough
        return classify.label_loss(logits, targets)

    if not tiny:
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    with suppress(Enough):
        loop.fit(made, two, loss, settings, device, identity={}, show=views, head_factor=settings.head_factor)
    step = median(np.diff(at[WARM:]))
    return {
        "pictures_per_s": round(batch / step, 1),
        "ms_per_step": round(step * 1e3, 2),
        "views_ms": round(median(timed(views, number, two, device.device) for number in range(6)) * 1e3, 2),
        "loader_pictures_per_s": round(rate, 1),
        "first_s": round(at[WARM] - began, 1),
        "peak_gib": 0.0 if tiny else round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "learning": sum(p.numel() for p in loop.learning(made).values()),
    }


def asked_of_train(batch: int, out: Path, tiny: bool, *more: str) -> Classify:
    """The command's settings. Its loader has nothing to do."""
    words = ["--data", str(out / "streets"), "--test", SOURCES[2], "--calibrate", SOURCES[1], "--out", str(out / "run")]
    words += ["--batch", str(batch), "--workers", "0", *(["--device", "cpu"] if tiny else [])]
    return parse(Classify, [*words, *more])


class Two:
    """Two batches in turn, one for each kind of view, where the card can fetch them from by itself."""

    def __init__(self, batches: Sequence[Mapping[str, Any]], pinned: bool) -> None:
        whole = [{key: torch.as_tensor(value) for key, value in batch.items()} for batch in batches]
        self._two = [{key: each.pin_memory() if pinned else each for key, each in batch.items()} for batch in whole]

    def __getitem__(self, number: int) -> Batch:
        return self._two[number % 2]


@cache
def shown(batch: int, side: int, out: Path, tiny: bool) -> tuple[Two, composer.Composer, float]:
    """Two batches, what makes views of them, and the pictures a second that one process decodes."""
    settings = asked_of_train(batch, out, tiny)
    pictures = data.read(settings)
    labels = np.array([[p.label] for p in pictures.pictures], np.float32)
    parts = data.split(pictures, settings)
    batches, views = composer.course(pictures, parts, labels, side, settings, loop.accelerator(settings))
    began = time.perf_counter()
    two = [batches[0], batches[1]]
    return Two(two, pinned=not tiny), views, 2 * batch / (time.perf_counter() - began)


def timed(views: composer.Composer, number: int, two: Two, device: torch.device) -> float:
    """Seconds until the views of a batch are there."""
    batch = {key: value.to(device) for key, value in two[number].items()}
    began = time.perf_counter()
    views(number, batch)["pixels"].sum().item()
    return time.perf_counter() - began


def prepare(out: Path, tiny: bool) -> None:
    """Checkpoints and pictures, unless they are there."""
    size = {"image_size": 32, "patch_size": 8} if tiny else {"image_size": 224, "patch_size": 16}
    side = {"height": size["image_size"], "width": size["image_size"]}
    kinds = {
        "vit-b": (tf.ViTConfig, tf.ViTModel, tf.ViTImageProcessor),
        "dinov3-l": (tf.DINOv3ViTConfig, tf.DINOv3ViTModel, tf.DINOv3ViTImageProcessor),
    }
    for name, (config, model, processor) in kinds.items():
        if (out / name / "preprocessor_config.json").is_file():  # written last
            continue
        with torch.device("cpu" if tiny else "cuda"):  # where random numbers are quick
            made = model(config(**(TINY if tiny else BACKBONES[name]), **size))
        made.save_pretrained(out / name)
        processor(size=side).save_pretrained(out / name)
    for s, source in enumerate(SOURCES):
        for roadwork in (False, True):
            folder = out / "streets" / source / ("roadwork" if roadwork else "clear")
            folder.mkdir(parents=True, exist_ok=True)
            for n in range(2 if tiny else 4):
                path = folder / f"{n}.jpg"
                if not path.exists():
                    Image.fromarray(draw(100 * s + n, roadwork, (1280, 720))).save(path, "JPEG", quality=90)


if __name__ == "__main__":
    sys.exit(main())
