"""Tables of a data file, checked when they are read: what is wrong is named with its place and what was expected."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

T = TypeVar("T", bound=BaseModel)


def checked(kind: type[T], data: Mapping[str, Any], where: str, error: type[Exception]) -> T:
    """`data` as a `kind`. where: file and table, for the message. Raises `error` at the first thing that is wrong."""
    try:
        return kind.model_validate(data)
    except ValidationError as found:
        first = found.errors()[0]
        loc = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise error(f"{where}: unknown key {loc!r}; known: {', '.join(kind.model_fields)}") from None
        came = "" if first["type"] in {"missing", "value_error"} else f"; got {first['input']!r}"
        raise error(f"{where}: {loc} {first['msg']}{came}".replace(":  ", ": ")) from None
