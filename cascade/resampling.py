"""Folds that keep a camera together, and resamples that draw whole cameras. numpy only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from cascade.calibration import Array
from models import metrics

Labels = NDArray[np.int64]
Index = NDArray[np.int64]

FOLDS = 5


def group_folds(groups: Sequence[str], y: Labels) -> Index:
    """A fold (0..) for each picture; a group lies in one. With fewer than FOLDS groups, or where all pictures of one
    label would lie in one fold and nothing could be learned from the others, every picture is its own group."""
    names, where = np.unique(np.asarray(groups), return_inverse=True)
    if len(names) >= FOLDS:
        folds = _dealt(where, y)
        if all(len(np.unique(folds[y == label])) > 1 for label in (0, 1)):
            return folds
    return _dealt(np.random.default_rng(0).permutation(len(y)), y)


def _dealt(where: Index, y: Labels) -> Index:
    """Groups, numbered by `where` (N,), to folds (N,): large ones first, each to the fold that has least so far, both
    labels counting alike."""
    share = np.column_stack([y, 1 - y]) / np.maximum([y.sum(), len(y) - y.sum()], 1)
    sizes = np.zeros((int(where.max()) + 1, 2))
    np.add.at(sizes, where, share)
    load, fold = np.zeros((FOLDS, 2)), np.zeros(len(sizes), dtype=np.int64)
    for group in np.argsort(-sizes.sum(axis=1), kind="stable"):
        fold[group] = np.argmin(((load + sizes[group]) ** 2).sum(axis=1) - (load**2).sum(axis=1))
        load[fold[group]] += sizes[group]
    return fold[where]


def splits(folds: Index) -> Iterator[tuple[Index, Index]]:
    """(train, test) positions of each fold."""
    for fold in np.unique(folds):
        yield np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)


def resamples(groups: Sequence[str], n: int, seed: int) -> Iterator[Array]:
    """`n` times how often each picture (N,) is drawn: whole groups if there are enough, else single pictures."""
    return metrics.resamples(len(groups), n, seed, metrics.whole(groups))
