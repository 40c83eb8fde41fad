"""Tensors of a checkpoint by name, from safetensors straight to the device: no model of the library's is built."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import torch
from safetensors import safe_open

from models.base import BadWeights

INDEX = "model.safetensors.index.json"
FLOAT8_BLOCK = 128  # official float8 checkpoints: one scale per block of 128 x 128


class Tensors(Protocol):
    """Where a static forward takes its weights from. device, dtype: where they are, and what products compute in."""

    device: torch.device
    dtype: torch.dtype

    def __contains__(self, name: str) -> bool: ...

    def tensor(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        """One whole tensor, on the device, in the forward's type unless another is asked for."""

    def rows(self, name: str, ids: Sequence[int]) -> torch.Tensor:
        """Some rows of a tensor: a vocabulary is large, and few of its rows are needed."""


class Checkpoint:
    """A directory of safetensors as `Tensors`. Raises BadWeights for a name or a file that is not there.

    aliases: how names began in older files -> how they begin now, first match.
    """

    def __init__(
        self, directory: Path, device: str, dtype: torch.dtype, aliases: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self.device, self.dtype = torch.device(device), dtype
        self._files = [safe_open(path, "pt", device=device) for path in _files(directory)]
        self._places = {_renamed(name, aliases): (file, name) for file in self._files for name in file.keys()}  # noqa: SIM118
        self._directory = directory

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def tensor(self, name: str, dtype: torch.dtype | None = None) -> torch.Tensor:
        file, known = self._place(name)
        found = file.get_tensor(known)
        if found.dtype == torch.float8_e4m3fn:
            file, known = self._place(f"{name}_scale_inv")
            found = from_blocks(found, file.get_tensor(known))
        return found.to(dtype or self.dtype)

    def rows(self, name: str, ids: Sequence[int]) -> torch.Tensor:
        file, known = self._place(name)
        part = file.get_slice(known)
        return torch.cat([part[index : index + 1] for index in ids]).to(self.device, self.dtype)

    def _place(self, name: str) -> tuple[safe_open, str]:
        if name not in self._places:
            raise BadWeights(
                f"{self._directory} holds no weights {name!r}: it is another model's, or a shard is missing; "
                "check repository and class in the catalog, or fetch it again"
            )
        return self._places[name]


def _renamed(name: str, aliases: Mapping[str, str]) -> str:
    for old, new in aliases.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def from_blocks(values: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """A float8 weight (out, in) with one scale per block, as float32."""
    wide = scales.repeat_interleave(FLOAT8_BLOCK, 0).repeat_interleave(FLOAT8_BLOCK, 1)
    return values.float() * wide[: values.shape[0], : values.shape[1]].float()


def _files(directory: Path) -> Iterable[Path]:
    index = directory / INDEX
    if index.exists():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        names = ["model.safetensors"]
    if missing := [name for name in names if not (directory / name).exists()]:
        raise BadWeights(f"{directory} lacks {', '.join(missing)}; fetch the model again")
    return [directory / name for name in names]
