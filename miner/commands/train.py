"""`train`, `train distil`, `train vlm`: become the training process. It needs torch, which the miner never imports.

What `distil` needs from the miner is done first: when the teacher is a profile, it is asked about every picture that
trains, and its verdicts are kept in the run's folder, so that nothing is asked twice.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from cascade.deadline import Deadline
from cascade.trace import Record, write
from miner.assembly import frame_of, profile_of, running_engine
from miner.settings import Help, Settings, UsageError
from miner.settings import parse as parse_settings
from models.data.labelled import Labelled
from models.installing import pip_install_extra
from models.training.finetune import data
from models.training.finetune.settings import Classify, Distil, Vlm, flags, parse
from models.training.finetune.settings import Settings as Training

MODULE = "models.training.finetune"
NEEDED = ("torch", "accelerate", "peft", "transformers", "tensorboard", "onnx", "onnxscript", "sklearn", "matplotlib")
KINDS: dict[str, type[Training]] = {"distil": Distil, "vlm": Vlm}
SECONDS = 60.0  # for one picture: nobody waits for the answer


def main(arguments: Sequence[str]) -> int:
    words = list(arguments)
    if {"-h", "--help"} & set(words):
        return _help(words[0])
    require_extra()
    if words[:1] == ["distil"]:
        words = ["distil", *_with_verdicts(words[1:])]
    return os.execv(sys.executable, [sys.executable, "-P", "-m", MODULE, *words])


def _help(word: str) -> int:
    """Of one kind of training, or of all three; needs nothing of the extra."""
    kinds: list[type[Training]] = [KINDS[word]] if word in KINDS else [Classify, *KINDS.values()]
    for kind in kinds:
        sys.stdout.write(flags(kind, Help).root_parser.format_help() + "\n")
    return 0


def require_extra() -> None:
    """Raises UsageError naming what is missing, and the command that installs it."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise UsageError(
            f"training needs the extra `train`, of which {', '.join(missing)} cannot be imported; "
            f"{pip_install_extra('train')}"
        )


def _with_verdicts(words: list[str]) -> list[str]:
    """The flags of `distil`, a profile as teacher replaced by the file of its verdicts. Raises UsageError."""
    try:
        asked = parse(Distil, words)
        if Path(asked.teacher).suffix == ".jsonl":
            return words
        pictures = data.read(asked, lambda text: None)
        trained = pictures.rows(data.split(pictures, asked)["train"])
    except (ValueError, ModuleNotFoundError) as error:
        raise UsageError(str(error)) from None
    teacher = parse_settings(Settings, ["--profile", asked.teacher])
    path = asked.out / f"teacher-{data.plain(profile_of(teacher).name)}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    known = _known(path)
    if rest := [pictures.pictures[n] for n in trained if pictures.sha256[n] not in known]:
        with path.open("a", encoding="utf-8", buffering=1) as file:
            asyncio.run(ask(teacher, rest, file))
    return [*_without(words, "--teacher"), "--teacher", str(path)]


def _known(path: Path) -> set[str]:
    """Digests of the pictures that the file has a verdict on. A last line that was cut off is taken away."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    if lines and not lines[-1].endswith("\n"):
        path.write_text("".join(lines[:-1]), encoding="utf-8")
        lines.pop()
    return {json.loads(line)["sha256"] for line in lines}


def _without(words: Sequence[str], flag: str) -> list[str]:
    """The words less a flag and its value."""
    kept: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        if before != flag and word != flag and not word.startswith(f"{flag}="):
            kept.append(word)
    return kept


async def ask(teacher: Settings, pictures: Sequence[Labelled], file: TextIO) -> None:
    """What the teacher's profile says of each picture, one line each. Raises UsageError when it cannot be had."""
    async with running_engine(teacher) as engine:
        with Progress(console=Console(stderr=True)) as progress:
            for picture in progress.track(pictures, description=f"Asking {teacher.profile}"):
                try:
                    frame = frame_of(picture.path, teacher.max_pixels)
                except UsageError as error:  # a file that is no picture
                    _no_verdict(progress, str(error))
                    continue
                verdict = await engine.decide(frame, Deadline.after(SECONDS))
                if not verdict.opinions:  # the prior is nobody's opinion
                    _no_verdict(progress, "; ".join([str(picture.path), *(each.detail for each in verdict.failures)]))
                    continue
                record = Record.of(verdict, frame, label=picture.label, group=picture.group)
                file.write(write(record) + "\n")


def _no_verdict(progress: Progress, why: str) -> None:
    progress.console.print(f"[yellow]no verdict[/] {escape(why)}", highlight=False, soft_wrap=True)
