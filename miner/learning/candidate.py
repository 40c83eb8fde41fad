"""All that a version is: a profile with its fit, and what learned from embeddings; and what it would have answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cascade.profile import Profile
from cascade.replay import replay
from cascade.trace import Record
from cascade.verdict import Verdict
from miner.journal_views import Example
from models.base import Frame, ModelUnavailable, Opinion
from models.head import Weights
from models.memory import Memory, Vectors

HEAD, MEMORY = "head", "memory"  # keys of the members that learn from embeddings
TRAINED = "trained-"  # how keys of members begin whose network a version had trained


class Learned(Protocol):
    """A member that learns from embeddings: a head or a memory."""

    def logits(self, vectors: Vectors) -> NDArray[np.float64]:
        """Log-odds at even odds (N,) of embeddings (N, D)."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A profile with its fit, and the head and memory on embeddings if it has them: all that a version is.

    said: what its trained member said, by key and the picture's sha256, of pictures that it did not learn from and that
    were answered before it served. It is never asked in here: that takes the picture.
    """

    profile: Profile
    head: Weights | None = None
    memory: Memory | None = None
    said: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def learned(self) -> dict[str, Learned]:
        """Its members that learn from embeddings, by model key."""
        both: dict[str, Learned | None] = {HEAD: self.head, MEMORY: self.memory}
        return {key: member for key, member in both.items() if member is not None}

    def answer(self, record: Record, embedding: NDArray[np.float32] | None) -> Verdict:
        """Its verdict on a record, with what its learned members say of the picture's embedding (D,) if it has one."""
        (example,) = with_opinions([Example(record, 0.0, "", "", embedding=embedding)], self.learned)
        return replay(example.record, self.profile, self.profile.fused())

    def probabilities(self, examples: Sequence[Example]) -> NDArray[np.float64]:
        """What it would have answered (N,), from the recorded opinions and those of its learned members."""
        fusion = self.profile.fused()
        records = (example.record for example in with_opinions(self.remembering(examples), self.learned))
        return np.array([replay(record, self.profile, fusion).probability for record in records])

    def remembering(self, examples: Sequence[Example]) -> list[Example]:
        """The examples with what its trained member said of them."""
        result = list(examples)
        for key, logits in self.said.items():
            for i, example in enumerate(result):
                if example.record.sha256 in logits:
                    result[i] = with_opinion(example, key, logits[example.record.sha256])
        return result

    def knows(self, example: Example) -> bool:
        """Whether its trained member, if it has one, has an opinion of the picture: else this is not what it would
        have answered."""
        trained = {member.model for member in self.profile.members if member.model.startswith(TRAINED)}
        (known,) = self.remembering([example])
        return trained <= {opinion.model for opinion in known.record.verdict.opinions}


def with_opinions(examples: Sequence[Example], learned: Mapping[str, Learned]) -> list[Example]:
    """The examples with what learned members say of them, where an embedding is stored."""
    result = list(examples)
    where = [i for i, example in enumerate(examples) if example.embedding is not None]
    if where:
        vectors = stacked([examples[i] for i in where])
        for key, member in learned.items():
            for i, z in zip(where, member.logits(vectors), strict=True):
                result[i] = with_opinion(result[i], key, float(z))
    return result


def with_opinion(example: Example, key: str, z: float) -> Example:
    verdict = example.record.verdict
    others = tuple(opinion for opinion in verdict.opinions if opinion.model != key)
    said = replace(verdict, opinions=(*others, Opinion(key, z, 1.0)))
    return replace(example, record=replace(example.record, verdict=said))


def stacked(examples: Sequence[Example]) -> Vectors:
    return np.stack([example.embedding for example in examples if example.embedding is not None])


def no_pictures(frames: Sequence[Frame]) -> Vectors:
    raise ModelUnavailable("this memory is a version's: build models.memory.Memory with an embedder and its path")
