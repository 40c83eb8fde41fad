"""Pixel values made in one piece are the ones that the library's image processor makes picture by picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf

from models.base import Frame
from models.pictures import TOLERANCE, Pictures

SIDE = {"height": 48, "width": 48}
FIXED = {
    "ViT": tf.ViTImageProcessor(size=SIDE),
    "DINOv3": tf.DINOv3ViTImageProcessor(size=SIDE),
    "SigLIP": tf.SiglipImageProcessor(size=SIDE),
    "CLIP": tf.CLIPImageProcessor(size={"shortest_edge": 48}, crop_size=SIDE),
    "C-RADIO": tf.CLIPImageProcessor(size=SIDE, do_center_crop=False, do_normalize=False),
    "D-FINE": tf.RTDetrImageProcessor(size=SIDE),
    "RF-DETR": tf.RfDetrImageProcessor(size=SIDE),
}


def frames(*sizes: tuple[int, int]) -> list[Frame]:
    rng = np.random.default_rng(0)
    return [Frame.of(rng.integers(0, 256, (*size, 3), np.uint8)) for size in sizes]


@pytest.mark.parametrize("name", FIXED)
def test_equal_to_the_librarys(name: str) -> None:
    pictures = Pictures(FIXED[name], "cpu", torch.float32)
    mixed = frames((48, 48), (224, 224), (30, 70), (224, 224), (300, 200))
    expected = FIXED[name](
        [torch.from_numpy(frame.pixels.transpose(2, 0, 1).copy()) for frame in mixed], return_tensors="pt"
    )["pixel_values"]
    found = pictures(mixed)
    assert pictures.own, "a processor that is known went the long way"
    assert found.shape == expected.shape == (5, 3, 48, 48)
    assert float((found - expected).abs().max()) <= TOLERANCE
    assert pictures.example.shape == (1, 3, 48, 48)


class Negative(tf.ViTImageProcessor):  # type: ignore[misc]
    """A processor with a step that nobody told us of."""

    def _preprocess(self, images: Any, **kwargs: Any) -> Any:
        return super()._preprocess([255 - image for image in images], **kwargs)


def test_a_processor_with_other_steps_is_called_as_the_library_calls_it() -> None:
    pictures = Pictures(Negative(size=SIDE), "cpu", torch.float32)
    (frame,) = frames((48, 48))
    assert not pictures.own
    plain = Pictures(tf.ViTImageProcessor(size=SIDE), "cpu", torch.float32)
    inverted = Frame.of(255 - frame.pixels)
    assert torch.allclose(pictures([frame]), plain([inverted]), atol=TOLERANCE)


def test_the_numbers_are_of_the_models_type() -> None:
    pictures = Pictures(FIXED["ViT"], "cpu", torch.bfloat16)
    assert pictures(frames((48, 48), (20, 20))).dtype == torch.bfloat16
