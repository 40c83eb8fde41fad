"""What serving costs, what it would have to earn, and the plan's bill beside it. Arithmetic only, on stated figures.

Nothing here is a promise of income: emission, burn and prices are entered or read from the chain, and change.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.checked import checked

PRICES = Path(__file__).with_name("prices.toml")
HOURS_A_DAY = 24
HOURS_A_MONTH = 730  # 365 days / 12


class PricesError(ValueError):
    """The price table cannot be used. The message names the file, the key and what was expected."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Offer(_Part):
    """One card for one hour, in US dollars. date: when somebody looked, as YYYY-MM or YYYY-MM-DD."""

    provider: str = Field(min_length=1)
    card: str = Field(min_length=1)
    low: float = Field(gt=0)
    high: float = Field(gt=0)
    date: str = Field(pattern=r"^\d{4}-\d{2}(-\d{2})?$")
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low > self.high:
            raise ValueError(f"{self.provider}: expected low <= high, got {self.low} > {self.high}")
        return self


class PlansBill(_Part):
    """What the plan counted: training on one card, and the cards it would serve on."""

    training_hours: float = Field(gt=0)
    usd_per_hour: float = Field(gt=0)
    serving_cards: int = Field(ge=1)

    @property
    def training(self) -> float:
        """US dollars, once."""
        return self.training_hours * self.usd_per_hour

    @property
    def serving_a_month(self) -> float:
        """US dollars a month that the plan left out."""
        return self.serving_cards * self.usd_per_hour * HOURS_A_MONTH


class Prices(_Part):
    """The content of a price table."""

    eur_per_usd: float = Field(gt=0)
    offer: tuple[Offer, ...]
    plan: PlansBill


def prices(path: Path = PRICES) -> Prices:
    """The table in a file. Raises PricesError."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PricesError(f"{path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise PricesError(f"{path}: expected TOML: {error}") from None
    return checked(Prices, table, str(path), PricesError)


@dataclass(frozen=True, slots=True)
class Range:
    """From the lowest to the highest price."""

    low: float
    high: float

    def times(self, factor: float) -> Range:
        return Range(self.low * factor, self.high * factor)


@dataclass(frozen=True, slots=True)
class Income:
    """What the subnet pays to all its miners. emission: alpha a day; burned: share in [0, 1]; alpha: US dollars."""

    emission: float
    burned: float
    alpha: float

    @property
    def to_miners(self) -> float:
        """US dollars a day that all miners together get."""
        return self.emission * (1 - self.burned) * self.alpha


@dataclass(frozen=True, slots=True)
class Bill:
    """One offer, worked out. pictures_per_euro, break_even: None where a figure for it is missing.

    break_even: share of the miners' emission that pays for the machine; above 1 (or infinite) none would do.
    """

    provider: str
    card: str
    date: str
    cards: int
    usd_an_hour: Range
    usd_a_day: Range
    usd_a_month: Range
    pictures_per_euro: Range | None
    break_even: Range | None


def bills(
    offers: Sequence[Offer], cards: int, eur_per_usd: float, pictures_per_second: float | None, income: Income | None
) -> list[Bill]:
    """The bill of each offer for `cards` cards. pictures_per_second: measured, of the whole machine."""
    return [_bill(offer, cards, eur_per_usd, pictures_per_second, income) for offer in offers]


def _bill(
    offer: Offer, cards: int, eur_per_usd: float, pictures_per_second: float | None, income: Income | None
) -> Bill:
    hour = Range(offer.low, offer.high).times(cards)
    day = hour.times(HOURS_A_DAY)
    pictures = None
    if pictures_per_second is not None:
        an_hour = pictures_per_second * 3600
        pictures = Range(an_hour / (hour.high * eur_per_usd), an_hour / (hour.low * eur_per_usd))
    return Bill(
        offer.provider,
        offer.card,
        offer.date,
        cards,
        hour,
        day,
        hour.times(HOURS_A_MONTH),
        pictures,
        _break_even(day, income) if income else None,
    )


def _break_even(day: Range, income: Income) -> Range:
    if income.to_miners <= 0:
        return Range(float("inf"), float("inf"))
    return Range(day.low / income.to_miners, day.high / income.to_miners)


def pictures_per_second(exposition: str) -> float | None:
    """Pictures a second, one after the other, from the metrics of a running miner; None before its first answer."""
    seen = dict(line.rsplit(" ", 1) for line in exposition.splitlines() if line and not line.startswith("#"))
    seconds = float(seen.get('streetvision_stage_seconds_sum{stage="cascade"}', 0))
    count = float(seen.get('streetvision_stage_seconds_count{stage="cascade"}', 0))
    return count / seconds if seconds > 0 else None
