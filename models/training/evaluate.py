"""What the network is worth on sources it never saw: out-of-fold logits, calibration from other sources, tables.

    python -m models.training.evaluate docs/results/embedded-mirrored-2026-11-24.json.gz

prints the tables of logits that a training kept (`opinions`); and what was gained over other networks, whose logits of
the same native pictures may be added to that file: `others`, lists by name.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.linear_model import LogisticRegression

from models import metrics
from models.data.labelled import Labelled
from models.embedded.model import Calibration
from models.training.backbone import EfficientNetLite
from models.training.fit import predict
from models.training.views import Pixels

# What reaches the miner. The wire's pictures are crops that may have lost the road work, so they are less sure.
SERVED = {"wire": ("level0", "level1", "level2", "level3"), "native": ("native",)}
BOOTSTRAPS = 100

Folds = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Scores:
    """Out-of-fold logits of every picture. logits: by kind of view, (N,) each."""

    labels: NDArray[np.int64]
    sources: NDArray[np.str_]
    groups: NDArray[np.str_]
    logits: Mapping[str, NDArray[np.float64]]

    def of(self, rows: NDArray[np.bool_]) -> Scores:
        """Those of some pictures."""
        logits = {kind: values[rows] for kind, values in self.logits.items()}
        return Scores(self.labels[rows], self.sources[rows], self.groups[rows], logits)


def check_folds(pictures: Sequence[Labelled], folds: Folds) -> None:
    """Raises ValueError unless every source lies in exactly one fold."""
    placed = [source for fold in folds.values() for source in fold]
    twice = sorted({s for s in placed if placed.count(s) > 1})
    nowhere = sorted({p.source for p in pictures} - set(placed))
    if twice or nowhere:
        raise ValueError(f"folds: every source belongs to one fold; in none: {nowhere}; in several: {twice}")


def out_of_fold(
    pictures: Sequence[Labelled],
    folds: Folds,
    networks: Mapping[str, EfficientNetLite],
    rendered: Mapping[str, Sequence[Pixels]],
    device: str,
) -> Scores:
    """Every picture scored by the network of its fold, which never saw its source.

    networks: by fold. rendered: by kind, one view per picture. Pictures of folds without a network are left out.
    """
    sources = np.array([p.source for p in pictures])
    logits = {kind: np.full(len(pictures), np.nan) for kind in rendered}
    for name, network in networks.items():
        rows = np.flatnonzero(np.isin(sources, folds[name]))
        for kind, views in rendered.items():
            logits[kind][rows] = predict(network, [views[n] for n in rows], device)
    scores = Scores(np.array([p.label for p in pictures]), sources, np.array([p.group for p in pictures]), logits)
    return scores.of(np.isin(sources, [s for name in networks for s in folds[name]]))


def calibrate(
    labels: NDArray[np.int64], logits: NDArray[np.float64], sources: NDArray[np.str_], seed: int = 0
) -> Calibration:
    """Shift: the mean of the MCC-best thresholds of bootstrap resamples. Slope: maximum likelihood, given the shift.

    The labels weigh the same, as validators draw them; a source weighs as the root of its size, as in training:
    otherwise the few largest collections would set the threshold for all streets.
    """
    weights = _weights(labels, sources)
    rng = np.random.default_rng(seed)
    draws = (rng.choice(len(labels), len(labels), p=weights) for _ in range(BOOTSTRAPS))
    shift = float(np.mean([best_threshold(labels[d], logits[d]) for d in draws if 0 < labels[d].sum() < len(d)]))
    model = LogisticRegression(fit_intercept=False, C=1e6)
    model.fit((logits - shift)[:, None], labels, sample_weight=weights * len(weights))
    return Calibration(float(model.coef_[0, 0]), shift)


def share(scores: Scores) -> float:
    """Of road work, weighted as the calibration weighs."""
    return float(_weights(scores.labels, scores.sources)[scores.labels == 1].sum())


def _weights(labels: NDArray[np.int64], sources: NDArray[np.str_]) -> NDArray[np.float64]:
    """Half for each label, as validators draw; within a label a source counts as the root of its size. Sums to one."""
    _, which, sizes = np.unique(np.char.add(sources, labels.astype(str)), return_inverse=True, return_counts=True)
    weights = 1 / np.sqrt(sizes[which])
    for label in (0, 1):
        weights[labels == label] *= 0.5 / weights[labels == label].sum()
    return weights


def best_threshold(labels: NDArray[np.int64], logits: NDArray[np.float64]) -> float:
    """The logit above which calling it road work gives the highest MCC."""
    order = np.argsort(-logits)
    hits = np.cumsum(labels[order])  # of the k+1 highest
    called = np.arange(1, len(labels) + 1)
    positives, total = labels.sum(), len(labels)
    numerator = hits * total - called * positives  # MCC times a root that does not change sign
    denominator = np.sqrt(np.maximum(called * (total - called), 1).astype(float))
    best = int(np.argmax(numerator[:-1] / denominator[:-1]))
    return float((logits[order[best]] + logits[order[best + 1]]) / 2)


def calibrate_all(scores: Scores, seed: int = 0, unlike: Sequence[str] = ()) -> dict[str, Calibration]:
    """The calibrations that ship, `wire` and `native`: fitted on every source, in every kind of picture served so.

    unlike: sources whose pictures are not what validators send, which must not set the threshold for those that are.
    """
    scores = scores.of(~np.isin(scores.sources, unlike))
    found = {}
    for served, kinds in SERVED.items():
        present = [scores.logits[kind] for kind in kinds if kind in scores.logits]
        if present:
            labels, sources = np.tile(scores.labels, len(present)), np.tile(scores.sources, len(present))
            found[served] = calibrate(labels, np.concatenate(present), sources, seed)
    return found


def calibrated(scores: Scores, seed: int = 0, unlike: Sequence[str] = ()) -> dict[str, NDArray[np.float64]]:
    """Probabilities by kind of view; those of a source come from a calibration fitted on all other sources."""
    served = {kind: name for name, kinds in SERVED.items() for kind in kinds if kind in scores.logits}
    result = {kind: np.zeros(len(scores.labels)) for kind in served}
    for source in np.unique(scores.sources):
        own = scores.sources == source
        calibrations = calibrate_all(scores.of(~own), seed, unlike)
        for kind, name in served.items():
            found = calibrations[name]
            result[kind][own] = probability(found.slope * (scores.logits[kind][own] - found.shift))
    return result


def opinions(
    scores: Scores,
    pictures: Sequence[Labelled],
    root: Path,
    folds: Folds,
    settings: Mapping[str, Any],
    calibrations: Mapping[str, Calibration],
) -> dict[str, Any]:
    """Out-of-fold logits of every picture as data, for studies of the cascade: columns of equal length, no pixels.

    schema 2. path (relative to the data), sha256 (of the file), source, group, label, width, height; logits: by kind of
    view, as the fold's network gave them, before calibration. folds, unlike, measuring_only: as in the settings.
    calibrations: those that ship.
    """
    files = [p.path for p in pictures]
    sizes = [_size(file) for file in files]
    return {
        "schema": 2,
        "folds": dict(folds),
        "unlike": settings["unlike"],
        "measuring_only": settings["measuring_only"],
        "calibrations": {kind: asdict(c) for kind, c in calibrations.items()},
        "path": [file.relative_to(root.resolve()).as_posix() for file in files],
        "sha256": [hashlib.sha256(file.read_bytes()).hexdigest() for file in files],
        "source": scores.sources.tolist(),
        "group": scores.groups.tolist(),
        "label": scores.labels.tolist(),
        "width": [width for width, _ in sizes],
        "height": [height for _, height in sizes],
        "logits": {kind: [round(float(z), 3) for z in values] for kind, values in scores.logits.items()},
    }


def kept(file: Path) -> tuple[Scores, Folds, Sequence[str], Mapping[str, Sequence[float]]]:
    """What `opinions` put into a compressed file: scores, folds, sources unlike what validators send; and `others`."""
    told = json.loads(gzip.decompress(file.read_bytes()))
    logits = {kind: np.array(values) for kind, values in told["logits"].items()}
    scores = Scores(np.array(told["label"]), np.array(told["source"]), np.array(told["group"]), logits)
    return scores, told["folds"], told["unlike"], told.get("others", {})


def gains(
    scores: Scores,
    others: Mapping[str, Sequence[float]],
    folds: Folds,
    seed: int = 0,
    unlike: Sequence[str] = (),
    draws: int = 500,
) -> str:
    """A table: these networks on native pictures instead of others, whose logits of the same pictures are given.

    At 0.5: each calibrated by all other sources. At the best threshold, and AUC: of the logits as they are.
    """
    lines = ["| instead of | pictures | MCC at 0.5 | MCC at the best threshold | AUC |", "|---|---|---|---|---|"]
    everywhere = np.unique(scores.sources).tolist()
    pools = {**folds, "streets": [source for source in everywhere if source not in unlike], "pooled": everywhere}
    after = _native(scores, scores.logits["native"], seed, unlike)
    for name, logits in others.items():
        before = _native(scores, np.array(logits), seed, unlike)
        for pool, members in pools.items():
            rows = np.flatnonzero(np.isin(scores.sources, members))
            drawn = np.random.default_rng(seed).choice(rows, (draws, len(rows)))
            drawn = np.vstack([rows, drawn[scores.labels[drawn].any(1)]])
            old, new = (np.array([_three(scores.labels[d], z[d], p[d]) for d in drawn]) for z, p in (before, after))
            low, high = np.percentile((new - old)[1:], [2.5, 97.5], axis=0)
            cells = [
                f"{was:.3f} to {now:.3f}: {metrics.gained(now - was, bottom, top)}"
                for was, now, bottom, top in zip(old[0], new[0], low, high, strict=True)
            ]
            lines.append(f"| {name} | {pool} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _native(
    scores: Scores, logits: NDArray[np.float64], seed: int, unlike: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The logits, and the probabilities that they become."""
    native = Scores(scores.labels, scores.sources, scores.groups, {"native": logits})
    return logits, calibrated(native, seed, unlike)["native"]


def _three(labels: NDArray[np.int64], logits: NDArray[np.float64], p: NDArray[np.float64]) -> tuple[float, ...]:
    """MCC at 0.5 and at the best threshold, AUC."""
    best = probability(logits - best_threshold(labels, logits))
    return metrics.mcc(labels, p), metrics.mcc(labels, best), metrics.auc(labels, probability(logits))


def _size(file: Path) -> tuple[int, int]:
    with Image.open(file) as picture:
        return picture.size


def probability(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logistic function."""
    return 1 / (1 + np.exp(-np.clip(log_odds, -50, 50)))


def results(scores: Scores, folds: Folds, seed: int = 0, unlike: Sequence[str] = ()) -> dict[str, Any]:
    """Every figure of the report, ready for JSON: pooled, per fold and per source, for each kind of view.

    "streets" pools all sources but those that are `unlike` what validators send.
    """
    after = calibrated(scores, seed, unlike)
    streets = ~np.isin(scores.sources, unlike)
    found: dict[str, Any] = {"kinds": {}}
    for kind, p in after.items():
        raw = probability(scores.logits[kind])
        by_fold = {
            name: metrics.summary(scores.labels[own], p[own], seed)
            for name, members in folds.items()
            if (own := np.isin(scores.sources, members)).any()
        }
        by_source = {
            str(source): _brief(scores.labels[own], p[own], seed)
            for source in np.unique(scores.sources)
            if (own := scores.sources == source).any()
        }
        found["kinds"][kind] = {
            "pooled": metrics.summary(scores.labels, p, seed),
            "streets": metrics.summary(scores.labels[streets], p[streets], seed),
            "pooled_by_group": metrics.summary(scores.labels, p, seed, groups=scores.groups.tolist()),
            "ece_before": metrics.ece(scores.labels, raw),
            "mcc_before": metrics.mcc(scores.labels, raw),
            "folds": by_fold,
            "sources": by_source,
        }
    return found


def _brief(labels: NDArray[np.int64], p: NDArray[np.float64], seed: int) -> dict[str, Any]:
    """What one source can say: accuracy, and MCC where it has both labels."""
    found: dict[str, Any] = {"n": len(labels), "positives": int(labels.sum())}
    for name in ("mcc", "accuracy"):
        found[name] = {"value": None, "low": None, "high": None}
        if name == "accuracy" or 0 < labels.sum() < len(labels):
            interval = metrics.bootstrap(labels, p, metrics.METRICS[name], n=300, seed=seed)
            found[name] = {"value": metrics.METRICS[name](labels, p), "low": interval.low, "high": interval.high}
    return found


def markdown(found: Mapping[str, Any]) -> str:
    """The tables of a results page."""
    kinds = found["kinds"]
    lines = ["| view | n | road work | MCC | AUC | accuracy | ECE before | ECE after | Brier |", "|---|" + "---|" * 8]
    for pool in ("pooled", "streets"):
        for kind, r in kinds.items():
            s = r[pool]
            cells = [metrics.told(s[m]) for m in ("mcc", "auc", "accuracy")]
            before = f"{r['ece_before']:.3f}" if pool == "pooled" else "-"
            lines.append(
                f"| {kind}, {pool} | {s['n']} | {s['positives']} | {' | '.join(cells)} | {before} "
                f"| {metrics.told(s['ece'])} | {metrics.told(s['brier'])} |"
            )
    for title, part in (("fold", "folds"), ("source", "sources")):
        lines += ["", f"| {title} | n | road work | " + " | ".join(f"MCC {k}" for k in kinds) + " | accuracy native |"]
        lines.append("|---|" + "---|" * (len(kinds) + 3))
        first = next(iter(kinds.values()))
        for name, s in first[part].items():
            cells = [metrics.told(r[part][name]["mcc"]) for r in kinds.values()]
            accuracy = metrics.told(kinds.get("native", first)[part][name]["accuracy"])
            lines.append(f"| {name} | {s['n']} | {s['positives']} | {' | '.join(cells)} | {accuracy} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    scores, folds, unlike, others = kept(Path(sys.argv[1]))
    sys.stdout.write(markdown(results(scores, folds, unlike=unlike)))
    if others:
        sys.stdout.write("\n" + gains(scores, others, folds, unlike=unlike))
