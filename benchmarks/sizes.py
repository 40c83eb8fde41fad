"""Models at their real sizes with random weights, written as their libraries write checkpoints. Nothing is downloaded.

Random weights cost what real ones do. Left out, because their real configuration is not known here without their
repository: rf-detr-l, deimv2-x.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent.parent / "tests" / "adapters"))

import tiny  # the tests' tokenizers, which need no vocabulary of the hub
import torch
import transformers as tf

Writer = Callable[[Path], None]


def d_fine_x(**labels: Any) -> tf.DFineConfig:
    """D-FINE-X (https://github.com/Peterande/D-FINE), 63 million parameters, 640 pixels."""
    backbone = tf.HGNetV2Config(
        stage_in_channels=[64, 128, 512, 1024],
        stage_mid_channels=[64, 128, 256, 512],
        stage_out_channels=[128, 512, 1024, 2048],
        stage_num_blocks=[1, 2, 5, 2],
        stage_numb_of_layers=[6, 6, 6, 6],
        stem_channels=[3, 32, 64],
        hidden_sizes=[128, 512, 1024, 2048],
        out_features=["stage2", "stage3", "stage4"],
    )
    return tf.DFineConfig(
        backbone_config=backbone,
        encoder_in_channels=[512, 1024, 2048],
        encoder_hidden_dim=384,
        encoder_ffn_dim=2048,
        decoder_in_channels=[384, 384, 384],
        decoder_n_points=[3, 6, 3],
        **labels,
    )


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
# CLIP ViT-L, which OWLv2 is built on too.
LARGE_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
LARGE_VISION = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}


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
        text_config={**LARGE_TEXT, "eos_token_id": words.eos_token_id},
        vision_config={**LARGE_VISION, "image_size": 336, "patch_size": 14},
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
        text_config={**LARGE_TEXT, "eos_token_id": words.eos_token_id},
        vision_config={**LARGE_VISION, "image_size": 1008, "patch_size": 14},
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


REAL: dict[str, Writer] = {  # those first that profiles ask and that cost most
    "sam3": sam3,
    "mm-grounding-dino-l": grounding(
        tf.MMGroundingDinoConfig, tf.MMGroundingDinoForObjectDetection, 192, [6, 12, 24, 48]
    ),
    "dfine-x": d_fine,
    "siglip2-roadwork": siglip,
    "siglip2-head": siglip_vision,
    "owlv2-l": owlv2,
    "clip-roadwork": clip,
    "dinov3-h-plus": dinov3(1280, 32, 20, 5120, gated=True),
    "rt-detrv2-r50": rt_detr_v2,
    "depth-anything-v2-s": depth_anything(384, 6, 12, [3, 6, 9, 12], [48, 96, 192, 384], 64),
    "depth-anything-v2-l": depth_anything(1024, 16, 24, [5, 12, 18, 24], [256, 512, 1024, 1024], 256),
    "natix-roadwork": vit,
    "c-radio-h": radio,
    "grounding-dino-b": grounding(tf.GroundingDinoConfig, tf.GroundingDinoForObjectDetection, 128, [4, 8, 16, 32]),
    "dinov3-l": dinov3(1024, 24, 16, 4096),
    "dinov3-b": dinov3(768, 12, 12, 3072),
    "dinov3-s": dinov3(384, 12, 6, 1536),
    "yolo26-x": yolo("yolo26x"),
    "yolo11-x": yolo("yolo11x"),
}
