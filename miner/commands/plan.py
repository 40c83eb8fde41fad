"""`plan`: where a profile's models go on the cards, or that they do not fit; the plan's own table beside the truth."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from pydantic import Field
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from cascade import profile
from miner import gpu, profiles
from miner.settings import Asked, UsageError, parse
from models import catalog, planner
from models.base import ModelUnavailable
from models.planner import DoesNotFit, Job, Placement


class Plan(Asked):
    """Place a profile's models (or those of the plan) on cards. Exit code 1 if they do not fit."""

    gpus: str | None = Field(None, description="GB of each card, e.g. 80,80. Default: the cards of this machine.")
    profile: str | None = Field(None, description="A profile's name or file. Default: every model the plan names.")
    explain: bool = Field(False, description="How each figure came about.")
    as_json: bool = Field(False, description="JSON instead of tables.")


def main(arguments: Sequence[str]) -> int:
    asked = parse(Plan, arguments)
    room = cards(asked.gpus)
    keys = members(asked.profile) if asked.profile else of_the_plan()
    try:
        placement, left, refusal = planner.place(keys, room), list[Job](), ""
    except DoesNotFit as error:
        refusal = str(error)
        placement, left = planner.what_fits(keys, room)
    except ModelUnavailable as error:
        raise UsageError(f"{asked.profile}: {error}") from None
    if asked.as_json:
        sys.stdout.write(json.dumps(_as_json(placement, left, refusal), indent=1) + "\n")
    else:
        _print(placement, left, refusal, asked)
    return 1 if refusal else 0


def members(name: str) -> list[str]:
    """Keys of a profile's models, cheapest tier first. Raises UsageError."""
    try:
        return [member.model for member in profiles.load(name).members]
    except profile.ProfileError as error:
        raise UsageError(str(error)) from None


def of_the_plan() -> list[str]:
    """Keys of the models that stand for the plan's names and have weights to place."""
    keys = dict.fromkeys(row.model for row in catalog.plan().row if row.model)
    return [key for key in keys if catalog.find(key).adapter or catalog.find(key).library == "vllm"]


def sizes(text: str) -> list[float]:
    """ "80,80" -> [80.0, 80.0]. Raises ValueError."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"expected GB of each card, e.g. 80,80; got {text!r}") from None
    if not all(0 < gb < 10_000 for gb in found) or len(found) > 16:
        raise ValueError(f"expected 1 to 16 cards of more than 0 GB; got {text!r}")
    return found


def cards(gpus: str | None) -> list[float]:
    """GB of each card in `gpus`, else of each of this machine, as `serve` counts them. Raises UsageError."""
    try:
        return sizes(gpus) if gpus else [card.room for card in gpu.cards()]
    except ValueError as error:
        raise UsageError(f"--gpus: {error}") from None
    except gpu.NoCards as error:
        raise UsageError(f"no card on this machine ({error}); say which ones to plan for, e.g. --gpus 80,80") from None


def _print(placement: Placement, left: Sequence[Job], refusal: str, asked: Plan) -> None:
    console = Console()
    if not asked.profile:
        console.print(_claims())
    for card, size in enumerate(placement.capacity):
        used = placement.used(card)
        table = Table(
            title=f"GPU {card}: {used:.1f} of {size:g} GB reserved, {size - used:.1f} free",
            title_justify="left",
            box=SIMPLE_HEAD,
        )
        for name in ("process", "precision", "GB", "figure"):
            table.add_column(name, justify="right" if name == "GB" else "left", overflow="fold")
        for each in placement.placed:
            if card in each.cards:
                name = each.job.key + (f" (replica {each.replica + 1})" if each.replica else "")
                split = f", split over {each.option.cards}" if each.option.cards > 1 else ""
                table.add_row(name, each.option.precision + split, f"{each.option.gb:.1f}", each.option.source)
        console.print(table)
    if placement.on_cpu:
        console.print(f"On the CPU: {', '.join(placement.on_cpu)}\n")
    if asked.explain:
        _explain(console, placement)
    if refusal:
        console.print(f"[bold red]does not fit[/]: {refusal}", highlight=False)
        for job in left:
            console.print(f"  left out: {job.key}, {planner.least_gb(job)}", highlight=False)


def _claims() -> Table:
    table = Table(title="The plan's table beside the truth, GB", title_justify="left", box=SIMPLE_HEAD)
    for name in ("card", "claimed", "sum", "by its items", "truth"):
        table.add_column(name, overflow="fold")
    for card in catalog.plan().card:
        parts = ", ".join(f"{name} {gb:g}" for name, gb in card.gb.items())
        table.add_row(card.name, parts, f"{sum(card.gb.values()):.1f}", f"{card.by_items_gb:g}", card.note)
    return table


def _explain(console: Console, placement: Placement) -> None:
    console.print(
        f"Perception: {planner.CONTEXT} for the process, {planner.PERCEPTION_WORK} to work in, and what each model "
        f"adds: weights at 16 bits + {planner.PERCEPTION_EACH}, or what was measured (docs/results). "
        f"Engine: weights + {planner.KV_TOKENS:,} tokens of key-value cache + {planner.ENGINE_WORK} + "
        f"{planner.CONTEXT}. Scorer: the same with {planner.SCORER_TOKENS:,} tokens, and "
        f"{planner.SCORER_SHARE:.0%} of its weights for graphs.\n",
        highlight=False,
    )
    table = Table(title="Each model, GB", title_justify="left", box=SIMPLE_HEAD)
    for name in ("model", "weights", "cache", "reserved", "figure"):
        table.add_column(name, justify="right" if name in ("cache", "reserved") else "left", overflow="fold")
    for each in placement.placed:
        for key in each.job.members if each.replica == 0 else ():
            entry = catalog.find(key)
            option = planner.member(entry) if each.job.key == planner.PERCEPTION else each.option
            weights = f"{entry.spec.memory_gb[option.precision]:g} {option.precision}" if entry.memory_gb else ""
            cache = f"{planner.cache_gb(entry):.1f}" if entry.engine else ""
            table.add_row(key, weights, cache, f"{option.gb:.1f}", option.source)
    console.print(table)


def _as_json(placement: Placement, left: Sequence[Job], refusal: str) -> dict[str, Any]:
    return {
        "fits": not refusal,
        "refusal": refusal,
        "cards": [
            {"capacity_gb": gb, "reserved_gb": round(placement.used(card), 1)}
            for card, gb in enumerate(placement.capacity)
        ],
        "placed": [
            {"process": p.job.key, "members": p.job.members, "cards": p.cards, "replica": p.replica} | asdict(p.option)
            for p in placement.placed
        ],
        "on_cpu": placement.on_cpu,
        "left_out": [{"process": job.key, "least": planner.least_gb(job)} for job in left],
        "plan": [card.model_dump() for card in catalog.plan().card],
    }
