"""What every adapter of a torch model shares: the four verbs, typed errors, and how weights are loaded and checked.

An adapter says how to load (`_load`) and how to answer (`_answer`): raw log-odds and evidence, per frame. It imports
its library when it loads, never before. Weights come from `models.weights`, or from a directory given by a test.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from models import weights
from models.base import (
    BadWeights,
    Frame,
    ModelCrashed,
    ModelError,
    ModelSpec,
    ModelUnavailable,
    Opinion,
    OutOfMemory,
    Unrecoverable,
)
from models.catalog import Entry
from models.installing import pip_install, pip_install_extra

log = logging.getLogger(__name__)

T = TypeVar("T")
Answer = tuple[float, Mapping[str, Any]]  # the model's own log-odds, and evidence
Forward = Callable[[Any], Any]  # pixel values (N, 3, H, W) -> tensors (N, ...)
_one_at_a_time = threading.Lock()  # transformers loses track of shared weights when two threads load
CARD_LOST = (  # in what CUDA says: after it every call of this process to the card fails, whichever model's it is
    "device-side assert",
    "illegal memory access",
    "illegal instruction",
    "invalid program counter",
    "misaligned address",
    "hardware stack error",
    "launch timed out",
    "unspecified launch failure",
    "uncorrectable ecc",
)


class TorchModel(ABC):
    """Keeps `models.base.Model`. Made without work; torch is imported by `load`.

    one_size: pictures of different sizes go through the network one size at a time, where the library would pad them
    to fit: no picture's answer may depend on its neighbours.
    recorded: batch sizes of the graphs, where the catalog has the model run from graphs on a card.
    """

    one_size = False
    recorded = (1, 2, 4, 8, 16, 32, 64)

    def __init__(self, entry: Entry, directory: Path | None = None) -> None:
        self.entry = entry
        self.device = "cpu"
        self._directory = directory
        self._loaded = False

    @property
    def spec(self) -> ModelSpec:
        return self.entry.spec

    def load(self, device: str) -> None:
        """Bring the weights to `device`, 16 bits on a card, 32 on the CPU. Raises BadWeights, ModelUnavailable."""
        require(self.entry.library, self.entry.minimum)
        directory = self._directory or weights.locate(self.entry)
        self.device = device
        try:
            self._load(directory)
        except ModelError:
            raise
        except ImportError as error:
            raise ModelUnavailable(f"{self.entry.key}: {first_line(error)}; {pip_install_extra('gpu')}") from error
        except Exception as error:  # each library has an exception tree of its own for a bad file
            if is_out_of_memory(error):
                raise OutOfMemory(f"{self.entry.key}: no room on {device} for the weights") from error
            if is_card_lost(error):
                raise Unrecoverable(f"{self.entry.key}: {first_line(error)}") from error
            raise BadWeights(
                f"{self.entry.key}: {directory} does not load as {self.entry.class_name} ({first_line(error)}); "
                f"fetch it again: ./run_miner.sh fetch {self.entry.key}"
            ) from error
        self._loaded = True

    def warm_up(self) -> None:
        self.assess([blank()])

    def assess(self, frames: Sequence[Frame]) -> list[Opinion]:
        """One opinion per frame. Raises ModelError."""

        def answers() -> Sequence[Answer]:
            return self.by_size(self._answer, frames) if self.one_size else self._answer(frames)

        return self._opinions(answers, len(frames))

    def _opinions(self, answers: Callable[[], Sequence[Answer]], count: int) -> list[Opinion]:
        """What the model answers of so many frames, timed and calibrated. Raises ModelError."""
        if not self._loaded:
            raise ModelUnavailable(f"{self.entry.key}: not loaded; call load(device) first")
        if not count:
            return []
        started = time.perf_counter()
        try:
            with import_module("torch").inference_mode():
                said = answers()
        except ModelError:
            raise
        except Exception as error:
            if is_out_of_memory(error):
                raise OutOfMemory(f"{self.entry.key}: batch of {count} does not fit on {self.device}") from error
            kind = Unrecoverable if is_card_lost(error) else ModelCrashed
            raise kind(f"{self.entry.key}: {first_line(error)}") from error
        spent = (time.perf_counter() - started) * 1e3
        return [Opinion(self.entry.key, self.entry.calibrated(raw), spent, evidence) for raw, evidence in said]

    def close(self) -> None:
        self._loaded = False
        self._unload()
        if self.device.startswith("cuda"):
            import_module("torch").cuda.empty_cache()

    @staticmethod
    def by_size(call: Callable[[Sequence[Frame]], Sequence[T]], frames: Sequence[Frame]) -> list[T]:
        """One result per frame, of calls with frames of one size each."""
        results: dict[int, T] = {}
        for size in {frame.size for frame in frames}:
            own = [index for index, frame in enumerate(frames) if frame.size == size]
            results |= zip(own, call([frames[index] for index in own]), strict=True)
        return [results[index] for index in range(len(frames))]

    @property
    def dtype(self) -> Any:
        """torch's number type for the device."""
        torch = import_module("torch")
        return torch.bfloat16 if self.device.startswith("cuda") else torch.float32

    @abstractmethod
    def _load(self, directory: Path) -> None:
        """Load from a directory to `self.device`. May raise what the library raises."""

    @abstractmethod
    def _answer(self, frames: Sequence[Frame]) -> list[Answer]:
        """Raw log-odds and evidence per frame, under inference mode. May raise what the library raises."""

    def _unload(self) -> None:
        """Let go of what `_load` made."""
        for name in [name for name in vars(self) if name in {"model", "processor", "pictures", "forward"}]:
            delattr(self, name)

    def _pretrained(self, directory: Path, class_name: str = "") -> Any:
        """The library's model with every weight from the file: one that would be left random is refused."""
        transformers = import_module("transformers")
        transformers.utils.logging.disable_progress_bar()
        kind = getattr(transformers, class_name or self.entry.class_name)
        with _one_at_a_time:
            model, info = kind.from_pretrained(
                directory, dtype=self.dtype, use_safetensors=True, local_files_only=True, output_loading_info=True
            )
        if missing := sorted(info["missing_keys"]):
            raise BadWeights(
                f"{self.entry.key}: {directory} holds no weights for {len(missing)} parts of {self.entry.class_name} "
                f"({missing[0]}, ...): it is another model's; check repository and class in the catalog"
            )
        return model.to(self.device).eval()

    def _accelerated(self, model: Any, forward: Forward, pictures: Any) -> Forward:
        """The forward as the catalog says it is to run on a card; as it is on the CPU."""
        if self.entry.execution == "eager" or not self.device.startswith("cuda"):
            return forward
        accelerated = import_module("models.acceleration").accelerated
        faster: Forward = accelerated(self.entry, model, forward, pictures, self.recorded)
        return faster

    def _preprocessor(self, directory: Path, kind: str = "AutoImageProcessor") -> Any:
        return getattr(import_module("transformers"), kind).from_pretrained(directory, local_files_only=True)


def arrays(frames: Sequence[Frame]) -> list[Any]:
    """Frames as what the library's processors take: uint8 (3, H, W) tensors, resized and normalised by them."""
    torch = import_module("torch")
    return [torch.from_numpy(np.array(frame.pixels.transpose(2, 0, 1))) for frame in frames]


def sizes(frames: Sequence[Frame]) -> list[tuple[int, int]]:
    """(height, width) per frame, the order in which the library wants it."""
    return [(frame.size[1], frame.size[0]) for frame in frames]


def require(library: str, minimum: str) -> None:
    """Raises ModelUnavailable, with the command that mends it, if the library is missing or too old."""
    found = ""
    for name in (f"{library}-cpu", library):  # vLLM's build for the CPU is a package of its own
        with suppress(PackageNotFoundError):
            found = version(name)
    if not found:
        raise ModelUnavailable(f"needs {library}; {pip_install_extra('gpu')}")
    if _numbers(found) < _numbers(minimum):
        raise ModelUnavailable(f"needs {library} >= {minimum}, found {found}; {pip_install(f'{library}>={minimum}')}")


def blank() -> Frame:
    """The picture that warms a model up."""
    return Frame.of(np.full((360, 640, 3), 127, np.uint8))


def state_directory() -> Path:
    """Where the miner keeps what it made itself: MINER_STATE_DIR, else ~/.streetvision."""
    return Path(os.environ.get("MINER_STATE_DIR", "~/.streetvision")).expanduser()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch says that the device is full."""
    return type(error).__name__ == "OutOfMemoryError" or "out of memory" in str(error).lower()


def is_card_lost(error: BaseException) -> bool:
    """Whether only a new process can use the card again."""
    said = str(error).lower()
    return any(loss in said for loss in CARD_LOST)


def _numbers(release: str) -> tuple[int, ...]:
    return tuple(int(part) for part in release.split(".")[:3] if part.isdigit())


def first_line(error: BaseException) -> str:
    """Type and first line of an error's text, 300 letters at most."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__
