"""The arithmetic of a bill, on figures that are stated; what is missing is named, never guessed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner import cost
from miner.commands import cost as command
from miner.commands.cost import cards_for, main
from miner.cost import Income, Offer, PricesError, Range, bills, prices
from miner.settings import UsageError
from models.catalog import entries

OFFER = Offer(provider="P", card="H100 80GB", low=2.0, high=3.0, date="2026-01", source="somebody")


def run(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["--health-port", "1", *words]) == 0
    return capsys.readouterr().out


def test_two_cards_for_an_hour_a_day_and_a_month() -> None:
    [bill] = bills([OFFER], 2, 1.0, None, None)
    assert bill.usd_an_hour == Range(4.0, 6.0)
    assert bill.usd_a_day == Range(96.0, 144.0)
    assert bill.usd_a_month == Range(2920.0, 4380.0)
    assert (bill.pictures_per_euro, bill.break_even) == (None, None)


def test_pictures_for_a_euro() -> None:
    [bill] = bills([OFFER], 1, 0.5, 10.0, None)
    assert bill.pictures_per_euro == Range(36_000 / 1.5, 36_000 / 1.0)


def test_the_share_that_pays_for_the_machine() -> None:
    [bill] = bills([OFFER], 1, 1.0, None, Income(emission=1000, burned=0.5, alpha=2.0))
    assert bill.break_even == Range(48 / 1000, 72 / 1000)


def test_nothing_pays_when_everything_is_burned() -> None:
    [bill] = bills([OFFER], 1, 1.0, None, Income(emission=1000, burned=1.0, alpha=2.0))
    assert bill.break_even == Range(float("inf"), float("inf"))


@given(st.integers(1, 8), st.floats(0.1, 1e4), st.floats(0.01, 1e6), st.floats(0, 0.99), st.floats(0.001, 1e3))
def test_the_higher_price_never_gives_more(
    cards: int, rate: float, emission: float, burned: float, alpha: float
) -> None:
    [bill] = bills([OFFER], cards, 0.86, rate, Income(emission, burned, alpha))
    assert bill.usd_an_hour.low <= bill.usd_an_hour.high
    assert bill.pictures_per_euro is not None
    assert bill.pictures_per_euro.low <= bill.pictures_per_euro.high
    assert bill.break_even is not None
    assert bill.break_even.low <= bill.break_even.high


def test_the_plans_576_dollars_and_what_it_left_out() -> None:
    plan = prices().plan
    assert plan.training == 576
    assert plan.serving_a_month == pytest.approx(2 * 2.25 * 730)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("low = 9.0", "expected low <= high"),
        ('date = "yesterday"', "offer.0.date"),
        ('source = ""', "offer.0.source"),
        ("colour = 1", "offer.0.colour: unknown name"),
    ],
)
def test_a_wrong_table_is_named(tmp_path: Path, change: str, said: str) -> None:
    lines = {"provider": '"P"', "card": '"C"', "low": "1.0", "high": "2.0", "date": '"2026-01"', "source": '"s"'}
    key, _, value = change.partition(" = ")
    lines[key] = value
    offer = "".join(f"{name} = {each}\n" for name, each in lines.items())
    plan = "[plan]\ntraining_hours = 1\nusd_per_hour = 1\nserving_cards = 1\n"
    file = tmp_path / "prices.toml"
    file.write_text(f"eur_per_usd = 0.9\n[[offer]]\n{offer}{plan}")
    with pytest.raises(PricesError, match=said):
        prices(file)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(PricesError, match=r"none\.toml: No such file"):
        prices(tmp_path / "none.toml")
    with pytest.raises(UsageError, match=r"none\.toml"):
        main(["--prices", str(tmp_path / "none.toml")])


def test_speed_is_read_off_a_running_miner() -> None:
    text = 'x_sum 1\nstreetvision_stage_seconds_sum{stage="cascade"} 2.0\n'
    text += 'streetvision_stage_seconds_count{stage="cascade"} 50.0\n# HELP x\n'
    assert cost.pictures_per_second(text) == 25.0
    assert cost.pictures_per_second("") is None


def test_the_embedded_profile_needs_no_card() -> None:
    assert cards_for("embedded") == 0


def test_a_profile_that_needs_cards_is_placed_on_as_few_as_hold_it(monkeypatch: pytest.MonkeyPatch) -> None:
    small = next(entry for entry in entries().values() if entry.isolated and entry.memory_gb)
    monkeypatch.setattr(command, "members", lambda _: [small])
    assert cards_for("some") == 1


def test_an_unknown_profile_is_named() -> None:
    with pytest.raises(UsageError, match="nonsense"):
        cards_for("nonsense")


def test_what_is_missing_is_said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    shown = run(capsys)
    assert "not measured" in shown
    assert "--price-per-hour" in shown
    assert "Break-even: give --emission, --burned, --alpha-price; --network finney asks the chain" in shown
    assert "$576" in shown
    assert "$3,285 a month" in shown


def test_a_full_bill(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    pay = ["--emission", "1000", "--burned", "0.5", "--alpha-price", "2"]
    shown = run(capsys, "--cards", "1", "--pictures-per-second", "20", "--training-hours", "10", *pay)
    assert "RunPod, H100 80GB" in shown
    assert "4.78-5.50 %" in shown
    assert "10 hours on one card, from $20" in shown


def test_what_was_given_is_not_asked_for_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert "Break-even: give --burned;" in run(capsys, "--emission", "1000", "--alpha-price", "2")


def test_no_figure_is_broken_at_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    pay = ["--emission", "1000", "--burned", "0.5", "--alpha-price", "2"]
    shown = run(capsys, "--cards", "8", "--pictures-per-second", "20", *pay)
    figures = r"2026-01 +34\.00-40\.00 +24,820-29,200 +[\d,]+-[\d,]+ +[\d.]+-[\d.]+ % *$"
    assert re.search(figures, shown, re.MULTILINE)
    assert max(map(len, shown.splitlines())) <= 80


def test_a_machine_of_your_own(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    shown = run(capsys, "--price-per-hour", "0.05", "--emission", "10", "--burned", "1", "--alpha-price", "1")
    assert "yours" in shown
    assert "never" in shown


def test_a_program_reads_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(run(capsys, "--json", "--cards", "2", "--emission", "1", "--burned", "1", "--alpha-price", "1"))
    assert told["offers"][0]["usd_an_hour"] == {"low": 3.98, "high": 4.58}
    assert told["offers"][0]["break_even"] == "never"
    assert told["income"]["to_miners"] == 0
    assert told["plan"]["training_usd_once"] == 576
