"""What each training command can be asked for: flags, or a TOML file with the same names; flags win.

One frozen class a command. An unknown name or a bad value is an error that names it. Nothing is read from the
environment, so that two runs with the same settings file are the same run.
"""

from __future__ import annotations

import tomllib
from argparse import ArgumentParser, HelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, FilePath, ValidationError, model_validator
from pydantic_settings import BaseSettings, CliApp, CliSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from models.checked import fault

Part = TypeVar("Part", bound="Settings")
SHOWN = {  # what the help calls the value of a flag
    "data": "DIR[:WEIGHT]",
    "out": "DIR",
    "name": "NAME",
    "test": "SOURCE",
    "calibrate": "SOURCE",
    "source_column": "NAME",
    "without": "FILE",
    "backbone": "NAME",
    "teacher": "PROFILE",
    "features": "NAME",
    "model": "NAME",
}
FREE = {"out", "workers", "processes", "checkpoint_minutes", "validate_every"}  # may change when a run is resumed


class Settings(BaseSettings):
    """What every kind of training shares."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    data: tuple[str, ...] = Field(
        min_length=1,
        description="DIR of <source>/<roadwork|clear>/*.jpg, DIR of Parquet (a journal export), hub (the subnet's data "
        "set) or OWNER/NAME; with :WEIGHT it is drawn so many times as often. Repeatable.",
    )
    out: Path = Field(description="Where everything goes. A run that was cut off goes on when it is started again.")
    name: str = Field("own", pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$", description="Of the model, in profile and card.")
    test: tuple[str, ...] = Field((), description="Sources that are only measured on. Default: about a fifth.")
    calibrate: tuple[str, ...] = Field((), description="Sources that only calibrate. Default: about a fifth.")
    source_column: str = Field("source", description="Column of Parquet data that tells cameras or places apart.")
    without: FilePath | None = Field(
        None, description="File of sha256 digests and groups, one a line: pictures never to be shown."
    )
    most_rows: int = Field(20_000, ge=1, description="Pictures taken of each Parquet data set.")

    pasted: float = Field(
        0.4,
        ge=0,
        le=0.9,
        description="Share of the road work that is a clear picture with cones, barriers, signs or machines pasted in: "
        "those of <source>/objects/*, and drawn ones. 0: none.",
    )
    steps: int = Field(1000, ge=1, description="Updates of the weights.")
    batch: int = Field(32, ge=1, description="Pictures an update, over all processes and parts.")
    accumulate: int = Field(1, ge=1, description="Parts a batch is computed in, to save memory.")
    learning_rate: float = Field(1e-4, gt=0, description="At its highest.")
    weight_decay: float = Field(0.05, ge=0, description="Of AdamW, on weights of more than one dimension.")
    checkpointing: bool = Field(False, description="Compute activations twice instead of keeping them: less memory.")
    seed: int = Field(72, ge=0, lt=2**31, description="Equal seeds, settings and pictures give equal runs.")

    device: Literal["auto", "cpu"] = Field("auto", description="auto: every card that is visible, else the CPU.")
    precision: Literal["auto", "bf16", "fp32"] = Field("auto", description="auto: bf16 on a card, fp32 on the CPU.")
    compile: bool = Field(False, description="torch.compile: slower to begin, faster afterwards.")
    processes: int = Field(1, ge=1, description="Processes, one a card.")
    workers: int = Field(2, ge=0, description="Processes that prepare pictures, for each of the above.")
    checkpoint_minutes: float = Field(5.0, ge=0, description="Minutes that a crash may cost.")
    validate_every: int = Field(200, ge=1, description="Steps between two looks at the calibration sources.")

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        parts = self.accumulate * self.processes
        if self.batch % parts:
            raise ValueError(f"batch {self.batch} cannot be split into {parts} equal parts (accumulate x processes)")
        if both := sorted(set(self.test) & set(self.calibrate)):
            raise ValueError(f"expected a source under test or under calibrate, got {', '.join(both)} under both")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)

    @property
    def deciding(self) -> dict[str, str]:
        """The settings that decide what is learned, so that a run is never resumed with others. Which pictures `data`
        and `without` leave is told apart by their content."""
        return {k: str(v) for k, v in self.model_dump(mode="json", exclude=FREE | {"data", "without"}).items()}

    @property
    def told(self) -> dict[str, Any]:
        """For the card: everything but where things lie on this machine."""
        values = self.model_dump(mode="json", exclude=FREE | {"data"})
        return {k: Path(v).name if isinstance(v, str) and Path(v).exists() else v for k, v in values.items()}


class Classify(Settings):
    """Train a classifier on your own pictures, ready to serve."""

    model_config = SettingsConfigDict(cli_prog_name="run_miner.sh train")

    backbone: str = Field(
        "efficientnet-lite0",
        description="A classifier or encoder of the catalog (./run_miner.sh models), efficientnet-lite0, "
        "timm/NAME, or a DIR that transformers can load.",
    )
    tune: Literal["head", "lora", "full"] = Field("head", description="What learns, the head included.")
    rank: int = Field(16, ge=1, description="Of the LoRA matrices.")
    side: int | None = Field(None, ge=32, description="Pixels of the square input. Default: the backbone's.")
    head_factor: float = Field(10.0, gt=0, description="The head learns this much faster than the backbone.")


class Distil(Classify):
    """Train a small student on what a teacher says, which is any profile."""

    model_config = SettingsConfigDict(cli_prog_name="run_miner.sh train distil")

    teacher: str = Field(description="A profile (it is run on the data first), or a file of verdicts as JSON lines.")
    teacher_share: float = Field(0.7, gt=0, le=1, description="Of the loss; the labels have the rest.")
    temperature: float = Field(2.0, gt=0, description="Both sides' log-odds are divided by this.")
    features: str = Field("", description="A backbone whose features the student's shall resemble.")
    features_weight: float = Field(1.0, gt=0, description="Of that part of the loss.")


class Vlm(Settings):
    """Train LoRA matrices of a Qwen3-VL on its answer, yes or no."""

    model_config = SettingsConfigDict(cli_prog_name="run_miner.sh train vlm")

    model: str = Field("qwen3-vl-4b", description="A model of the catalog, or a DIR that transformers can load.")
    rank: int = Field(16, ge=1, description="Of the LoRA matrices.")
    side: int = Field(224, ge=32, description="Pixels of the square pictures it is shown.")
    vision: bool = Field(False, description="The vision tower learns too.")
    merge: bool = Field(False, description="Also write the whole model, for engines that take no adapters.")


def parse(kind: type[Part], arguments: Sequence[str]) -> Part:
    """The settings of one command. Raises ValueError that names what is wrong; argparse exits 2 on an unknown flag."""
    words = list(arguments)
    table = _table(words)
    try:
        return CliApp.run(kind, words, flags(kind), cli_cmd_method_name="_parsed", **table)
    except ValidationError as error:
        raise ValueError("\n".join(fault(each, kind.model_fields) for each in error.errors())) from None


def flags(kind: type[Settings], formatter: type[HelpFormatter] = HelpFormatter) -> CliSettingsSource[Any]:
    """The command line of one kind of training. formatter: of its help."""
    source: CliSettingsSource[Any] = CliSettingsSource(kind, add_argument_method=_add_flag, formatter_class=formatter)
    source.root_parser.epilog = "--settings FILE: TOML with the same names, with _ for -; flags win."
    return source


def _add_flag(parser: ArgumentParser, *names: str, **how: Any) -> None:
    """A flag as pydantic-settings makes it, but for what the help calls its value: no type of Python."""
    if (name := names[-1].lstrip("-").replace("-", "_")) in SHOWN:
        how["metavar"] = SHOWN[name]
    parser.add_argument(*names, **how)


def _table(words: list[str]) -> dict[str, Any]:
    """The content of `--settings FILE`, which is taken out of `words`."""
    if "--settings" not in words:
        return {}
    at = words.index("--settings")
    if at + 1 == len(words):
        raise ValueError("--settings: expected a TOML file")
    path = Path(words[at + 1])
    del words[at : at + 2]
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"--settings {path}: expected a TOML file: {error}") from None
