"""What a round may do to a candidate: a head and a memory on embeddings, and the fit anew. Each step makes a new
one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cascade.profile import Member
from cascade.worth import fit_profile
from miner.journal_views import Example
from miner.learning.candidate import HEAD, MEMORY, Candidate, Learned, no_pictures, stacked, with_opinions
from models.head import Weights
from models.memory import Memory

log = logging.getLogger(__name__)

FOLDS = 5
LEAST_EMBEDDINGS = 50  # of each label, before anything is learned from them

Array = NDArray[np.float64]
Step = Callable[[Sequence[Example], Candidate], Candidate]


def refit(examples: Sequence[Example], candidate: Candidate) -> Candidate:
    """Calibrations, fusion weights, intervals and band anew (`cascade.fit`), from representative pictures.

    Raises FitError when they are too few.
    """
    records = [example.record for example in cross_fitted(examples, candidate) if example.representative]
    return replace(candidate, profile=fit_profile(records, candidate.profile).profile)


def retrain_head(examples: Sequence[Example], candidate: Candidate) -> Candidate:
    """A logistic head on the stored embeddings, as one more member of the first tier; refit afterwards.

    Without enough embeddings of both labels the candidate stays as it is.
    """
    if not _enough_embeddings(examples):
        return candidate
    return replace(_with_member(candidate, HEAD), head=_head(examples))


def rebuild_memory(examples: Sequence[Example], candidate: Candidate) -> Candidate:
    """A memory of all labelled embeddings (`models.memory`), as one more member of the first tier; refit afterwards.

    Without enough embeddings of both labels the candidate stays as it is.
    """
    if not _enough_embeddings(examples):
        return candidate
    return replace(_with_member(candidate, MEMORY), memory=_memory(examples))


STEPS: dict[str, Step] = {"head": retrain_head, "memory": rebuild_memory, "refit": refit}


def cross_fitted(examples: Sequence[Example], candidate: Candidate) -> list[Example]:
    """The same with each opinion of a member that did not learn from that example: what a fusion may trust."""
    makers: dict[str, Callable[[Sequence[Example]], Learned]] = {HEAD: _head, MEMORY: _memory}
    result = candidate.remembering(examples)
    for fold in range(FOLDS if candidate.learned else 0):
        test = range(fold, len(examples), FOLDS)
        rest = [example for i, example in enumerate(examples) if i % FOLDS != fold]
        fresh = {key: makers[key](rest) for key in candidate.learned}
        for i, example in zip(test, with_opinions([result[i] for i in test], fresh), strict=True):
            result[i] = example
    return result


def out_of_fold(
    examples: Sequence[Example], train: Sequence[Example], steps: Sequence[Step], start: Candidate
) -> Array:
    """What the steps make of `start` answers (N,) to `examples`, all of them in `train`, without having known them:
    the steps are taken five times, each time without a fifth of `train`, which is then asked about."""
    fold = {example.record.sha256: number % FOLDS for number, example in enumerate(train)}
    answers = np.empty(len(examples))
    for left_out in range(FOLDS):
        rest = [example for example in train if fold[example.record.sha256] != left_out]
        fitted = start
        for step in steps:
            fitted = step(rest, fitted)
        which = [i for i, example in enumerate(examples) if fold[example.record.sha256] == left_out]
        answers[which] = fitted.probabilities([examples[i] for i in which])
    return answers


def _enough_embeddings(examples: Sequence[Example]) -> bool:
    labels = [example.label for example in examples if example.embedding is not None]
    enough = min(sum(labels), len(labels) - sum(labels)) >= LEAST_EMBEDDINGS
    if not enough:
        log.info("nothing learned from embeddings: %d labelled, %d of road work", len(labels), sum(labels))
    return enough


def _with_member(candidate: Candidate, key: str) -> Candidate:
    profile = candidate.profile
    if key in {member.model for member in profile.members}:
        return candidate
    first = profile.tiers[0]
    widened = first.model_copy(update={"members": (*first.members, Member(model=key))})
    return replace(candidate, profile=profile.model_copy(update={"tiers": (widened, *profile.tiers[1:]), "fit": None}))


def _head(examples: Sequence[Example]) -> Weights:
    usable = [example for example in examples if example.embedding is not None]
    return Weights.of(stacked(usable), np.array([example.label for example in usable], dtype=np.int64))


def _memory(examples: Sequence[Example]) -> Memory:
    usable = [example for example in examples if example.embedding is not None]
    memory = Memory(no_pictures)
    labels = np.array([example.label for example in usable], dtype=np.int64)
    memory.replace(stacked(usable), labels, np.array([example.representative for example in usable]))
    return memory
