"""`predict`: what the cascade says of pictures on disk, one JSON line each, through the code that validators meet."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field
from pydantic_settings import CliPositionalArg

from cascade.deadline import Deadline
from cascade.trace import Record, write
from miner.assembly import frame_of, running_engine
from miner.settings import Settings, UsageError, parse


class Predict(Settings):
    """Probability of road work in pictures, one JSON line each."""

    images: CliPositionalArg[list[Path]] = Field(description="JPEG files.")
    seconds: float = Field(8.0, gt=0, description="Time each picture may take.")


def main(arguments: Sequence[str]) -> int:
    settings = parse(Predict, arguments)
    if missing := [str(path) for path in settings.images if not path.is_file()]:
        raise UsageError(f"no such file: {', '.join(missing)}; expected JPEG pictures")
    return asyncio.run(_predict(settings))


async def _predict(settings: Predict) -> int:
    async with running_engine(settings) as engine:
        for path in settings.images:
            frame = frame_of(path, settings.max_pixels)
            verdict = await engine.decide(frame, Deadline.after(settings.seconds))
            line = {"path": str(path), **json.loads(write(Record.of(verdict, frame)))}
            sys.stdout.write(json.dumps(line) + "\n")
    return 0
