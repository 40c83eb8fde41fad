"""What one yes or no about one picture costs on this card: the static scorer, the library, and what the card allows.

    python -m benchmarks.vlm_scorer --out DIR 4B 8B 8B-fp8 32B-fp8

Weights are random and made on the card, at the models' real sizes: speed, memory and numerical equality only. Every row
is printed as it is measured, and all are written to DIR/vlm_scorer.json; a row that fails says so and the next goes on.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from models import catalog
from models.base import Frame
from models.fp8 import quantise, supported
from models.vlm import checkpoint
from models.vlm.forward import Forward, family_of
from models.vlm.grids import GRIDS, Grid
from models.vlm.language import Memory
from models.vlm.parts import Float8Matrix, Matrix
from models.vlm.scorer import Float8Scorer, Scorer

PREFIX, SUFFIX = (
    110,
    6,
)  # tokens before the picture and after it: an instruction with a question, the answer's beginning
YES, NO = (9454, 7414, 14004), (2308, 2152, 2753)  # any rows of the head cost the same
SHARD = 4e9  # bytes of a file
BATCHES = (1, 2, 4, 8, 16, 32, 64)
SQUARE = GRIDS[0][0]
CLASS = "Qwen3VLForConditionalGeneration"
TEXT = {
    "4B": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
    "8B": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
    "32B": {"hidden_size": 5120, "intermediate_size": 25600, "num_hidden_layers": 64, "num_attention_heads": 64},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3, "num_attention_heads": 16},
}
VISION = {
    "4B": {"hidden_size": 1024, "depth": 24, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]},
    "8B": {"hidden_size": 1152, "depth": 27, "intermediate_size": 4304, "deepstack_visual_indexes": [8, 16, 24]},
    "tiny": {"hidden_size": 64, "depth": 2, "intermediate_size": 128, "deepstack_visual_indexes": [0, 1]},
}
VISION["32B"] = VISION["8B"]


def configuration(size: str) -> Any:
    """The library's configuration of Qwen3-VL at this size."""
    from transformers import Qwen3VLConfig

    rope = {"rope_type": "default", "rope_theta": 5000000, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    tied = size in ("4B", "tiny")
    text = {**TEXT[size], "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "rms_norm_eps": 1e-6}
    text |= {"max_position_embeddings": 262144, "rope_parameters": rope, "tie_word_embeddings": tied}
    vision = {**VISION[size], "num_heads": 16, "out_hidden_size": TEXT[size]["hidden_size"]}
    if size == "tiny":
        vision["num_heads"] = 4
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)


class RandomTensors:
    """Weights as fresh as the library makes them, by name, made when they are asked for."""

    def __init__(self, config: Any, device: str, dtype: torch.dtype) -> None:
        from transformers import Qwen3VLForConditionalGeneration

        with torch.device("meta"):
            self._shapes = {k: v.shape for k, v in Qwen3VLForConditionalGeneration(config).state_dict().items()}
        self.device, self.dtype = torch.device(device), dtype
        self.names = list(self._shapes)

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def tensor(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        return self._random(self._shapes[name]).to(dtype or self.dtype)

    def rows(self, name: str, ids: Sequence[int]) -> torch.Tensor:
        return self._random((len(ids), self._shapes[name][1]))

    def _random(self, shape: Sequence[int]) -> torch.Tensor:
        made = torch.empty(*shape, device=self.device, dtype=self.dtype)
        return made.normal_(std=0.02) if len(shape) > 1 else made.normal_(1.0, 0.02)


class LibraryTensors:
    """The weights of a model of the library's."""

    def __init__(self, model: Any) -> None:
        self._state = model.state_dict()
        self.device, self.dtype = model.device, model.dtype

    def __contains__(self, name: str) -> bool:
        return name in self._state

    def tensor(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        return self._state[name].to(dtype or self.dtype)

    def rows(self, name: str, ids: Sequence[int]) -> torch.Tensor:
        return self._state[name][list(ids)]


class Report:
    """Rows as they come, and what failed."""

    def __init__(self, file: Path) -> None:
        self.rows: list[dict[str, Any]] = []
        self._file = file

    def row(self, **values: Any) -> None:
        self.rows.append(values)
        print("ROW", json.dumps(values), flush=True)
        self._file.write_text(json.dumps(self.rows, indent=1))

    def attempt(self, name: str, measure: Callable[[], None]) -> None:
        started = time.perf_counter()
        try:
            measure()
        except Exception:
            print(f"FAILED {name}\n{traceback.format_exc()}", flush=True)
            self.row(failed=name, error=traceback.format_exc(limit=3))
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        print(f"-- {name}: {time.perf_counter() - started:.1f} s", flush=True)


def timed(run: Callable[[], Any], times: int) -> np.ndarray:
    """Milliseconds on the card of each run, after three that do not count."""
    if not torch.cuda.is_available():
        return np.array([_wall(run) for _ in range(2)])
    for _ in range(3):
        run()
    marks = [(torch.cuda.Event(True), torch.cuda.Event(True)) for _ in range(times)]
    for start, end in marks:
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return np.array([start.elapsed_time(end) for start, end in marks])


def rates(ms: np.ndarray, batch: int) -> dict[str, float]:
    p50, p99 = (round(float(np.percentile(ms, share)), 3) for share in (50, 99))
    return {"batch": batch, "p50_ms": p50, "p99_ms": p99, "pictures_per_s": round(batch / p50 * 1e3, 1)}


def _wall(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return (time.perf_counter() - started) * 1e3


def limits(report: Report, device: str) -> None:
    """What the card reaches at best: copying, and the two kinds of matrix product."""
    side = 8192 if device != "cpu" else 128
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    ms = float(np.median(timed(lambda: a @ b, 10)))
    report.row(limit="bf16 product", tflops=round(2 * side**3 / ms / 1e9, 4))
    if supported(device):
        x, one = a.to(torch.float8_e4m3fn), torch.ones(side, 1, device=device)
        product = partial(torch._scaled_mm, x, x.T, scale_a=one, scale_b=one.T, out_dtype=a.dtype, use_fast_accum=True)
        ms = float(np.median(timed(product, 10)))
        report.row(limit="float8 product, row scales", tflops=round(2 * side**3 / ms / 1e9, 1))
    size = 2**30 if device != "cpu" else 2**20
    source = torch.empty(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    ms = float(np.median(timed(lambda: target.copy_(source), 10)))
    report.row(limit="copy, read and written", tb_per_s=round(2 * size / ms / 1e9, 4))


def products(report: Report, size: str, device: str) -> None:
    """How near to memory's speed single matrix products of batch 1 come."""
    width, inner, heads = TEXT[size]["hidden_size"], TEXT[size]["intermediate_size"], TEXT[size]["num_attention_heads"]
    shapes = {
        "qkv": (width, (heads + 16) * 128),
        "out": (heads * 128, width),
        "gate_up": (width, 2 * inner),
        "down": (inner, width),
    }
    for name, (k, n) in shapes.items():
        x = torch.randn(SQUARE.tokens + SUFFIX, k, device=device, dtype=torch.bfloat16)
        copies = max(1, 2**28 // (k * n * 2))  # more than the cache holds
        weights = [torch.randn(n, k, device=device, dtype=torch.bfloat16) for _ in range(copies)]
        eights = [Float8Matrix(weight) for weight in weights]
        for kind, run in (
            ("bf16", partial(_each, [Matrix(weight) for weight in weights], x)),
            ("float8", partial(_each, eights, quantise(x))),
        ):
            run()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                run()
            ms = float(np.median(timed(graph.replay, 10))) / copies
            gb = k * n * (2 if kind == "bf16" else 1) / 1e9
            report.row(
                product=f"{size} {name}", kind=kind, tokens=len(x), us=round(ms * 1e3, 1), tb_per_s=round(gb / ms, 2)
            )


def _each(matrices: Sequence[Callable[[Any], Any]], x: Any) -> None:
    for matrix in matrices:
        matrix(x)


def random_pictures(count: int, grid: Grid, device: str) -> torch.Tensor:
    """Smooth, as pictures are: (count, 3, H, W) uint8."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(count))
    size = (grid.rows * 32, grid.columns * 32)
    return (torch.nn.functional.interpolate(coarse, size, mode="bilinear") * 255).to(torch.uint8).to(device)


def built(precision: str, tensors: Any, config: Any) -> tuple[Forward, Memory]:
    """The model, and what the text of one question leaves behind."""
    asked = {"suffix": range(100, 100 + SUFFIX), "yes": YES, "no": NO, "float8": precision == "fp8"}
    model = Forward(family_of(CLASS), config, [0.5] * 3, [0.5] * 3, tensors, **asked)
    memory = model.language.room(1, 128)
    memory.write(0, model.prefill(range(1000, 1000 + PREFIX)), PREFIX)
    return model, memory


def speed(report: Report, name: str, folders: Path, batches: Sequence[int], profile: bool, device: str) -> None:
    """The scorer itself, batch by batch: the card's time of a batch, and the whole way from pixels to log-odds."""
    size, _, precision = name.partition("-")
    directory = folder(size, folders)
    config = configuration(size)
    report.row(costs=name, **costs(config, precision == "fp8"))
    with random_weights(config):
        scorer = asked_briefly(Float8Scorer if precision == "fp8" else Scorer, directory)
        started = time.perf_counter()
        scorer.load(device)
    loaded = time.perf_counter()
    forward = scorer._forward(SQUARE)
    recorded = time.perf_counter()
    report.row(
        model=name, load_s=round(loaded - started, 1), first_grid_s=round(recorded - loaded, 1), reserved_gb=_reserved()
    )
    chats, rng = scorer.prompt.chats, np.random.default_rng(0)
    for batch in batches:
        pictures = random_pictures(batch, SQUARE, device)
        run = forward._graphs[batch][0] if device == "cuda" else partial(forward, pictures)
        with torch.inference_mode():
            report.row(model=name, what="graph", **rates(timed(run, 200 if batch == 1 else 12), batch))
        if profile and batch in (1, batches[-1]):
            kernels(report, name, batch, run)
    for batch in batches:
        frames = [Frame.of(rng.integers(0, 255, (224, 224, 3), np.uint8)) for _ in range(batch)]
        times = (220 if batch == 1 else 15) if device == "cuda" else 5
        walls = [_wall(partial(scorer.answers, frames, chats)) for _ in range(times)]
        report.row(model=name, what="pixels to log-odds", **rates(np.array(walls[3:]), batch))
    if device == "cuda":
        one_call(report, name, scorer, forward._graphs[1][0])
    scorer.close()


def one_call(report: Report, name: str, scorer: Scorer, replay: Callable[[], None]) -> None:
    """Where the time of one picture of the validators' goes: wall times, each waited for as an answer is."""
    from models.pictures import gathered, resized, uploaded

    frame, card = Frame.of(np.random.default_rng(0).integers(0, 255, (224, 224, 3), np.uint8)), torch.device("cuda")
    wire, before = scorer._forward(SQUARE, wire=True), scorer._forward(SQUARE)
    stages: dict[str, Callable[[], Any]] = {
        "nothing": lambda: None,
        "upload": lambda: uploaded([frame], card),
        "upload, resize": lambda: resized([frame], *scorer._pixels(SQUARE), card),
        "replay": replay,
        "resized before the graph": lambda: before(resized([frame], *scorer._pixels(SQUARE), card)).tolist(),
        "resized in the graph": lambda: wire(gathered([frame], card)).tolist(),
        "the whole call": lambda: scorer.answers([frame], scorer.prompt.chats),
    }
    with torch.inference_mode():
        for stage, run in stages.items():
            walls = [_wall(lambda run=run: (run(), torch.cuda.synchronize())) for _ in range(103)]
            report.row(model=name, stage=stage, p50_ms=round(float(np.median(walls[3:])), 3))


def costs(config: Any, float8: bool) -> dict[str, float]:
    """What one picture of 8 x 8 tokens costs at least: 10^9 bytes of weights, 10^9 operations in 16 and in 8 bits."""
    from transformers import Qwen3VLForConditionalGeneration

    with torch.device("meta"):
        sizes = {k: v.numel() for k, v in Qwen3VLForConditionalGeneration(config).named_parameters() if v.dim() > 1}
    language = sum(n for name, n in sizes.items() if ".language_model.layers." in name)
    mergers = sum(n for name, n in sizes.items() if ".visual." in name and "merger" in name)
    tower = sum(n for name, n in sizes.items() if ".visual." in name and "pos_embed" not in name) - mergers
    asked = 2 * language * (SQUARE.tokens + SUFFIX) / 1e9
    seen = 2 * (4 * tower + mergers) * SQUARE.tokens / 1e9  # four patches of a token
    gb = (2 * (tower + mergers) + (1 if float8 else 2) * language) / 1e9
    return {
        "gb": round(gb, 3),
        "bf16_gflop": round(seen + (0 if float8 else asked), 1),
        "float8_gflop": round(asked if float8 else 0, 1),
    }


@contextmanager
def random_weights(config: Any) -> Iterator[None]:
    """Within it, a checkpoint of any directory is random."""
    real = checkpoint.Checkpoint
    checkpoint.Checkpoint = lambda _, device, dtype, aliases: RandomTensors(config, device, dtype)  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        checkpoint.Checkpoint = real  # type: ignore[misc]


def asked_briefly(kind: type[Scorer], directory: Path) -> Scorer:
    """A scorer whose prompt is, in the small tokenizer's many tokens, as long as ours is in Qwen's."""
    scorer = kind(catalog.find("qwen3-vl-4b-scorer"), directory)
    brief = "Road work: cones, barriers, machines."
    scorer.prompt = scorer.prompt.model_copy(update={"system": "", "instruction": brief})
    return scorer


def folder(size: str, folders: Path) -> Path:
    """Everything of a checkpoint but its weights; the same for all who are measured."""
    directory = folders / size
    if not directory.exists():
        sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "adapters"))
        import tiny  # the tests' tokenizer: there is no hub where this runs

        processor, config = tiny.qwen_processor(), configuration(size)
        token = dict(zip(tiny.QWEN_SPECIAL, processor.tokenizer.convert_tokens_to_ids(tiny.QWEN_SPECIAL), strict=True))
        config.architectures = [CLASS]
        config.image_token_id, config.video_token_id = token["<|image_pad|>"], token["<|video_pad|>"]
        config.vision_start_token_id, config.vision_end_token_id = token["<|vision_start|>"], token["<|vision_end|>"]
        config.save_pretrained(directory)
        processor.save_pretrained(directory)
        prompt = asked_briefly(Scorer, directory).prompt
        text = processor.apply_chat_template(prompt.chats[0], add_generation_prompt=True, tokenize=False)
        yes, no = prompt.answer_tokens(processor.tokenizer)
        (directory / "asked.json").write_text(json.dumps({"text": text, "yes": yes, "no": no}))
    return directory


def write(tensors: RandomTensors, directory: Path) -> None:
    """All of them as safetensors, in shards as the hub's are."""
    places: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    for number, name in enumerate(tensors.names, 1):
        shard[name] = tensors.tensor(name).cpu()
        if sum(each.nbytes for each in shard.values()) > SHARD or number == len(tensors.names):
            file = f"model-{number:05d}.safetensors"
            save_file(shard, directory / file)
            places |= dict.fromkeys(shard, file)
            shard = {}
    (directory / checkpoint.INDEX).write_text(json.dumps({"weight_map": places}))


def start_up(report: Report, name: str, folders: Path) -> None:
    """From safetensors to ready, every grid and batch recorded."""
    size, _, precision = name.partition("-")
    directory, config = folder(size, folders), configuration(size)
    write(RandomTensors(config, "cuda", torch.bfloat16), directory)
    torch.cuda.empty_cache()
    scorer = asked_briefly(Float8Scorer if precision == "fp8" else Scorer, directory)
    started = time.perf_counter()
    scorer.load("cuda")
    loaded = time.perf_counter()
    scorer.warm_up()
    report.row(
        start_up=name,
        files_gb=round(sum(path.stat().st_size for path in directory.glob("*.safetensors")) / 1e9, 1),
        load_s=round(loaded - started, 1),
        record_s=round(time.perf_counter() - loaded, 1),
        reserved_gb=_reserved(),
    )
    scorer.close()
    for path in directory.glob("*.safetensors*"):
        path.unlink()


def _reserved() -> float:
    return round(torch.cuda.memory_reserved() / 1e9, 2) if torch.cuda.is_available() else 0.0


def kernels(report: Report, name: str, batch: int, replay: Callable[[], None]) -> None:
    """Where one replay's time goes, kernel by kernel."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as trace:
        replay()
        torch.cuda.synchronize()
    averages = sorted(trace.key_averages(), key=lambda each: -each.device_time_total)
    total = sum(each.device_time_total for each in averages)
    report.row(profile=name, batch=batch, kernels=sum(each.count for each in averages), busy_ms=round(total / 1e3, 3))
    for each in averages[:22]:
        report.row(kernel=each.key[:110], batch=batch, count=each.count, us=round(each.device_time_total, 1))


def equality(report: Report, size: str, device: str) -> None:
    """The same random weights and pictures through the library (in 32 and 16 bits) and through the scorer."""
    from transformers import Qwen3VLForConditionalGeneration

    config = configuration(size)
    torch.manual_seed(0)
    with torch.device(device), torch.inference_mode():
        library = Qwen3VLForConditionalGeneration._from_config(config, dtype=torch.bfloat16).eval()
    tensors = LibraryTensors(library)
    with torch.inference_mode():
        ours = {kind: built(kind, tensors, config) for kind in ("bf16", "fp8")}
        answers: dict[tuple[str, str], torch.Tensor] = {}
        for level in GRIDS:
            grid, pictures = level[0], random_pictures(4, level[0], device)
            for kind, (model, memory) in ours.items():
                answers[kind, str(grid)] = model.log_odds(pictures, grid, memory)[:, 0]
            answers["library bf16", str(grid)] = by_library(library, pictures, grid)
        library.float()
        stages(report, size, ours["bf16"][0], library, device)
        for level in GRIDS:
            grid = level[0]
            exact = by_library(library, random_pictures(4, grid, device), grid)
            apart = {kind: answers[kind, str(grid)] - exact for kind in ("bf16", "fp8", "library bf16")}
            report.row(
                equality=size,
                grid=str(grid),
                logits=[round(value, 3) for value in exact.tolist()],
                **{f"{kind} off by": round(float(gap.abs().max()), 4) for kind, gap in apart.items()},
                apart=round(float((apart["bf16"] - apart["library bf16"]).abs().max()), 4),
            )


def stages(report: Report, size: str, model: Forward, library: Any, device: str) -> None:
    """How far apart the parts are from the library's in 32 bits, relative to their size."""
    pictures = random_pictures(4, SQUARE, device)
    grid = torch.tensor([[1, SQUARE.rows * 2, SQUARE.columns * 2]] * 4, device=device)
    seen = library.model.visual(as_patches(pictures, SQUARE).to(library.dtype), grid_thw=grid)
    tokens, deep = model.tower(pictures, SQUARE)
    parts = {"vision": (tokens, seen.pooler_output)}
    parts |= {f"deepstack {n}": pair for n, pair in enumerate(zip(deep, seen.deepstack_features, strict=True))}
    ids = torch.arange(1000, 1000 + PREFIX, device=device)[None]
    kept = library(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
    values = [
        left[0][:, 1] for left in model.prefill(ids[0].tolist())
    ]  # of keys, only differences of positions are the same
    parts |= {
        f"values of layer {n}": (values[n], kept.layers[n].values[0].transpose(0, 1)) for n in (0, 1, len(values) - 1)
    }
    apart = {name: round(float((a.float() - b).norm() / b.norm()), 5) for name, (a, b) in parts.items()}
    report.row(stages=size, relative_error=apart)


def as_patches(pictures: torch.Tensor, grid: Grid) -> torch.Tensor:
    """What the library's processor makes of pictures that fit a grid already."""
    values = (pictures / 127.5 - 1).view(len(pictures), 3, grid.rows, 2, 16, grid.columns, 2, 16)
    patches = values.permute(0, 2, 5, 3, 6, 1, 4, 7).unsqueeze(6).expand(-1, -1, -1, -1, -1, -1, 2, -1, -1)
    return patches.reshape(-1, 3 * 2 * 16 * 16)


def by_library(model: Any, pictures: torch.Tensor, grid: Grid) -> torch.Tensor:
    """The library's own answer, eager: natural log-odds of yes."""
    config, count = model.config, len(pictures)
    image = [config.image_token_id] * grid.tokens
    ids = torch.tensor([[*range(1000, 1000 + PREFIX), *image, *range(100, 100 + SUFFIX)]] * count)
    ids = ids.to(pictures.device)
    logits = model(
        input_ids=ids,
        pixel_values=as_patches(pictures, grid).to(model.dtype),
        image_grid_thw=torch.tensor([[1, grid.rows * 2, grid.columns * 2]] * count, device=ids.device),
        mm_token_type_ids=(ids == config.image_token_id).int(),
        logits_to_keep=1,
        use_cache=False,
    ).logits[:, -1].float()  # fmt: skip
    return logits[:, list(YES)].logsumexp(-1) - logits[:, list(NO)].logsumexp(-1)


def eager(report: Report, size: str, device: str, batches: Sequence[int]) -> None:
    """The library as it comes."""
    from transformers import Qwen3VLForConditionalGeneration

    with torch.device(device), torch.inference_mode():
        library = Qwen3VLForConditionalGeneration._from_config(configuration(size), dtype=torch.bfloat16).eval()
    with torch.inference_mode():
        for batch in batches:
            pictures = random_pictures(batch, SQUARE, device)
            ms = timed(partial(by_library, library, pictures, SQUARE), 20 if batch == 1 else 4)
            report.row(library=size, what="graph", **rates(ms, batch))
    report.row(library=size, reserved_gb=_reserved())


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """Lists are separated by commas, so that an option cannot swallow the models that stand after it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", help="4B, 8B, 32B, with -fp8 behind it for 8 bits")
    parser.add_argument("--out", type=Path, default=Path("."))
    parser.add_argument("--batches", type=_numbers, default=BATCHES, help="e.g. 1,16,64")
    parser.add_argument("--equal", default="", help="compare this size with the library")
    parser.add_argument("--products", default="", help="single products of this size")
    parser.add_argument("--eager", default="", help="measure the library at this size")
    parser.add_argument("--folder", default="", help="SIZE=DIRECTORY: write what an engine needs below it, and no more")
    parser.add_argument("--start-up", default="", help="write this model to memory's file system and start from it")
    parser.add_argument("--profile", action="store_true")
    return parser.parse_args(given)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def main() -> None:
    options = arguments()
    if options.folder:
        size, _, directory = options.folder.partition("=")
        folder(size, Path(directory))
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    report = Report(options.out / "vlm_scorer.json")
    shared = Path("/dev/shm")
    folders = Path(tempfile.mkdtemp(dir=shared if shared.is_dir() else None))
    card = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    report.row(device=card, torch=torch.__version__)
    report.attempt("limits", lambda: limits(report, device))
    if options.products:
        report.attempt("products", lambda: products(report, options.products, device))
    if options.equal:
        report.attempt("equality", lambda: equality(report, options.equal, device))
    for name in options.models:
        report.attempt(name, partial(speed, report, name, folders, options.batches, options.profile, device))
    if options.start_up:
        report.attempt("start-up", lambda: start_up(report, options.start_up, folders))
    if options.eager:
        report.attempt("eager", lambda: eager(report, options.eager, device, (1, 16)))


if __name__ == "__main__":
    main()
