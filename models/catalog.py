"""Which models there are and which the plan names, as data, and how to make one.

`catalog.toml` holds every model that can be loaded, `plan.toml` every name of the plan this project began from, with
what is true of it and the model that stands for it. Both are read into frozen, checked values: an unknown key, a
revision that is no commit hash or a name that leads nowhere is an error before anything is loaded.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.base import Model, ModelSpec, ModelUnavailable
from models.checked import checked

CATALOG = Path(__file__).with_name("catalog.toml")
PLAN = Path(__file__).with_name("plan.toml")

Key = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
Precision = Literal["fp32", "bf16", "fp8", "int4"]
Execution = Literal["eager", "graph", "compiled", "fp8"]
Truth = Literal["exists", "substitute", "own part", "nothing behind it"]
IN_WORKER = (
    "transformers",
    "ultralytics",
    "external",
)  # libraries whose models live in a supervised process of their own


class CatalogError(ValueError):
    """The catalog's data is wrong. The message names the file, the entry, the key and what was expected."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Entry(_Part):
    """One model, as known before it is loaded.

    adapter: "module:Class" of this project; empty for one that this project does not run itself (`note` says why).
    minimum: least release of `library` that has `class_name`.
    revision: full commit hash; empty means "pin on first fetch" (`models.weights` then records what it resolved to).
    folder: where the weights lie on this machine, instead of a repository: of a model that the operator trained.
    file: the one file of the repository to load, for libraries that load files; `pickled` if that file is a pickle.
    What lies beside an ONNX file comes with it (`NAME.onnx.data`, `NAME.onnx_data`).
    parameters: millions. memory_gb: 10^9 bytes of weights alone, per precision. input_size: pixels of a side.
    prompts, contrast: what road work looks like in words, and what it is held against.
    classes: what a detector can name, a table of `roadwork_classes.toml`.
    execution: how it runs on a card: as the library runs it; from recorded graphs; from graphs of compiled blocks; the
    same with linear layers in 8 bits, where the card multiplies them. What each gains: `benchmarks/gpu_tier0.py`.
    focal: focal length of the operator's camera, in pixels of the pictures it sends; 0 is unknown, as on the wire.
    tensor_parallel: cards it may be split over if it does not fit on one.
    kv_mb_per_token: 10^6 bytes of key-value cache per token at 16 bits.
    scale, offset: Platt calibration, logit = scale * raw + offset; (1, 0) has not been fitted.
    """

    key: Key
    title: str = Field(min_length=1)
    level: int = Field(ge=0, le=6)
    task: str = Field(min_length=1)
    library: Literal["transformers", "ultralytics", "vllm", "onnxruntime", "rapidocr", "numpy", "external"]
    minimum: str = ""
    class_name: str = ""
    adapter: str = Field(default="", pattern=r"^$|^[a-z0-9_.]+:[A-Za-z0-9]+$")
    repository: str = Field(default="", pattern=r"^$|^[\w.-]+/[\w.-]+$")
    revision: str = Field(default="", pattern=r"^$|^[0-9a-f]{40}$")
    folder: str = ""
    file: str = ""
    pickled: bool = False
    licence: str = Field(min_length=1)
    commercial: bool = True
    gated: bool = False
    parameters: float = Field(default=0.0, ge=0)
    memory_gb: Mapping[Precision | Literal["int8"], Annotated[float, Field(gt=0)]] = {}  # int8: as they are shipped
    input_size: int = Field(default=0, ge=0)
    preprocessing: str = ""
    prompts: tuple[str, ...] = ()
    contrast: tuple[str, ...] = ()
    classes: str = ""
    execution: Execution = "eager"
    tensor_parallel: int = Field(default=1, ge=1)
    kv_mb_per_token: float = Field(default=0.0, ge=0)
    trust: float = Field(default=1.0, ge=0)
    focal: float = Field(default=0.0, ge=0)
    scale: float = 1.0
    offset: float = 0.0
    enabled: bool = False
    note: str = ""

    @model_validator(mode="after")
    def _honest(self) -> Self:
        if not self.adapter and not self.note:
            raise ValueError(f"{self.key}: without an adapter, note must say why and what to do instead")
        if self.enabled and not self.adapter:
            raise ValueError(f"{self.key}: enabled, but there is no adapter to run it")
        return self

    @property
    def engine(self) -> bool:
        """Whether the model is large enough for a process, and if need be a card, of its own: it answers questions."""
        return self.task == "visual question"

    @property
    def scorer(self) -> bool:
        """Whether a static forward answers the questions: it keeps their keys and values, and none of a request."""
        return self.adapter.startswith("models.vlm.scorer:")

    @property
    def isolated(self) -> bool:
        """Whether the model lives in the perception process, with others whose libraries can take a process down."""
        return self.library in IN_WORKER and not self.engine

    def calibrated(self, raw: float) -> float:
        """Natural log-odds from the model's own."""
        return self.scale * raw + self.offset

    @property
    def spec(self) -> ModelSpec:
        """What an adapter shows of itself."""
        return ModelSpec(
            key=self.key,
            task=self.task,
            library=self.library,
            class_name=self.class_name,
            repository=self.repository,
            revision=self.revision,
            licence=self.licence,
            gated=self.gated,
            input_size=self.input_size,
            memory_gb={str(precision): gb for precision, gb in self.memory_gb.items()},
            prompts=self.prompts,
            trust=self.trust,
        )


class Row(_Part):
    """One name of the plan. gb: what the plan claims. model: key of the catalog that stands for it, if any."""

    name: str = Field(min_length=1)
    level: int = Field(ge=0, le=6)
    gb: float | None = None
    truth: Truth
    model: str = ""
    note: str = ""

    @model_validator(mode="after")
    def _accounted_for(self) -> Self:
        if self.truth in ("exists", "substitute") and not self.model:
            raise ValueError(f"{self.name}: truth {self.truth!r} needs the model that is meant")
        if self.truth != "exists" and not self.note:
            raise ValueError(f"{self.name}: truth {self.truth!r} needs a note that says what was found")
        return self


class Card(_Part):
    """What the plan puts on one card of 80 GB. by_items_gb: the sum over the plan's own single figures."""

    name: str
    gb: Mapping[str, float]
    by_items_gb: float
    note: str


class Plan(_Part):
    """The plan, name by name, and its table of two cards."""

    row: tuple[Row, ...]
    card: tuple[Card, ...]


_own: dict[str, Entry] = {}  # what `add` made known


def entries(path: Path = CATALOG) -> Mapping[str, Entry]:
    """Model key -> entry, in the file's order, then those that were added. Raises CatalogError."""
    return {**_read(path), **_own} if path == CATALOG else _read(path)


@cache
def _read(path: Path) -> Mapping[str, Entry]:
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    return {
        key: checked(Entry, {"key": key, **table}, f"{path.name}: [{key}]", CatalogError)
        for key, table in tables.items()
    }


def add(path: Path) -> None:
    """Make the models of an operator's own catalog known here; their folders are relative to it. Raises CatalogError.

    The file is read anew, so that a model that was trained again is found as it is now.
    """
    try:
        found = _read.__wrapped__(path)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CatalogError(f"{path}: expected a catalog of own models: {error}") from None
    if taken := sorted(set(found) & set(_read(CATALOG))):
        raise CatalogError(f"{path}: {', '.join(taken)}: the project's catalog has this key; choose another name")
    for key, entry in found.items():
        folder = str(path.resolve().parent / entry.folder) if entry.folder else ""
        _own[key] = entry.model_copy(update={"folder": folder})


@cache
def plan(path: Path = PLAN) -> Plan:
    """The plan's names and cards. Raises CatalogError, also when a row's model is not in the catalog."""
    found = checked(Plan, tomllib.loads(path.read_text(encoding="utf-8")), path.name, CatalogError)
    for row in found.row:
        if row.model and row.model not in entries():
            raise CatalogError(f"{path.name}: {row.name}: expected a key of {CATALOG.name}, got {row.model!r}")
    return found


def find(name: str) -> Entry:
    """The entry with this key. Raises ModelUnavailable naming the known ones."""
    if name not in entries():
        raise ModelUnavailable(f"no model {name!r} in the catalog; known: {', '.join(sorted(entries()))}")
    return entries()[name]


def rows_for(key: str) -> Sequence[Row]:
    """The plan's names that this model stands for; none for one that is newer than the plan."""
    return [row for row in plan().row if row.model == key]


def examines(entry: Entry) -> bool:
    """Whether the entry's adapter can be asked a second question."""
    return hasattr(_adapter(entry), "assess_crop")


def make(entry: Entry, *more: Any) -> Model:
    """The adapter of one entry in this process, not loaded yet. more: what it takes beside the entry. Raises
    ModelUnavailable if it has none."""
    adapter = _adapter(entry)
    known = entry.repository or entry.folder or entry.isolated  # what ships with the project knows itself
    return cast(Model, adapter(entry, *more) if known else adapter())


def _adapter(entry: Entry) -> Any:
    if not entry.adapter:
        raise ModelUnavailable(f"{entry.key} does not run here: {entry.note}")
    module, _, name = entry.adapter.partition(":")
    return getattr(import_module(module), name)
