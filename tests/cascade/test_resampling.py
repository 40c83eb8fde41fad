"""Folds and resamples keep a camera's pictures together."""

from __future__ import annotations

import numpy as np

from cascade.resampling import group_folds, resamples


def test_folds_never_split_a_group_and_share_the_labels() -> None:
    rng = np.random.default_rng(9)
    groups = [f"camera {i}" for i in rng.integers(0, 60, 3000)]
    y = (rng.random(3000) < 0.3).astype(np.int64)
    folds = group_folds(groups, y)
    assert all(len({folds[i] for i in range(3000) if groups[i] == group}) == 1 for group in set(groups))
    shares = [y[folds == fold].mean() for fold in range(5)]
    assert max(shares) - min(shares) < 0.1
    sizes = np.bincount(folds)
    assert sizes.min() > 0.7 * sizes.max()


def test_few_groups_are_folded_by_picture() -> None:
    y = np.array([0, 1] * 50)
    folds = group_folds(["one camera"] * 100, y)
    assert set(folds) == {0, 1, 2, 3, 4}


def test_resamples_draw_whole_groups_when_there_are_enough() -> None:
    groups = [f"g{i // 5}" for i in range(60)]
    for drawn in resamples(groups, 5, seed=0):
        assert all(len(set(drawn[5 * g : 5 * g + 5])) == 1 for g in range(12))
    drawn = next(resamples(["a", "b"] * 30, 1, seed=0))
    assert drawn.sum() == 60
    assert len(set(drawn[::2])) > 1
