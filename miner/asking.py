"""What the mock validator is asked for, whoever starts it: `./run_miner.sh mock`, or its own process."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import DirectoryPath, Field, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from miner.mocknet import VALIDATORS
from miner.settings import Asked


class Asking(Asked):
    """Which challenges, how many, and where the report goes."""

    challenges: int = Field(120, ge=1, description="Requests to send, all validators together.")
    validators: int = Field(2, ge=1, le=VALIDATORS, description="Validators that ask at the same time.")
    era: Literal["both", "2026-01", "2026-05"] = Field("both", description="State of the challenge, by month.")
    images: DirectoryPath | None = Field(None, description="Folder with <roadwork|clear>/*.jpg below it, at any depth.")
    dataset: str | None = Field(None, description="Hub id of a data set, or a folder of its parquet files.")
    organic: float = Field(0.1, ge=0, le=1, description="Share of organic requests: no label, not scored.")
    report: Path | None = Field(None, description="Folder for report.json and report.html.")
    as_json: bool = Field(False, description="Print the report as JSON, nothing else.")
    seed: int = Field(0, ge=0, description="The same seed asks the same.")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.images is not None and self.dataset is not None:
            raise ValueError("--images and --dataset: expected one of them, got both")
        return self

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # flags only: names such as SEED are too common to be taken from the environment
