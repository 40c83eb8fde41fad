"""The adapters as members of a cascade: what they say of each other reaches the verdict.

Tiny random checkpoints, the engine that serves, and rules from the profiles that ship. What a random model says is
moved by its calibration to where the rule under test applies.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from test_adapters import made

from cascade import profile
from cascade.calibration import sigmoid
from cascade.deadline import Deadline
from cascade.engine import Engine
from cascade.profile import Member, Profile, Tier
from cascade.verdict import Verdict
from models import boxes
from models.base import Frame

PATIENT_MS = 60_000.0  # nobody is late here, however busy the machine


async def verdict(profile: Profile, members: Sequence[Any], frame: Frame) -> Verdict:
    engine = Engine(profile, {member.spec.key: member for member in members})
    await engine.start()
    try:
        return await engine.decide(frame, Deadline.after(600.0))
    finally:
        await engine.close()


def moved(key: str, checkpoints: Path, **changes: float) -> Any:
    model = made(key, checkpoints)
    model.entry = model.entry.model_copy(update=changes)
    return model


# ---- object sizes ----------------------------------------------------------------------------------------------------

SIZED = Profile(
    name="sized",
    band=(0.0, 1.0),
    tiers=(
        Tier(
            name="detectors",
            expected_ms=1,
            members=tuple(
                Member(model=key, weight=weight, timeout_ms=PATIENT_MS)
                for key, weight in (("dfine-x", 0.2), ("llmdet-l", 0.3), ("depth-anything-v2-s", 0.5))
            ),
        ),
    ),
)


@pytest.mark.parametrize(("focal", "says"), [(0.0, False), (1e-3, True)])  # unknown; one that makes all impossibly wide
async def test_impossible_sizes_reach_the_verdict_and_only_with_a_focal_length(
    focal: float, says: bool, checkpoints: Path, frames: list[Frame]
) -> None:
    detectors = [made("dfine-x", checkpoints), made("llmdet-l", checkpoints)]
    depth = moved("depth-anything-v2-s", checkpoints, focal=focal)
    found = await verdict(SIZED, [*detectors, depth], frames[0])
    logits = {opinion.model: opinion.logit for opinion in found.opinions}
    without = 0.2 * logits["dfine-x"] + 0.3 * logits["llmdet-l"]
    assert (logits["depth-anything-v2-s"] < -0.01) == says
    assert found.probability == pytest.approx(sigmoid(without + 0.5 * logits["depth-anything-v2-s"]))
    assert (found.probability == pytest.approx(sigmoid(without), abs=1e-9)) != says


def test_a_depth_model_is_warm_before_the_detectors_beside_it_are_loaded(checkpoints: Path) -> None:
    """Members load side by side, in any order."""
    depth = moved("depth-anything-v2-s", checkpoints, focal=1e-3)
    depth.load("cpu")
    depth.warm_up()


# ---- a second question -----------------------------------------------------------------------------------------------

ASKED = ("dfine-x", "sam3", "qwen3-vl-4b-scorer")


def part(name: str) -> Profile:
    """Three members of a shipped profile, with its second questions."""
    whole = profile.load(name).asking_all()
    tiers = [
        tier.model_copy(update={"members": tuple(m for m in tier.members if m.model in ASKED)}) for tier in whole.tiers
    ]
    return whole.model_copy(
        update={
            "tiers": tuple(tier for tier in tiers if tier.members),
            "second_questions": tuple(
                rule.model_copy(update={"timeout_ms": PATIENT_MS}) for rule in whole.second_questions
            ),
        }
    )


@pytest.mark.parametrize("name", ["two-80gb", "consensus"])
async def test_sam3_is_asked_for_more_like_the_boxes_where_the_vlm_stays_with_its_no(
    name: str, checkpoints: Path, frames: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boxes, "SHOWN", 0.0)  # random detectors are sure of nothing
    detector = moved("dfine-x", checkpoints, offset=6.0)
    vlm = moved("qwen3-vl-4b-scorer", checkpoints, offset=-12.0)
    sam3 = made("sam3", checkpoints)
    found = await verdict(part(name), [detector, vlm, sam3], frames[0])
    assert not found.failures
    said = {opinion.model: opinion for opinion in found.opinions}
    assert "second_question" in said["qwen3-vl-4b-scorer"].evidence
    shown = said["sam3"].evidence["exemplars"]
    best = {box["label"].lower() for box in said["dfine-x"].evidence["boxes"][:3]}
    assert set(shown) == best
    weights = {member.model: member.weight for member in part(name).members}
    z = sum(weights[key] * opinion.logit for key, opinion in said.items())
    assert found.probability == pytest.approx(sigmoid(z))


async def test_sam3_is_not_asked_again_where_the_vlm_agrees(
    checkpoints: Path, frames: list[Frame], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boxes, "SHOWN", 0.0)
    members = [moved("dfine-x", checkpoints, offset=6.0), moved("qwen3-vl-4b-scorer", checkpoints, offset=6.0)]
    found = await verdict(part("consensus"), [*members, made("sam3", checkpoints)], frames[0])
    assert not found.failures
    said = {opinion.model: opinion.evidence for opinion in found.opinions}
    assert "exemplars" not in said["sam3"]
