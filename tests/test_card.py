"""`model_card.json` as validators read it, and publishing it: against a stand-in for the hub on loopback."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bittensor_wallet import Keyfile, Keypair
from rich.console import Console

from miner import card
from miner.card import CardError, complete
from miner.commands import publish as command
from miner.commands.publish import EMBEDDED, Publish, publish
from miner.settings import UsageError, parse
from tests.stand_in import serving

ALICE = Keypair.create_from_uri("//Alice")
NOW = 1_795_000_000.5
KNOWN = {"model_name": "mine", "description": "tells road work", "version": "1.2.3", "trained_on": ["a", "b"]}


def test_the_five_fields_and_what_else_was_there() -> None:
    made = json.loads(card.text(complete(KNOWN, ALICE.ss58_address, NOW)))
    assert made == {**KNOWN, "submitted_by": ALICE.ss58_address, "submission_time": 1_795_000_000}


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("version", "1.2", "version: String should match"),
        ("version", 1, "version: Input should be a valid string"),
        ("model_name", "", "model_name"),
        ("description", None, "description"),
    ],
)
def test_a_wrong_field_is_named(field: str, value: object, said: str) -> None:
    with pytest.raises(CardError, match=said):
        complete({**KNOWN, field: value}, ALICE.ss58_address, NOW)


def test_a_wrong_hotkey_is_named() -> None:
    with pytest.raises(CardError, match="submitted_by"):
        complete(KNOWN, "0xabc", NOW)


def test_a_folder_without_a_card_is_named(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"holds no model_card\.json"):
        card.read(tmp_path)
    (tmp_path / "model_card.json").write_text("[]")
    with pytest.raises(CardError, match="expected a JSON object, got list"):
        card.read(tmp_path)
    (tmp_path / "model_card.json").write_text("{")
    with pytest.raises(CardError, match="expected JSON"):
        card.read(tmp_path)


def test_the_embedded_models_card_can_be_completed() -> None:
    made = complete(card.read(EMBEDDED), ALICE.ss58_address, NOW)
    written = json.loads((EMBEDDED / card.NAME).read_text())
    assert json.loads(card.text(made)) == {**written, "submitted_by": ALICE.ss58_address, "submission_time": int(NOW)}


# Publishing.


class Hub:
    """Stands in for the hub: takes a repository, says that every file is small, takes commits."""

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []
        self.files: dict[str, bytes] = {}
        self.refuse = False
        self.address = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if self.refuse:
            return 403, {"error": "this token may not write"}
        path = path.split("?")[0]
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return 200, {"url": f"{self.address}/me/mine", "id": "me/mine"}
        if path == "/api/models/me/mine/preupload/main":
            small = {"uploadMode": "regular", "shouldIgnore": False, "oid": None}
            return 200, {"files": [{"path": each["path"], **small} for each in json.loads(body)["files"]]}
        if path == "/api/models/me/mine/commit/main":
            for line in body.splitlines():
                each = json.loads(line)
                if each["key"] == "file":
                    self.files[each["value"]["path"]] = base64.b64decode(each["value"]["content"])
            commit = "a" * 40
            return 200, {"success": True, "commitOid": commit, "commitUrl": f"{self.address}/me/mine/commit/{commit}"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.startswith("/api/models/me/mine"):
            return 200, {"id": "me/mine", "sha": "b" * 40, "siblings": [], "private": False}
        return 404, {"error": path}


@pytest.fixture
def hub() -> Iterator[tuple[Hub, str]]:
    kept = Hub()
    with serving(kept) as kept.address:
        yield kept, kept.address


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model to publish, and the hotkey of the one who does."""
    monkeypatch.setenv("HF_TOKEN", "hf_stand_in")
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    hotkey = tmp_path / "wallets" / "default" / "hotkeys" / "default"
    hotkey.parent.mkdir(parents=True)
    Keyfile(str(hotkey), "default", False).set_keypair(ALICE, encrypt=False, overwrite=True)
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights.onnx").write_bytes(b"weights")
    (model / "README.md").write_text("# mine")
    (model / "model.py").write_text("code stays here")
    (model / "model_card.json").write_text(json.dumps(KNOWN))
    return model


def asked(folder: Path, endpoint: str, *words: str) -> Publish:
    wallets = str(folder.parent / "wallets")
    flags = ["--repository", "me/mine", "--folder", str(folder), "--endpoint", endpoint, "--wallet-path", wallets]
    return parse(Publish, [*flags, *words])


def test_the_files_and_a_completed_card_arrive(folder: Path, hub: tuple[Hub, str]) -> None:
    kept, endpoint = hub
    console = Console(record=True, width=200)
    assert publish(asked(folder, endpoint, "--yes", "--version", "2.0.0"), console, lambda _: False) == 0
    assert set(kept.files) == {"weights.onnx", "README.md", "model_card.json"}
    sent = json.loads(kept.files["model_card.json"])
    assert (sent["version"], sent["submitted_by"]) == ("2.0.0", ALICE.ss58_address)
    assert kept.created[0]["name"] == "mine"
    assert not kept.created[0].get("private")
    assert "MODEL_URL=https://huggingface.co/me/mine" in console.export_text()


def test_what_training_writes_beside_the_weights_is_published_whole(folder: Path, hub: tuple[Hub, str]) -> None:
    kept, endpoint = hub
    (folder / "merged").mkdir()
    names = {"model.safetensors", "network.json", "calibration.json", "profile.toml", "merged/config.json"}
    for name in names:
        (folder / name).write_text(name)
    wallets = str(folder.parent / "wallets")
    flags = ["--repo", "me/mine", "--folder", str(folder), "--endpoint", endpoint, "--wallet-path", wallets, "--yes"]
    assert publish(parse(Publish, flags), Console(record=True), lambda _: False) == 0
    assert names <= set(kept.files)


def test_nothing_is_sent_without_consent(folder: Path, hub: tuple[Hub, str]) -> None:
    kept, endpoint = hub
    console = Console(record=True, width=200)
    assert publish(asked(folder, endpoint), console, lambda _: False) == 1
    assert (kept.created, kept.files) == ([], {})
    assert "Nothing was sent." in console.export_text()


def test_a_hub_that_refuses_is_told_with_the_remedy(folder: Path, hub: tuple[Hub, str]) -> None:
    kept, endpoint = hub
    kept.refuse = True
    with pytest.raises(UsageError, match="hf auth login"):
        publish(asked(folder, endpoint, "--yes"), Console(record=True), lambda _: False)


def test_a_hub_that_does_not_answer_is_told(folder: Path, unused_tcp_port: int) -> None:
    with pytest.raises(UsageError, match=r"the hub does not answer: .*refused"):
        publish(asked(folder, f"http://127.0.0.1:{unused_tcp_port}", "--yes"), Console(record=True), lambda _: False)


def test_a_missing_library_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(command, "import_module", missing)
    with pytest.raises(UsageError, match="-m pip install 'huggingface-hub"):
        publish(asked(folder, "http://127.0.0.1:1"), Console(record=True), lambda _: False)


def test_a_repository_is_named_with_its_owner() -> None:
    with pytest.raises(UsageError, match="repository"):
        parse(Publish, ["--repository", "mine"])
    with pytest.raises(UsageError, match=r"^--repository is missing: Where to"):
        parse(Publish, [])
