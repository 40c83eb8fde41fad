"""What `./run_miner.sh train` costs on one card: pictures a second and memory, by backbone and by what learns.

    python benchmarks/train_card.py --out DIR             # a card: ViT-B/16 and DINOv3-L, at real size
    python benchmarks/train_card.py --out DIR --tiny      # the same on the CPU with tiny networks

Weights are random and written to DIR once; pictures are drawn, 1280 x 720. Each row is the command's own training loop
(loader, pasting and wear, forward, backward, AdamW) in a process of its own, which is ended at --limit seconds; a row
that fails says why, and the next one is tried. Views: pasting and wear alone. One loader: what one of its --workers
processes decodes. Writes train_card.json and train_card.md into DIR as it goes.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers as tf
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models.data.drawn import draw  # noqa: E402
from models.training.finetune import classify, composer, data, loop, network  # noqa: E402
from models.training.finetune.settings import Classify, parse  # noqa: E402

BACKBONES: dict[str, dict[str, int]] = {
    "vit-b": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072},
    "dinov3-l": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096},
}
TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
ROWS: tuple[tuple[str, str, int, tuple[str, ...]], ...] = (  # backbone, what learns, batch, flags
    ("vit-b", "head", 256, ()),
    ("vit-b", "lora", 128, ()),
    ("vit-b", "full", 128, ("--precision", "fp32")),
    ("vit-b", "full", 128, ()),
    ("vit-b", "full", 128, ("--compile",)),
    ("vit-b", "full", 128, ("--checkpointing",)),
    ("dinov3-l", "head", 256, ()),
    ("dinov3-l", "lora", 64, ()),
    ("dinov3-l", "lora", 64, ("--compile",)),
    ("dinov3-l", "lora", 64, ("--checkpointing",)),
    ("dinov3-l", "full", 64, ()),
    ("dinov3-l", "full", 64, ("--compile",)),
    ("dinov3-l", "full", 64, ("--compile", "--checkpointing")),
)
TINY_ROWS = (("vit-b", "head", 4, ()), ("dinov3-l", "lora", 4, ("--checkpointing",)))
SOURCES = ("avenue", "bridge", "crossing")
WARM, TIMED = 8, 24  # steps: the first ones compile, and fill the loader
HEAD = "| backbone | learns | batch | flags | pictures/s | ms a step | of it views | one loader | peak GiB | learning |"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where weights, pictures and figures go")
    parser.add_argument("--tiny", action="store_true", help="tiny networks on the CPU, to see that everything works")
    parser.add_argument("--limit", type=float, default=90.0, help="seconds that a row may take")
    parser.add_argument("--workers", type=int, default=min(8, os.cpu_count() or 1), help="of the loader")
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)  # in a process of its own
    asked = parser.parse_args(arguments)
    rows = TINY_ROWS if asked.tiny else ROWS
    if asked.row is not None:
        print(json.dumps(measured(*rows[asked.row], asked.out, asked.tiny, asked.workers)))
        return 0
    began = time.monotonic()
    prepare(asked.out, asked.tiny)
    facts = {
        "device": "cpu" if asked.tiny else torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformers": tf.__version__,
        "workers": asked.workers,
        "prepared_in_s": round(time.monotonic() - began, 1),
    }
    print(json.dumps(facts), f"\n{HEAD}", "|---" * HEAD.count(" | ") + "|---|", sep="\n", flush=True)
    found: list[dict[str, Any]] = []
    words = list(sys.argv[1:] if arguments is None else arguments)
    for number, (backbone, learns, batch, flags) in enumerate(rows):
        row = {"backbone": backbone, "learns": learns, "batch": batch, "flags": " ".join(flags)}
        found.append(row | alone([*words, "--row", str(number)], asked.limit))
        print(line(found[-1]), flush=True)
        (asked.out / "train_card.json").write_text(json.dumps({**facts, "rows": found}, indent=1) + "\n")
    table = "\n".join([HEAD, "|---" * HEAD.count(" | ") + "|---|", *map(line, found)])
    (asked.out / "train_card.md").write_text(table + "\n")
    print(f"{time.monotonic() - began:.0f} s in all", flush=True)
    return 0


def alone(arguments: Sequence[str], limit: float) -> dict[str, Any]:
    """One row in a process of its own, ended with everything that it started."""
    command = [sys.executable, str(Path(__file__).resolve()), *arguments]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        out, errors = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return {"failed": f"not done in {limit:g} s"}
    if process.returncode:
        said = [text for text in errors.splitlines() if text.strip()]
        return {"failed": said[-1][:160] if said else f"exit code {process.returncode}"}
    return dict(json.loads(out.splitlines()[-1]))


def line(row: Mapping[str, Any]) -> str:
    """One row of the table."""
    told = row.get("failed") or (
        f"{row['pictures_per_s']:.0f} | {row['ms_per_step']:.1f} | {row['views_ms']:.1f} | "
        f"{row['loader_pictures_per_s']:.0f}/s | {row['peak_gib']:.2f} | {row['learning'] / 1e6:.2f} M"
    )
    return f"| {row['backbone']} | {row['learns']} | {row['batch']} | {row['flags'] or '-'} | {told} |"


def measured(
    backbone: str, learns: str, batch: int, flags: Sequence[str], out: Path, tiny: bool, workers: int
) -> dict[str, Any]:
    """Times of the steps after the first ones, as `train` takes them; what views and loader cost by themselves."""
    words = ["--data", str(out / "streets"), "--backbone", str(out / backbone), "--tune", learns, "--batch", str(batch)]
    words += ["--test", SOURCES[2], "--calibrate", SOURCES[1], "--out", str(out / f"run-{os.getpid()}"), *flags]
    words += ["--steps", str(WARM + TIMED), "--workers", str(workers), "--checkpoint-minutes", "60"]
    settings = parse(Classify, [*words, *(["--device", "cpu"] if tiny else [])])
    device = loop.accelerator(settings)
    pictures = data.read(settings)
    parts = data.split(pictures, settings)
    made = network.pretrained(settings.backbone, settings.side)
    network.choose_what_learns(made, settings.tune, settings.rank, settings.checkpointing)
    labels = np.array([[p.label] for p in pictures.pictures], np.float32)
    at: list[float] = []

    def loss(logits: torch.Tensor, targets: Mapping[str, torch.Tensor]) -> torch.Tensor:
        at.append(time.perf_counter())  # the step before has been waited for: its loss was read
        return classify.label_loss(logits, targets)

    batches, views = composer.course(pictures, parts, labels, made.described.side, settings, device)
    loop.fit(made, batches, loss, settings, device, identity={}, show=views, head_factor=settings.head_factor)
    step = median(np.diff(at[WARM:]))
    began = time.perf_counter()
    one = {key: torch.as_tensor(value).to(device.device) for key, value in batches[0].items()}
    loaded = time.perf_counter() - began
    return {
        "pictures_per_s": round(batch / step, 1),
        "ms_per_step": round(step * 1e3, 2),
        "views_ms": round(median(timed(views, number, one) for number in range(6)) * 1e3, 2),
        "loader_pictures_per_s": round(batch / loaded, 1),
        "peak_gib": 0.0 if tiny else round(torch.cuda.max_memory_allocated() / 2**30, 2),
        "learning": sum(p.numel() for p in loop.learning(made).values()),
    }


def timed(views: composer.Composer, number: int, batch: Mapping[str, torch.Tensor]) -> float:
    """Seconds until the views of a batch are there."""
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
        if not (out / name / "config.json").is_file():
            torch.manual_seed(0)
            made = config(**(TINY if tiny else BACKBONES[name]), **size)
            model(made).save_pretrained(out / name)
            processor(size=side).save_pretrained(out / name)
    for s, source in enumerate(SOURCES):
        for roadwork in (False, True):
            folder = out / "streets" / source / ("roadwork" if roadwork else "clear")
            folder.mkdir(parents=True, exist_ok=True)
            for n in range(2 if tiny else 12):
                path = folder / f"{n}.jpg"
                if not path.exists():
                    Image.fromarray(draw(100 * s + n, roadwork, (1280, 720))).save(path, "JPEG", quality=90)


if __name__ == "__main__":
    sys.exit(main())
