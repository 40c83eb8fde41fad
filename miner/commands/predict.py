"""`predict`: what the cascade says of pictures and clips on disk, one JSON line each, through the code that validators
meet. A clip's answer is that of its best stretch (`models/clip.py`)."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import Field
from pydantic_settings import CliPositionalArg

from cascade.deadline import Deadline
from cascade.engine import Engine
from cascade.trace import Record, write
from miner.assembly import frame_of, running_engine
from miner.settings import DECIDING, Settings, UsageError, parse
from models.base import ModelUnavailable
from models.clip import ClipError, Steady, is_clip, sampled


class Predict(Settings):
    """Probability of road work in pictures and clips, one JSON line each."""

    takes = DECIDING
    images: CliPositionalArg[list[Path]] = Field(description="JPEG or PNG files; videos, where PyAV is installed.")
    seconds: float = Field(8.0, gt=0, description="Time each picture may take.")
    every: float = Field(0.5, gt=0, description="Seconds between the pictures looked at in a clip.")


def main(arguments: Sequence[str]) -> int:
    settings = parse(Predict, arguments)
    for path in settings.images:
        if not path.is_file():
            came = f"a folder; name its files: {path}/*.jpg" if path.is_dir() else "no such file"
            raise UsageError(f"{path}: expected a JPEG or PNG picture, or a video, got {came}")
    return asyncio.run(_predict(settings))


async def _predict(settings: Predict) -> int:
    async with running_engine(settings) as engine:
        for path in settings.images:
            line = await (_clip if is_clip(path) else _picture)(engine, path, settings)
            sys.stdout.write(json.dumps({"path": str(path), **line}) + "\n")
    return 0


async def _picture(engine: Engine, path: Path, settings: Predict) -> dict[str, Any]:
    frame = frame_of(path, settings.max_pixels)
    verdict = await engine.decide(frame, Deadline.after(settings.seconds))
    record: dict[str, Any] = json.loads(write(Record.of(verdict, frame)))
    return record


async def _clip(engine: Engine, path: Path, settings: Predict) -> dict[str, Any]:
    times, probabilities = [], []
    try:
        for at, frame in sampled(path, settings.every):
            verdict = await engine.decide(frame, Deadline.after(settings.seconds))
            times.append(round(at, 3))
            probabilities.append(verdict.probability)
    except (ClipError, ModelUnavailable) as error:
        raise UsageError(str(error)) from None
    samples = [{"at": at, "probability": p} for at, p in zip(times, probabilities, strict=True)]
    return {**asdict(Steady.of(times, probabilities)), "samples": samples}
