"""From a placement to processes: which models share one, and on which card each runs.

Detectors and encoders share a perception process per card they are placed on. Every model that answers questions has a
process of its own, at the precision the placement chose. What is placed on several cards answers behind one key
(`models.replicas`); what an endpoint serves needs no card here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from models.base import Frame, Model, ModelUnavailable, Opinion
from models.catalog import Entry, examines, find, make
from models.planner import MARGIN, PERCEPTION, DoesNotFit, Placed, Placement, least_gb, place, what_fits
from models.replicas import Replicas, ReplicasExaminer
from models.vlm.endpoint import Endpoint, EndpointSettings
from models.vlm.settings import EngineSettings, settings_of
from models.worker import Policy, remotes

ENGINE = Policy(hang=20.0)  # longer than any member's time-out and the canary's; one that hangs costs its card
VLLM = "vllm"


@dataclass(frozen=True)
class Fleet:
    """How the models of one profile are made.

    placement: None puts all on `device`. left: model -> why it is not placed. endpoints: model -> who serves it.
    """

    device: str = "cpu"
    placement: Placement | None = None
    left: Mapping[str, str] = field(default_factory=dict)
    endpoints: Mapping[str, EndpointSettings] = field(default_factory=dict)

    def checked(self, keys: Iterable[str]) -> Fleet:
        """Itself, if the catalog knows all these models. Raises ModelUnavailable naming one that it does not."""
        for key in keys:
            find(key)
        return self

    def build(self, keys: Iterable[str]) -> dict[str, Model]:
        """One model per key, not loaded yet; those that cannot run here say so when they are loaded. Raises
        ModelUnavailable naming a key that the catalog does not know."""
        return {key: self.make(key) for key in keys}

    def make(self, key: str) -> Model:
        """One model, not loaded yet. Raises ModelUnavailable if the catalog does not know it."""
        entry = find(key)
        if key in self.endpoints:
            return Endpoint(entry, self.endpoints[key])
        if key in self.left:
            return Absent(entry, self.left[key])
        if not entry.adapter:
            return Absent(entry, entry.note)
        if not (entry.isolated or entry.engine):
            return make(entry)
        placed = self.placement.of(key) if self.placement else []
        if len(placed) < 2:
            return self._remote(entry, placed[0] if placed else None)
        copies = [(self._remote(entry, each), device_of(each)) for each in placed]
        return (ReplicasExaminer if examines(entry) else Replicas)(copies)

    def device_of(self, key: str) -> str:
        """The device that a model is loaded to, e.g. "cuda:1"."""
        entry = find(key)
        if not (entry.isolated or entry.engine):
            return "cpu"
        placed = self.placement.of(key) if self.placement else []
        return device_of(placed[0]) if placed else self.device

    def _remote(self, entry: Entry, placed: Placed | None) -> Model:
        """The model in its process: the card's perception process, or one of its own."""
        name = entry.key if entry.engine else PERCEPTION
        if placed and placed.replica:
            name += f"-{placed.replica + 1}"
        if not entry.engine:
            return remotes([entry], None, name)[entry.key]
        if entry.library != VLLM:
            return remotes([entry], ENGINE, name)[entry.key]
        return remotes([entry], ENGINE, name, self._settings(entry, placed))[entry.key]

    def _settings(self, entry: Entry, placed: Placed | None) -> EngineSettings:
        """What the placement says of an engine, over what its file says."""
        settings = settings_of(entry.key)
        if not (placed and self.placement):
            return settings
        total = self.placement.capacity[placed.cards[0]] / MARGIN
        chosen = {"precision": placed.option.precision, "tensor_parallel": placed.option.cards}
        return settings.model_copy(update=chosen | {"memory_share": round(placed.option.gb / total, 3)})


def on_cards(keys: Sequence[str], capacity: Sequence[float], endpoints: Mapping[str, EndpointSettings]) -> Fleet:
    """The fleet of a profile's models (cheapest first) on cards of so many GB. What does not fit is left out.

    Raises ModelUnavailable naming a key that the catalog does not know.
    """
    here = [key for key in keys if key not in endpoints and find(key).adapter]
    try:
        return Fleet("cuda:0", place(here, capacity), {}, endpoints)
    except DoesNotFit:
        placement, jobs = what_fits(here, capacity)
    cards = " + ".join(f"{gb:g}" for gb in capacity)
    left = {
        key: f"needs {least_gb(job)} at least, not on {cards} GB beside the others; serve it elsewhere: MINER_ENDPOINTS"
        for job in jobs
        for key in job.members
    }
    return Fleet("cuda:0", placement, left, endpoints)


def device_of(placed: Placed) -> str:
    """ "cuda:1"; "cuda:0,1" for an engine that is split."""
    return "cuda:" + ",".join(map(str, placed.cards))


class Absent:
    """In the place of a model that does not run here, so that a profile serves with the others: loading it says why."""

    def __init__(self, entry: Entry, why: str) -> None:
        self.spec = entry.spec
        self._why = f"{entry.key} does not run here: {why}"

    def load(self, device: str) -> None:
        raise ModelUnavailable(self._why)

    def warm_up(self) -> None:
        raise ModelUnavailable(self._why)

    def assess(self, frames: Sequence[Frame]) -> list[Opinion]:
        raise ModelUnavailable(self._why)

    def close(self) -> None:
        """Nothing to give back."""
