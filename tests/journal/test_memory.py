"""Memory says what pictures like this one turned out to be, how sure that makes one, and when there are none."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.base import BadWeights, Frame, Model, ModelUnavailable
from models.head import Head, Weights
from models.logistic import fit
from models.memory import MAX_LOGIT, Memory, bounded
from models.metrics import ece


def embed(frames: Sequence[Frame]) -> NDArray[np.float32]:
    """The first row of pixels, centred: a picture made by `picture` gives its vector back."""
    return np.stack([frame.pixels[0, :, 0].astype(np.float32) - 128.0 for frame in frames])


def picture(vector: NDArray[np.floating]) -> Frame:
    pixels = np.clip(vector * 8.0 + 128.0, 0, 255).astype(np.uint8)
    return Frame.of(np.broadcast_to(pixels[None, :, None], (2, len(vector), 3)))


def world(n: int, seed: int, apart: float = 1.5) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Two overlapping clouds in 8 dimensions."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.3).astype(np.int64)
    centres = np.full((2, 8), apart)
    centres[1, :4] = -apart
    return (centres[labels] + 2.0 * rng.standard_normal((n, 8))).astype(np.float32), labels


def blank(frames: Sequence[Frame]) -> NDArray[np.float32]:
    return np.ones((len(frames), 8), dtype=np.float32)


def test_both_keep_the_models_contract(tmp_path: Path) -> None:
    assert isinstance(Memory(embed), Model)
    assert isinstance(Head(embed, tmp_path / "head.json"), Model)


def test_an_empty_memory_has_no_opinion_and_finds_everything_new() -> None:
    (opinion,) = Memory(embed).assess([picture(np.ones(8))])
    assert (opinion.logit, opinion.evidence["novelty"]) == (0.0, 1.0)


def test_opinions_are_calibrated_at_even_odds() -> None:
    memory = Memory(embed)
    memory.replace(*world(2000, 0))
    vectors, labels = world(4000, 1)
    even = np.concatenate([np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)[: labels.sum()]])
    opinions = memory.assess([picture(v) for v in vectors[even]])
    p = 1 / (1 + np.exp(-np.array([o.logit for o in opinions])))
    assert ((p > 0.5) == labels[even]).mean() > 0.85
    assert ece(labels[even], p) < 0.05


def test_what_is_unlike_everything_is_new_and_what_is_known_is_not() -> None:
    vectors, labels = world(500, 0, apart=5.0)
    memory = Memory(embed)
    memory.replace(vectors, labels)
    far = np.zeros(8)
    far[:] = [9, -9, 9, -9, 9, -9, 9, -9]
    new, known = memory.assess([picture(far), picture(vectors[3])])
    assert new.evidence["novelty"] > 0.95
    assert known.evidence["novelty"] < 0.05
    novelties = [o.evidence["novelty"] for o in memory.assess([picture(v) for v in world(1000, 5, apart=5.0)[0]])]
    assert np.mean(novelties) == pytest.approx(0.5, abs=0.1)  # of the same world: as new as the memories themselves


def test_new_labels_change_the_opinion() -> None:
    vectors, labels = world(400, 0)
    memory, somewhere = Memory(embed), np.full(8, 3.0)
    memory.replace(vectors, labels)
    (before,) = memory.assess([picture(somewhere)])
    corrected = np.tile(somewhere, (40, 1)) + np.random.default_rng(0).normal(0, 0.5, (40, 8))
    memory.replace(np.vstack([vectors, corrected]).astype(np.float32), np.append(labels, np.ones(40, dtype=np.int64)))
    (after,) = memory.assess([picture(somewhere)])
    assert before.logit < -0.5
    assert after.logit > 0.5


@given(st.lists(st.integers(0, 1), max_size=80), st.integers(2, 60))
def test_the_bound_holds_and_the_rarer_label_is_kept(labels: list[int], bound: int) -> None:
    values = np.array(labels, dtype=np.int64)
    kept = bounded(values, bound)
    assert len(kept) == min(bound, len(labels))
    assert (np.diff(kept) > 0).all()
    rarer = min(int(values.sum()), len(labels) - int(values.sum()))
    of_kept = values[kept]
    assert min(int(of_kept.sum()), len(kept) - int(of_kept.sum())) >= min(rarer, bound // 2)
    if len(labels):
        assert (len(labels) - 1) in kept or len(kept) < 2  # the newest stays


def test_opinions_stay_within_bounds() -> None:
    memory = Memory(embed)
    memory.replace(*world(400, 0, apart=40.0))
    opinions = memory.assess([picture(v) for v in world(50, 1, apart=40.0)[0]])
    assert all(abs(o.logit) <= MAX_LOGIT for o in opinions)


def test_it_is_written_and_read_again(tmp_path: Path) -> None:
    first, again = (Memory(embed, tmp_path / "memory.npz") for _ in range(2))
    first.load("cpu")  # nothing there yet
    first.replace(*world(300, 0))
    first.save(tmp_path / "memory.npz")
    again.load("cpu")
    frames = [picture(v) for v in world(20, 1)[0]]
    assert len(again) == 300
    for a, b in zip(first.assess(frames), again.assess(frames), strict=True):
        assert a.logit == pytest.approx(b.logit, abs=0.2)


def test_a_broken_file_says_what_to_do(tmp_path: Path) -> None:
    whole = Memory(embed)
    whole.replace(*world(300, 0))
    whole.save(tmp_path / "memory.npz")
    held = (tmp_path / "memory.npz").read_bytes()
    for damaged in (held[: len(held) // 2], b"", bytes(len(held)), b"not a zip"):  # a full disk, a power cut
        (tmp_path / "memory.npz").write_bytes(damaged)
        with pytest.raises(BadWeights, match="delete it"):
            Memory(embed, tmp_path / "memory.npz").load("cpu")
    (tmp_path / "head.json").write_text("{}")
    with pytest.raises(BadWeights, match="improve"):
        Head(embed, tmp_path / "head.json").load("cpu")


def test_wrong_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="labels 0 or 1"):
        Memory(embed).replace(np.ones((2, 3), dtype=np.float32), np.array([0, 2]))


def test_a_head_learns_to_tell_the_clouds_apart(tmp_path: Path) -> None:
    Weights.of(*world(1000, 0)).save(tmp_path / "head.json")
    head = Head(embed, tmp_path / "head.json")
    with pytest.raises(ModelUnavailable, match="not loaded"):
        head.assess([picture(np.ones(8))])
    head.load("cpu")
    vectors, labels = world(1000, 1)
    said = np.array([o.logit > 0 for o in head.assess([picture(v) for v in vectors])])
    assert (said == labels).mean() > 0.85
    head.close()
    head.close()


def test_the_regression_agrees_with_scikit_learn() -> None:
    from sklearn.linear_model import LogisticRegression

    vectors, labels = world(500, 0)
    weights, bias = fit(vectors, labels, l2=2.0)
    other = LogisticRegression(C=0.5, tol=1e-8, max_iter=1000).fit(vectors, labels)
    assert weights == pytest.approx(other.coef_[0], abs=1e-3)
    assert bias == pytest.approx(other.intercept_[0], abs=1e-3)


def test_one_label_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="both labels"):
        fit(np.ones((3, 2)), np.ones(3, dtype=np.int64))


def test_pictures_picked_for_being_hard_do_not_make_it_timid() -> None:
    vectors, labels = world(1500, 0)
    hard = np.abs(vectors[:, :4].sum(axis=1) - vectors[:, 4:].sum(axis=1)) < 8  # near the border of the two clouds
    rng = np.random.default_rng(1)
    picked = np.flatnonzero(~hard)[:100].tolist() + np.flatnonzero(hard).tolist()
    noisy = np.where(rng.random(len(picked)) < 0.3, 1 - labels[picked], labels[picked])
    noisy[:100] = labels[picked][:100]
    told, untold = Memory(embed), Memory(embed)
    told.replace(vectors[picked], noisy, np.arange(len(picked)) < 100)
    untold.replace(vectors[picked], noisy)
    clear_cut = [picture(v) for v in vectors[np.flatnonzero(~hard)[100:300]]]
    sure = [np.mean([abs(o.logit) for o in memory.assess(clear_cut)]) for memory in (told, untold)]
    assert sure[0] > sure[1]
