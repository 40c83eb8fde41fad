"""`cost`: what serving a profile costs by the hour and the month, what it must earn, and the plan's bill beside it."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.console import Console
from rich.table import Table

from cascade.profile import ProfileError
from miner.chain import ChainError
from miner.cost import PRICES, Bill, Income, Offer, PlansBill, PricesError, Range, bills, pictures_per_second, prices
from miner.doctor.world import NotAsked, World, read_chain
from miner.profiles import members
from miner.settings import CHAIN, Settings, UsageError, parse
from models import planner

CARD_GB = 80.0
MOST_CARDS = 8


class Cost(Settings):
    """What serving costs, and what it would have to earn. Figures that are not given are read or named as missing."""

    takes = ("profile", *CHAIN, "health_host", "health_port")
    prices: Path = Field(PRICES, description="The price table (TOML) to use.")
    price_per_hour: float | None = Field(None, gt=0, description="US dollars an hour for the whole machine.")
    cards: int | None = Field(None, ge=1, description="Cards of 80 GB. Default: as many as the profile needs.")
    pictures_per_second: float | None = Field(None, gt=0, description="Measured. Default: of the running miner.")
    training_hours: float = Field(0.0, ge=0, description="Hours of training to count besides, on one card.")
    emission: float | None = Field(None, ge=0, description="Alpha a day to all miners. Default: the chain's.")
    burned: float | None = Field(None, ge=0, le=1, description="Share of it that is burned. Default: the chain's.")
    alpha_price: float | None = Field(None, ge=0, description="US dollars for one alpha.")
    as_json: bool = Field(False, description="Print JSON for a program.")


def main(arguments: Sequence[str]) -> int:
    asked = parse(Cost, arguments)
    try:
        table = prices(asked.prices)
    except PricesError as error:
        raise UsageError(str(error)) from None
    cards = asked.cards or cards_for(asked.profile)
    offers: Sequence[Offer] = table.offer if cards else ()
    if asked.price_per_hour:
        each = asked.price_per_hour / max(cards, 1)
        offers = [Offer(provider="yours", card="as entered", low=each, high=each, date="2000-01", source="entered")]
    rate = asked.pictures_per_second or _running(asked)
    income, why = _income(asked)
    worked = bills(offers, max(cards, 1), table.eur_per_usd, rate, income)
    if asked.as_json:
        sys.stdout.write(json.dumps(_plain(cards, rate, worked, income, table.plan), indent=2) + "\n")
    else:
        _print(Console(), asked, cards, rate, worked, why, table.plan)
    return 0


def cards_for(profile: str) -> int:
    """How many cards of 80 GB hold a profile's models; 0 when it needs none. Raises UsageError."""
    try:
        keys = [entry.key for entry in members(profile)]
    except ProfileError as error:
        raise UsageError(str(error)) from None
    if not planner.jobs(keys, [CARD_GB])[0]:
        return 0
    for count in range(1, MOST_CARDS + 1):
        try:
            planner.place(keys, [CARD_GB] * count)
        except planner.DoesNotFit as error:
            refusal = str(error)
        else:
            return count
    raise UsageError(f"{profile} does not fit on {MOST_CARDS} cards of {CARD_GB:.0f} GB: {refusal}")


def _running(asked: Cost) -> float | None:
    world = World(asked, chain=lambda: read_chain(asked))
    try:
        return pictures_per_second(world.fetch(f"{world.health}/metrics", None).decode())
    except OSError:
        return None


def _income(asked: Cost) -> tuple[Income | None, str]:
    """The subnet's pay, and what is missing when it cannot be said."""
    emission, burned, instead = asked.emission, asked.burned, ""
    if emission is None or burned is None:
        try:
            told = read_chain(asked).told
        except NotAsked:
            instead = "; --network finney asks the chain for the first two"
        except ChainError as error:
            instead = f"; {error}"
        else:
            emission = told.emission if emission is None else emission
            burned = told.burned if burned is None else burned
    missing = {"--emission": emission, "--burned": burned, "--alpha-price": asked.alpha_price}
    if emission is None or burned is None or asked.alpha_price is None:
        flags = ", ".join(flag for flag, value in missing.items() if value is None)
        return None, f"Break-even: give {flags}{instead}."
    return Income(emission, burned, asked.alpha_price), ""


def _print(
    console: Console, asked: Cost, cards: int, rate: float | None, worked: Sequence[Bill], why: str, plan: PlansBill
) -> None:
    machine = f"{cards} x {CARD_GB:.0f} GB" if cards else "no card: it runs on the CPU"
    console.print(f"Profile {asked.profile}: {machine}.", highlight=False)
    origin = "as given" if asked.pictures_per_second else "measured on the running miner, one after the other"
    unmeasured = "not measured: let the miner answer some, or give --pictures-per-second"
    console.print(f"Speed: {f'{rate:.1f} pictures a second, {origin}' if rate else unmeasured}.", highlight=False)
    if worked:
        console.print(_table(worked))
    else:
        console.print("Price: enter what your machine costs with --price-per-hour.", highlight=False)
    if worked and asked.training_hours:
        once = min(bill.usd_an_hour.low / bill.cards for bill in worked) * asked.training_hours
        console.print(
            f"Training: {asked.training_hours:g} hours on one card, from ${once:,.0f}, once.", highlight=False
        )
    if why:
        console.print(why, highlight=False)
    console.print(
        f"The plan's ${plan.training:.0f} is {plan.training_hours:.0f} hours of training at ${plan.usd_per_hour:.2f}, "
        f"once. Serving on its {plan.serving_cards} cards is not in it: ${plan.serving_a_month:,.0f} a month.",
        highlight=False,
    )


def _table(worked: Sequence[Bill]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("offer", overflow="fold")
    for title in ("as of", "$ an hour", "$ a month", "pictures a €", "pays from"):
        table.add_column(title, justify="right", no_wrap=True)
    for bill in worked:
        table.add_row(
            f"{bill.provider}, {bill.card}" if bill.provider != "yours" else "yours",
            bill.date if bill.provider != "yours" else "entered",
            _span(bill.usd_an_hour, "{:.2f}"),
            _span(bill.usd_a_month, "{:,.0f}"),
            _span(bill.pictures_per_euro, "{:,.0f}") if bill.pictures_per_euro else "?",
            _share(bill.break_even),
        )
    return table


def _span(one: Range, form: str) -> str:
    low, high = form.format(one.low), form.format(one.high)
    return low if low == high else f"{low}-{high}"


def _share(one: Range | None) -> str:
    if one is None:
        return "?"
    if one.low > 1:
        return "never"
    return _span(one.times(100), "{:.2f}") + " %"


def _plain(
    cards: int, rate: float | None, worked: Sequence[Bill], income: Income | None, plan: PlansBill
) -> dict[str, Any]:
    told = [asdict(bill) for bill in worked]
    for each in told:
        if each["break_even"] and math.isinf(each["break_even"]["low"]):
            each["break_even"] = "never"
    return {
        "cards": cards,
        "pictures_per_second": rate,
        "offers": told,
        "income": asdict(income) | {"to_miners": income.to_miners} if income else None,
        "plan": {"training_usd_once": plan.training, "serving_usd_a_month_left_out": plan.serving_a_month},
    }
