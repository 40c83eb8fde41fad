"""One round: fit a candidate, judge it, and only then put it in force or into the shadow; each step on record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from cascade.data import FitError
from cascade.profile import Profile
from miner.learning.candidate import Candidate
from miner.learning.examples import LEAST, Data, ImproveError
from miner.learning.judging import Comparison, Judgement, compare, judge, told
from miner.learning.steps import STEPS, Step, out_of_fold
from miner.learning.versions import Versions

TRAIN = "train"  # the step that trains a network


class StepFailed(Exception):
    """A step broke off; it left nothing behind. The message says why."""


Train = Callable[[Data, Candidate], Candidate]  # `miner.learning.retrain.Retrain`


def improve(
    data: Data,
    versions: Versions,
    own: Profile,
    steps: Sequence[str] = ("refit",),
    shadow: bool = False,
    train: Train | None = None,
) -> tuple[str, Judgement]:
    """One round: fit a candidate to `data.train`, judge it, promote (with `shadow` only stage) or refuse it.

    own: the miner's own profile. train: what the step `train` does. Gives the new version's name, empty when refused.
    Raises ImproveError when there is too little to fit, or when the training broke off.
    """
    known: dict[str, Step] = {**STEPS}
    if train is not None:
        known[TRAIN] = lambda examples, candidate: train(data, candidate)
    if unknown := sorted(set(steps) - set(known) - {TRAIN}):
        raise ImproveError(f"unknown step {', '.join(unknown)}; known: {', '.join([*STEPS, TRAIN])}")
    if TRAIN in steps and train is None:
        raise ImproveError("the step train needs --training FILE: the settings of the training as TOML")
    if TRAIN in steps and shadow:
        raise ImproveError("a network that does not serve yet has no answers to show: leave out --shadow, or train")
    facts = {"steps": list(steps), "trained_on": len(data.train), "data_sha256": data.sha256}
    live = versions.read(versions.current(), own)
    candidate = live
    try:
        for step in steps:
            candidate = known[step](data.train, candidate)
        again = [STEPS[step] for step in steps if step != TRAIN]
        return _decided(data, versions, live, candidate, again, shadow, facts)
    except FitError as error:
        raise ImproveError(f"{error}; label more on the review page") from error
    except StepFailed as error:
        versions.fail(str(error), **facts)
        raise ImproveError(str(error)) from error
    finally:
        versions.tidy()


def _decided(
    data: Data,
    versions: Versions,
    live: Candidate,
    candidate: Candidate,
    steps: Sequence[Step],
    shadow: bool,
    facts: dict[str, Any],
) -> tuple[str, Judgement]:
    """The candidate judged, and put in force, staged or refused. steps: those that can be taken again on less."""
    start = replace(candidate, head=live.head, memory=live.memory)
    judgement = judge(data, live, candidate, lambda new: out_of_fold(new, data.train, steps, start))
    if not judgement.passed:
        versions.refuse(judgement, **facts)
        return "", judgement
    name = versions.write(candidate)
    (versions.stage if shadow else versions.promote)(name, judgement, **facts)
    return name, judgement


def promote_staged(versions: Versions, seen: Sequence[tuple[str, int, float, float]]) -> tuple[str, Judgement]:
    """Put the staged version in force if it was better on the labelled pictures both saw (`Views.shadows`).

    Better, not better at 95 %: it was that when it was staged.
    """
    name = versions.staged()
    if not name:
        raise ImproveError("no version is staged; run improve --shadow first")
    it = shadow_comparison(seen)
    reasons = [f"expected {LEAST} labelled pictures of each label that both saw, got {len(seen)}"] if it is None else []
    if it is not None and it.gain <= 0.0:
        reasons = [f"shadow: not better: {told(it)}"]
    judgement = Judgement(None, it, None, tuple(reasons))
    if judgement.passed:
        versions.promote(name, judgement, steps=["shadow"])
        versions.unstage()
        return name, judgement
    versions.refuse(judgement, steps=["shadow"])
    return "", judgement


def shadow_comparison(seen: Sequence[tuple[str, int, float, float]]) -> Comparison | None:
    """The live answers against a candidate's on labelled pictures both saw (`Views.shadows`); None for too few."""
    labels = np.array([label for _, label, _, _ in seen], dtype=np.int64)
    if min(int(labels.sum()), len(labels) - int(labels.sum())) < LEAST:
        return None
    before, after = (np.array([row[column] for row in seen]) for column in (2, 3))
    return compare(labels, before, after, [row[0] for row in seen])
