"""Every setting of the miner in one frozen, typed tree.

Precedence: flag > environment > `.env` > `miner.env` > default. The official miner's names (`SUBTENSOR_NETWORK`,
`WALLET_NAME`, ...) are understood as they are, so its `miner.env` can be dropped in; all other names are the field's
own with the prefix `MINER_`. An unknown name or a bad value is an error that names it.
"""

from __future__ import annotations

import os
import re
import sys
from argparse import SUPPRESS, Action, ArgumentParser, BooleanOptionalAction, RawDescriptionHelpFormatter
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from inspect import cleandoc
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NoReturn, Self, TypeVar

from dotenv.parser import Binding, parse_stream
from pydantic import AfterValidator, AliasChoices, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    CliApp,
    CliSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from models.checked import fault

PREFIX = "MINER_"
FILES = ("miner.env", ".env")  # the second wins
NETUIDS = {"finney": 72, "test": 323, "local": 72, "mock": 72}

Port = Annotated[int, Field(ge=0, le=65535)]
Ip = Annotated[str, AfterValidator(lambda text: str(ip_address(text)))]


def official(name: str, variable: str) -> AliasChoices:
    """A field known by its own name and by the official miner's variable."""
    return AliasChoices(name, variable)


class UsageError(Exception):
    """The user asked for something that cannot be done as asked. Printed without a traceback; exit code 2."""


class Asked(BaseSettings):
    """What a command may be asked: this alone where it needs nothing of the miner's, else Settings."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="forbid",
        frozen=True,
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        cli_shortcuts={"as-json": "json"},
    )


# Settings that mean something to a command other than `serve`, by what it does:
DECIDING = ("profile", "device", "endpoints", "endpoint_key", "max_pixels")  # asks models about pictures
STATE = ("network", "wallet_name", "wallet_hotkey", "state_dir")  # opens a hotkey's journal or versions
WALLET = ("wallet_name", "wallet_hotkey", "wallet_path")  # opens the hotkey file
CHAIN = ("network", "netuid", "chain_endpoint")  # asks the chain
# Variables of the official miner.env that are no flags here:
OFFICIAL = ("image_detector", "image_detector_config", "model_url", "proxy_client_url")


class Settings(Asked):
    """Serve the subnet: answer validators' pictures until stopped."""

    takes: ClassVar[Sequence[str]] = ()  # of a command that inherits these settings: those that are its flags too
    model_config = SettingsConfigDict(env_file=FILES, env_ignore_empty=True, validate_by_name=True)

    # The chain and who we are on it.
    network: Literal["finney", "test", "local", "mock"] = Field(
        "mock",
        validation_alias=official("network", "SUBTENSOR_NETWORK"),
        description="finney (mainnet), test (testnet), local (a node of your own), mock (no chain: one in memory).",
    )
    netuid: int | None = Field(
        None,
        ge=0,
        validation_alias=official("netuid", "NETUID"),
        description="The subnet. Default: 72 on finney, 323 on test.",
    )
    chain_endpoint: str | None = Field(
        None,
        validation_alias=official("chain_endpoint", "SUBTENSOR_CHAIN_ENDPOINT"),
        description="A node's websocket address, instead of the network's public one.",
    )
    wallet_name: str = Field(
        "default", validation_alias=official("wallet_name", "WALLET_NAME"), description="The wallet, as btcli names it."
    )
    wallet_hotkey: str = Field(
        "default", validation_alias=official("wallet_hotkey", "WALLET_HOTKEY"), description="The hotkey in that wallet."
    )
    wallet_path: Path = Field(Path("~/.bittensor/wallets"), description="Only the hotkey file below it is opened.")

    # Where validators reach us.
    axon_host: str | None = Field(
        None, description="Address to bind. Default: every address, IPv4 and IPv6; loopback on mock."
    )
    axon_port: Port = Field(8091, description="Port that validators reach.")
    external_ip: Ip | None = Field(None, description="Address to announce when it differs from ours (NAT).")
    external_port: Port | None = Field(None, description="Port to announce when it differs from the bound one (NAT).")

    # Who may ask.
    force_validator_permit: bool = Field(
        True,
        validation_alias=official("force_validator_permit", "BLACKLIST_FORCE_VALIDATOR_PERMIT"),
        description="Answer only hotkeys that hold a validator permit.",
    )
    allow_non_registered: bool = Field(False, description="Answer any signed caller: for tests, never on mainnet.")
    minimum_stake: float = Field(0.0, ge=0, description="Least stake (as the metagraph counts it) a caller must have.")

    # What decides.
    profile: str = Field("embedded", description="Name of a profile in cascade/profiles, or a path to a TOML file.")
    device: str = Field(
        "auto",
        validation_alias=official("device", "IMAGE_DETECTOR_DEVICE"),
        description="auto, cpu, cuda or cuda:N.",
    )
    endpoints: str = Field(
        "", description="VLMs served elsewhere: model=url of an OpenAI-compatible server, several with commas."
    )
    endpoint_key: SecretStr | None = Field(None, description="Key of those servers; sent over https only.")
    network_reserve: float = Field(
        1.0, ge=0.0, le=5.0, description="Seconds of the validator's time-out left for the way back."
    )

    # Caps on what one request may cost.
    max_body_bytes: int = Field(16 * 2**20, ge=1024, description="Largest accepted request body.")
    max_pixels: int = Field(40_000_000, ge=224 * 224, description="Largest accepted picture, width times height.")
    max_in_flight: int = Field(32, ge=1, description="Requests worked on at once; more wait, by stake.")
    max_waiting: int = Field(256, ge=0, description="Requests that may wait; beyond, tier 0 answers alone.")

    # The operator's side.
    health_host: str = Field("127.0.0.1", description="Address of the health port.")
    health_port: Port = Field(9100, description="Port of the dashboard, /livez, /readyz and /metrics.")
    dashboard_token: SecretStr | None = Field(
        None, description="Who knows it sees the dashboard; needed when the health port leaves loopback."
    )
    log_level: Literal["TRACE", "DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level logged.")
    log_format: Literal["human", "json"] = Field("human", description="Log lines for people or for programs.")
    state_dir: Path = Field(
        Path("~/.streetvision"), description="Where replay store, chain view, journal and learned versions live."
    )
    journal: bool = Field(
        True, description="Keep a journal of every request; a picture that comes again is answered from it."
    )
    pictures_gb: float = Field(5.0, ge=0, description="Disk for the pictures worth a label, in GB; 0 keeps none.")
    prevalence_correction: float = Field(
        0.0,
        ge=0,
        le=2,
        description="Most log-odds by which answers follow a shift in the share of road work; 0: never.",
    )
    canary: float = Field(0.0, ge=0, le=1, description="Share of pictures that a staged version answers.")
    trace: Path | None = Field(None, description="Write every verdict to this file, one JSON line each.")

    # Understood because the official miner.env has them; the profile decides what answers.
    image_detector: str | None = Field(
        None,
        validation_alias=official("image_detector", "IMAGE_DETECTOR"),
        description="Accepted from an official miner.env and not used: the profile decides.",
    )
    image_detector_config: str | None = Field(
        None,
        validation_alias=official("image_detector_config", "IMAGE_DETECTOR_CONFIG"),
        description="Accepted from an official miner.env and not used: the profile decides.",
    )
    model_url: str | None = Field(
        None,
        validation_alias=official("model_url", "MODEL_URL"),
        description="Accepted from an official miner.env: the public repository of your model card.",
    )
    proxy_client_url: str | None = Field(
        None,
        validation_alias=official("proxy_client_url", "PROXY_CLIENT_URL"),
        description="Accepted from an official miner.env: the operator's application server.",
    )

    @model_validator(mode="before")
    @classmethod
    def _no_unknown_variables(cls, values: Any) -> Any:
        known = {name.upper() for name in variables(cls)}
        for name in sorted(os.environ):
            if name.startswith(PREFIX) and name.upper() not in known:
                raise ValueError(f"unknown environment variable {name}; {_meant(name, known)}")
        return values

    @model_validator(mode="after")
    def _safe_on_mainnet(self) -> Self:
        if self.network == "finney" and self.allow_non_registered:
            raise ValueError("allow_non_registered gives the GPU to anybody; not on mainnet: use test, local or mock")
        return self

    @field_validator("device")
    @classmethod
    def _a_device(cls, value: str) -> str:
        if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", value):
            raise ValueError(f"expected auto, cpu, cuda or cuda:N, got {value!r}")
        return value

    @field_validator("dashboard_token")
    @classmethod
    def _not_guessed(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 16:
            raise ValueError(f"expected at least 16 characters, got {len(value.get_secret_value())}")
        return value

    @field_validator("endpoints")
    @classmethod
    def _named_endpoints(cls, value: str) -> str:
        for part in value.split(",") if value else []:
            if not all(part.partition("=")[::2]):
                raise ValueError(f"expected model=url, e.g. qwen3-vl-32b=https://host:8000/v1; got {part!r}")
        return value

    @property
    def endpoints_by_model(self) -> dict[str, str]:
        """Model -> URL."""
        named = (part.partition("=") for part in self.endpoints.split(",") if part)
        return {model.strip(): url.strip() for model, _, url in named}

    @property
    def subnet(self) -> int:
        """The netuid to serve: the given one, else the network's own."""
        return NETUIDS[self.network] if self.netuid is None else self.netuid

    @property
    def state(self) -> Path:
        """The directory of this hotkey's state on this network."""
        return self.state_dir.expanduser() / self.network / self.wallet_name / self.wallet_hotkey


def variables(settings: type[BaseSettings]) -> dict[str, str]:
    """Environment variable -> field, the preferred name of each field first."""
    names: dict[str, str] = {}
    for field, info in settings.model_fields.items():
        alias = info.validation_alias
        choices = alias.choices[1:] if isinstance(alias, AliasChoices) else [f"{PREFIX}{field.upper()}"]
        names.update({str(choice): field for choice in choices})
    return names


def env_example(settings: type[BaseSettings] = Settings) -> str:
    """The text of `.env.example`: every variable with its default and meaning. `python -m miner.settings` prints it."""
    lines = [
        "# Every setting, with its default. Copy to .env and uncomment what differs.",
        "# Flags win over the environment, the environment over .env, .env over miner.env.",
        "",
    ]
    for variable, field in variables(settings).items():
        info = settings.model_fields[field]
        default = "" if info.default is None else str(info.default)
        meaning = info.description or field.replace("_", " ").capitalize() + "."
        lines += [f"# {meaning}", f"#{variable}={default}", ""]
    return "\n".join(lines)


class Help(RawDescriptionHelpFormatter):
    """Each flag once, under its shortest name; a default where there is one; how to call it in one line."""

    def add_usage(self, usage: str | None, actions: Iterable[Action], groups: Any, prefix: str | None = None) -> None:
        self._prog += " [OPTIONS]"
        super().add_usage(usage, [action for action in actions if not action.option_strings], [], prefix)

    def _format_action_invocation(self, action: Action) -> str:
        names = sorted((name for name in action.option_strings if not name.startswith("--no-")), key=len)
        if not names or action.dest == "help":
            return super()._format_action_invocation(action)
        if isinstance(action, BooleanOptionalAction):
            return f"--[no-]{names[0][2:]}" if "(default: True)" in str(action.help) else names[0]
        kind = re.sub(r"SecretStr|tuple\[str,...\]", "str", self._format_args(action, action.dest))
        return f"{names[0]} {re.sub(r'^list.(.*).$', lambda inner: inner[1], kind)}"

    def _expand_help(self, action: Action) -> str:
        return re.sub(r" \(default(: (None|False|\(\)|\[\]|)| factory: .*)\)$", "", super()._expand_help(action))


T = TypeVar("T", bound=BaseSettings)


def parse(command: type[T], arguments: Sequence[str], word: str = "") -> T:
    """Settings of one command from its flags, the environment and the files beside it.

    word: the second one of a command of two, as in `journal export`. The SDK's dotted flags (`--wallet.name`,
    `--axon.port`) are taken as ours (`--wallet-name`). Raises UsageError naming each wrong name or value.
    """
    source: CliSettingsSource[Any] = CliSettingsSource(command, case_sensitive=False, formatter_class=Help)
    parser = source.root_parser
    package, _, name = command.__module__.rpartition(".")
    if command is Settings:
        parser.prog = "run_miner.sh serve"
    elif package == "miner.commands":
        parser.prog = f"run_miner.sh {name} {word}".rstrip()
    parser.description = cleandoc(command.__doc__ or "")

    def refuse(message: str) -> NoReturn:
        raise UsageError(f"{message}; see {'./' if parser.prog.startswith('run_miner.sh') else ''}{parser.prog} --help")

    parser.error = refuse
    words = _kebab(arguments)
    if issubclass(command, Settings):
        _keep_to(command, parser, words)
        _refuse_unreadable()
    try:
        return CliApp.run(command, cli_args=words, cli_settings_source=source, cli_cmd_method_name="_parsed")
    except ValidationError as error:
        raise UsageError("\n".join(_fault(each, command) for each in error.errors())) from None
    except SettingsError as error:
        raise UsageError(str(error)) from None


def _fault(error: ErrorDetails, command: type[BaseSettings]) -> str:
    if error["type"] == "missing":
        field = str(error["loc"][0])
        return f"--{field.replace('_', '-')} is missing: {command.model_fields[field].description}"
    if error["type"] == "extra_forbidden":
        name = str(error["loc"][0]).upper()
        place = next((file for file, line in _lines() if (line.key or "").upper() == name), "a file")
        return f"unknown name {name} in {place}; {_meant(name, variables(command))}"
    return fault(error, ())


def _meant(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name.upper(), known, 1, 0.8)
    return f"did you mean {near[0]}?" if near else ".env.example lists the known ones"


def _lines() -> Iterator[tuple[str, Binding]]:
    """(file, what stands in one of its lines) of the files beside us. Raises UsageError for what is no text."""
    for file in filter(os.path.isfile, FILES):
        try:
            with open(file, encoding="utf-8") as text:
                yield from ((file, line) for line in parse_stream(text))
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"{file}: expected text in UTF-8: {error}") from None


def _refuse_unreadable() -> None:
    """Raises UsageError at a line that would be left out with a warning otherwise."""
    for file, line in _lines():
        if line.error:
            raise UsageError(
                f"{file}, line {line.original.line}: expected NAME=value, got {line.original.string.strip()!r}"
            )


def _keep_to(command: type[Settings], parser: ArgumentParser, words: Sequence[str]) -> None:
    """A command has its own flags and those of `serve` that it names in `takes`. Raises UsageError at another one."""
    takes = Settings.model_fields if command is Settings else command.takes
    others = {field.replace("_", "-") for field in Settings.model_fields if field not in takes or field in OFFICIAL}
    given = {word.partition("=")[0] for word in words}
    meaningless, shown = set[str](), list[str]()
    for action in parser._actions:
        if any(flag.removeprefix("--").removeprefix("no-") in others for flag in action.option_strings):
            action.help = SUPPRESS
            meaningless |= given.intersection(action.option_strings)
        elif action.dest != "help":
            shown += [flag for flag in action.option_strings if flag.startswith("--")][:1]
    if meaningless:
        raise UsageError(
            f"{', '.join(sorted(meaningless))}: {parser.prog.partition(' ')[2]} has no use for it; "
            f"it takes {', '.join(shown)}"
        )


def _kebab(arguments: Sequence[str]) -> list[str]:
    """`--wallet.name X` -> `--wallet-name X`; `--a.flag False` (habit of the official miner) -> `--no-a-flag`."""
    words: list[str] = []
    for argument in arguments:
        if argument.startswith("--"):
            flag, equals, value = argument.partition("=")
            words.append("--" + flag[2:].replace(".", "-").replace("_", "-") + equals + value)
        elif argument in {"True", "False", "true", "false"} and words and words[-1].startswith("--"):
            words[-1] = words[-1] if argument.lower() == "true" else "--no-" + words[-1][2:]
        else:
            words.append(argument)
    return words


if __name__ == "__main__":
    sys.stdout.write(env_example())
