"""Reads the words on signs and says what they mean: "ROAD WORK AHEAD", "Baustelle", "前方施工".

Text is found and recognised by the package `rapidocr` (PP-OCR networks, Chinese and Latin script, Apache-2.0; they
lie inside its wheel, nothing is downloaded) through onnxruntime on the CPU. What the words are worth is data:
`ocr_phrases.toml` beside this file. Most pictures hold no such words; that says nothing either way: logit 0.
"""

from __future__ import annotations

import logging
import math
import time
import tomllib
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.base import BadWeights, Frame, ModelCrashed, ModelSpec, ModelUnavailable, Opinion
from models.installing import pip_install

PHRASES = Path(__file__).with_name("ocr_phrases.toml")

# Measured in docs/results/sign-reading-2026-11-23.md.
PIXELS = 900_000  # a larger picture is brought down to this many pixels, a smaller one up, up to
MAX_SCALE = 2.0  # because the networks miss small letters; beyond this, enlarging adds cost and no letters
MIN_SIDE = 96  # pixels; a picture with a shorter side holds no letters to read

ANYWHERE = 8  # letters; a phrase of so many may lie anywhere in the text, a shorter one has to be whole words
LETTERS_PER_ERROR = 6
LOOKALIKES = str.maketrans("0158|ØŁ", "OISBIOL")  # digits taken for letters, and letters that NFKD does not take apart


@dataclass(frozen=True, slots=True)
class Text:
    """One line of text as read. box: (left, top, right, bottom) in pixels of the frame. score: 0..1."""

    text: str
    box: tuple[float, float, float, float]
    score: float

    @property
    def height(self) -> float:
        return self.box[3] - self.box[1]


@dataclass(frozen=True)
class Phrase:
    """Words on a sign, and the natural log-odds of road work when they are read."""

    text: str
    logit: float

    @cached_property
    def letters(self) -> str:
        return "".join(words(self.text))

    @property
    def errors_allowed(self) -> int:
        return (len(self.letters) - 1) // LETTERS_PER_ERROR

    @cached_property
    def pieces(self) -> list[str]:
        """Parts of the letters of which at least one survives any `errors_allowed` errors: a cheap first look."""
        count = self.errors_allowed + 1
        cuts = [round(i * len(self.letters) / count) for i in range(count + 1)]
        return [self.letters[a:b] for a, b in pairwise(cuts)]


@dataclass(frozen=True, slots=True)
class Match:
    """A phrase found on a sign. errors: letters that had to be forgiven."""

    phrase: str
    logit: float
    errors: int
    sign: str


@dataclass(frozen=True)
class Phrasebook:
    """All phrases and the marks of text that was put on a picture afterwards."""

    phrases: tuple[Phrase, ...]
    watermarks: tuple[str, ...]

    def interpret(self, texts: Sequence[Text]) -> list[Match]:
        """What is found on each sign, strongest first. Watermarks are left out."""
        signs = [" ".join(t.text for t in group) for group in group_signs([t for t in texts if not self._stamped(t)])]
        found = [match for sign in signs for match in self._on_sign(sign)]
        return sorted(found, key=lambda match: (-match.logit, match.errors))

    def _stamped(self, text: Text) -> bool:
        lowered = text.text.lower()
        return any(mark in lowered for mark in self.watermarks)

    def _on_sign(self, sign: str) -> Iterator[Match]:
        tokens = words(sign)
        for phrase in self.phrases:
            errors = find(phrase, tokens)
            if errors is not None:
                yield Match(phrase.text, phrase.logit, errors, sign)


def read_phrasebook(path: Path = PHRASES) -> Phrasebook:
    """The phrasebook at `path`. Raises ValueError naming the table when a level has no log-odds."""
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    logits, marks = tables.pop("logit"), tables.pop("watermarks")["lines"]
    phrases = {}
    for language, levels in tables.items():
        for level, texts in levels.items():
            if level not in logits:
                raise ValueError(f"{path.name}: [{language}] has level {level!r}; expected one of {sorted(logits)}")
            phrases.update({text: Phrase(text, float(logits[level])) for text in texts})
    return Phrasebook(tuple(phrases.values()), tuple(mark.lower() for mark in marks))


def words(text: str) -> list[str]:
    """Words in capitals without accents and punctuation; digits that look like letters become letters."""
    plain = unicodedata.normalize("NFKD", text.upper())
    letters = "".join(c for c in plain if not unicodedata.combining(c)).translate(LOOKALIKES)
    return "".join(c if c.isalnum() else " " for c in letters).split()


def find(phrase: Phrase, tokens: Sequence[str]) -> int | None:
    """Errors with which `phrase` is in `tokens`, None if it is not.

    A recogniser splits and joins words, so spaces count for nothing. A short phrase must still begin and end with
    words ("WORK" is not in "FIREWORKS"); Chinese has no spaces, so there any place will do.
    """
    if len(phrase.letters) >= ANYWHERE or not phrase.letters.isascii():
        text = "".join(tokens)
        hopeful = any(piece in text for piece in phrase.pieces)
        distances = [edit_distance(phrase.letters, text, anywhere=True)] if hopeful else []
    else:
        distances = [edit_distance(phrase.letters, run) for run in _runs(tokens, phrase)]
    return min((errors for errors in distances if errors <= phrase.errors_allowed), default=None)


def _runs(tokens: Sequence[str], phrase: Phrase) -> Iterator[str]:
    """Neighbouring words joined, where their length can fit the phrase."""
    for start in range(len(tokens)):
        run = ""
        for token in tokens[start:]:
            run += token
            if len(run) > len(phrase.letters) + phrase.errors_allowed:
                break
            if len(run) >= len(phrase.letters) - phrase.errors_allowed:
                yield run


def edit_distance(pattern: str, text: str, anywhere: bool = False) -> int:
    """Fewest letters to insert, drop or change to make `pattern` of `text` (or of its best part: Sellers, 1980)."""
    row = [0] * (len(text) + 1) if anywhere else list(range(len(text) + 1))
    for i, letter in enumerate(pattern, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(text, start=1):
            best = min(diagonal + (letter != other), row[j] + 1, row[j - 1] + 1)
            diagonal, row[j] = row[j], best
    return min(row) if anywhere else row[-1]


def group_signs(texts: Sequence[Text]) -> list[list[Text]]:
    """Lines that stand on one sign, in reading order: near each other and of similar height."""
    groups: list[list[Text]] = []
    for text in sorted(texts, key=lambda t: t.box[1]):
        near = [group for group in groups if any(_neighbours(text, other) for other in group)]
        groups = [group for group in groups if group not in near] + [[*chain(*near), text]]
    return [_reading_order(group) for group in groups]


def _neighbours(a: Text, b: Text) -> bool:
    height = min(a.height, b.height)
    gap_x = max(a.box[0], b.box[0]) - min(a.box[2], b.box[2])  # negative where they overlap
    gap_y = max(a.box[1], b.box[1]) - min(a.box[3], b.box[3])
    similar = max(a.height, b.height) <= 2.5 * height
    below = gap_x < 0 and gap_y <= height
    beside = gap_y < -0.5 * height and gap_x <= 1.5 * height
    return similar and (below or beside)


def _reading_order(group: Sequence[Text]) -> list[Text]:
    rows: list[list[Text]] = []
    for text in sorted(group, key=lambda t: t.box[1] + t.box[3]):
        if rows and _centre(text) - _centre(rows[-1][0]) < 0.5 * text.height:
            rows[-1].append(text)
        else:
            rows.append([text])
    return [text for row in rows for text in sorted(row, key=lambda t: t.box[0])]


def _centre(text: Text) -> float:
    return (text.box[1] + text.box[3]) / 2


SPEC = ModelSpec(
    key="sign-reading",
    task="text recognition",
    library="rapidocr",
    class_name="RapidOCR",
    licence="Apache-2.0",
    memory_gb={"fp32": 0.031},
)


@dataclass
class SignReader:
    """The sign-reading expert. threads: cores that one picture may use. pixels: size it is brought to for reading."""

    threads: int = 1
    pixels: int = PIXELS
    spec: ModelSpec = SPEC
    _engine: Any = field(default=None, init=False, repr=False)
    _phrasebook: Phrasebook | None = field(default=None, init=False, repr=False)

    def load(self, device: str) -> None:
        """Raises ModelUnavailable without `rapidocr` or for a device other than "cpu", BadWeights for bad files."""
        if device != "cpu":
            raise ModelUnavailable(
                f"{self.spec.key}: expected device 'cpu', got {device!r}; sign reading runs there only"
            )
        self._phrasebook = read_phrasebook()
        self._engine = _open_engine(self.threads)

    def warm_up(self) -> None:
        """Finds (nothing) on one blank street-sized picture; the recogniser has run in `load`."""
        self.read(Frame.of(np.full((360, 640, 3), 128, np.uint8)))

    def assess(self, frames: Sequence[Frame]) -> list[Opinion]:
        return [self._assess_one(frame) for frame in frames]

    def close(self) -> None:
        self._engine = None

    def read(self, frame: Frame) -> list[Text]:
        """Every line of text found in the frame. Raises ModelUnavailable before `load`, ModelCrashed on a fault."""
        if self._engine is None:
            raise ModelUnavailable(f"{self.spec.key}: not loaded; call load('cpu') first")
        if min(frame.size) < MIN_SIDE:
            return []
        picture, scale = _resized(frame, self.pixels)
        try:
            result = self._engine(picture[:, :, ::-1], use_det=True, use_cls=False, use_rec=True)  # it wants BGR
        except Exception as error:  # a vendor's library may raise anything; the cascade must only see ModelError
            raise ModelCrashed(f"{self.spec.key}: {type(error).__name__}: {error}") from error
        lines = zip(result.txts or (), result.boxes if result.txts else (), result.scores or (), strict=True)
        return [Text(text, _outline(corners / scale), float(score)) for text, corners, score in lines]

    def _assess_one(self, frame: Frame) -> Opinion:
        started = time.perf_counter()
        texts = self.read(frame)
        assert self._phrasebook is not None, "load() sets the phrasebook before the engine"
        matches = self._phrasebook.interpret(texts)
        evidence = {
            "texts": [{"text": t.text, "box": [round(v) for v in t.box], "score": round(t.score, 3)} for t in texts],
            "matches": [{"phrase": m.phrase, "logit": m.logit, "errors": m.errors, "sign": m.sign} for m in matches],
        }
        milliseconds = (time.perf_counter() - started) * 1e3
        return Opinion(self.spec.key, matches[0].logit if matches else 0.0, milliseconds, evidence)


def _open_engine(threads: int) -> Any:
    """RapidOCR with both networks loaded."""
    try:
        import rapidocr
    except ImportError as error:
        raise ModelUnavailable(f"sign-reading: rapidocr is missing; {pip_install('rapidocr')}") from error
    _quieten()
    folder = Path(rapidocr.__file__).parent / "models"
    parameters = {
        # With the files named, the library neither looks for nor downloads others.
        "Det.model_path": str(_only(folder, "*_det_*.onnx")),
        "Rec.model_path": str(_only(folder, "*_rec_*.onnx")),
        # What the detector was trained with (ImageNet's). The library's own default, 0.5, loses single lines on signs.
        "Det.mean": [0.485, 0.456, 0.406],
        "Det.std": [0.229, 0.224, 0.225],
        "Det.limit_type": "min",  # with 32, the network's stride: the size is ours to choose
        "Det.limit_side_len": 32,
        "EngineConfig.onnxruntime.intra_op_num_threads": threads,
        "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }
    blank = np.full((48, 320, 3), 255, np.uint8)
    try:
        engine = rapidocr.RapidOCR(params=parameters)
        engine(blank, use_det=True, use_cls=False, use_rec=False)  # it loads a network at its first use
        engine(blank, use_det=False, use_cls=False, use_rec=True)
    except Exception as error:  # onnxruntime has no common error type
        raise BadWeights(
            f"sign-reading: {folder} cannot be read ({error}); {pip_install('rapidocr', '--force-reinstall')}"
        ) from error
    _quieten()  # again: parts that it imports late put the handler back
    return engine


def _only(folder: Path, pattern: str) -> Path:
    files = sorted(folder.glob(pattern))
    if not files:
        raise BadWeights(f"sign-reading: no {pattern} in {folder}; {pip_install('rapidocr', '--force-reinstall')}")
    return files[0]


def _serious(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.ERROR


def _quieten() -> None:
    """The library prints through a handler of its own; give its records to whoever configured logging instead.

    "No text found" is a warning of the library, and the usual case here: a filter, because others set its level too.
    """
    logger = logging.getLogger("RapidOCR")
    logger.addFilter(_serious)
    logger.handlers.clear()
    logger.propagate = True


def _resized(frame: Frame, pixels: int) -> tuple[NDArray[np.uint8], float]:
    """The picture at about `pixels` pixels, and the factor it was enlarged by."""
    width, height = frame.size
    scale = min(math.sqrt(pixels / (width * height)), MAX_SCALE)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(frame.pixels).resize(size, Image.Resampling.BICUBIC)), scale


def _outline(corners: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """corners: (4, 2) -> (left, top, right, bottom)."""
    (left, top), (right, bottom) = corners.min(axis=0), corners.max(axis=0)
    return float(left), float(top), float(right), float(bottom)
