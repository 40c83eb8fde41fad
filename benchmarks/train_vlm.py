"""What LoRA training of a Qwen3-VL 4B costs on one card: memory and steps a second, by batch and picture size.

    python benchmarks/train_vlm.py --out DIR              # a card; weights are random, shapes are the real model's
    python benchmarks/train_vlm.py --out DIR --tiny       # the same on the CPU with a tiny model

Each row is a step as `./run_miner.sh train vlm` takes it: forward, loss of one token, backward, AdamW on the matrices.
A row that does not fit says so, and the next one is tried.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from models.training.finetune.answer import Answer, with_lora, yes_no_loss  # noqa: E402

TEXT = 200  # tokens of instruction and question, about what models/vlm/prompts.toml comes to
PATCH, MERGE = 16, 2
LARGE = (
    {
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "head_dim": 128,
    },
    {
        "hidden_size": 1024,
        "depth": 24,
        "intermediate_size": 4096,
        "num_heads": 16,
        "deepstack_visual_indexes": [5, 11, 17],
    },
    {"vocab_size": 151_936, "num_key_value_heads": 8, "mrope_section": [24, 20, 20], "ids": (151_655, 151_652)},
)
TINY = (
    {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 32},
    {"hidden_size": 32, "depth": 4, "intermediate_size": 48, "num_heads": 2, "deepstack_visual_indexes": [0, 1, 2]},
    {"vocab_size": 500, "num_key_value_heads": 2, "mrope_section": [6, 5, 5], "ids": (490, 491)},
)
ROWS = (  # batch, side, activations twice
    (1, 224, False),
    (8, 224, False),
    (16, 224, False),
    (32, 224, False),
    (32, 224, True),
    (8, 448, False),
    (8, 448, True),
)
TINY_ROWS = ((1, 64, False), (2, 64, True))
WARM, TIMED, BUDGET_S = 2, 8, 6.0  # steps, steps, seconds that a row may take


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where train_vlm.json goes")
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU, to see that everything works")
    parser.add_argument("--rank", type=int, default=16)
    asked = parser.parse_args(arguments)
    device = "cpu" if asked.tiny else "cuda"
    began = time.monotonic()
    whole = model_of(*(TINY if asked.tiny else LARGE), device)
    answer = Answer(with_lora(whole, asked.rank), yes=[1, 2], no=[3, 4]).to(device)
    learning = [p for p in answer.parameters() if p.requires_grad]
    facts = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in whole.parameters()),
        "learning": sum(p.numel() for p in learning),
        "weights_gib": memory(),
        "built_in_s": round(time.monotonic() - began, 1),
        "text_tokens": TEXT,
        "rank": asked.rank,
    }
    print(json.dumps(facts), flush=True)
    optimizer = torch.optim.AdamW(learning, lr=1e-4)
    rows = []
    print(
        f"{'batch':>5} {'side':>5} {'twice':>6} {'ms/step':>9} {'steps/s':>8} {'pictures/s':>10} {'peak GiB':>9}",
        flush=True,
    )
    for batch, side, twice in TINY_ROWS if asked.tiny else ROWS:
        row = {
            "batch": batch,
            "side": side,
            "activations_twice": twice,
            **one(answer, whole, optimizer, batch, side, twice),
        }
        rows.append(row)
        told = row.get("failed") or (
            f"{row['ms_per_step']:9.1f} {row['steps_per_s']:8.2f} {row['pictures_per_s']:10.1f} {row['peak_gib']:9.2f}"
        )
        print(f"{batch:5} {side:5} {'yes' if twice else 'no':>6} {told}", flush=True)
        asked.out.mkdir(parents=True, exist_ok=True)
        (asked.out / "train_vlm.json").write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")
    print(f"{time.monotonic() - began:.0f} s in all", flush=True)
    return 0


def one(answer: Any, whole: Any, optimizer: Any, batch: int, side: int, twice: bool) -> dict[str, Any]:
    """One row, or why there is none."""
    try:
        if twice:
            whole.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        else:
            whole.gradient_checkpointing_disable()
        return measured(answer.train(), whole.config, optimizer, batch, side)
    except (RuntimeError, ValueError) as error:  # out of memory is a RuntimeError
        return {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"}
    finally:
        optimizer.zero_grad(set_to_none=True)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def measured(answer: Any, config: Any, optimizer: Any, batch: int, side: int) -> dict[str, Any]:
    """Milliseconds of the middle step, and the most memory that was taken."""
    device = next(answer.parameters()).device
    inputs = inputs_of(config, batch, side, device)
    target = {"targets": (torch.arange(batch, device=device) % 2).float()[:, None]}
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times: list[float] = []
    losses = []
    began = time.monotonic()
    for _ in range(WARM + TIMED):
        at = time.perf_counter()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            loss = yes_no_loss(answer(**inputs), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))  # waits for the card
        times.append(time.perf_counter() - at)
        if time.monotonic() - began > BUDGET_S and len(times) > WARM:
            break
    if not all(loss == loss for loss in losses):
        raise ValueError(f"the loss is not a number: {losses}")
    middle = sorted(times[WARM:])[len(times[WARM:]) // 2]
    return {
        "ms_per_step": round(middle * 1e3, 2),
        "steps_per_s": round(1 / middle, 3),
        "pictures_per_s": round(batch / middle, 2),
        "peak_gib": memory(peak=True),
        "first_loss": round(losses[0], 4),
        "last_loss": round(losses[-1], 4),
    }


def inputs_of(config: Any, batch: int, side: int, device: torch.device) -> dict[str, torch.Tensor]:
    """Text, a square picture of `side` pixels, text: as the processor would give them."""
    cells = side // PATCH
    pictured = (cells // MERGE) ** 2
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(10, 400, (batch, TEXT), generator=generator)
    start = torch.full((batch, 1), config.vision_start_token_id)
    picture = torch.full((batch, pictured), config.image_token_id)
    ids = torch.cat([words[:, : TEXT // 2], start, picture, words[:, TEXT // 2 :]], 1)
    patches = torch.randn(batch * cells * cells, 3 * 2 * PATCH * PATCH, generator=generator)
    found = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": patches,
        "image_grid_thw": torch.tensor([[1, cells, cells]] * batch),
        "mm_token_type_ids": (ids == config.image_token_id).int(),
    }
    return {key: value.to(device) for key, value in found.items()}


def model_of(text: dict[str, Any], vision: dict[str, Any], more: dict[str, Any], device: str) -> Any:
    """A Qwen3-VL of these sizes with random weights, 16 bits on a card."""
    rope = {
        "rope_type": "default",
        "rope_theta": 5_000_000,
        "mrope_section": more["mrope_section"],
        "mrope_interleaved": True,
    }
    picture, start = more["ids"]
    config = Qwen3VLConfig(
        text_config={
            **text,
            "vocab_size": more["vocab_size"],
            "num_key_value_heads": more["num_key_value_heads"],
            "rope_parameters": rope,
            "rope_scaling": rope,
            "tie_word_embeddings": True,
        },
        vision_config={
            **vision,
            "out_hidden_size": text["hidden_size"],
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "num_position_embeddings": 2304,
        },
        tie_word_embeddings=True,
        image_token_id=picture,
        vision_start_token_id=start,
    )
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    with torch.device(device):
        return Qwen3VLForConditionalGeneration._from_config(config, dtype=kind).to(device, kind)


def memory(peak: bool = False) -> float:
    """GiB of the card that are taken, or were at most; 0 on the CPU."""
    if not torch.cuda.is_available():
        return 0.0
    return round((torch.cuda.max_memory_allocated() if peak else torch.cuda.memory_allocated()) / 2**30, 2)


if __name__ == "__main__":
    sys.exit(main())
