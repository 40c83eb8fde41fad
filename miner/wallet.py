"""The miner's own key: a hotkey file that btcli made, or a throw-away pair for the in-memory network.

Only the hotkey's file is ever opened. The coldkey has no business on a miner's machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bittensor_wallet import Keypair


class WalletError(Exception):
    """The hotkey cannot be used. The message says which file, what is wrong and which command mends it."""


def hotkey_file(wallets: Path, name: str, hotkey: str) -> Path:
    """Where btcli keeps that hotkey below `wallets`."""
    return wallets.expanduser() / name / "hotkeys" / hotkey


def load_hotkey(wallets: Path, name: str, hotkey: str) -> Keypair:
    """The pair in btcli's file. Raises WalletError when it is missing, unreadable, encrypted or something else."""
    from bittensor_wallet import Keyfile

    path = hotkey_file(wallets, name, hotkey)
    names = f"--wallet.name {name} --wallet.hotkey {hotkey} --wallet.path {wallets}"
    if not path.is_file():
        raise WalletError(
            f"no hotkey at {path}. Make one: btcli wallet new-hotkey {names}, "
            "or copy the hotkey file there (the coldkey is not needed here)"
        )
    try:
        path.read_bytes()
    except OSError as error:
        raise WalletError(f"{path}: {error.strerror}. Let the miner's user read it: chmod 600, chown") from error
    keyfile = Keyfile(str(path), hotkey, False)
    if keyfile.is_encrypted():
        raise WalletError(
            f"{path} is encrypted and a miner cannot type a password. "
            f"Make the hotkey again without one: btcli wallet regen-hotkey {names} --no-use-password"
        )
    try:
        return keyfile.keypair
    except Exception as error:  # the library's KeyFileError is not importable
        raise WalletError(
            f"{path}: expected a hotkey file of btcli, got something else ({error}). "
            f"Restore it: btcli wallet regen-hotkey {names}"
        ) from error


def throwaway() -> Keypair:
    """A new pair that lives in memory only and means nothing on a real network."""
    from bittensor_wallet import Keypair

    return Keypair.create_from_mnemonic(Keypair.generate_mnemonic())
