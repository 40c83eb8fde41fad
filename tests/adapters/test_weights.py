"""Weights come once, pinned and whole; everything that can go wrong is refused with a remedy (figure 27)."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import numpy as np
import onnx
import onnxruntime
import pytest
from stand_in_hub import COMMIT, Hub, serving

from miner.commands import fetch as command
from miner.settings import UsageError
from models import catalog, weights
from models.base import BadWeights
from models.catalog import Entry

WEIGHTS = random.Random(0).randbytes(300_000)
FILES = {"model.safetensors": WEIGHTS, "config.json": b'{"a": 1}', "modeling.py": b"import os", "onnx/model.bin": b"x"}


def entry(**fields: object) -> Entry:
    known = {"key": "some-model", "title": "Some", "level": 0, "task": "t", "library": "transformers", "licence": "MIT"}
    return Entry.model_validate(known | {"repository": "some/model", "note": "n"} | fields)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub(dict(FILES))) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def test_weights_come_whole_and_are_found_again_without_a_network(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    came: dict[str, int] = {}
    directory = weights.fetch(entry(), report=lambda name, size: came.update({name: came.get(name, 0) + size}))
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS
    assert came == {"model.safetensors": 300_000, "config.json": 8}
    hub.asked.clear()
    assert weights.locate(entry()) == directory
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert weights.fetch(entry()) == directory
    assert hub.asked == []


def test_code_and_sub_folders_stay_where_they_are(hub: Hub) -> None:
    directory = weights.fetch(entry())
    assert sorted(path.name for path in directory.iterdir()) == ["config.json", "model.safetensors"]


def test_an_unpinned_model_is_pinned_to_what_the_hub_resolved(hub: Hub) -> None:
    weights.fetch(entry())
    assert weights.locked(entry())["revision"] == COMMIT
    assert any(path.endswith("/revision/main") for _, path, _ in hub.asked)
    hub.asked.clear()
    weights.fetch(entry())
    assert any(path.endswith(f"/revision/{COMMIT}") for _, path, _ in hub.asked)
    assert hub.downloads() == []


def test_a_pin_that_differs_from_what_lies_there_is_refused(hub: Hub) -> None:
    weights.fetch(entry())
    with pytest.raises(BadWeights, match=rf"fetched at {COMMIT}, pinned to {'f' * 40}; fetch it"):
        weights.locate(entry(revision="f" * 40))


def test_a_broken_connection_goes_on_where_it_stopped(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    hub.cut["model.safetensors"] = 100_000
    directory = weights.fetch(entry())
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.downloads()[:2] == [("model.safetensors", ""), ("model.safetensors", "bytes=100000-")]


def test_an_interrupted_fetch_goes_on_in_the_next_run(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 10_000)
    came = 0

    def interrupt(name: str, size: int) -> None:
        nonlocal came
        came += size
        if came > 150_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        weights.fetch(entry(), report=interrupt)
    with pytest.raises(BadWeights, match="fetch it"):
        weights.locate(entry())
    sizes: list[int] = []
    directory = weights.fetch(entry(), report=lambda name, size: sizes.append(size))
    assert (directory / "model.safetensors").read_bytes() == WEIGHTS
    assert ("model.safetensors", "bytes=150000-") in hub.downloads()
    assert sum(sizes) == sum(len(FILES[name]) for name in ("model.safetensors", "config.json"))


def test_altered_bytes_are_fetched_again_and_refused_the_second_time(hub: Hub) -> None:
    hub.wrong["model.safetensors"] = 1
    assert (weights.fetch(entry()) / "model.safetensors").read_bytes() == WEIGHTS
    hub.files["model.safetensors"] = WEIGHTS[::-1]
    shutil.rmtree(os.environ["HF_HUB_CACHE"])
    hub.wrong["model.safetensors"] = 2
    with pytest.raises(BadWeights, match=r"model\.safetensors came twice with another hash .*check proxy"):
        weights.fetch(entry())
    with pytest.raises(BadWeights, match="fetch it"):
        weights.locate(entry())


def test_a_truncated_file_is_refused_and_mended_by_the_next_fetch(hub: Hub) -> None:
    directory = weights.fetch(entry())
    os.truncate(directory / "model.safetensors", 1000)
    with pytest.raises(
        BadWeights, match=r"1000 bytes, expected 300000: truncated; fetch it: \./run_miner\.sh fetch some"
    ):
        weights.locate(entry())
    assert (weights.fetch(entry()) / "model.safetensors").read_bytes() == WEIGHTS
    assert weights.locate(entry()) == directory


def test_the_hubs_own_tools_find_the_weights_too(hub: Hub, cache: Path) -> None:
    directory = weights.fetch(entry())
    found = huggingface_hub.try_to_load_from_cache("some/model", "config.json", revision=COMMIT, cache_dir=cache)
    assert found == str(directory / "config.json")


def test_a_changed_byte_is_refused(hub: Hub) -> None:
    path = weights.fetch(entry()) / "model.safetensors"
    path.write_bytes(b"x" + WEIGHTS[1:])
    with pytest.raises(BadWeights, match="another hash than when it was fetched"):
        weights.locate(entry())
    path.write_bytes(WEIGHTS)
    weights.locate(entry())


def test_a_missing_file_and_a_model_never_fetched_are_refused(hub: Hub, cache: Path) -> None:
    with pytest.raises(BadWeights, match=r"some/model is not in .*cache; fetch it"):
        weights.locate(entry())
    (weights.fetch(entry()) / "config.json").unlink()
    with pytest.raises(BadWeights, match=r"config\.json is missing; fetch it"):
        weights.locate(entry())
    (cache / weights.LOCK).write_text("{")
    with pytest.raises(BadWeights, match="is no JSON; remove it"):
        weights.locate(entry())


def test_a_gate_is_seen_before_the_first_byte_and_opened_by_the_token(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.gated = True
    with pytest.raises(BadWeights, match=r"some/model is gated; ask for access there, then set HF_TOKEN"):
        weights.fetch(entry(gated=True))
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    with pytest.raises(BadWeights, match=r"is gated; ask for access there$") as refused:
        weights.fetch(entry(gated=True))
    assert "hf_stranger" not in str(refused.value)
    assert hub.downloads() == []
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    weights.fetch(entry(gated=True))


def test_a_full_disk_is_seen_before_the_first_byte(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10, 10, weights.SPARE + 1000))
    with pytest.raises(BadWeights, match=r"0\.0 GB are missing and 1\.1 GB are free .*set HF_HOME to a larger disk"):
        weights.fetch(entry())
    assert hub.downloads() == []


def test_a_hub_that_is_down_says_what_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(BadWeights, match=r"cannot be reached .*HF_HUB_OFFLINE=1"):
        weights.fetch(entry())


def test_a_wrong_name_is_refused(hub: Hub) -> None:
    with pytest.raises(BadWeights, match="some/other is not there, or private; check the name"):
        weights.fetch(entry(repository="some/other"))


def test_pickles_need_the_catalog_and_the_user_to_say_so(hub: Hub) -> None:
    hub.files = {"pytorch_model.bin": b"\x80", "config.json": b"{}"}
    with pytest.raises(BadWeights, match=r"only pickled weights \(pytorch_model\.bin\).*expected \*\.safetensors"):
        weights.fetch(entry(), allow_pickled=True)
    hub.files = {"yolo.pt": b"\x80yolo"}
    yolo = entry(library="ultralytics", file="yolo.pt", pickled=True)
    with pytest.raises(BadWeights, match=r"yolo\.pt is a pickle and can run any code .*--allow-pickled"):
        weights.fetch(yolo)
    assert hub.downloads() == []
    assert (weights.fetch(yolo, allow_pickled=True) / "yolo.pt").read_bytes() == b"\x80yolo"


def doubling(folder: Path) -> dict[str, bytes]:
    """The files of an ONNX graph, y = 2 x, whose number lies beside it."""
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [64]) for name in "xy")
    two = onnx.numpy_helper.from_array(np.full(64, 2, np.float32), "two")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Mul", ["x", "two"], ["y"])], "doubling", [x], [y], [two])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    onnx.save_model(model, folder / "m.onnx", save_as_external_data=True, location="m.onnx.data", size_threshold=0)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_an_onnx_models_weights_come_with_it_when_they_lie_beside_it(hub: Hub, tmp_path: Path) -> None:
    (made := tmp_path / "made").mkdir()
    files = doubling(made)
    assert set(files) == {"m.onnx", "m.onnx.data"}
    hub.files = {**files, "config.json": b"{}", "other.onnx": b"x", "other.onnx.data": b"x", "m.safetensors": b"x"}
    doubles = entry(library="onnxruntime", file="m.onnx")
    directory = weights.fetch(doubles)
    assert {path.name for path in directory.iterdir()} == {"m.onnx", "m.onnx.data", "config.json"}
    session = onnxruntime.InferenceSession(directory / "m.onnx", providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": np.arange(64, dtype=np.float32)})[0].tolist() == list(range(0, 128, 2))
    os.truncate(directory / "m.onnx.data", 100)
    with pytest.raises(BadWeights, match=r"m\.onnx\.data has 100 bytes, expected 256: truncated"):
        weights.locate(doubles)


def test_data_files_alone_are_no_model(hub: Hub) -> None:
    hub.files = {"m.onnx_data": b"x", "m.onnx_data_1": b"x"}
    with pytest.raises(BadWeights, match=r"some/model holds no weights; expected m\.onnx"):
        weights.fetch(entry(library="onnxruntime", file="m.onnx"))


def test_the_command_says_how_much_it_will_download_before_it_begins(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(catalog, "entries", lambda: {"some-model": entry()})
    snapshot = weights.inspect(entry())
    assert weights.missing([snapshot]) == snapshot.size > len(WEIGHTS)
    assert command.main(["some-model"]) == 0
    assert weights.missing([snapshot]) == 0
    assert capsys.readouterr().err.startswith("0.0 GB of weights, 0.0 GB of them to download")


def test_the_command_fetches_a_model_and_shows_its_refusal(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "entries", lambda: {"some-model": entry()})
    assert command.main(["some-model"]) == 0
    weights.locate(entry())
    hub.gated = True
    with pytest.raises(UsageError, match="is gated"):
        command.main(["some-model"])


def test_a_profile_that_does_not_fit_is_refused_before_anything_is_downloaded(hub: Hub) -> None:
    with pytest.raises(UsageError, match="nothing was downloaded: not on 80 GB"):
        command.main(["consensus", "--gpus", "80"])
    assert hub.asked == []


def test_a_profile_of_what_ships_with_the_project_needs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["embedded"]) == 0
    assert "ship with the project" in capsys.readouterr().err


def test_the_lock_is_plain_data(hub: Hub, cache: Path) -> None:
    weights.fetch(entry())
    lock = json.loads((cache / weights.LOCK).read_text())["some/model"]
    assert lock["repository"] == "some/model"
    assert set(lock["files"]) == {"model.safetensors", "config.json"}
