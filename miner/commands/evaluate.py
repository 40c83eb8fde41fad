"""`evaluate`: score a folder of labelled pictures, overall and per source, with 95 % bootstrap intervals."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field
from pydantic_settings import CliPositionalArg
from rich.console import Console
from rich.progress import Progress

from cascade.deadline import Deadline
from cascade.verdict import Verdict
from miner.assembly import running_engine
from miner.evaluation import Evaluation, evaluate
from miner.settings import DECIDING, Settings, UsageError, parse
from models.base import Frame
from models.data.labelled import read_folder

Level = Literal["native", "0", "1", "2", "3"]


class Evaluate(Settings):
    """Score <source>/<roadwork|clear>/*.jpg: n, MCC, accuracy, AUC, ECE, Brier with 95 % bootstrap intervals."""

    takes = DECIDING
    directory: CliPositionalArg[Path] = Field(description="The folder; pictures may lie at any depth.")
    level: list[Level] = Field(
        ["native"],
        description="native: as the files are. 0..3: changed as validators did in January 2026. Repeatable.",
    )
    seed: int = Field(0, description="Of the changes and the resamples.")
    seconds: float = Field(8.0, gt=0, description="Time each picture may take.")
    as_json: bool = Field(False, description="Print JSON: an object for one level, a list for several.")


def main(arguments: Sequence[str]) -> int:
    settings = parse(Evaluate, arguments)
    try:
        evaluations = asyncio.run(_evaluate(settings))
    except ValueError as error:
        raise UsageError(str(error)) from None
    if settings.as_json:
        found = [evaluation.to_json() for evaluation in evaluations]
        sys.stdout.write(json.dumps(found[0] if len(found) == 1 else found) + "\n")
    else:
        for evaluation in evaluations:
            Console().print(evaluation.table())
    return 0


async def _evaluate(settings: Evaluate) -> list[Evaluation]:
    pictures = read_folder(settings.directory)
    levels = [None if level == "native" else int(level) for level in settings.level]
    async with running_engine(settings) as engine:

        async def decide(frame: Frame) -> Verdict:
            return await engine.decide(frame, Deadline.after(settings.seconds))

        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task("Scoring", total=len(pictures) * len(levels))
            return [
                await evaluate(
                    pictures, decide, level, settings.seed, lambda _: progress.advance(task), settings.max_pixels
                )
                for level in levels
            ]
