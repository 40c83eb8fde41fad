"""Every tier-0, 1 and 2 model at its real size with random weights: load seconds, memory, ms at batch 1 and 32.

    python benchmarks/gpu_models.py [--device cuda] [--only KEY ...] [--batches 1 32] [--save docs/results]

Prints a table, and with --save writes `gpu-models-<card>-<date>.json`, which the planner reads, and the same as
Markdown. Random weights cost what real ones do; nothing is downloaded and no figure here is an accuracy. Each model
runs through its own adapter: a picture of 224 x 224 in, an Opinion out, preprocessing on the card included.

Left out, because their real configuration is not known here without their repository: rf-detr-l, deimv2-x.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "adapters")]
os.environ.setdefault("YOLO_CONFIG_DIR", tempfile.mkdtemp(prefix="yolo-"))
os.environ.setdefault("YOLO_OFFLINE", "true")

import tiny  # noqa: E402  (the tests' tokenizers, which need no vocabulary of the hub)
import torch  # noqa: E402
import transformers as tf  # noqa: E402

from benchmarks.sizes import d_fine_x  # noqa: E402
from models import catalog, foundation  # noqa: E402
from models.base import Frame, ModelError  # noqa: E402
from models.torch_model import TorchModel  # noqa: E402

ROUNDS, WARM_UPS = 20, 2
LONGEST_MS = 3000.0  # of one batch size
Writer = Callable[[Path], None]


def saved(model: Any, directory: Path, *processors: Any) -> None:
    model.to(torch.bfloat16).save_pretrained(directory)
    for processor in processors:
        processor.save_pretrained(directory)


def square(size: int) -> dict[str, int]:
    return {"height": size, "width": size}


def vit(directory: Path) -> None:
    labels = {0: "None", 1: "Roadwork"}
    saved(tf.ViTForImageClassification(tf.ViTConfig(id2label=labels)), directory, tf.ViTImageProcessor())


def dinov3(width: int, layers: int, heads: int, inner: int, gated: bool = False) -> Writer:
    def write(directory: Path) -> None:
        config = tf.DINOv3ViTConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=inner,
            use_gated_mlp=gated,
            hidden_act="silu" if gated else "gelu",
            num_register_tokens=4,
            image_size=224,
            patch_size=16,
        )
        saved(tf.DINOv3ViTModel(config), directory, tf.DINOv3ViTImageProcessor(size=square(224)))

    return write


SO400M = {"hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16, "intermediate_size": 4304}


def siglip_vision(directory: Path) -> None:
    config = tf.SiglipVisionConfig(**SO400M, image_size=384, patch_size=14)
    saved(tf.SiglipVisionModel(config), directory, tf.SiglipImageProcessor(size=square(384)))


def siglip(directory: Path) -> None:
    config = tf.SiglipConfig(
        text_config={**SO400M, "vocab_size": 256_000, "max_position_embeddings": 64},
        vision_config={**SO400M, "image_size": 384, "patch_size": 14},
    )
    words = tiny.tokenizer(directory, 64, eos_token="[SEP]")
    pictures = tf.SiglipImageProcessor(size=square(384))
    saved(tf.SiglipModel(config), directory, tf.SiglipProcessor(pictures, words))


def clip(directory: Path) -> None:
    words = tiny.tokenizer(directory, 77, eos_token="[SEP]", bos_token="[CLS]")
    config = tf.CLIPConfig(
        text_config={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_attention_heads": 12,
            "eos_token_id": words.eos_token_id,
        },
        vision_config={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 336,
            "patch_size": 14,
        },
        projection_dim=768,
    )
    pictures = tf.CLIPImageProcessor(size={"shortest_edge": 336}, crop_size=square(336))
    saved(tf.CLIPModel(config), directory, tf.CLIPProcessor(pictures, words))


def radio(directory: Path) -> None:
    config = tf.RadioConfig(hidden_size=1280, num_hidden_layers=32, num_attention_heads=16, intermediate_size=5120)
    pictures = tf.CLIPImageProcessor(size=square(224), do_center_crop=False, do_normalize=False)
    saved(tf.RadioModel(config), directory, pictures)


def rt_detr_v2(directory: Path) -> None:
    config = tf.RTDetrV2Config(**tiny.labelled(tiny.COCO))
    saved(tf.RTDetrV2ForObjectDetection(config), directory, tf.RTDetrImageProcessor(size=square(640)))


def d_fine(directory: Path) -> None:
    config = d_fine_x(**tiny.labelled(tiny.OBJECTS365))
    saved(tf.DFineForObjectDetection(config), directory, tf.RTDetrImageProcessor(size=square(640)))


def grounding(config_class: Any, model_class: Any, width: int, heads: list[int]) -> Writer:
    def write(directory: Path) -> None:
        backbone = tf.SwinConfig(
            image_size=384,
            embed_dim=width,
            depths=[2, 2, 18, 2],
            num_heads=heads,
            window_size=12,
            out_features=["stage2", "stage3", "stage4"],
        )
        config = config_class(backbone_config=backbone, text_config=tf.BertConfig())
        words = tiny.tokenizer(directory, 256)
        saved(model_class(config), directory, tf.GroundingDinoProcessor(tf.GroundingDinoImageProcessor(), words))

    return write


def owlv2(directory: Path) -> None:
    words = tiny.tokenizer(directory, 16, eos_token="[SEP]", bos_token="[CLS]")
    config = tf.Owlv2Config(
        text_config={
            "hidden_size": 768,
            "intermediate_size": 3072,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "eos_token_id": words.eos_token_id,
        },
        vision_config={
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "image_size": 1008,
            "patch_size": 14,
        },
        projection_dim=768,
    )
    pictures = tf.Owlv2ImageProcessor(size=square(1008))
    saved(tf.Owlv2ForObjectDetection(config), directory, tf.Owlv2Processor(pictures, words))


def sam3(directory: Path) -> None:
    words = tiny.tokenizer(directory, 32, eos_token="[SEP]", bos_token="[CLS]")
    saved(tf.Sam3Model(tf.Sam3Config()), directory, tf.Sam3Processor(tf.Sam3ImageProcessor(), words))


def depth_anything(width: int, heads: int, layers: int, taken: list[int], neck: list[int], fusion: int) -> Writer:
    def write(directory: Path) -> None:
        backbone = tf.Dinov2Config(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            image_size=518,
            patch_size=14,
            out_indices=taken,
            reshape_hidden_states=False,
        )
        config = tf.DepthAnythingConfig(
            backbone_config=backbone,
            reassemble_hidden_size=width,
            neck_hidden_sizes=neck,
            fusion_hidden_size=fusion,
            depth_estimation_type="metric",
            max_depth=80,
        )
        pictures = tf.DPTImageProcessor(size=square(518), keep_aspect_ratio=True, ensure_multiple_of=14)
        saved(tf.DepthAnythingForDepthEstimation(config), directory, pictures)

    return write


def yolo(name: str) -> Writer:
    def write(directory: Path) -> None:
        from ultralytics import YOLO

        YOLO(f"{name}.yaml", task="detect").save(directory / f"{name}.pt")

    return write


REAL: dict[str, Writer] = {
    "natix-roadwork": vit,
    "dinov3-s": dinov3(384, 12, 6, 1536),
    "dinov3-b": dinov3(768, 12, 12, 3072),
    "dinov3-l": dinov3(1024, 24, 16, 4096),
    "dinov3-h-plus": dinov3(1280, 32, 20, 5120, gated=True),
    "siglip2-head": siglip_vision,
    "c-radio-h": radio,
    "rt-detrv2-r50": rt_detr_v2,
    "dfine-x": d_fine,
    "yolo26-x": yolo("yolo26x"),
    "yolo11-x": yolo("yolo11x"),
    "grounding-dino-b": grounding(tf.GroundingDinoConfig, tf.GroundingDinoForObjectDetection, 128, [4, 8, 16, 32]),
    "mm-grounding-dino-l": grounding(
        tf.MMGroundingDinoConfig, tf.MMGroundingDinoForObjectDetection, 192, [6, 12, 24, 48]
    ),
    "owlv2-l": owlv2,
    "sam3": sam3,
    "siglip2-roadwork": siglip,
    "clip-roadwork": clip,
    "depth-anything-v2-s": depth_anything(384, 6, 12, [3, 6, 9, 12], [48, 96, 192, 384], 64),
    "depth-anything-v2-l": depth_anything(1024, 16, 24, [5, 12, 18, 24], [256, 512, 1024, 1024], 256),
}


def measured(key: str, device: str, batches: list[int], rounds: int) -> dict[str, Any]:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        REAL[key](directory)
        model = catalog.make(catalog.find(key))
        assert isinstance(model, TorchModel)
        model._directory = directory
        if isinstance(model, foundation.Foundation):
            model.heads_file = random_head(directory, model.entry.repository)
        before = reserved(device)
        started = time.perf_counter()
        model.load(device)
        row: dict[str, Any] = {"key": key, "precision": "bf16" if device != "cpu" else "fp32"}
        row["load_s"] = round(time.perf_counter() - started, 2)
        for batch in batches:
            row[f"ms_{batch}"] = round(milliseconds(model, batch, device, rounds), 2)
        row["reserved_gb"] = round((peak(device) - before) / 1e9, 2) if device != "cpu" else None
        model.close()
    del model
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return row


def random_head(directory: Path, encoder: str) -> Path:
    config = json.loads((directory / "config.json").read_text())
    width = config["hidden_size"]
    if config["model_type"] == "radio":
        width *= len(tf.RadioConfig(**{k: v for k, v in config.items() if k == "summary_idxs"}).summary_idxs)
    path = directory / "head.safetensors"
    foundation.Heads(("roadwork",), np.ones((1, width), np.float32) / width, np.zeros(1, np.float32), encoder).save(
        path
    )
    return path


def milliseconds(model: TorchModel, batch: int, device: str, rounds: int) -> float:
    """Median over fresh pictures (a picture seen before costs an encoder nothing); of a slow model, over fewer."""
    rng = np.random.default_rng(batch)
    spent: list[float] = []
    while len(spent) < rounds + WARM_UPS and (len(spent) < WARM_UPS + 3 or sum(spent) < LONGEST_MS):
        frames = [Frame.of(rng.integers(0, 255, (224, 224, 3), np.uint8)) for _ in range(batch)]
        started = time.perf_counter()
        model.assess(frames)
        if device != "cpu":
            torch.cuda.synchronize()
        spent.append((time.perf_counter() - started) * 1e3)
    return statistics.median(spent[WARM_UPS:])


def reserved(device: str) -> int:
    return torch.cuda.memory_reserved() if device != "cpu" else 0


def peak(device: str) -> int:
    return torch.cuda.max_memory_reserved() if device != "cpu" else 0


def markdown(result: dict[str, Any]) -> str:
    columns = list(dict.fromkeys(name for row in result["models"] for name in row))
    lines = [
        f"# Models at real size, random weights: {result['device']}, {result['date']}",
        "",
        f"`{result['command']}`; torch {result['torch']}, transformers {result['transformers']}; "
        "picture 224 x 224 in, Opinion out.",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(str(row.get(name, "")) for name in columns) + " |" for row in result["models"]),
    ]
    return "\n".join(lines) + "\n"


def save(result: dict[str, Any], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    stem = directory / f"gpu-models-{result['device'].lower().replace(' ', '-')}-{result['date']}"
    stem.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    stem.with_suffix(".md").write_text(markdown(result))


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--device", default="cuda")
    options.add_argument("--only", nargs="+", choices=REAL, default=list(REAL))
    options.add_argument("--batches", nargs="+", type=int, default=[1, 32])
    options.add_argument("--rounds", type=int, default=ROUNDS)
    options.add_argument("--save", type=Path)
    asked = options.parse_args()
    if asked.device != "cpu" and not torch.cuda.is_available():
        print("no card here; --device cpu checks that the script runs, and measures nothing of use", file=sys.stderr)
        return 2
    card = "cpu" if asked.device == "cpu" else torch.cuda.get_device_name()
    result: dict[str, Any] = {
        "device": card,
        "date": date.today().isoformat(),
        "command": " ".join(["python", "benchmarks/gpu_models.py", *sys.argv[1:]]),
        "torch": torch.__version__,
        "transformers": tf.__version__,
        "models": [],
    }
    for key in asked.only:
        try:
            row = measured(key, asked.device, asked.batches, asked.rounds)
        except (ModelError, RuntimeError, ValueError) as error:
            row = {"key": key, "error": f"{type(error).__name__}: {str(error)[:200]}"}
        result["models"].append(row)
        print(json.dumps(row), flush=True)
        if asked.save:
            save(result, asked.save)  # after each row: a run that is cut short keeps what it has
    print(markdown(result))
    return 1 if any("error" in row for row in result["models"]) else 0


if __name__ == "__main__":
    sys.exit(main())
