"""Tables of files, and what users ask for, checked when read: what is wrong is named with its place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

T = TypeVar("T", bound=BaseModel)
SECRET = re.compile("_(token|key)$")  # names whose values are never repeated


def checked(kind: type[T], data: Mapping[str, Any], where: str, error: type[Exception]) -> T:
    """`data` as a `kind`. where: file and table, for the message. Raises `error` at the first thing that is wrong."""
    try:
        return kind.model_validate(data)
    except ValidationError as found:
        first = found.errors()[0]
        known = kind.model_fields if len(first["loc"]) == 1 else ()
        raise error(f"{where}: {fault(first, known)}") from None


def fault(error: ErrorDetails, known: Iterable[str]) -> str:
    """One thing that pydantic found wrong, in one line: its place, what was expected, what came.

    known: what an unknown name could have been, where that can be said.
    """
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        names = ", ".join(known)
        return f"{where}: unknown name" + (f"; known: {names}" if names else "")
    untold = error["type"] in {"missing", "value_error"} or SECRET.search(where)
    expected = error["msg"].removeprefix("Value error, ")
    said = expected if untold else f"{expected}, got {error['input']!r}"
    return f"{where}: {said}" if where else said
