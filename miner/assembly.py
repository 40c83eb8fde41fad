"""Profile -> models -> running engine: shared by every command that decides on pictures."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from cascade.engine import Engine
from cascade.profile import Profile, ProfileError
from miner.decode import PictureError, TooManyPixels, decode, decode_png
from miner.gpu import NoCards, cards
from miner.learning.candidate import HEAD, MEMORY
from miner.learning.versions import Versions
from miner.profiles import load
from miner.settings import Settings, UsageError
from models.base import Frame, Model, ModelError, ModelUnavailable
from models.fleet import Fleet, on_cards
from models.head import Head
from models.memory import Memory, Vectors
from models.vlm.endpoint import EndpointSettings

MODELS = Path(__file__).parent.parent / "models"
EMBEDDING = "embedded"  # the model whose pooled features embed pictures
PNG = b"\x89PNG"
LEARNED = {HEAD: "head.json", MEMORY: "memory.npz"}  # members that learn from embeddings, and their files


def profile_of(settings: Settings) -> Profile:
    """The profile that the settings name. Raises UsageError with the profile's own message."""
    try:
        return load(settings.profile)
    except ProfileError as error:
        raise UsageError(str(error)) from None


@dataclass(frozen=True, slots=True)
class Chosen:
    """What is to be served. folder: holds what the profile's learned members know. version: empty for the own one."""

    profile: Profile
    folder: Path
    version: str = ""


def own(settings: Settings) -> Chosen:
    """The profile that the settings name. Raises UsageError."""
    return Chosen(profile_of(settings), Path(settings.profile).parent)


def in_force(settings: Settings) -> Chosen:
    """The version that `improve` promoted, else the own profile. Raises UsageError, ProfileError and ModelError for a
    version that cannot be used, before anything of it is served."""
    mine, directory = own(settings), settings.state / "versions"
    if not directory.is_dir():
        return mine
    versions = Versions(directory)
    version = versions.current()
    if not version:
        return mine
    return Chosen(versions.read(version, mine.profile).profile, versions.directory / version, version)


class Parts:
    """Makes the models of what is served, and gives pictures the embeddings that its learned members (head, memory) and
    the journal stand on: those of the network in the package, from the pass that its opinion takes anyway."""

    def __init__(self, settings: Settings, chosen: Chosen) -> None:
        """Raises UsageError when the catalog lacks a model of the profile."""
        self.chosen = chosen
        self._embedder: Any = None
        try:
            self._fleet = fleet_of(settings, self._shipped)
        except ModelError as error:
            raise UsageError(f"profile {chosen.profile.name}: {error}") from None

    def models(self) -> dict[str, Model]:
        """All models of the profile, not loaded."""
        known = self._fleet.build(self._shipped)
        self._embedder = known.get(EMBEDDING)
        return {**known, **self.learned(self.chosen)}

    def learned(self, chosen: Chosen) -> dict[str, Model]:
        """The learned members of a version, not loaded."""
        keys = {member.model for member in chosen.profile.members}
        return {key: self._learned(key, chosen.folder) for key in LEARNED if key in keys}

    def fresh(self, key: str) -> Model:
        """One model, not loaded: what the engine puts in the place of one that hangs."""
        if key in LEARNED:
            return self._learned(key, self.chosen.folder)
        model = self._fleet.make(key)
        if key == EMBEDDING:
            self._embedder = model
        return model

    def device_of(self, key: str) -> str:
        """The device that a model is loaded to."""
        return "cpu" if key in LEARNED else self._fleet.device_of(key)

    @property
    def _shipped(self) -> list[str]:
        """Members that the catalog knows, cheapest tier first."""
        return [member.model for member in self.chosen.profile.members if member.model not in LEARNED]

    @cached_property
    def name(self) -> str:
        """Of the embedder: its weights', so that vectors of others are never mixed with its."""
        return embedder_name()

    def embed(self, frames: Sequence[Frame]) -> Vectors:
        """float32 (N, D). Raises ModelError."""
        if self._embedder is None:
            raise ModelUnavailable(f"profile {self.chosen.profile.name} has no member {EMBEDDING!r} to embed pictures")
        vectors: Vectors = self._embedder.embed(frames)
        return vectors

    def known(self, sha256: str) -> NDArray[np.float32] | None:
        """The embedding of a picture that was just looked at, if there is one."""
        return self._embedder.known(sha256) if self._embedder else None

    def _learned(self, key: str, folder: Path) -> Model:
        path = folder / LEARNED[key]
        return Head(self.embed, path) if key == HEAD else Memory(self.embed, path)


def embedder_name() -> str:
    """Under which name the journal keeps the embeddings of the network in the package."""
    card = json.loads((MODELS / "embedded/model_card.json").read_text(encoding="utf-8"))
    return f"{EMBEDDING}-{card['sha256'][:8]}"


def make_engine(parts: Parts) -> Engine:
    """An engine, not started."""
    return Engine(parts.chosen.profile, parts.models(), factory=parts.fresh, device=parts.device_of)


def fleet_of(settings: Settings, keys: Sequence[str]) -> Fleet:
    """Where models go: placed on this machine's cards, or all to the device that was asked for. Raises UsageError, and
    ModelUnavailable when the catalog lacks a model."""
    endpoints = endpoints_of(settings)
    if settings.device != "auto":
        return Fleet(settings.device, endpoints=endpoints).checked(keys)
    try:
        room = [card.room for card in cards()]
    except NoCards:
        return Fleet(endpoints=endpoints).checked(keys)
    return on_cards(keys, room, endpoints)


def endpoints_of(settings: Settings) -> dict[str, EndpointSettings]:
    """Model -> who serves it. Raises UsageError."""
    try:
        return {
            key: EndpointSettings.model_validate({"url": url, "key": settings.endpoint_key})
            for key, url in settings.endpoints_by_model.items()
        }
    except ValidationError as error:
        raise UsageError(f"endpoints: {error.errors()[0]['msg']}") from None


def revision() -> str:
    """Names the weights and tables that ship, so that an answer is never repeated across a change of them."""
    shipped = ("embedded/model_card.json", "embedded/calibration.json", "catalog.toml", "ocr_phrases.toml")
    named = (*shipped, "vlm/prompts.toml", "vlm/engines.toml")
    digest = hashlib.sha256(b"".join((MODELS / name).read_bytes() for name in named))
    return digest.hexdigest()[:16]


@asynccontextmanager
async def running_engine(settings: Settings, profile: Profile | None = None) -> AsyncIterator[Engine]:
    """An engine whose models are loaded and warm, for `profile` or the one the settings name.

    Raises UsageError when a required tier cannot be had.
    """
    mine = own(settings)
    engine = make_engine(Parts(settings, replace(mine, profile=profile) if profile else mine))
    try:
        await engine.start()
    except ModelError as error:
        raise UsageError(str(error)) from None
    try:
        yield engine
    finally:
        await engine.close()


def frame_of(path: Path, max_pixels: int) -> Frame:
    """A picture on disk, through the decoder that validators' pictures go through; folders may hold PNG too. Raises
    UsageError."""
    try:
        data = path.read_bytes()
        if data.startswith(PNG):
            return decode_png(data, max_pixels)
        return decode(base64.b64encode(data).decode(), max_pixels)
    except TooManyPixels as error:
        raise UsageError(f"{path}: {error}; shrink it, or raise --max-pixels") from None
    except (PictureError, OSError) as error:
        raise UsageError(f"{path}: {error}") from None
