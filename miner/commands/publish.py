"""`publish`: put a model with its `model_card.json` into a public repository of the Hugging Face hub."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import AliasChoices, Field
from rich.console import Console

from miner import card
from miner.settings import WALLET, Settings, UsageError, parse
from miner.wallet import WalletError, load_hotkey
from models.installing import pip_install

EMBEDDED = Path(__file__).resolve().parent.parent.parent / "models" / "embedded"
LEFT_OUT = ("*.py", "__pycache__/*", card.NAME)


class Publish(Settings):
    """Publish a model with its card: files of a folder, and model_card.json signed off by your hotkey's address."""

    takes = WALLET
    repository: str = Field(
        pattern=r"^[\w.-]+/[\w.-]+$",
        validation_alias=AliasChoices("repository", "repo"),
        description="Where to: you/name on the hub.",
    )
    folder: Path = Field(EMBEDDED, description="Weights, README.md and model_card.json. Default: the embedded model.")
    version: str | None = Field(None, description="X.Y.Z for the card. Default: what the folder's card says.")
    endpoint: str | None = Field(None, description="A hub other than huggingface.co.")
    yes: bool = Field(False, description="Publish without asking.")


def main(arguments: Sequence[str]) -> int:
    asked = parse(Publish, arguments)
    return publish(asked, Console(soft_wrap=True), _consent)


def publish(asked: Publish, console: Console, consent: Callable[[Console], bool]) -> int:
    """Exit code: 0 when it is published, 1 when it was not wanted. Raises UsageError."""

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    hub = _hub()
    try:
        address = load_hotkey(asked.wallet_path, asked.wallet_name, asked.wallet_hotkey).ss58_address
        known = card.read(asked.folder) | ({"version": asked.version} if asked.version else {})
        made = card.complete(known, address, time.time())
    except (WalletError, card.CardError) as error:
        raise UsageError(str(error)) from None
    sent = (path for path in asked.folder.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"})
    say(f"To https://huggingface.co/{asked.repository} (public):" if not asked.endpoint else f"To {asked.endpoint}:")
    for path in sorted(sent):
        say(f"  {path.relative_to(asked.folder)}  {path.stat().st_size / 1e6:.3f} MB")
    say(f"  signed off by {address}, version {made.version}")
    if not (asked.yes or consent(console)):
        say("Nothing was sent.")
        return 1
    _upload(hub, asked, made)
    say(f"Published. Name it to the miner: MODEL_URL=https://huggingface.co/{asked.repository}")
    return 0


def _upload(hub: Any, asked: Publish, made: card.Card) -> None:
    api = hub.HfApi(endpoint=asked.endpoint)
    try:
        api.create_repo(asked.repository, repo_type="model", private=False, exist_ok=True)
        api.upload_folder(
            repo_id=asked.repository,
            folder_path=asked.folder,
            ignore_patterns=list(LEFT_OUT),
            commit_message=f"{made.model_name} {made.version}",
        )
        api.upload_file(
            repo_id=asked.repository,
            path_or_fileobj=card.text(made).encode(),
            path_in_repo=card.NAME,
            commit_message=f"Card of {made.version}",
        )
    except hub.errors.HfHubHTTPError as error:
        raise UsageError(f"the hub refused: {error}. A token that may write: hf auth login") from None
    except Exception as error:  # the hub's HTTP library has an exception tree of its own, and changes it
        raise UsageError(f"the hub does not answer: {error}") from None


def _hub() -> Any:
    try:
        import_module("huggingface_hub.errors")
        return import_module("huggingface_hub")
    except ImportError:
        raise UsageError(f"publishing needs huggingface_hub: {pip_install('huggingface-hub>=0.30')}") from None


def _consent(console: Console) -> bool:
    return sys.stdin.isatty() and console.input("Publish? Type yes: ").strip().lower() == "yes"
