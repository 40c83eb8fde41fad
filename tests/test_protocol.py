"""`ImageSynapse` on the wire, against golden files: a field that moves breaks every validator."""

from __future__ import annotations

import json
import pathlib

import pytest

from miner.protocol import ImageSynapse

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden" / "wire" / "synapse.json").read_text())


def test_its_json() -> None:
    assert json.loads(ImageSynapse(image="aGVsbG8=").model_dump_json()) == GOLDEN["json"]
    assert list(ImageSynapse().model_dump()) == list(GOLDEN["json"]), "in this order"


@pytest.mark.filterwarnings("ignore:Accessing the 'model_fields' attribute")  # the SDK does
def test_its_headers() -> None:
    headers = ImageSynapse(image="aGVsbG8=", timeout=9.0).to_headers()
    sizes = {"header_size", "total_size"}  # Python's sys.getsizeof: not of the protocol
    assert {name: value for name, value in headers.items() if name not in sizes} == GOLDEN["headers"]
    assert sizes < headers.keys()


def test_its_own_fields_and_what_nobody_answered_looks_like() -> None:
    synapse = ImageSynapse()
    assert (synapse.image, synapse.prediction, synapse.testnet_label) == ("", -1.0, -1)
    assert ImageSynapse.required_hash_fields == ()


def test_a_dendrite_returns_the_probability() -> None:
    assert ImageSynapse(prediction=0.25).deserialize() == 0.25


def test_the_recorded_dendrite_sent_this_synapse() -> None:
    stock = json.loads((pathlib.Path(__file__).parent / "golden" / "wire" / "stock.json").read_text())
    sent = json.loads(stock["cases"]["dendrite"]["request"]["body"])
    assert list(sent) == list(GOLDEN["json"])
