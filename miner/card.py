"""`model_card.json`, as the subnet asks for it beside a published model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from models.checked import checked

NAME = "model_card.json"


class CardError(ValueError):
    """The card cannot be used. The message names the field and what was expected."""


class Card(BaseModel):
    """The five fields validators read; whatever else a card holds stays in it.

    version: X.Y.Z. submitted_by: SS58 address of the hotkey. submission_time: unix time in seconds.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    model_name: Annotated[str, Field(min_length=1)]
    description: Annotated[str, Field(min_length=1)]
    version: Annotated[str, Field(pattern=r"^\d+\.\d+\.\d+$")]
    submitted_by: Annotated[str, Field(pattern=r"^5[1-9A-HJ-NP-Za-km-z]{47}$")]
    submission_time: Annotated[int, Field(gt=1_500_000_000)]


def complete(known: Mapping[str, Any], hotkey: str, now: float) -> Card:
    """A card from what is known of a model, signed off by `hotkey` now. Raises CardError."""
    return checked(Card, {**known, "submitted_by": hotkey, "submission_time": int(now)}, NAME, CardError)


def read(folder: Path) -> dict[str, Any]:
    """The card in a folder, as it is. Raises CardError."""
    try:
        found = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CardError(f"{folder} holds no {NAME}; expected one with model_name, description and version") from None
    except ValueError as error:
        raise CardError(f"{folder / NAME}: expected JSON: {error}") from None
    if not isinstance(found, dict):
        raise CardError(f"{folder / NAME}: expected a JSON object, got {type(found).__name__}")
    return found


def text(card: Card) -> str:
    """The file's content."""
    return card.model_dump_json(indent=2) + "\n"
