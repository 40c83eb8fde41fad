"""Models are placed by exact search; what does not fit is refused, with what to take instead."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from miner.commands import plan as command
from miner.settings import UsageError
from models import planner
from models.planner import DoesNotFit, Job, Option, place, search

NO_RESULTS = Path("no-such-directory")

options = st.lists(
    st.builds(Option, st.sampled_from(["bf16", "fp8", "int4"]), st.integers(1, 60).map(float)), min_size=1, max_size=2
)
works = st.lists(options, min_size=1, max_size=4).map(
    lambda lists: [Job(f"job-{n}", (), tuple(each)) for n, each in enumerate(lists)]
)
capacities = st.lists(st.integers(20, 80).map(float), min_size=1, max_size=3)


@given(works, capacities)
def test_the_search_finds_what_trying_everything_finds(work: list[Job], capacity: list[float]) -> None:
    found = search(work, capacity)
    least = None
    for picks in product(*(product(job.options, range(len(capacity))) for job in work)):
        used = [sum(option.gb for option, card in picks if card == n) for n in range(len(capacity))]
        if all(gb <= room for gb, room in zip(used, capacity, strict=True)):
            loss = sum(option.loss for option, _ in picks)
            least = loss if least is None else min(least, loss)
    assert (found is None) == (least is None)
    if found is not None:
        assert sum(each.option.loss for each in found) == least
        assert sorted(each.job.key for each in found) == sorted(job.key for job in work)
        for card, room in enumerate(capacity):
            assert sum(each.option.gb for each in found if card in each.cards) <= room + 1e-6


def test_no_card_is_ever_overfull_and_replicas_are_on_other_cards() -> None:
    placement = place(["dinov3-h-plus", "dfine-x", "qwen3-vl-4b"], [80, 80], NO_RESULTS)
    assert all(placement.used(card) <= 80 for card in range(2))
    by_process = {
        name: [p.cards for p in placement.placed if p.job.key == name] for name in ("perception", "qwen3-vl-4b")
    }
    for cards in by_process.values():
        assert len(cards) == 2
        assert cards[0] != cards[1]
    assert all(each.option.cards == 1 for each in placement.placed)


def test_detectors_and_encoders_share_one_process_and_small_ones_run_on_the_cpu() -> None:
    placement = place(["embedded", "sign-reading", "dinov3-h-plus", "sam3"], [80], NO_RESULTS)
    assert [each.job.members for each in placement.placed] == [("dinov3-h-plus", "sam3")]
    assert placement.on_cpu == ("embedded", "sign-reading")


def test_a_model_takes_the_best_precision_that_lets_everything_fit() -> None:
    alone = place(["qwen3-vl-32b"], [80], NO_RESULTS)
    assert alone.placed[0].option.precision == "bf16"
    together = place(["qwen3-vl-32b", "qwen3-vl-8b"], [80], NO_RESULTS)
    assert {each.job.key: each.option.precision for each in together.placed} == {
        "qwen3-vl-32b": "fp8",
        "qwen3-vl-8b": "bf16",
    }


def test_one_that_fits_on_no_card_at_any_precision_is_split() -> None:
    placement = place(["qwen3-vl-32b"], [24, 24], NO_RESULTS)
    assert [(each.option.cards, each.cards, each.option.precision) for each in placement.placed] == [(2, (0, 1), "fp8")]


def test_maverick_is_refused_with_its_size_and_what_to_take_instead() -> None:
    with pytest.raises(DoesNotFit, match=r"llama-4-maverick 220\.4 GB at int4.*Use qwen3-vl-32b or qwen3-8-27b"):
        place(["dfine-x", "llama-4-maverick"], [80, 80], NO_RESULTS)


def test_what_fits_keeps_the_given_order() -> None:
    placement, left = planner.what_fits(["qwen3-vl-32b", "llama-4-maverick", "qwen3-vl-4b"], [80], NO_RESULTS)
    assert {each.job.key for each in placement.placed} == {"qwen3-vl-32b", "qwen3-vl-4b"}
    assert [job.key for job in left] == ["llama-4-maverick"]


def test_a_measured_figure_replaces_the_computed_one_and_says_so(tmp_path: Path) -> None:
    assert place(["qwen3-vl-8b"], [80], tmp_path).placed[0].option.source == "computed"
    other = tmp_path / "other"
    other.mkdir()
    for name, date, gb in (("h100", "2026-11-24", 21.34), ("h200", "2026-11-23", 99.0)):
        rows = [{"key": "qwen3-vl-8b", "precision": "bf16", "reserved_gb": gb}]
        (other / f"gpu-models-{name}.json").write_text(json.dumps({"date": date, "models": rows}))
    option = place(["qwen3-vl-8b"], [80], other).placed[0].option
    assert (option.gb, option.source) == (21.4, "measured"), "the later measurement counts"


@pytest.mark.parametrize(("key", "measured"), [("4b", 10.0 + 1.1), ("8b", 11.3), ("32b", 37.7 + 1.1)])
def test_a_scorer_reserves_what_was_measured_and_no_cache_for_requests(key: str, measured: float) -> None:
    """docs/results/scorer-2026-11-24.md: with one grid recorded, and what the other eight added to the 8B."""
    gb = place([f"qwen3-vl-{key}-scorer"], [80], NO_RESULTS).placed[0].option.gb
    assert measured <= gb + 0.05 <= measured + 0.6


def test_a_member_that_asks_the_others_weighs_nothing() -> None:
    alone = place(["dfine-x", "llmdet-l"], [80], NO_RESULTS)
    together = place(["dfine-x", "llmdet-l", "detectors-together"], [80], NO_RESULTS)
    assert together.placed[0].option.gb == alone.placed[0].option.gb
    assert together.placed[0].job.members == ("dfine-x", "llmdet-l", "detectors-together")


def test_the_plans_own_table_is_shown_beside_the_truth(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--gpus", "80,80"]) == 1
    shown = " ".join(capsys.readouterr().out.split())
    for words in ("-3.4", "87.6", "213 GB", "does not fit", "left out: llama-4-maverick, 220.4 GB at int4"):
        assert words in shown


def test_json_holds_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--gpus", "80", "--profile", "embedded", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["fits"]
    assert answer["on_cpu"] == ["embedded", "sign-reading"]
    assert answer["cards"] == [{"capacity_gb": 80.0, "reserved_gb": 0}]


def test_explain_tells_how_a_figure_came_about(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.toml").write_text(
        'name = "own"\nband = [0.1, 0.9]\n[[tiers]]\nname = "a"\nexpected_ms = 9\n'
        '[[tiers.members]]\nmodel = "dfine-x"\n[[tiers.members]]\nmodel = "qwen3-vl-4b"\n'
    )
    assert command.main(["--gpus", "80", "--profile", "own.toml", "--explain"]) == 0
    shown = capsys.readouterr().out
    rows = [line.split() for line in shown.splitlines()]
    reserved = planner.member(planner.find("dfine-x"))
    assert ["dfine-x", "0.12", "bf16", f"{reserved.gb:.1f}", "measured"] in rows
    assert ["qwen3-vl-4b", "8.9", "bf16", "2.4", "13.4", "computed"] in rows


@pytest.mark.parametrize("value", ["eighty", "80,", "0", "-80", "nan"])
def test_cards_that_cannot_be_are_refused(value: str) -> None:
    with pytest.raises(UsageError, match="gpus"):
        command.main(["--gpus", value])


def test_an_unknown_profile_or_model_is_refused() -> None:
    with pytest.raises(UsageError, match="no such profile"):
        command.main(["--gpus", "80", "--profile", "nope"])
    Path("own.toml").write_text(
        'name = "own"\nband = [0.1, 0.9]\n[[tiers]]\nname = "a"\nexpected_ms = 9\n[[tiers.members]]\nmodel = "yolo27"\n'
    )
    with pytest.raises(UsageError, match="no model 'yolo27'"):
        command.main(["--gpus", "80", "--profile", "own.toml"])
