"""Configurations that more than one benchmark needs, at the real sizes."""

from __future__ import annotations

from typing import Any

import transformers as tf


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
