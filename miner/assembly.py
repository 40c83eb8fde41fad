"""Profile -> models -> running engine: shared by every command that decides on pictures."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cascade.engine import Engine
from cascade.profile import Profile, ProfileError, load
from miner.decode import PictureError, decode
from miner.gpu import NoCards, cards
from miner.settings import Settings, UsageError
from models.base import Frame, Model, ModelError
from models.catalog import build, find

MODELS = Path(__file__).parent.parent / "models"


def profile_of(settings: Settings) -> Profile:
    """The profile that the settings name. Raises UsageError with the profile's own message."""
    try:
        return load(settings.profile)
    except ProfileError as error:
        raise UsageError(str(error)) from None


def make_engine(settings: Settings, profile: Profile) -> Engine:
    """An engine, not started. Raises UsageError when the catalog lacks a model of the profile."""
    try:
        models = build(member.model for member in profile.members)
    except ModelError as error:
        raise UsageError(f"profile {profile.name}: {error}") from None
    card = _card(settings)
    return Engine(profile, models, factory=fresh_model, device=lambda key: card if find(key).isolated else "cpu")


def _card(settings: Settings) -> str:
    """Where models go that run on a card: the first one when there is one and nothing else was asked for."""
    if settings.device != "auto":
        return settings.device
    try:
        return "cuda:0" if cards() else "cpu"
    except NoCards:
        return "cpu"


def fresh_model(key: str) -> Model:
    """One model of the catalog, not loaded: what the engine puts in the place of one that hangs."""
    return build([key])[key]


def revision() -> str:
    """Names the weights and tables that ship, so that an answer is never repeated across a change of them."""
    named = ("embedded/model_card.json", "embedded/calibration.json", "catalog.toml", "ocr_phrases.toml")
    digest = hashlib.sha256(b"".join((MODELS / name).read_bytes() for name in named))
    return digest.hexdigest()[:16]


@asynccontextmanager
async def running_engine(settings: Settings, profile: Profile | None = None) -> AsyncIterator[Engine]:
    """An engine whose models are loaded and warm, for `profile` or the one the settings name.

    Raises UsageError when a required tier cannot be had.
    """
    engine = make_engine(settings, profile or profile_of(settings))
    try:
        await engine.start()
    except ModelError as error:
        raise UsageError(str(error)) from None
    try:
        yield engine
    finally:
        await engine.close()


def frame_of(path: Path, max_pixels: int) -> Frame:
    """A JPEG on disk, through the decoder that validators' pictures go through. Raises UsageError."""
    try:
        return decode(base64.b64encode(path.read_bytes()).decode(), max_pixels)
    except (PictureError, OSError) as error:
        raise UsageError(f"{path}: {error}") from None
