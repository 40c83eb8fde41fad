"""From a placement to processes: who shares one, at which precision, on which card, and what is served elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cascade import profile
from miner import assembly, gpu
from miner.cli import main
from miner.gpu import Card, NoCards
from miner.settings import Settings, UsageError
from models.base import Model, ModelUnavailable
from models.fleet import Absent, Fleet, on_cards
from models.replicas import Replicas, ReplicasExaminer
from models.vlm.endpoint import Endpoint, EndpointSettings
from models.vlm.settings import EngineSettings, SettingsError, settings, settings_of
from models.worker import Remote, RemoteExaminer

ELSEWHERE = EndpointSettings.model_validate({"url": "https://vlm.example.org/v1"})


def settings_in_process(model: Model) -> EngineSettings:
    """What the engine is made with, once its process runs."""
    assert isinstance(model, RemoteExaminer)
    made = model.worker._factories[model.spec.key]()
    return made.settings  # type: ignore[attr-defined, no-any-return]


def test_each_engine_has_a_process_of_its_own_and_perception_shares_one() -> None:
    models = Fleet().build(["dfine-x", "sam3", "qwen3-vl-4b", "molmo2-4b", "embedded"])
    workers = {key: model.worker for key, model in models.items() if isinstance(model, Remote)}
    assert set(workers) == {"dfine-x", "sam3", "qwen3-vl-4b", "molmo2-4b"}
    assert workers["dfine-x"] is workers["sam3"]
    assert len(set(map(id, workers.values()))) == 3
    assert not any(worker.alive for worker in workers.values())
    again = Fleet().make("qwen3-vl-4b")
    assert isinstance(again, RemoteExaminer)
    assert again.worker is workers["qwen3-vl-4b"], "a replacement must not open a second process on the card"


def test_the_placement_decides_card_and_precision() -> None:
    fleet = on_cards(["embedded", "dinov3-h-plus", "qwen3-vl-4b", "qwen3-vl-32b"], [80.0], {})
    assert fleet.device_of("embedded") == "cpu"
    assert fleet.device_of("dinov3-h-plus") == fleet.device_of("qwen3-vl-32b") == "cuda:0"
    assert settings_in_process(fleet.make("qwen3-vl-4b")).precision == "bf16"
    large = settings_in_process(fleet.make("qwen3-vl-32b"))
    assert large.precision == "fp8"
    assert large.memory_share == pytest.approx(42.0 / 80 * 0.94, abs=0.01), "others on the card need the rest"


def test_two_cards_hold_replicas_behind_one_key_and_split_nothing() -> None:
    fleet = on_cards(["dinov3-h-plus", "qwen3-vl-4b"], [80.0, 80.0], {})
    models = fleet.build(["dinov3-h-plus", "qwen3-vl-4b"])
    assert [type(model) for model in models.values()] == [Replicas, ReplicasExaminer]
    for model in models.values():
        assert isinstance(model, Replicas)
        assert {copy.device for copy in model._copies} == {"cuda:0", "cuda:1"}
        remotes = [copy.model for copy in model._copies]
        assert all(isinstance(remote, Remote) for remote in remotes)
        assert len({id(remote.worker) for remote in remotes if isinstance(remote, Remote)}) == 2
    assert fleet.placement is not None
    assert all(each.option.cards == 1 for each in fleet.placement.placed)


def test_what_does_not_fit_is_left_out_and_says_so_while_the_rest_serves() -> None:
    fleet = on_cards(["dinov3-h-plus", "qwen3-vl-4b", "llama-4-maverick"], [24.0], {})
    absent = fleet.make("llama-4-maverick")
    assert isinstance(absent, Absent)
    with pytest.raises(ModelUnavailable, match=r"needs 2\d\d.* GB at int4 at least, not on 24 GB.*MINER_ENDPOINTS"):
        absent.load("cuda:0")
    assert fleet.device_of("qwen3-vl-4b") == "cuda:0"


def test_what_is_served_elsewhere_takes_no_card() -> None:
    fleet = on_cards(["qwen3-vl-4b", "qwen3-vl-235b-a22b"], [24.0], {"qwen3-vl-235b-a22b": ELSEWHERE})
    assert isinstance(fleet.make("qwen3-vl-235b-a22b"), Endpoint)
    assert not fleet.left


@pytest.mark.parametrize("name", [name for name in profile.shipped() if name != "embedded"])
@pytest.mark.parametrize("capacity", [[80.0], [80.0, 80.0]])
def test_every_member_of_every_profile_can_be_made(name: str, capacity: list[float]) -> None:
    keys = [member.model for member in profile.load(name).members]
    assert list(on_cards(keys, capacity, {}).build(keys)) == keys


@pytest.mark.parametrize(("name", "capacity"), [("one-80gb", [80.0]), ("two-80gb", [80.0, 80.0])])
def test_the_profile_of_a_machine_fits_on_it_whole(name: str, capacity: list[float]) -> None:
    keys = [member.model for member in profile.load(name).members]
    fleet = on_cards(keys, capacity, {})
    assert not fleet.left
    assert fleet.placement is not None
    assert all(each.option.cards == 1 for each in fleet.placement.placed), "split over cards"


def test_the_consensus_takes_seven_cards_as_its_profile_says() -> None:
    keys = [member.model for member in profile.load("consensus").members]
    assert not on_cards(keys, [80.0] * 7, {}).left
    assert on_cards(keys, [80.0] * 6, {}).left


def card(index: int) -> Card:
    return Card(index, "H100", 85_520_809_984, 0, 0.0, "580", "13.0")


def test_the_miner_asks_the_driver_and_goes_without_cards(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = ["qwen3-vl-4b"]
    for asks in (gpu, assembly):
        monkeypatch.setattr(asks, "cards", lambda: [card(0), card(1)])
    fleet = assembly.fleet_of(Settings(), keys)
    assert fleet.placement is not None
    assert fleet.placement.capacity == (80.4, 80.4)
    assert assembly.fleet_of(Settings(device="cuda:1"), keys).device_of("qwen3-vl-4b") == "cuda:1"

    assert main(["plan", "--profile", "embedded", "--json"]) == 0  # and plan and fetch say the same as serve does
    assert [card["capacity_gb"] for card in json.loads(capsys.readouterr().out)["cards"]] == [80.4, 80.4]
    assert main(["fetch", "one-80gb", "--gpus", "many"]) == 2
    assert "--gpus: expected GB of each card" in capsys.readouterr().err

    def none() -> list[Card]:
        raise NoCards("no driver")

    for asks in (gpu, assembly):
        monkeypatch.setattr(asks, "cards", none)
    assert assembly.fleet_of(Settings(), keys).device_of("qwen3-vl-4b") == "cpu"
    assert main(["plan", "--profile", "embedded"]) == main(["fetch", "one-80gb"]) == 2
    assert capsys.readouterr().err.count("no card on this machine (no driver)") == 2


def test_endpoints_come_from_the_settings_with_their_key() -> None:
    named = Settings(endpoints="qwen3-vl-32b=https://a.example/v1,molmo2-4b=http://127.0.0.1:8000/v1", endpoint_key="k")  # type: ignore[arg-type]
    found = assembly.endpoints_of(named)
    assert {key: each.base for key, each in found.items()} == {
        "qwen3-vl-32b": "https://a.example/v1",
        "molmo2-4b": "http://127.0.0.1:8000/v1",
    }
    assert found["molmo2-4b"].key is not None
    assert found["molmo2-4b"].key.get_secret_value() == "k"
    with pytest.raises(ValueError, match="expected model=url"):
        Settings(endpoints="qwen3-vl-32b")
    with pytest.raises(UsageError, match="a key goes over https only"):
        assembly.endpoints_of(Settings(endpoints="qwen3-vl-32b=http://a.example/v1", endpoint_key="k"))  # type: ignore[arg-type]


def test_the_engines_that_ship_are_sound_and_reach_vllm_by_its_own_names() -> None:
    assert settings_of("qwen3-vl-8b-thinking").max_model_len == 2048
    assert settings_of("no-such-model") == settings()["default"]
    entry = Fleet().make("qwen3-vl-4b").spec
    chosen = settings_of(entry.key).model_copy(update={"precision": "fp8", "speculative": {"method": "mtp"}})
    from models.catalog import find

    arguments = chosen.arguments(find(entry.key), Path("weights"), "cuda:0")
    assert arguments["quantization"] == "fp8"
    assert arguments["kv_cache_memory_bytes"] == 16_384 * 147_000
    assert arguments["compilation_config"]["encoder_cudagraph_token_budgets"] == [64, 128, 256]
    assert "gpu_memory_utilization" not in arguments
    shared = chosen.model_copy(update={"memory_share": 0.4}).arguments(find(entry.key), Path("weights"), "cuda:0")
    assert shared["gpu_memory_utilization"] == 0.4
    assert arguments["speculative_config"] == {"method": "mtp"}
    awq = settings_of("x").model_copy(update={"precision": "int4"})
    assert awq.arguments(find("qwen2-5-vl-72b-awq"), Path("w"), "cuda:0")["quantization"] is None, "quantised itself"
    assert awq.arguments(find("qwen3-vl-32b"), Path("w"), "cuda:0")["quantization"] == "bitsandbytes"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[default]\nmax_len = 5\n", r"\[default\]: max_len: unknown name; known: precision"),
        ("[my-model]\nmax_model_len = 0\n", r"\[my-model\]: max_model_len: .*got 0"),
    ],
)
def test_wrong_settings_of_an_engine_are_refused_and_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "engines.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=says):
        settings_of("my-model", path)
