"""From a trained network to a folder that is served, and published as it is.

model.onnx          uint8 (N, side, side, 3) RGB in, (N,) log-odds out, compared with torch
model.safetensors   the same weights for torch, with network.json, how to build it
calibration.json    slope and shift
profile.toml        `./run_miner.sh predict --profile FOLDER/profile.toml`, with catalog.toml, what it names
head.safetensors    calibrated, for profiles that ask the backbone itself; of a frozen encoder of the catalog
model_card.json, README.md, reliability.png
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from rich.console import Console
from safetensors.torch import save_file

from models.embedded.model import Calibration
from models.foundation import ANSWER, HEAD, Heads
from models.trained import EVERY
from models.training.export import OPSET, TOLERANCE
from models.training.finetune import report, score
from models.training.finetune.network import Network
from models.training.finetune.settings import Settings

LARGEST_PROTOBUF = 1_800_000_000  # bytes; beyond, weights lie beside the graph
CHECKED = (1, 2, 5)  # batch sizes at which torch and onnxruntime are compared
VERSION = "0.1.0"
WEIGHTS = {".onnx", ".data", ".safetensors"}
DRAWN = {  # what the intervals were resampled by, as `metrics.grouped_summary` names it
    "groups": "drawn by whole groups (cameras, places)",
    "pictures": "drawn by single pictures, so too narrow where these resemble each other",
}


def finish(
    settings: Settings, own: Mapping[str, Any], sources: Sequence[Mapping[str, Any]], measured: Mapping[str, Any]
) -> dict[str, Any]:
    """What every training ends with: card and README of `<out>/model`, `<out>/results.json`, the report.

    own: what the card says of this kind of training, description and start at least. sources: `data.described`.
    measured: `score.figures`. Gives the card, which is what `results.json` holds.
    """
    folder = settings.out / "model"
    card = {
        "model_name": f"streetvision-{settings.name}",
        **own,
        "settings": settings.told,
        "sources": sources,
        "measured": measured,
    }
    write_card(folder, card)
    write_readme(folder, card, score.markdown(measured))
    (settings.out / "results.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    report.show(Console(), card, settings.out)
    return card


def write_onnx(network: Network, path: Path) -> float:
    """The network as ONNX. Gives the largest difference of a log-odds from torch; raises ValueError above TOLERANCE."""
    side = network.described.side
    network = network.eval().cpu().float()
    size = sum(p.numel() * 4 for p in network.parameters())
    torch.onnx.export(
        network,
        (torch.zeros(2, side, side, 3, dtype=torch.uint8),),
        str(path),
        dynamo=True,
        external_data=size > LARGEST_PROTOBUF,
        opset_version=OPSET,
        input_names=["pixels"],
        output_names=["logit"],
        dynamic_shapes={"pixels": {0: torch.export.Dim.DYNAMIC}},
        verbose=False,
    )
    return _compared(network, path, side)


def _compared(network: Network, path: Path, side: int) -> float:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng, worst = np.random.default_rng(0), 0.0
    for batch in CHECKED:
        pixels = rng.integers(0, 256, (batch, side, side, 3), dtype=np.uint8)
        with torch.inference_mode():
            expected = network(torch.from_numpy(pixels)).numpy()
        worst = max(worst, float(np.abs(session.run(None, {"pixels": pixels})[0] - expected).max()))
    if not worst <= TOLERANCE:
        raise ValueError(f"{path}: log-odds differ from torch by {worst:.2e}, expected at most {TOLERANCE:.0e}")
    return worst


def write_calibration(calibration: Calibration, folder: Path) -> None:
    (folder / "calibration.json").write_text(
        json.dumps({EVERY: asdict(calibration)}, indent=2) + "\n", encoding="utf-8"
    )


def write_network(network: Network, folder: Path) -> float:
    """ONNX, safetensors and the description. Gives the difference between torch and onnxruntime."""
    difference = write_onnx(network, folder / "model.onnx")
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, folder / "model.safetensors")
    network.described.save(folder / "network.json")
    return difference


def write_head(network: Network, calibration: Calibration, folder: Path) -> None:
    """The head of a frozen encoder, with its normalisation's weights and the calibration folded in."""
    norm, linear = network.head
    weight = calibration.slope * linear.weight * norm.weight
    bias = calibration.slope * (linear.bias + linear.weight @ norm.bias - calibration.shift)
    values = (each.detach().cpu().float().numpy() for each in (weight, bias))
    Heads((ANSWER,), *values, encoder=network.described.start, normalised=True).save(folder / HEAD)


def write_profile(folder: Path, name: str, entry: Mapping[str, Any], expected_ms: float) -> None:
    """A profile with this model as its only tier, and the catalog that says what the model is. Both are plain TOML.

    The profile's name carries the weights' hash, so that the journal never answers with another model's verdicts.
    """
    digest = hashlib.sha256((folder / "calibration.json").read_bytes())
    for weights in sorted(folder.rglob("*.safetensors")):
        digest.update(weights.read_bytes())
    table = "\n".join(f"{key} = {_toml(value)}" for key, value in entry.items())
    (folder / "catalog.toml").write_text(f"[{name}]\n{table}\n", encoding="utf-8")
    (folder / "profile.toml").write_text(
        f"""# Written by ./run_miner.sh train. Copy it to combine the model with others.
name = "{name}-{digest.hexdigest()[:8]}"
catalog = "catalog.toml"
prior = 0.5
prevalence = 0.5
band = [0.5, 0.5]

[[tiers]]
name = "{name}"
required = true
expected_ms = {expected_ms:.0f}

[[tiers.members]]
model = "{name}"
timeout_ms = 5000
batching = {{ max_size = 8 }}
""",
        encoding="utf-8",
    )


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)  # strings, numbers, booleans and lists of them are the same in TOML


def write_card(folder: Path, facts: Mapping[str, Any]) -> None:
    """`model_card.json`: what the subnet asks for, hashes of what it answers with, and everything that was measured."""
    files = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (path.suffix in WEIGHTS or path.name in ("calibration.json", "network.json"))
    }
    card = {"version": VERSION, **facts, "files": files}
    (folder / "model_card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def write_readme(folder: Path, card: Mapping[str, Any], tables: str) -> None:
    """What a person reads on the hub: what it is, what it was trained on, what it is worth, how to run it."""
    sources: Sequence[Mapping[str, Any]] = card["sources"]
    drawn = next(iter(card["measured"].values()))["all"]["resampled"]
    usage = "    ./run_miner.sh predict --profile FOLDER/profile.toml PICTURE.jpg\n\n"
    rows = "\n".join(f"| {s['source']} | {s['part']} | {s['roadwork']} | {s['clear']} |" for s in sources)
    (folder / "README.md").write_text(
        f"""# {card["model_name"]}

{card["description"]}

{usage if (folder / "profile.toml").exists() else ""}## On sources it never saw

Calibrated on sources that neither trained nor were measured. 95 % intervals in brackets, {DRAWN[drawn]}.

{tables}
![Reliability](reliability.png)

## Pictures

| source | used to | road work | clear |
|---|---|---|---|
{rows}

Name the licences of these pictures and of the start ({card["start"]}) before you publish.
""",
        encoding="utf-8",
    )
