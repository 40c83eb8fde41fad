"""Tier 0 on a card: eager, recorded, compiled and 8-bit, what each costs to start and what it changes in the answer.

    python benchmarks/gpu_tier0.py [--device cuda] [--tiny] [--budget 95] [--save DIR]

Random weights at real size, pictures already resized and normalised on the card; nothing is downloaded. Prints as it
goes and, with --save, writes `gpu-tier0-<card>-<date>.json` and Markdown. The card's own limits are measured in the
same run. A row that fails or takes too long says so and costs no other row. --tiny on the CPU checks the script.
"""

from __future__ import annotations

import argparse
import copy
import json
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

START = time.perf_counter()
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

import torch  # noqa: E402
import transformers as tf  # noqa: E402

from benchmarks.sizes import d_fine_x  # noqa: E402
from models import fp8, fused  # noqa: E402
from models.cuda_graphs import Graphs, recordable  # noqa: E402

BATCHES = (1, 8, 32, 64)
WARM_UPS, ROUNDS = 3, 15
Forward = Callable[[torch.Tensor], Any]
Chosen = Callable[[str, Any], bool]


class Run:
    """Where rows go: printed at once, kept for the files."""

    def __init__(self, device: str, tiny: bool, budget: float) -> None:
        self.device, self.tiny, self.budget = device, tiny, budget
        self.on_card = device != "cpu"
        self.batches = (1, 2) if tiny else BATCHES
        self.rows: list[dict[str, Any]] = []
        self.kept: dict[str, tuple[Forward, int]] = {}  # what the overlap runs again, and on what size of picture

    def row(self, what: str, make: Callable[[dict[str, Any]], None], limit: int = 40) -> None:
        """One row, or why there is none."""
        row: dict[str, Any] = {"what": what}
        left = self.budget - (time.perf_counter() - START)
        try:
            if left < 3:
                raise TimeoutError("not begun: the budget is used up")
            with at_most(min(limit, left)), torch.inference_mode():
                make(row)
        except Exception as error:  # every failure is a finding
            row["error"] = f"{type(error).__name__}: {str(error).strip()[:400]}"
        row["at_s"] = round(time.perf_counter() - START, 1)
        self.rows.append(row)
        print(json.dumps(row), flush=True)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    def late(*_: Any) -> None:
        raise TimeoutError(f"took longer than {seconds:.0f} s")

    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def milliseconds(run: Run, call: Callable[[], Any]) -> float:
    """Median of single calls, each waited for, as a request waits for it."""
    spent = []
    for _ in range(1 if run.tiny else WARM_UPS + ROUNDS):
        synchronise(run)
        started = time.perf_counter()
        call()
        synchronise(run)
        spent.append((time.perf_counter() - started) * 1e3)
    return statistics.median(spent[-ROUNDS:])


def synchronise(run: Run) -> None:
    if run.on_card:
        torch.cuda.synchronize()


# ---- the card's own limits -------------------------------------------------------------------------------------------


def ceilings(run: Run, row: dict[str, Any]) -> None:
    """Products and copies as fast as this card does them, in this run."""
    side = 64 if run.tiny else 8192
    a = torch.randn(side, side, device=run.device, dtype=torch.bfloat16)
    operations = 2 * side**3
    row["bf16_tflops"] = round(operations / milliseconds(run, lambda: a @ a) / 1e9, 1)
    if run.tiny or fp8.supported(run.device):
        values, scale = fp8.quantise(a)
        one = torch.ones((), device=run.device)
        by_row = milliseconds(run, lambda: multiplied(values, values.T, scale, scale.T.contiguous()))
        row["fp8_rows_tflops"] = round(operations / by_row / 1e9, 1)
        row["fp8_tensor_tflops"] = round(
            operations / milliseconds(run, lambda: multiplied(values, values.T, one, one)) / 1e9, 1
        )
    memory = torch.empty(1 << (20 if run.tiny else 30), dtype=torch.uint8, device=run.device)
    target = torch.empty_like(memory)
    row["copy_tb_s"] = round(2 * len(memory) / milliseconds(run, lambda: target.copy_(memory)) / 1e9, 2)


def multiplied(a: torch.Tensor, b: torch.Tensor, by: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
    return torch._scaled_mm(a, b, scale_a=by, scale_b=to, out_dtype=torch.bfloat16, use_fast_accum=True)


def products(run: Run, row: dict[str, Any]) -> None:
    """The encoder's four products at batch 64, in bf16 and in 8 bits by row, in microseconds."""
    tokens = 2 if run.tiny else 64 * 201
    for name, inner, outer in (
        ("qkv", 1280, 3840),
        ("out", 1280, 1280),
        ("gate_up", 1280, 10240),
        ("down", 5120, 1280),
    ):
        x = torch.randn(tokens, inner, device=run.device, dtype=torch.bfloat16)
        w = torch.randn(outer, inner, device=run.device, dtype=torch.bfloat16)
        (xs, x_scale), (ws, w_scale) = fp8.quantise(x), fp8.quantise(w)
        flat = w_scale.T.contiguous()
        row[f"{name}_bf16_us"] = round(1e3 * milliseconds(run, lambda x=x, w=w: x @ w.T))
        row[f"{name}_fp8_us"] = round(
            1e3 * milliseconds(run, lambda a=xs, b=ws, s=x_scale, t=flat: multiplied(a, b.T, s, t))
        )


# ---- the encoder -----------------------------------------------------------------------------------------------------


def encoder(run: Run) -> Any:
    """DINOv3 ViT-H+ with random weights in 32 bits, LayerScale as spread as trained ones are."""
    size = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
    if not run.tiny:
        size = {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20, "intermediate_size": 5120}
    config = tf.DINOv3ViTConfig(
        **size, use_gated_mlp=True, hidden_act="silu", num_register_tokens=4, image_size=224, patch_size=16
    )
    torch.manual_seed(0)
    with torch.device(run.device):
        model = tf.DINOv3ViTModel(config).eval()
    for name, parameter in model.named_parameters():
        if "lambda" in name:
            parameter.data.uniform_(0.05, 1.0)
    return model


def measure(run: Run, row: dict[str, Any], forward: Forward, side: int, expected: Any = None) -> None:
    """Milliseconds and pictures per second at each batch, and how far the answer is from eager fp32."""
    for batch in run.batches:
        pixels = pictures(run, batch, side)
        spent = milliseconds(run, lambda pixels=pixels: forward(pixels))
        row[f"ms_{batch}"], row[f"per_s_{batch}"] = round(spent, 2), round(1e3 * batch / spent)
    if expected is not None:
        found = forward(pictures(run, len(expected), side)).float()
        row["cosine_min"] = round(float(torch.cosine_similarity(found, expected).min()), 6)
        row["error_max"] = round(float((found - expected).abs().max() / expected.std()), 4)


def pictures(run: Run, batch: int, side: int) -> torch.Tensor:
    generator = torch.Generator(run.device).manual_seed(batch)
    return torch.randn(batch, 3, side, side, device=run.device, generator=generator).bfloat16()


def graphs(run: Run, row: dict[str, Any], forward: Forward, side: int) -> Forward:
    if not run.on_card:
        return forward
    made = Graphs(forward, pictures(run, 1, side), sizes=run.batches)
    row["start_s"], row["graphs_gb"] = round(made.cost.seconds, 1), round(made.cost.gb, 2)
    return made


def tier0_encoder(run: Run) -> Callable[[], None]:
    """Its rows, and one more that is worth running if time is left."""
    batch, side = (2, 32) if run.tiny else (8, 224)
    made: dict[str, Any] = {}

    def eager(row: dict[str, Any]) -> None:
        started = time.perf_counter()
        model = encoder(run)
        made["expected"] = model(pictures(run, batch, side).float()).pooler_output
        made["model"] = model.bfloat16()
        row["start_s"] = round(time.perf_counter() - started, 1)
        measure(run, row, pooled(made["model"]), side, made["expected"])

    def recorded(row: dict[str, Any]) -> None:
        measure(run, row, graphs(run, row, pooled(made["model"]), side), side, made["expected"])

    def compiled(row: dict[str, Any], layers: Chosen | None = None, **options: Any) -> tuple[Forward, int]:
        model = copy.deepcopy(made["model"])
        fused.fuse(model, side)
        if layers:
            row["layers_in_8_bits"] = len(fp8.convert(model, layers))
        if run.on_card:
            fused.compile_blocks(model, **options)
        forward = graphs(run, row, pooled(model), side)
        measure(run, row, forward, side, made["expected"])
        return forward, side

    def kept(row: dict[str, Any]) -> None:
        run.kept["dinov3-h-plus"] = compiled(row, everything)

    def tuned(row: dict[str, Any]) -> None:
        torch._dynamo.reset()  # what was compiled has its choices in it
        compiled(row, everything, max_autotune_pointwise=True, coordinate_descent_tuning=True)

    run.row("DINOv3-H+ eager", eager, 300)
    run.row("DINOv3-H+ graph", recorded)
    run.row("DINOv3-H+ fused, compiled, graph, FP8", kept, 60)
    run.row("DINOv3-H+ fused, compiled, graph, FP8 in the MLP alone", lambda row: discard(compiled(row, in_the_mlp)))
    run.row("DINOv3-H+ fused, compiled, graph", lambda row: discard(compiled(row)), 60)
    return lambda: run.row("DINOv3-H+ FP8, element-wise kernels tuned", tuned)


def everything(name: str, linear: Any) -> bool:
    return True


def in_the_mlp(name: str, linear: Any) -> bool:
    return ".mlp." in name


def discard(_: Any) -> None:
    """Only the figures are wanted."""


def pooled(model: Any) -> Forward:
    return lambda pixels: model(pixel_values=pixels).pooler_output


# ---- the others of the tier ------------------------------------------------------------------------------------------


def vit(run: Run) -> tuple[Any, int]:
    size = {"num_hidden_layers": 1, "hidden_size": 48, "intermediate_size": 48} if run.tiny else {}
    return tf.ViTForImageClassification(tf.ViTConfig(**size, id2label={0: "None", 1: "Roadwork"})), 224


def d_fine(run: Run) -> tuple[Any, int]:
    return tf.DFineForObjectDetection(d_fine_x(num_labels=365)), 640


def rf_detr(run: Run) -> tuple[Any, int]:
    """The library's default configuration, 32 million parameters, at 560 pixels, which its windows divide."""
    config = tf.RfDetrConfig(num_labels=91)
    config.backbone_config.image_size = 560
    return tf.RfDetrForObjectDetection(config), 560


def tier0_other(run: Run, key: str, make: Callable[[Run], tuple[Any, int]], compiles: bool = False) -> None:
    made: dict[str, Any] = {}

    def answers(model: Any) -> Forward:
        return lambda pixels: model(pixel_values=pixels).logits

    def eager(row: dict[str, Any]) -> None:
        torch.manual_seed(0)
        with torch.device(run.device):
            model, made["side"] = make(run)
        made["model"] = model.bfloat16().eval()
        row["side"] = made["side"]
        measure(run, row, answers(made["model"]), made["side"])

    def recorded(row: dict[str, Any]) -> None:
        forward = graphs(run, row, recordable(answers(made["model"])), made["side"])
        check(run, row, answers(made["model"]), forward, made["side"])
        measure(run, row, forward, made["side"])
        run.kept[key] = forward, made["side"]

    def compiled(row: dict[str, Any]) -> None:
        model = copy.deepcopy(made["model"])
        if run.on_card:
            row["blocks"] = fused.compile_blocks(model)
        forward = graphs(run, row, answers(model), made["side"])
        check(run, row, answers(made["model"]), forward, made["side"])
        measure(run, row, forward, made["side"])
        run.kept[key] = forward, made["side"]

    run.row(f"{key} eager", eager)
    run.row(f"{key} graph", recorded)
    if compiles:
        run.row(f"{key} compiled, graph", compiled)


def check(run: Run, row: dict[str, Any], eager: Forward, forward: Forward, side: int) -> None:
    """How far a recorded forward is from the same one unrecorded."""
    pixels = pictures(run, run.batches[1], side)
    expected = eager(pixels).float()
    row["from_eager"] = round(float((forward(pixels).float() - expected).abs().max()), 4)


# ---- together --------------------------------------------------------------------------------------------------------


def overlap(run: Run, row: dict[str, Any], batch: int) -> None:
    """All models of the tier on streams of their own, against each alone."""
    calls = {key: partial(forward, pictures(run, batch, side)) for key, (forward, side) in run.kept.items()}
    alone = {key: milliseconds(run, call) for key, call in calls.items()}
    slowest = max(alone, key=lambda key: alone[key])  # it goes first, and the others take what it leaves
    streams = {key: torch.cuda.Stream(priority=-(key == slowest)) if run.on_card else None for key in calls}
    order = sorted(calls, key=lambda key: -alone[key])

    def together() -> None:
        for key in order:
            with torch.cuda.stream(streams[key]):
                calls[key]()

    spent = milliseconds(run, together)
    row["alone_ms"] = {key: round(value, 2) for key, value in alone.items()}
    row["together_ms"] = round(spent, 2)
    row["factor_of_slowest"] = round(spent / max(alone.values()), 2)
    row["factor_of_sum"] = round(spent / sum(alone.values()), 2)


# ---- all of it -------------------------------------------------------------------------------------------------------


def markdown(result: dict[str, Any]) -> str:
    lines = [
        f"# Tier 0 on a card: {result['device']}, {result['date']}",
        "",
        f"`{result['command']}`; torch {result['torch']}, transformers {result['transformers']}; random weights, "
        f"pictures on the card. {result['seconds']} s in all, {result['peak_gb']} GB at most.",
        "",
    ]
    for row in result["rows"]:
        told = ", ".join(f"{name} {value}" for name, value in row.items() if name not in ("what", "at_s"))
        lines.append(f"- **{row['what']}**: {told}")
    return "\n".join(lines) + "\n"


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default="cuda")
    options.add_argument("--tiny", action="store_true")
    options.add_argument("--budget", type=float, default=95.0, help="seconds, after which no row is begun")
    options.add_argument("--save", type=Path)
    asked = options.parse_args()
    if asked.device != "cpu" and not torch.cuda.is_available():
        print("no card here; --device cpu --tiny checks that the script runs", file=sys.stderr)
        return 2
    run = Run(asked.device, asked.tiny, asked.budget)
    run.row("limits of the card", lambda row: ceilings(run, row))
    one_more = tier0_encoder(run)
    tier0_other(run, "natix-roadwork", vit, compiles=True)
    if not run.tiny:  # too slow for a CPU
        tier0_other(run, "dfine-x", d_fine)
        tier0_other(run, "rf-detr", rf_detr)
    for batch in run.batches:
        run.row(f"together, batch {batch}", lambda row, batch=batch: overlap(run, row, batch))
    run.row("products of the encoder", lambda row: products(run, row))
    one_more()
    card = torch.cuda.get_device_name() if run.on_card else "cpu"
    result = {
        "device": card,
        "date": date.today().isoformat(),
        "command": " ".join(["python", "benchmarks/gpu_tier0.py", *sys.argv[1:]]),
        "torch": torch.__version__,
        "transformers": tf.__version__,
        "seconds": round(time.perf_counter() - START, 1),
        "peak_gb": round(torch.cuda.max_memory_reserved() / 1e9, 2) if run.on_card else None,
        "rows": run.rows,
    }
    if asked.save:
        asked.save.mkdir(parents=True, exist_ok=True)
        stem = asked.save / f"gpu-tier0-{card.lower().replace(' ', '-')}-{result['date']}"
        stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        stem.with_suffix(".md").write_text(markdown(result))
    return 1 if any("error" in row for row in run.rows) else 0


if __name__ == "__main__":
    sys.exit(main())
