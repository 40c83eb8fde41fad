"""The hotkey is loaded from btcli's file, nothing else is opened, and every refusal names the command that mends it."""

from __future__ import annotations

import builtins
import io
import os
from pathlib import Path

import pytest
from bittensor_wallet import Wallet

from miner.wallet import WalletError, hotkey_file, load_hotkey, throwaway


@pytest.fixture
def wallets(tmp_path, capfd):
    """A wallet folder with the hotkey `miner` in the wallet `alice`, as btcli leaves it."""
    Wallet(name="alice", hotkey="miner", path=str(tmp_path)).create_new_hotkey(use_password=False, suppress=True)
    capfd.readouterr()
    return tmp_path


def test_the_hotkey_signs_as_the_wallet_would(wallets):
    pair = load_hotkey(wallets, "alice", "miner")
    assert pair.ss58_address == Wallet(name="alice", hotkey="miner", path=str(wallets)).hotkey.ss58_address
    assert pair.verify(b"picture", pair.sign(b"picture"))


def test_only_the_hotkey_file_is_opened(wallets, monkeypatch):
    cold = wallets / "alice" / "coldkey"
    cold.write_text("never to be read")
    opened = []
    for module, name in ((builtins, "open"), (io, "open"), (os, "open")):
        real = getattr(module, name)

        def spy(path, *args, _real=real, **kwargs):
            opened.append(str(path))
            return _real(path, *args, **kwargs)

        monkeypatch.setattr(module, name, spy)
    cold.chmod(0)
    load_hotkey(wallets, "alice", "miner")
    assert not [path for path in opened if "coldkey" in path]
    assert str(hotkey_file(wallets, "alice", "miner")) in opened


def test_a_missing_hotkey_names_the_command(tmp_path):
    with pytest.raises(WalletError) as error:
        load_hotkey(tmp_path, "alice", "miner")
    assert "btcli wallet new-hotkey --wallet.name alice --wallet.hotkey miner" in str(error.value)
    assert str(tmp_path / "alice" / "hotkeys" / "miner") in str(error.value)


@pytest.mark.parametrize("content", ["", "junk", '{"accountId": "0x00"}', "[]"])
def test_a_damaged_hotkey_names_the_command(wallets, content):
    hotkey_file(wallets, "alice", "miner").write_text(content)
    with pytest.raises(WalletError, match=r"btcli wallet regen-hotkey --wallet\.name alice"):
        load_hotkey(wallets, "alice", "miner")


def test_a_damaged_hotkey_is_not_quoted(wallets):
    hotkey_file(wallets, "alice", "miner").write_text('{"secretPhrase": "abandon ability able"}')
    with pytest.raises(WalletError) as error:
        load_hotkey(wallets, "alice", "miner")
    assert "abandon" not in str(error.value)


def test_an_encrypted_hotkey_is_refused_and_no_password_is_asked(wallets):
    hotkey_file(wallets, "alice", "miner").write_bytes(b"$NACL" + bytes(200))  # as btcli marks an encrypted file
    with pytest.raises(WalletError, match=r"is encrypted.*--no-use-password"):
        load_hotkey(wallets, "alice", "miner")


def test_an_unreadable_hotkey_says_so(wallets, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(WalletError, match="Permission denied"):
        load_hotkey(wallets, "alice", "miner")


def test_the_home_directory_may_be_written_with_a_tilde(wallets, monkeypatch):
    monkeypatch.setenv("HOME", str(wallets))
    there = load_hotkey(wallets, "alice", "miner").ss58_address
    assert load_hotkey(Path("~"), "alice", "miner").ss58_address == there


def test_throw_away_pairs_differ_and_sign():
    one, other = throwaway(), throwaway()
    assert one.ss58_address != other.ss58_address
    assert one.verify(b"x", one.sign(b"x"))
