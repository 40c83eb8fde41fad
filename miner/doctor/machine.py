"""The machine: its Python, cards, disk and clock."""

from __future__ import annotations

import os
import shutil
import sys

from miner.doctor.finding import Said, fail, ok, warn
from miner.doctor.world import NTP_SERVER, World
from miner.gpu import GB, NoCards
from miner.profiles import members
from models import planner


def python(_: World) -> Said:
    figure = f"{sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"
    return ok(figure) if sys.version_info >= (3, 11) else fail(figure, "install Python 3.11 or newer")


def driver(world: World) -> Said:
    try:
        found = world.cards()
    except NoCards:
        if _needs_card(world):
            raise
        return ok(f"profile {world.settings.profile} needs no card")
    names = ", ".join(sorted({card.name for card in found}))
    return ok(f"{len(found)} x {names}, driver {found[0].driver}, CUDA {found[0].cuda}")


def video_memory(world: World) -> Said:
    if not _needs_card(world):
        return ok(f"profile {world.settings.profile} needs no card")
    try:
        cards = world.cards()
    except NoCards as error:
        return fail(f"{world.settings.profile} needs a card; {error}", "choose --profile embedded, or rent a card")
    free = [(card.memory_total - card.memory_used) / GB for card in cards]
    figure = f"{', '.join(f'{each:.1f}' for each in free)} GB free"
    try:
        placement = planner.place(_keys(world), [min(each, card.room) for each, card in zip(free, cards, strict=True)])
    except planner.DoesNotFit as error:
        return fail(f"{figure}; {error}", "choose a smaller --profile, or end what holds the card (see nvidia-smi)")
    return ok(f"{figure}; {len(placement.placed)} processes fit")


def _keys(world: World) -> list[str]:
    return [entry.key for entry in members(world.settings.profile)]


def _needs_card(world: World) -> bool:
    """Whether the profile has models that need a card."""
    return bool(planner.jobs(_keys(world), [80.0])[0])


def disk(world: World) -> Said:
    place = world.settings.state_dir.expanduser()
    existing = next(path for path in (place, *place.parents) if path.exists())
    free = shutil.disk_usage(existing).free / GB
    figure = f"{free:.1f} GB free at {existing}"
    if not os.access(existing, os.W_OK):
        return fail(f"{existing} cannot be written", "choose another --state-dir")
    if free < 0.5:
        return fail(figure, "free some space, or choose another --state-dir")
    return ok(figure) if free >= 5 else warn(figure, "weights and journals grow: 5 GB or more is comfortable")


def clock(world: World) -> Said:
    """Signed requests carry a time, and validators compare it."""
    offset = world.clock()
    figure = f"{abs(offset):.3f} s {'behind' if offset > 0 else 'ahead of'} {NTP_SERVER}"
    remedy = "sudo timedatectl set-ntp true"
    return ok(figure) if abs(offset) < 1 else warn(figure, remedy) if abs(offset) < 3 else fail(figure, remedy)
