"""Keeps the C library's heap near what is in use. Nothing happens where it is not glibc.

A large picture takes tens of megabytes for a moment, in whichever thread decodes or reads it. glibc learns from the
first one to serve such blocks from its heaps, gives every thread a heap of its own, and gives back only what lies at
their ends: an hour of mixed pictures left 200 MB behind that nothing used (docs/results/reliability-2026-11-24.md).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable

M_ARENA_MAX = -8  # of malloc.h
HEAPS = 2  # a core's worth of threads allocate at once; more heaps only keep more


def few_heaps() -> None:
    """Let threads share heaps. To be called before they start."""
    _call("mallopt", M_ARENA_MAX, HEAPS)


def give_back() -> None:
    """Return what is free to the system: a few milliseconds, for twice a minute."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    function: Callable[..., int] | None = getattr(ctypes.CDLL(None), name, None)
    if function is not None:
        function(*arguments)
