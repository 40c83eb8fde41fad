"""What objects say of a picture, boxes of several detectors as one, and sizes that cannot be."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import boxes, catalog, depth
from models.boxes import Box, Classes, agreement, best_scores, classes, fuse, merged

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "boxes_fusion.json").read_text())
TABLES = ["coco", "objects365", "prompts", "own"]
scores = st.floats(0, 1)


@pytest.mark.parametrize("case", GOLDEN["cases"])
def test_fusion_is_that_of_the_authors_package(case: dict[str, list[list[float]]]) -> None:
    found = [[Box.of(str(row[0]), row[1], row[2:]) for row in rows] for rows in case["found"]]
    fused = fuse(found, case["weights"])
    expected = sorted(([row[1], str(row[0]), *row[2:]] for row in case["fused"]), reverse=True)
    assert len(fused) == len(expected)
    assert [box.score for box in fused] == sorted((box.score for box in fused), reverse=True)
    assert fuse(found) == fuse(found, [1.0] * len(found))
    for ours, theirs in zip(sorted(fused, key=lambda box: (-box.score, box.label)), expected, strict=True):
        assert ours.label == theirs[1]
        assert ours.score == pytest.approx(theirs[0])
        assert ours.corners == pytest.approx(tuple(theirs[2:]))


def test_weights_must_be_one_per_detector() -> None:
    with pytest.raises(ValueError, match=r"one weight per detector \(2\), got 1"):
        fuse([[], []], [1.0])


def test_agreement_is_the_share_of_detectors_that_see_one_object() -> None:
    cone = Box("cone", 0.9, (10, 10, 20, 30))
    other = Box("cone", 0.9, (100, 10, 120, 30))
    assert agreement([[cone], [cone, other], [], [cone]]) == 0.75
    assert agreement([[cone], [other]]) == 0.5
    assert agreement([[Box("cone", 0.1, cone.corners)]]) == 0.0
    assert agreement([]) == 0.0


def test_several_tables_are_one_in_which_no_label_weighs_less() -> None:
    one, other = Classes("one", 0.2, {"cone": 0.5, "sign": 0.3}), Classes("an", 0.1, {"cone": 0.4, "barrel": 0.9})
    assert merged([one, other]) == Classes("an+one", 0.1, {"cone": 0.5, "sign": 0.3, "barrel": 0.9})
    assert merged([one, one]) == one


@pytest.mark.parametrize("name", TABLES)
def test_nothing_seen_says_what_the_leak_says(name: str) -> None:
    table = classes(name)
    assert table.logit({}) == pytest.approx(math.log(table.leak / (1 - table.leak)))
    assert table.logit({"banana": 1.0}) == table.logit({})


@given(st.sampled_from(TABLES), st.data())
def test_a_higher_score_never_lowers_the_log_odds(name: str, data: st.DataObject) -> None:
    table = classes(name)
    seen = data.draw(st.dictionaries(st.sampled_from(sorted(table.weights)), scores, min_size=1))
    label = data.draw(st.sampled_from(sorted(seen)))
    more = seen | {label: data.draw(st.floats(seen[label], 1))}
    assert table.logit(more) >= table.logit(seen) - 1e-9
    assert math.isfinite(table.logit(more))


def test_a_detector_that_knows_no_cone_says_next_to_nothing() -> None:
    coco = classes("coco")
    assert abs(coco.logit({})) < 0.1
    assert abs(coco.logit({"truck": 1.0, "stop sign": 1.0})) < 0.3
    assert classes("objects365").logit({"Traffic cone": 0.9}) > 0.8


def test_two_kinds_of_object_say_more_than_two_of_one_kind() -> None:
    table = classes("prompts")
    cone, sign = Box("traffic cone", 0.5, (0, 0, 1, 1)), Box("road work sign", 0.5, (5, 5, 9, 9))
    assert table.logit(best_scores([cone, cone])) == table.logit(best_scores([cone]))
    assert table.logit(best_scores([cone, sign])) > table.logit(best_scores([cone]))


def test_labels_that_no_table_knows_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"none of its 2 labels \(cat, dog, \.\.\.\) is in roadwork_classes\.toml \[coco\]"
    ):
        classes("coco").known(["cat", "dog"])
    assert classes("coco").known(["Truck", "dog"]) == {"Truck": 0.1}


def test_a_wrong_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"expected a table of .*coco.*, got 'cocoa'"):
        classes("cocoa")
    path = tmp_path / "classes.toml"
    path.write_text("[own]\nleak = 0.2\ncone = 1.5\n")
    with pytest.raises(ValueError, match=r"expected weights in \[0, 1\), got {'cone': 1\.5}"):
        classes("own", path)


def test_every_detector_of_the_catalog_names_a_table() -> None:
    named = {entry.classes for entry in catalog.entries().values() if entry.adapter and entry.classes}
    assert named <= set(TABLES)


# ---- what is kept of a detector's boxes ------------------------------------------------------------------------------


def test_the_best_of_each_label_is_kept_and_of_the_others_the_strongest() -> None:
    rng = np.random.default_rng(0)
    count = 3 * boxes.MOST
    scores = rng.permutation(np.linspace(0.06, 0.9, count)).astype(np.float32)
    scores[-3:] = 0.04, 0.01, 0.03
    labels = np.zeros(count, np.float32)
    labels[-3:] = 1, 2, 1
    rows = np.column_stack([scores, labels, rng.uniform(0, 100, (count, 4)).astype(np.float32)])
    found = boxes.strongest(rows, ["cone", "barrier", "sign"])
    order = np.sort(scores[:-3])[::-1]
    assert [box.score for box in found] == [*order[: boxes.MOST].tolist(), scores[-3], scores[-2]]
    assert [box.label for box in found[-2:]] == ["barrier", "sign"]
    assert found[0].corners == tuple(rows[scores.argmax(), 2:].tolist())
    whole = {label: scores[labels == index].max() for index, label in enumerate(("cone", "barrier", "sign"))}
    assert boxes.best_scores(found) == pytest.approx(whole)
    assert boxes.strongest(np.empty((0, 6), np.float32), ["cone"]) == []


# ---- sizes -----------------------------------------------------------------------------------------------------------

METRES = np.full((100, 200), 10.0, np.float32)


@pytest.mark.parametrize(
    ("label", "pixels", "metres", "factor"),
    [
        ("traffic cone", 30, 0.3, 1.0),
        ("traffic cone", 300, 3.0, depth.IMPOSSIBLE),
        ("excavator", 300, 3.0, 1.0),
        ("excavator", 30, 0.3, depth.IMPOSSIBLE),
    ],
)
def test_an_impossible_size_weighs_less(label: str, pixels: float, metres: float, factor: float) -> None:
    (size,) = depth.check([Box(label, 0.8, (40, 20, 40 + pixels, 70))], METRES, focal=1000)
    assert size.metres == pytest.approx(metres)
    assert size.factor == factor


def test_a_label_without_a_known_width_and_a_box_outside_the_picture_say_nothing() -> None:
    found = [Box("road roller", 0.8, (0, 0, 300, 50)), Box("cone", 0.8, (500, 500, 600, 600))]
    for size in depth.check(found, METRES, focal=1000):
        assert (size.metres, size.factor, size.known) == (None, 1.0, False)


def test_what_sizes_take_is_never_evidence_for_road_work() -> None:
    table = boxes.classes("prompts")
    cone, barrier = Box("traffic cone", 0.8, (0, 0, 300, 50)), Box("construction barrier", 0.6, (0, 0, 100, 50))
    impossible, possible = depth.check([cone, barrier], METRES, focal=1000)
    before = table.logit({"traffic cone": 0.8, "construction barrier": 0.6})
    after = table.logit({"traffic cone": 0.8 * depth.IMPOSSIBLE, "construction barrier": 0.6})
    assert depth.taken([impossible, possible], table) == pytest.approx(after - before)
    assert after < before
    assert depth.taken([possible], table) == 0.0
    assert depth.taken([], table) == 0.0


def test_a_focal_length_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"focal length in pixels > 0, got -1"):
        depth.check([], METRES, focal=-1)


def test_evidence_is_plain_json() -> None:
    shown = Box("cone", 0.123456, (1.04, 2.0, 3.0, 4.0)).as_json()
    assert json.loads(json.dumps(shown)) == {"label": "cone", "score": 0.1235, "box": [1.0, 2.0, 3.0, 4.0]}
    assert boxes.SHOWN == 0.3
