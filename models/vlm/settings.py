"""How a VLM is run, as data: `engines.toml`, checked when it is read.

`settings_of(key)` is a model's settings: the table [default], changed key by key by the model's own.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from models.catalog import Entry, Precision
from models.checked import checked
from models.planner import KV_TOKENS, KV_UNKNOWN

ENGINES = Path(__file__).with_name("engines.toml")
QUANTISATION: Mapping[str, str] = {"fp8": "fp8", "int4": "bitsandbytes"}  # of 16-bit weights, while they are loaded


class SettingsError(ValueError):
    """The settings' data is wrong. The message names the file, the table, the key and what was expected."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EngineSettings(_Part):
    """How vLLM runs a model. What the names mean to vLLM stands in its own documentation of the engine's arguments.

    precision: of the weights. memory_share: of a card, that must be free when the engine starts; none: vLLM's default.
    The placement decides both. kv_cache_dtype, prefix_caching: key-value cache.
    kv_cache_tokens: room for so many tokens; the placement reserves the same. max_model_len: tokens of one request.
    max_requests: worked on at once. max_pixels: larger pictures are shrunk to so many pixels before they are sent.
    vision_graphs: token budgets of CUDA graphs of the vision tower; none: off. eager: no CUDA graphs at all.
    speculative: vLLM's speculative_config, e.g. {method = "mtp", num_speculative_tokens = 2}; pays for thoughts only.
    tensor_parallel: cards for one engine; 1 unless the model fits on no single card. encoder_parallel: how the vision
    tower is split then. renderers: threads that prepare pictures. processor_cache_gb: of prepared pictures.
    """

    precision: Precision = "bf16"
    memory_share: float | None = Field(default=None, gt=0, le=1)
    kv_cache_dtype: Literal["auto", "fp8"] = "auto"
    kv_cache_tokens: int = Field(default=KV_TOKENS, gt=0)
    prefix_caching: bool = True
    max_model_len: int = Field(default=1024, gt=0)
    max_requests: int = Field(default=64, gt=0)
    max_pixels: int = Field(default=512 * 512, gt=0)
    vision_graphs: tuple[int, ...] = ()
    eager: bool = False
    speculative: Mapping[str, Any] | None = None
    tensor_parallel: int = Field(default=1, ge=1)
    encoder_parallel: Literal["weights", "data"] = "weights"
    renderers: int = Field(default=1, ge=1)
    processor_cache_gb: float = Field(default=0.0, ge=0)

    def arguments(self, entry: Entry, model: Path, device: str) -> dict[str, Any]:
        """vLLM's AsyncEngineArgs for the checkpoint in a directory: 16 bits on a card, 32 on the CPU."""
        own = set(entry.memory_gb) == {self.precision}  # the checkpoint is quantised itself
        arguments: dict[str, Any] = {
            "model": str(model),
            "dtype": "float32" if device == "cpu" else "auto",
            "quantization": None if own else QUANTISATION.get(self.precision),
            "kv_cache_dtype": self.kv_cache_dtype,
            "kv_cache_memory_bytes": round(self.kv_cache_tokens * (entry.kv_mb_per_token or KV_UNKNOWN) * 1e6),
            "enable_prefix_caching": self.prefix_caching,
            "max_model_len": self.max_model_len,
            "max_num_seqs": self.max_requests,
            "enforce_eager": self.eager,
            "tensor_parallel_size": self.tensor_parallel,
            "mm_encoder_tp_mode": self.encoder_parallel,
            "renderer_num_workers": self.renderers,
            "mm_processor_cache_gb": self.processor_cache_gb,
            "limit_mm_per_prompt": {"image": 1, "video": 0, "audio": 0},
        }
        if self.memory_share:
            arguments["gpu_memory_utilization"] = self.memory_share
        if self.speculative:
            arguments["speculative_config"] = dict(self.speculative)
        if self.vision_graphs:
            arguments["compilation_config"] = {
                "cudagraph_mm_encoder": True,
                "encoder_cudagraph_token_budgets": list(self.vision_graphs),
            }
        return arguments


@cache
def settings(path: Path = ENGINES) -> Mapping[str, EngineSettings]:
    """Every table of the file as whole settings, "default" among them. Raises SettingsError."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    common = tables.get("default", {})
    return {
        name: checked(EngineSettings, {**common, **table}, f"{path.name}: [{name}]", SettingsError)
        for name, table in {"default": {}, **tables}.items()
    }


def settings_of(key: str, path: Path = ENGINES) -> EngineSettings:
    """The settings of the model with this key of the catalog. Raises SettingsError."""
    known = settings(path)
    return known.get(key, known["default"])
