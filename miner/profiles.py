"""Profiles with the models they bring: read here, so that whoever looks a model up finds an operator's own too."""

from __future__ import annotations

from pathlib import Path

from cascade import profile
from cascade.profile import Profile, ProfileError
from models.catalog import CatalogError, Entry, add, entries


def load(path_or_name: str | Path) -> Profile:
    """As `cascade.profile.load`; the catalog that the profile names is known afterwards. Raises ProfileError."""
    found = profile.load(path_or_name)
    if found.catalog:
        try:
            add(Path(found.catalog))
        except CatalogError as error:
            raise ProfileError(str(error)) from error
    return found


def members(name: str) -> list[Entry]:
    """What the catalog says of a profile's models, those it does not know left out. Raises ProfileError."""
    return [entries()[member.model] for member in load(name).members if member.model in entries()]
