"""Tiny checkpoints with random weights, written by the library's own `save_pretrained`: one for each class in use."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE, WordLevel

from models import boxes, catalog, zero_shot

PHRASES = list(boxes.classes("prompts").weights)
COCO = {0: "person", 1: "truck", 2: "stop sign", 3: "car"}
OBJECTS365 = {0: "Person", 1: "Traffic cone", 2: "Machinery Vehicle", 3: "Sneakers"}


def write(class_name: str, directory: Path) -> Path:
    """A checkpoint that `class_name` loads, the same one each time."""
    torch.manual_seed(0)
    directory.mkdir(parents=True, exist_ok=True)
    WRITERS[class_name](directory)
    return directory


def randomised(model: Any, spread: float = 0.3) -> Any:
    """All parameters drawn anew: fresh networks often end in zeros, and zeros prove nothing."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "class_embed" in name and name.endswith("bias"):
                parameter.zero_()  # fresh detectors are sure that there is nothing
            if parameter.dim() > 1 and "embed" not in name:
                parameter.copy_(
                    torch.randn(parameter.shape, generator=generator) * spread / parameter[0].numel() ** 0.5
                )
    return model


def vit(directory: Path) -> None:
    config = tf.ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        id2label={0: "None", 1: "Roadwork"},
        label2id={"None": 0, "Roadwork": 1},
    )
    randomised(tf.ViTForImageClassification(config), 3).save_pretrained(directory)
    tf.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(directory)


def dinov3(directory: Path) -> None:
    config = tf.DINOv3ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    randomised(tf.DINOv3ViTModel(config), 3).save_pretrained(directory)
    tf.DINOv3ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(directory)


def siglip_vision(directory: Path) -> None:
    config = tf.SiglipVisionConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    randomised(tf.SiglipVisionModel(config), 3).save_pretrained(directory)
    tf.SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(directory)


def radio(directory: Path) -> None:
    config = tf.RadioConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    randomised(tf.RadioModel(config), 3).save_pretrained(directory)
    tf.CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False, do_normalize=False).save_pretrained(
        directory
    )


def resnet(stages: int = 4) -> Any:
    return tf.RTDetrResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 8, 16, 16][:stages],
        depths=[1] * stages,
        out_features=["stage2", "stage3", "stage4"],
    )


def hgnet() -> Any:
    return tf.HGNetV2Config(
        stage_in_channels=[8, 8, 16, 16],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[8, 16, 16, 16],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        stage_downsample=[False, True, True, True],
        stage_light_block=[False, False, True, True],
        stage_kernel_size=[3, 3, 5, 5],
        stem_channels=[3, 8, 8],
        embedding_size=8,
        hidden_sizes=[8, 16, 16, 16],
        out_features=["stage2", "stage3", "stage4"],
    )


DETR = {
    "encoder_hidden_dim": 16,
    "encoder_in_channels": [8, 16, 16],
    "encoder_ffn_dim": 16,
    "encoder_layers": 1,
    "encoder_attention_heads": 2,
    "d_model": 16,
    "num_queries": 10,
    "decoder_in_channels": [16, 16, 16],
    "decoder_ffn_dim": 16,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "decoder_n_points": 2,
    "num_denoising": 0,
}


def labelled(labels: dict[int, str]) -> dict[str, Any]:
    return {"id2label": labels, "label2id": {name: index for index, name in labels.items()}}


def detr_processor(directory: Path) -> None:
    tf.RTDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(directory)


def rt_detr_v2(directory: Path) -> None:
    config = tf.RTDetrV2Config(backbone_config=resnet(), **DETR, **labelled(COCO))
    randomised(tf.RTDetrV2ForObjectDetection(config)).save_pretrained(directory)
    detr_processor(directory)


def d_fine(directory: Path) -> None:
    config = tf.DFineConfig(
        backbone_config=hgnet(), **{**DETR, "decoder_n_points": [2, 2, 2]}, hidden_expansion=1.0, **labelled(OBJECTS365)
    )
    randomised(tf.DFineForObjectDetection(config)).save_pretrained(directory)
    detr_processor(directory)


def deimv2(directory: Path) -> None:
    config = tf.Deimv2Config(
        backbone_config=hgnet(), **{**DETR, "decoder_n_points": [2, 2, 2]}, hidden_expansion=1.0, **labelled(COCO)
    )
    randomised(tf.Deimv2ForObjectDetection(config)).save_pretrained(directory)
    detr_processor(directory)


def rf_detr(directory: Path) -> None:
    backbone = tf.RfDetrDinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=64,
        patch_size=8,
        num_windows=2,
        out_features=["stage1", "stage2"],
    )
    config = tf.RfDetrConfig(
        backbone_config=backbone,
        d_model=16,
        c2f_num_blocks=1,
        decoder_ffn_dim=16,
        decoder_layers=2,
        decoder_n_points=2,
        decoder_self_attention_heads=2,
        decoder_cross_attention_heads=2,
        num_queries=10,
        group_detr=1,
        **labelled(COCO),
    )
    randomised(tf.RfDetrForObjectDetection(config), 2).save_pretrained(directory)
    tf.RfDetrImageProcessor(size={"height": 64, "width": 64}).save_pretrained(directory)


def tokenizer(directory: Path, length: int, **special: str) -> Any:
    """Splits at spaces and stops; knows the words of every question that the project asks."""
    asked = " ".join([*boxes.classes("prompts").weights, *sentences()]).replace(".", " ").split()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", *sorted(set(asked))]
    inner = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", words.index("[CLS]")), ("[SEP]", words.index("[SEP]"))]
    )
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"} | special
    made = tf.PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=length, **named)
    made.model_input_names = ["input_ids", "attention_mask"]
    return made


def sentences() -> list[str]:
    entries = catalog.entries()["siglip2-roadwork"]
    return [*entries.prompts, *entries.contrast, *zero_shot.LIGHT.values(), *zero_shot.WEATHER.values()]


def grounding(config_class: Any, model_class: Any, directory: Path) -> None:
    words = tokenizer(directory, 64)
    config = config_class(
        backbone_config=tf.SwinConfig(
            image_size=64,
            patch_size=4,
            embed_dim=8,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 1, 1],
            window_size=4,
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config=tf.BertConfig(
            vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
        ),
        d_model=32,
        num_queries=10,
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        encoder_n_points=2,
        decoder_n_points=2,
        num_feature_levels=4,
        max_text_len=64,
    )
    randomised(model_class(config), 2).save_pretrained(directory)
    pictures = tf.GroundingDinoImageProcessor(size={"shortest_edge": 128, "longest_edge": 192})
    tf.GroundingDinoProcessor(pictures, words).save_pretrained(directory)


def owlv2(directory: Path) -> None:
    words = tokenizer(directory, 16, eos_token="[SEP]", bos_token="[CLS]")
    text = {"vocab_size": len(words), "max_position_embeddings": 16, "eos_token_id": words.eos_token_id}
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = tf.Owlv2Config(
        text_config={**text, **size, "pad_token_id": 0, "bos_token_id": 2},
        vision_config={**size, "image_size": 64, "patch_size": 16},
        projection_dim=16,
    )
    randomised(tf.Owlv2ForObjectDetection(config), 2).save_pretrained(directory)
    pictures = tf.Owlv2ImageProcessor(size={"height": 64, "width": 64})
    tf.Owlv2Processor(pictures, words).save_pretrained(directory)


def siglip(directory: Path) -> None:
    words = tokenizer(directory, 16, eos_token="[SEP]")
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = tf.SiglipConfig(
        text_config={**size, "vocab_size": len(words), "max_position_embeddings": 16},
        vision_config={**size, "image_size": 32, "patch_size": 8},
    )
    model = randomised(tf.SiglipModel(config), 3)
    model.logit_scale.data.fill_(1.5)
    model.logit_bias.data.fill_(-0.5)
    model.save_pretrained(directory)
    tf.SiglipProcessor(tf.SiglipImageProcessor(size={"height": 32, "width": 32}), words).save_pretrained(directory)


def clip(directory: Path) -> None:
    words = tokenizer(directory, 16, eos_token="[SEP]", bos_token="[CLS]")
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = tf.CLIPConfig(
        text_config={
            **size,
            "vocab_size": len(words),
            "max_position_embeddings": 16,
            "eos_token_id": words.eos_token_id,
            "pad_token_id": 0,
        },
        vision_config={**size, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    randomised(tf.CLIPModel(config), 3).save_pretrained(directory)
    pictures = tf.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    tf.CLIPProcessor(pictures, words).save_pretrained(directory)


def sam3(directory: Path) -> None:
    words = tokenizer(directory, 32, eos_token="[SEP]", bos_token="[CLS]")
    part = {"hidden_size": 32, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    detr = {**part, "dropout": 0.0}
    config = tf.Sam3Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam3_vit_model",
                "hidden_size": 32,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 112,
                "pretrain_image_size": 56,
                "patch_size": 14,
                "window_size": 4,
                "global_attn_indexes": [1],
            },
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        },
        text_config={
            "vocab_size": len(words),
            "hidden_size": 32,
            "intermediate_size": 32,
            "projection_dim": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
            "eos_token_id": words.eos_token_id,
            "pad_token_id": 0,
        },
        geometry_encoder_config=detr,
        detr_encoder_config=detr,
        detr_decoder_config={**detr, "num_queries": 6},
        mask_decoder_config={"hidden_size": 32, "num_upsampling_stages": 3, "num_attention_heads": 2},
    )
    randomised(tf.Sam3Model(config), 2).save_pretrained(directory)
    tf.Sam3Processor(tf.Sam3ImageProcessor(size={"height": 112, "width": 112}), words).save_pretrained(directory)


def depth_anything(directory: Path) -> None:
    backbone = tf.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        mlp_ratio=1,
        image_size=56,
        patch_size=14,
        out_features=["stage1", "stage2", "stage3", "stage4"],
        reshape_hidden_states=False,
    )
    config = tf.DepthAnythingConfig(
        backbone_config=backbone,
        reassemble_hidden_size=16,
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
        depth_estimation_type="metric",
        max_depth=80,
    )
    randomised(tf.DepthAnythingForDepthEstimation(config), 1).save_pretrained(directory)
    tf.DPTImageProcessor(
        size={"height": 56, "width": 56}, keep_aspect_ratio=True, ensure_multiple_of=14
    ).save_pretrained(directory)


def yolo(directory: Path) -> None:
    """A tiny network by the package's own YAML, in a checkpoint as its trainer writes them."""
    from ultralytics import YOLO

    made = YOLO("yolo26n.yaml", task="detect")
    made.model.names = dict(enumerate(["person", "truck", "stop sign", *(f"other {n}" for n in range(77))]))
    settle(made.model)
    for name, parameter in made.model.model[-1].named_parameters():
        if "cv3" in name and name.endswith("2.weight"):
            parameter.data *= 0.5
        if "cv3" in name and name.endswith("2.bias"):  # fresh heads are sure that there is nothing
            parameter.data.fill_(-50)
            parameter.data[1:3] = torch.tensor([-1.0, -2.0])
    made.save(directory / "yolo26x.pt")


def settle(model: Any) -> None:
    """Random weights, and once as in training, so that each layer's scale fits what comes in."""
    randomised(model, 1)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        coarse = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(2))
        model.train()(torch.nn.functional.interpolate(coarse, (480, 640)))
    model.eval()


def yoloe(directory: Path) -> None:
    """As `yolo`, with a head that is asked in words: `words` are its embeddings."""
    from ultralytics import YOLOE

    made = YOLOE("yoloe-26n-seg.yaml")
    settle(made.model)
    for name, parameter in made.model.model[-1].named_parameters():  # fresh heads are sure that there is nothing
        if name.endswith("logit_scale"):
            parameter.data.fill_(-1.0)
        if "cv4" in name and name.split(".")[-2].isdigit() and name.endswith("bias"):
            parameter.data.fill_(-7.0)
    made.save(directory / "yoloe-26x-seg.pt")
    words(directory / "yoloe-26x-seg.pt", directory / "words.npz", PHRASES)


def words(checkpoint: Path, target: Path, phrases: list[str]) -> Path:
    """Embeddings of phrases as the package keeps them, drawn by lot where its text encoder would make them."""
    from ultralytics import YOLOE

    made = YOLOE(checkpoint)
    drawn = torch.randn(1, len(phrases), made.model.model[-1].embed, generator=torch.Generator().manual_seed(3))
    made.set_classes(phrases, torch.nn.functional.normalize(drawn, dim=-1))
    return Path(made.save_prompt_embeddings(target))


def florence2(directory: Path) -> None:
    """A tokenizer of BART's kind with location tokens, 64 x 64 pictures of 4 patches and their mean."""
    inner = Tokenizer(BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    inner.train_from_iterator([". ".join(PHRASES)], trainer)
    named = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    words = tf.PreTrainedTokenizerFast(
        tokenizer_object=inner, **named, extra_special_tokens={"image_token": "<image>"}, model_max_length=512
    )
    words.add_tokens([f"<loc_{place}>" for place in range(1000)])
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = tf.Florence2Config(
        text_config={
            "model_type": "bart",
            "vocab_size": len(words),
            "d_model": 16,
            "encoder_ffn_dim": 16,
            "decoder_ffn_dim": 16,
            "max_position_embeddings": 512,
            **layers,
        },
        vision_config={
            "depths": [1, 1, 1, 1],
            "embed_dim": [8, 8, 8, 8],
            "num_heads": [1, 1, 1, 1],
            "num_groups": [1, 1, 1, 1],
            "window_size": 4,
            "projection_dim": 16,
        },
        image_token_id=words.convert_tokens_to_ids("<image>"),
    )
    model = randomised(tf.Florence2ForConditionalGeneration(config), 3)
    model.model.language_model.shared.weight.data.normal_(generator=torch.Generator().manual_seed(4))
    model.generation_config.no_repeat_ngram_size = 3  # as the published ones have it
    model.save_pretrained(directory)
    pictures = tf.CLIPImageProcessor(size={"height": 64, "width": 64}, do_center_crop=False)
    pictures.image_seq_length = 5
    rules = {"phrase_grounding": {"banned_grounding_tokens": ["the image"]}}
    tf.Florence2Processor(pictures, words, post_processor_config=rules).save_pretrained(directory)


# The tokens that Qwen's chat models add to their vocabulary, in their order.
QWEN_SPECIAL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<think>",
    "</think>",
]
QWEN_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.content is string %}{{- message.content }}"
    "{%- else %}{%- for part in message.content %}"
    "{%- if part.type == 'image' %}{{- '<|vision_start|><|image_pad|><|vision_end|>' }}"
    "{%- else %}{{- part.text }}{%- endif %}"
    "{%- endfor %}{%- endif %}{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def qwen_tokenizer(template: str = QWEN_TEMPLATE, special: Any = QWEN_SPECIAL) -> Any:
    """Qwen's kind: BPE on bytes, special tokens after the vocabulary, a chat template that places the picture."""
    inner = Tokenizer(BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=512, initial_alphabet=sorted(alphabet), show_progress=False)
    whole = ["Yes", "No", "yes", "no", "YES", "NO", " Yes", " No", " yes", " no", "system", "user", "assistant"]
    inner.train_from_iterator([" ".join(sentences()), *whole * 50], trainer)
    made = tf.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=special,
        model_max_length=4096,
    )
    made.chat_template = template
    return made


def language(words: Any, tie: bool, **more: Any) -> dict[str, Any]:
    """Four layers of Qwen3 in small, with grouped queries."""
    return {
        "vocab_size": len(words),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": tie,
        "bos_token_id": None,
        "eos_token_id": words.eos_token_id,
        **more,
    }


def write_vlm(model: Any, directory: Path, processor: Any, spread: float = 1.0) -> None:
    """Random weights of which everything counts: norms and biases that do nothing prove nothing."""
    model = randomised(model, spread)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
        if parameter.dim() == 1:
            parameter.data += 0.1 * noise
        if "embed_tokens" in name:
            parameter.data.copy_(0.2 * noise)  # so that answers differ by more than rounding
    model.save_pretrained(directory)
    processor.save_pretrained(directory)


def qwen_config(kind: Any, tie: bool, text: dict[str, Any], **vision: Any) -> Any:
    """Configuration of a Qwen VLM with the small tokenizer's ids."""
    words = qwen_tokenizer()
    ids = dict(zip(QWEN_SPECIAL, words.convert_tokens_to_ids(QWEN_SPECIAL), strict=True))
    side = {"hidden_size": 64, "depth": 4, "intermediate_size": 128, "num_heads": 2, "out_hidden_size": 64}
    return kind(
        text_config=language(words, tie, **text),
        vision_config={**side, **vision},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=tie,
    )


def tiny_qwen3_vl(directory: Path, tie: bool = True) -> None:
    """Qwen3-VL with 4 + 4 layers and everything that the large ones have: deepstack, mRoPE, grouped queries."""
    rope = {"rope_type": "default", "rope_theta": 5000000, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
    config = qwen_config(tf.Qwen3VLConfig, tie, {"rope_parameters": rope}, deepstack_visual_indexes=[0, 1, 2])
    write_vlm(tf.Qwen3VLForConditionalGeneration(config), directory, qwen_processor())


def tiny_qwen3_5(directory: Path, tie: bool = True, layers: str = "lllf") -> None:
    """Qwen3.5. layers: l mixes by the delta rule, f by gated attention, which turns a quarter of each head."""
    rope = {"rope_type": "default", "rope_theta": 10000000, "mrope_section": [2, 1, 1], "mrope_interleaved": True}
    delta = {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
    delta |= {"linear_key_head_dim": 16, "linear_value_head_dim": 32}
    text = {"rope_parameters": rope | {"partial_rotary_factor": 0.25}, "num_hidden_layers": len(layers), **delta}
    text["layer_types"] = [{"l": "linear_attention", "f": "full_attention"}[layer] for layer in layers]
    model = tf.Qwen3_5ForConditionalGeneration(qwen_config(tf.Qwen3_5Config, tie, text))
    for name, parameter in model.named_parameters():  # long memories, as trained ones are: of a single token's, the
        if name.endswith("A_log"):  # norm after them keeps no more than the sign
            parameter.data.uniform_(-5, -2, generator=torch.Generator().manual_seed(1))
    write_vlm(model, directory, qwen_processor(), 0.5)


def qwen_processor() -> Any:
    """Qwen3-VL's own preprocessing, with the small tokenizer."""
    side = {"patch_size": 16, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    pictures = tf.Qwen2VLImageProcessor(size={"shortest_edge": 65536, "longest_edge": 16777216}, **side)
    videos = tf.Qwen3VLVideoProcessor(**side)
    return tf.Qwen3VLProcessor(pictures, qwen_tokenizer(), videos, chat_template=QWEN_TEMPLATE)


# What InternVL adds to Qwen's vocabulary, by the names its processor asks for, and its template's picture.
INTERNVL_MARKS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
INTERNVL_TEMPLATE = QWEN_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>\\n")


def tiny_internvl(directory: Path, tie: bool = False, large: bool = False) -> None:
    """InternVL3.5 on a Qwen3, tiles of 112 x 112. large: a tower as the 6B one of the 38B, with RMS norms also of
    queries and keys, and no bias in attention."""
    special = {**INTERNVL_MARKS, "other": "<|im_start|>"}
    words = qwen_tokenizer(INTERNVL_TEMPLATE, special)
    rope = {"rope_type": "default", "rope_theta": 1000000}
    kind = {"use_qk_norm": True, "norm_type": "rms_norm"} if large else {"attention_bias": True}
    config = tf.InternVLConfig(
        text_config={"model_type": "qwen3", **language(words, tie, rope_parameters=rope)},
        vision_config={
            "hidden_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "intermediate_size": 128,
            "image_size": [112, 112],
            "layer_scale_init_value": 0.5,
            **kind,
        },
        image_token_id=words.context_image_token_id,
        image_seq_length=16,
        tie_word_embeddings=tie,
    )
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    tile = {"height": 112, "width": 112}
    pictures = tf.GotOcr2ImageProcessor(size=tile, image_mean=mean, image_std=std)
    videos = tf.InternVLVideoProcessor(size=tile, image_mean=mean, image_std=std)
    processor = tf.InternVLProcessor(pictures, words, videos, image_seq_length=16, chat_template=INTERNVL_TEMPLATE)
    write_vlm(tf.InternVLForConditionalGeneration(config), directory, processor)


WRITERS: dict[str, Callable[[Path], None]] = {
    "ViTForImageClassification": vit,
    "DINOv3ViTModel": dinov3,
    "SiglipVisionModel": siglip_vision,
    "RadioModel": radio,
    "RTDetrV2ForObjectDetection": rt_detr_v2,
    "DFineForObjectDetection": d_fine,
    "Deimv2ForObjectDetection": deimv2,
    "RfDetrForObjectDetection": rf_detr,
    "GroundingDinoForObjectDetection": partial(grounding, tf.GroundingDinoConfig, tf.GroundingDinoForObjectDetection),
    "MMGroundingDinoForObjectDetection": partial(
        grounding, tf.MMGroundingDinoConfig, tf.MMGroundingDinoForObjectDetection
    ),
    "Owlv2ForObjectDetection": owlv2,
    "SiglipModel": siglip,
    "CLIPModel": clip,
    "Sam3Model": sam3,
    "DepthAnythingForDepthEstimation": depth_anything,
    "YOLO": yolo,
    "YOLOE": yoloe,
    "Florence2ForConditionalGeneration": florence2,
    "Qwen3VLForConditionalGeneration": tiny_qwen3_vl,
    "Qwen3_5ForConditionalGeneration": tiny_qwen3_5,
    "InternVLForConditionalGeneration": tiny_internvl,
}
