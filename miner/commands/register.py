"""`register`: step by step from a hotkey to a registered miner. Shows what is to be typed; signs nothing unasked."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence

from pydantic import Field
from rich.console import Console

from miner.chain import ChainError, register_command
from miner.doctor.world import ChainFacts, NotAsked, read_chain
from miner.registration import RegistrationError, checked, payload, poll, submit
from miner.settings import CHAIN, WALLET, Settings, UsageError, parse
from miner.wallet import WalletError, load_hotkey


class Register(Settings):
    """From a hotkey to a registered miner: what is done, what is missing, and the command for it."""

    takes = (*CHAIN, *WALLET)
    model_repo: str = Field("", description="Public repository of your model card. Default: MODEL_URL.")
    server: str = Field("", description="The operator's application server. Default: PROXY_CLIENT_URL; empty: none.")
    yes: bool = Field(False, description="Sign and send without asking.")
    wait: float = Field(180.0, ge=0, description="Seconds to wait for the application server to finish.")


def main(arguments: Sequence[str]) -> int:
    asked = parse(Register, arguments)
    if asked.network == "mock":
        raise UsageError("the mock network needs no registration; say which: --network test, or --network finney")
    return guide(asked, lambda: read_chain(asked), Console(soft_wrap=True), _consent)


def guide(
    asked: Register, chain: Callable[[], ChainFacts], console: Console, consent: Callable[[Console], bool]
) -> int:
    """Exit code: 0 when nothing is left to do, 1 when something is. Raises UsageError."""

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    try:
        hotkey = load_hotkey(asked.wallet_path, asked.wallet_name, asked.wallet_hotkey)
    except WalletError as error:
        raise UsageError(str(error)) from None
    say(f"1. Hotkey: {hotkey.ss58_address}")

    try:
        facts = chain()
    except (ChainError, NotAsked) as error:
        raise UsageError(f"the chain could not be asked: {error}") from None
    mine = facts.snapshot.neurons.get(hotkey.ss58_address)
    if mine is None:
        cost = f" It costs {facts.told.registration:.4f} TAO now." if facts.told.registration is not None else ""
        say(f"2. Subnet {asked.subnet}: not registered.{cost}")
        if facts.told.burned is not None:
            say(f"   {facts.told.burned:.0%} of the miners' emission is burned at present.")
        say("   Where your coldkey is (it does not belong on this machine), type:")
        say("     " + register_command(asked.subnet, asked.network, asked.wallet_name, asked.wallet_hotkey))
        say("   Then run this command again.")
        return 1
    say(f"2. Subnet {asked.subnet}: registered as uid {mine.uid}.")

    server = asked.server or asked.proxy_client_url or ""
    repository = asked.model_repo or asked.model_url or ""
    if not server:
        say("3. Application server: none given (--server). Validators since 2026 do not ask for it.")
        return 0
    if not repository:
        raise UsageError("the application server wants the repository of your model card: --model-repo (see publish)")
    try:
        return _on_the_server(asked, hotkey.ss58_address, mine.uid, checked(server), repository, say, consent, console)
    except RegistrationError as error:
        raise UsageError(str(error)) from None


def _on_the_server(
    asked: Register,
    address: str,
    uid: int,
    server: str,
    repository: str,
    say: Callable[[str], None],
    consent: Callable[[Console], bool],
    console: Console,
) -> int:
    shown = {"uid": str(uid), "message": "(the time)", "natix_public_key": address, "model_repo": repository}
    say(f"3. Application server: this would be posted to {server}/participants/register,")
    say("   with your hotkey's signature of the time, which moves no money:")
    say("   " + json.dumps(shown))
    if not (asked.yes or consent(console)):
        say("   Nothing was signed, nothing was sent.")
        return 1
    hotkey = load_hotkey(asked.wallet_path, asked.wallet_name, asked.wallet_hotkey)
    say(f"   {submit(server, payload(hotkey, uid, repository, time.time()))}")
    outcome = poll(server, uid, asked.wait)
    say(f"   Status: {outcome.said}." if outcome.done else f"   Not finished ({outcome.said}); ask again later:")
    if not outcome.done:
        say(f"     curl -s {server}/participants/registration-status/{uid}")
    return 0 if outcome.done else 1


def _consent(console: Console) -> bool:
    if not sys.stdin.isatty():
        return False
    return console.input("   Sign and send? Type yes: ").strip().lower() == "yes"
