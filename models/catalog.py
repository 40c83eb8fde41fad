"""Which models there are, as data (`catalog.toml`), and how to make one."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from models.base import Model, ModelUnavailable

CATALOG = Path(__file__).with_name("catalog.toml")


@cache
def entries() -> Mapping[str, Mapping[str, Any]]:
    """Model key -> its entry in the catalog."""
    return tomllib.loads(CATALOG.read_text(encoding="utf-8"))


def build(keys: Iterable[str]) -> dict[str, Model]:
    """One model per key, not loaded yet. Raises ModelUnavailable naming the key that the catalog does not know."""
    return {key: _build(key) for key in keys}


def _build(key: str) -> Model:
    if key not in entries():
        raise ModelUnavailable(f"no model {key!r} in the catalog; known: {', '.join(sorted(entries()))}")
    module, _, name = str(entries()[key]["class"]).partition(":")
    model = getattr(import_module(module), name)()
    assert isinstance(model, Model), f"{key}: {name} does not keep the contract of models.base.Model"
    return model
