"""The 35 figures of reliability, one table: asked, reached, passed, and how.

    python -m benchmarks.reliability                    all of them; about two hours, one of them the soak
    python -m benchmarks.reliability --only 6,17
    python -m benchmarks.reliability --soak DIR         figure 24 from what `benchmarks.soak --out DIR` recorded
    python -m benchmarks.reliability --json OUT

A figure is shown by tests (`tests/file.py::test`), which print what they reached, by a measurement of
`benchmarks.figures` at full size, or by both. What needs a card says which command shows it there. Run it with the
environment of the tests; figure 27 takes the one that holds torch, figure 1 the one that holds the validators' SDK;
./run_tests.sh makes them. Figure 17 is a matter of milliseconds: on a machine that others use too, `chrt -r 1` before
the command keeps them out of it.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import re
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks import figures, soak
from miner.cli import ROOT

Measurement = Callable[[], figures.Found | Coroutine[Any, Any, figures.Found]]
AXON, GATE, LONG, FAULTS = "test_axon.py", "test_gate.py", "test_edge_long.py", "cascade/test_faults.py"
CHAIN, WORKER, DECODE = "test_chain.py", "models/test_worker.py", "test_decode.py"


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. tests: ids below tests/. card: what only a card can show, and the command there.

    most: pattern of a number in what the tests print, and what it may be at most. The tests themselves hold no clock
    against anybody: they have to pass on a machine that does ten other things.
    """

    number: int
    title: str
    asked: str
    tests: Sequence[str] = ()
    measure: Measurement | None = None
    card: str = ""
    torch: bool = False
    most: tuple[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """What became of a figure."""

    number: int
    title: str
    asked: str
    reached: str
    passed: bool
    how: str
    seconds: float


FIGURES = (
    Figure(
        1,
        "a 9.12.2 dendrite in its own environment",
        "1,000 of 1,000 answered, value equal to the service's",
        ("process/test_miner.py::test_a_dendrite_of_the_validators_release_gets_1000_of_1000_answers",),
    ),
    Figure(
        2,
        "unsigned, empty, garbage, foreign signature",
        "all refused, no forward",
        (
            f"{LONG}::test_ten_thousand_forgeries_in_a_validators_name_and_it_is_served_throughout",
            f"{AXON}::test_2000_forged_requests_are_refused_and_none_reaches_the_models",
        ),
    ),
    Figure(
        3,
        "replay: same process, restart, huge time-out; a year ahead, 14 s old",
        "all refused, the validator served next",
        (
            f"{AXON}::test_replays_are_refused_across_a_restart_and_the_validator_is_served_next",
            f"{GATE}::test_an_exact_replay_is_refused_and_the_validator_is_served_next",
            f"{GATE}::test_a_huge_unsigned_timeout_does_not_widen_the_window",
            f"{GATE}::test_a_nonce_ahead_is_refused_naming_the_clock_and_the_wait",
            f"{GATE}::test_a_nonce_too_old_is_refused_naming_the_clock",
        ),
    ),
    Figure(
        4,
        "10,000 forged requests in a validator's name",
        "that validator 100 % served",
        (f"{LONG}::test_ten_thousand_forgeries_in_a_validators_name_and_it_is_served_throughout",),
    ),
    Figure(
        5,
        "unknown or null hotkey, no permit, deregistered midway",
        "403, never 500",
        (
            f"{GATE}::test_unknown_null_and_permitless_hotkeys_get_403",
            f"{GATE}::test_a_caller_deregistered_midway_gets_403",
            f"{GATE}::test_a_caller_deregistered_while_its_body_was_on_the_way_gets_403",
            f"{AXON}::test_no_key_no_registration_no_permit",
        ),
    ),
    Figure(
        6,
        "a registered flooder at 50/s beside a validator at 1/s",
        "validator p99 < 2 s, none missed",
        (f"{AXON}::test_a_flooder_beside_a_validator_spends_its_own_budget_only",),
        figures.flooder_beside_a_validator,
    ),
    Figure(
        7,
        "body limit -1/+1 byte, chunked, 64 MiB, 1 GiB declared",
        "accepted / 413; memory < +64 MiB; closed < 1 s",
        (
            f"{AXON}::test_the_body_limit_to_the_byte",
            f"{AXON}::test_the_body_limit_to_the_byte_when_chunked",
            f"{AXON}::test_one_gib_declared_is_refused_at_once_and_the_connection_closed_within_a_second",
            f"{LONG}::test_64_mib_and_more_are_refused_and_cost_no_memory",
        ),
        most=(r"closed after ([\d.]+) s", 1.0),
    ),
    Figure(
        8,
        "200 slow connections of 1 byte/s",
        "cut within 10 s, validator unaffected",
        (f"{LONG}::test_200_clients_of_one_byte_a_second_are_cut_within_10_s",),
        most=(r"was cut after ([\d.]+) s", 10.0),
    ),
    Figure(
        9,
        ">= 10,000 malformed pictures",
        "no crash, no 5xx, finite p, peak < +150 MB",
        (
            f"{DECODE}::test_no_other_format_is_opened",
            f"{DECODE}::test_gray_and_cmyk_become_rgb",
            f"{DECODE}::test_a_camera_held_sideways_is_turned_upright",
            f"{DECODE}::test_the_most_expensive_allowed_pictures_cost_less_than_150_mb",
        ),
        figures.malformed_pictures,
    ),
    Figure(
        10,
        "every answer, property-tested",
        "a finite float in [0, 1]",
        (
            f"{FAULTS}::test_figure_10_any_mix_of_faults_gives_a_finite_answer_in_time",
            f"{AXON}::test_an_answer_that_is_no_probability_becomes_the_prior",
            f"{AXON}::test_any_probability_arrives_as_it_is",
        ),
    ),
    Figure(
        11,
        "each tier in turn hangs for ever",
        "answered < 8 s from what is done",
        (f"{FAULTS}::test_figure_11_each_tier_in_turn_hangs_for_ever",),
        most=(r"answered in ([\d.]+) s", 8.0),
    ),
    Figure(
        12,
        "validator's time-out 0, -1, NaN, 1e9",
        "treated as within [1, 12] s",
        (
            f"{GATE}::test_the_unsigned_timeout_is_believed_within_1_and_12_seconds",
            "test_service.py::test_time_outs_of_figure_12",
        ),
    ),
    Figure(
        13,
        "kill -9 of a model worker mid-request, 50 times",
        "50 answered; back <= 60 s; readiness <= 2 s",
        (f"{FAULTS}::test_figure_13_a_model_that_dies_fifty_times",),
        figures.fifty_kills,
    ),
    Figure(
        14,
        "a model's process stopped (SIGSTOP)",
        "canary fails <= 30 s, tier skipped, breaker open",
        (
            f"{FAULTS}::test_figure_14_a_model_that_stops_answering_is_found_by_its_canary",
            f"{WORKER}::test_a_stopped_process_is_a_hang_and_is_replaced",
        ),
        figures.stopped_engine,
    ),
    Figure(
        15,
        "out of GPU memory injected",
        "answered; halved or dropped; <= 3 restarts in 10 min",
        (f"{FAULTS}::test_figure_15_out_of_memory", f"{WORKER}::test_full_memory_is_typed_and_costs_no_process"),
    ),
    Figure(
        16,
        "all tiers down",
        "200 with the prior, flagged; readiness 503",
        (
            f"{FAULTS}::test_figure_16_all_tiers_down",
            "test_start.py::test_requests_are_answered_while_models_load_and_ready_is_said_after_the_canary",
            "test_telemetry.py::test_an_answer_by_the_prior_is_counted_with_its_fault",
        ),
    ),
    Figure(
        17,
        "queue limit + 10",
        "excess cheap < 50 ms, accepted all 200",
        (
            f"{FAULTS}::test_figure_17_what_is_too_much_gets_the_cheap_tier_soon",
            f"{AXON}::test_ten_more_than_the_queue_holds_get_the_cheap_answer_at_once_and_the_accepted_all_200",
        ),
        figures.queue_limit_and_ten,
        most=(r"answered cheaply in ([\d.]+) ms", 50.0),
    ),
    Figure(
        18,
        "concurrency 1, 4, 16, 64",
        "p50, p95, p99 published; at 16 p99 < 9 s",
        (f"{FAULTS}::test_figure_18_latency_at_concurrency",),
        figures.latency_at_concurrency,
        most=(r"p99 ([\d.]+) ms over", 9000.0),
    ),
    Figure(
        19,
        "one 8 s request + 20 fast",
        "fast p99 < 500 ms",
        (f"{FAULTS}::test_figure_19_one_slow_request_beside_twenty_fast_ones",),
        most=(r"dear tier: ([\d.]+) ms", 500.0),
    ),
    Figure(
        20,
        "chain gone 24 h, flapping, slow, wrong genesis",
        "serves on, warns, <= 1 socket, memory flat",
        (
            f"{CHAIN}::TestWatch::test_a_day_without_the_chain_changes_nothing",
            f"{CHAIN}::TestWatch::test_memory_stays_flat_for_a_day_without_the_chain",
            f"{CHAIN}::TestWatch::test_flapping_never_loses_the_view_nor_the_pace",
            f"{CHAIN}::TestWatch::test_a_node_that_stands_still_is_stale",
            f"{CHAIN}::TestSubtensor::test_answers_and_then_hangs",
            f"{CHAIN}::TestSubtensor::test_wrong_genesis_is_refused_before_anything_is_decoded",
            f"{CHAIN}::TestSubtensor::test_memory_and_sockets_stay_flat_over_many_failures",
            f"{CHAIN}::TestReadingANode::test_a_node_that_goes_and_comes_back_is_asked_on_one_socket",
        ),
    ),
    Figure(
        21,
        "chain decode error",
        "names the SDK version; no crash",
        (
            f"{CHAIN}::TestSubtensor::test_metadata_that_cannot_be_decoded_names_the_sdk_and_the_remedy",
            f"{CHAIN}::TestReadingANode::test_a_metagraph_that_is_cut_short_names_the_sdk",
        ),
    ),
    Figure(
        22,
        "SIGTERM under load, 50 times",
        "none lost, exit 0 <= 10 s; a second ends at once",
        (f"{AXON}::test_a_drain_finishes_what_was_accepted_and_takes_no_more",),
        figures.fifty_sigterms,
    ),
    Figure(
        23,
        "SIGTERM while loading",
        "exit <= 5 s, no orphan process",
        ("test_start.py::test_sigterm_while_models_load_ends_within_5_s",),
        figures.sigterm_while_loading,
    ),
    Figure(24, "soak with a crashing client", "memory < +100 MB, descriptors flat, p99 drift < 10 %"),
    Figure(
        25,
        "replay store after 1,000,000 requests",
        "bounded, < 50 MB",
        ("test_replay_store.py::test_a_million_requests_take_less_than_50_mb",),
        figures.a_million_replays,
    ),
    Figure(
        26,
        "clock skew +-3 s, +-30 s",
        "accepted / refused naming the clock",
        (f"{AXON}::test_a_validators_clock_may_be_3_s_off_and_not_30",),
    ),
    Figure(
        27,
        "weights truncated, wrong hash, disk full, hub down, no token",
        "refuses with a remedy; resumes; offline start from cache",
        (
            "adapters/test_weights.py",
            "test_embedded.py::test_truncated_weights_are_refused",
            "test_embedded.py::test_other_weights_than_the_card_names_are_refused",
            "test_start.py::test_a_required_tier_that_cannot_be_had_ends_the_miner_with_the_remedy",
        ),
        torch=True,
    ),
    Figure(
        28,
        "unknown setting, bad type, port taken, wallet missing",
        "exit 2, names it, no traceback",
        ("test_settings.py", "test_wallet.py::test_a_missing_hotkey_names_the_command"),
        figures.wrong_settings,
    ),
    Figure(
        29,
        "logs",
        "never a mnemonic, token or picture; loggers visible after the SDK",
        (
            "test_telemetry.py::test_no_secret_and_no_picture_leaves",
            "test_telemetry.py::test_loggers_that_another_library_silenced_speak_again",
            f"{CHAIN}::TestLogging",
            "test_wallet.py::test_a_damaged_hotkey_is_not_quoted",
            "process/test_secrets.py",
        ),
    ),
    Figure(
        30,
        "IPv4 and IPv6, NAT",
        "reachable on both; announced as set",
        (
            f"{AXON}::test_both_families_on_one_port",
            f"{CHAIN}::TestAnnouncing",
            "test_start.py::test_what_is_announced_is_the_address_that_was_set",
        ),
    ),
    Figure(
        31,
        "accuracy through the wire on a fixed labelled set",
        "with 95 % intervals; worse than on record by more than one fails",
        measure=figures.accuracy_through_the_wire,
    ),
    Figure(
        32,
        "the cascade against its best single member",
        ">= single in MCC at lower ms, else the tier goes",
        ("cascade/test_fit.py::test_figure_32_each_tier_against_the_cascade_without_it",),
        card="on real weights: python benchmarks/cascade_study.py",
    ),
    Figure(
        33,
        "calibration",
        "out-of-fold ECE before and after; monotone, finite",
        ("cascade/test_estimation.py::test_figure_33_calibration_error_before_and_after_out_of_fold",),
    ),
    Figure(
        34,
        "cold start",
        "time to ready per tier; not ready before",
        ("test_start.py::test_requests_are_answered_while_models_load_and_ready_is_said_after_the_canary",),
        figures.cold_start,
    ),
    Figure(
        35,
        "README and .env.example",
        "executed / compared by tests",
        (
            "process/test_readme.py",
            "test_settings.py::test_the_example_file_is_the_one_the_settings_make",
            "test_settings.py::test_every_line_of_the_example_file_is_accepted_when_uncommented",
        ),
    ),
)


def run_tests(figure: Figure) -> figures.Found:
    """What the tests of a figure printed of it, or how many passed."""
    python = ROOT / ".venv-torch" / "bin" / "python" if figure.torch else Path(sys.executable)
    ids = [f"tests/{test}" for test in figure.tests]
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        words = ["-q", "--no-header", "-p", "no:cacheprovider", "-o", "junit_logging=system-out"]
        command = [python, "-m", "pytest", *words, f"--junitxml={report}", *ids]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if not report.exists():
            return ran.stdout[-300:] + ran.stderr[-300:], False
        cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    bad = [case.get("name", "") for case in cases if case.find("failure") is not None or case.find("error") is not None]
    said = [line for case in cases for line in (case.findtext("system-out") or "").splitlines()]
    told = [line.partition(": ")[2] for line in said if re.match(rf"figure {figure.number}\b", line)]
    counted = f"{len(cases) - len(bad)} of {len(cases)} tests pass"
    failed = [f"failed: {', '.join(bad)}"] if bad else []
    return "; ".join([*dict.fromkeys(told), counted, *failed]), ran.returncode == 0 and within(figure.most, told)


def within(most: tuple[str, float] | None, told: Sequence[str]) -> bool:
    """Whether the number was printed, and was nowhere too large."""
    if most is None:
        return True
    pattern, limit = most
    found = [float(number) for line in told for number in re.findall(pattern, line)]
    return bool(found) and max(found) <= limit


def run_measurement(measure: Measurement) -> figures.Found:
    found = measure()
    return asyncio.run(found) if asyncio.iscoroutine(found) else found  # type: ignore[return-value]


def soaked(directory: Path | None) -> figures.Found:
    """Figure 24: the last lines of a soak's report. Without a record, an hour's soak and its control are run first."""
    if directory is None:
        with tempfile.TemporaryDirectory() as scratch:
            run = [sys.executable, "-m", "benchmarks.soak", "--out"]
            subprocess.run([*run, scratch], cwd=ROOT, capture_output=True)
            control = subprocess.run([*run, f"{scratch}/control", "--leaking", "--minutes", "10"], cwd=ROOT)
            said, passed = soaked(Path(scratch))
            return f"{said}; control {'found' if control.returncode else 'NOT found'}", passed and bool(
                control.returncode
            )
    with redirect_stdout(io.StringIO()) as out:
        passed = soak.report(directory)
    lines = [line[6:] for line in out.getvalue().splitlines() if line.startswith(("pass  ", "FAIL  "))]
    return "; ".join(line.replace("asked ", "(").replace(", reached", ")") for line in lines), passed


def look(figure: Figure, record: Path | None) -> Row:
    began = time.monotonic()
    said, passed, how = [], True, []
    parts: list[tuple[str, Callable[[], figures.Found]]] = []
    if figure.number == 24:
        parts.append(("benchmarks.soak", lambda: soaked(record)))
    if measure := figure.measure:
        parts.append((f"measured: figures.{measure.__name__}", lambda: run_measurement(measure)))
    if figure.tests:
        parts.append((", ".join(figure.tests), lambda: run_tests(figure)))
    for name, part in parts:
        try:
            reached, fine = part()
        except Exception as error:  # one figure's fault must not lose the others
            reached, fine = f"{type(error).__name__}: {error}", False
        said.append(reached)
        passed = passed and fine
        how.append(name)
    if figure.card:
        how.append(figure.card)
    seconds = round(time.monotonic() - began, 1)
    return Row(figure.number, figure.title, figure.asked, "; ".join(said), passed, "; ".join(how), seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="numbers of figures, comma between")
    parser.add_argument("--soak", type=Path, metavar="DIR", help="record of a finished soak")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the rows here too, after each figure")
    options = parser.parse_args()
    wanted = {int(number) for number in options.only.split(",") if number} or {each.number for each in FIGURES}
    rows = []
    for figure in FIGURES:
        if figure.number in wanted:
            rows.append(look(figure, options.soak))
            show(rows[-1])
            if options.json:
                options.json.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")
    failed = [row.number for row in rows if not row.passed]
    print(f"\n{len(rows) - len(failed)} of {len(rows)} figures pass" + (f"; not: {failed}" if failed else ""))
    return 1 if failed else 0


def show(row: Row) -> None:
    """One row, as soon as it is known."""
    print(f"{row.number:>2}  {'pass' if row.passed else 'FAIL'}  {row.title}", flush=True)
    for name, text in (("asked", row.asked), ("reached", row.reached), ("how", row.how)):
        print(textwrap.fill(text, 112, initial_indent=f"    {name:8}", subsequent_indent=" " * 12), flush=True)


if __name__ == "__main__":
    sys.exit(main())
