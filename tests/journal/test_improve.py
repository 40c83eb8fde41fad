"""A candidate is put in force only if it is not worse, every step is on record, and every step can be taken back."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from cascade.calibration import sigmoid
from cascade.data import FitError
from cascade.deadline import Deadline
from cascade.profile import Member, Profile, SecondQuestion, Tier, load, shipped
from cascade.trace import Record, write
from cascade.verdict import Source, Verdict
from miner.journal_views import Example
from miner.learning.candidate import HEAD, MEMORY, Candidate
from miner.learning.examples import Data, ImproveError, assemble, base_examples
from miner.learning.improve import improve, promote_staged
from miner.learning.judging import Comparison, Judgement, compare, judge
from miner.learning.shadow import Shadow
from miner.learning.steps import STEPS, cross_fitted, out_of_fold, retrain_head
from miner.learning.versions import Versions, to_toml
from miner.service import Decide
from models.base import Frame, ModelUnavailable, Opinion
from models.head import Weights
from models.metrics import mcc
from tests.journal.making import verdict

OWN = Profile(
    name="own",
    band=(0.4, 0.6),
    tiers=(
        Tier(name="one", required=True, expected_ms=10, members=(Member(model="first"),)),
        Tier(name="two", expected_ms=100, members=(Member(model="second"),)),
    ),
)
DAY = 86400.0
NOW = 1e9


def examples(
    n: int, seed: int, at: float = NOW - 60 * DAY, bias: float = 0.0, embeddings: bool = False, flip: float = 0.0
) -> list[Example]:
    """Labelled answers of two experts. bias: what the first one is off by; flip: share of wrong labels."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(n):
        truth = int(rng.random() < 0.5)
        side = 2 * truth - 1
        first, second = (float(3.0 * side + 3.0 * rng.standard_normal()) for _ in range(2))
        said = verdict(
            sigmoid(first + bias), opinions=(Opinion("first", first + bias, 9.0), Opinion("second", second, 80.0))
        )
        label = truth ^ int(rng.random() < flip)
        vector = (rng.standard_normal(6) + side * np.array([2, -2, 0, 0, 0, 0])).astype(np.float32)
        sha256 = f"{rng.integers(2**63):016x}".ljust(64, "0")
        record = Record("2026-01-01T00:00:00.000Z", sha256, 224, 224, said, label, sha256)
        made.append(Example(record, at + number, "testnet", "v", embedding=vector if embeddings else None))
    return made


def data(bias: float, seed: int = 0, n: int = 800) -> Data:
    """150 labels that the live version knows; n in the gate set, and n new ones."""
    older = examples(min(n, 150), 3 * seed, bias=bias)
    gate, new = (tuple(examples(n, 3 * seed + part, bias=bias)) for part in (1, 2))
    return Data((*older, *new), gate, new, new)


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    return Versions(tmp_path / "versions")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fit by hand instead of the whole out-of-fold study: takes back the mean error of the first expert."""

    def unbias(examples: Sequence[Example], candidate: Candidate) -> Candidate:
        tiers = candidate.profile.tiers
        weights = {"first": 0.2, "second": 1.0}
        members = [m.model_copy(update={"weight": weights[m.model]}) for m in candidate.profile.members]
        return Candidate(
            candidate.profile.model_copy(
                update={
                    "tiers": tuple(t.model_copy(update={"members": (m,)}) for t, m in zip(tiers, members, strict=True))
                }
            )
        )

    def worsen(examples: Sequence[Example], candidate: Candidate) -> Candidate:
        tier = candidate.profile.tiers[0]
        muted = tier.model_copy(update={"members": (Member(model="first", weight=0.01),)})
        return Candidate(candidate.profile.model_copy(update={"tiers": (muted,)}))

    monkeypatch.setitem(STEPS, "unbias", unbias)
    monkeypatch.setitem(STEPS, "worsen", worsen)


# --- data -------------------------------------------------------------------------------------------------------------


def digests(of: Sequence[Example]) -> set[str]:
    return {example.record.sha256 for example in of}


def test_what_is_not_in_the_gate_set_is_learned_from_and_what_is_new_judges_too(tmp_path: Path) -> None:
    old, new = examples(300, 0, NOW - 60 * DAY), examples(150, 1, NOW - 2 * DAY)
    split = assemble([*old, *new], examples(80, 2, 0.0), tmp_path / "gate.jsonl", since=NOW - 3 * DAY)
    assert digests(split.train) | digests(split.gate) == digests([*old, *new, *examples(80, 2)])
    assert not digests(split.train) & digests(split.gate)
    assert 60 < len(split.gate) < 150
    assert digests(split.new) == digests(split.week) == digests(new)


def test_for_the_own_profile_the_whole_journal_is_new_and_the_newest_week_is_no_networks(tmp_path: Path) -> None:
    old, new = examples(300, 0, NOW - 60 * DAY), examples(150, 1, NOW - 2 * DAY)
    base = [replace(e, at=0.0) for e in examples(80, 2)]
    split = assemble([*old, *new], base, tmp_path / "gate.jsonl")
    assert digests(split.new) == digests(split.train) - digests(base)
    assert digests(split.week) == digests(new)


def test_the_gate_set_is_frozen_and_nothing_of_it_is_ever_learned_from(tmp_path: Path) -> None:
    old = [*examples(300, 0, NOW - 60 * DAY), *examples(150, 2, NOW - 40 * DAY)]
    first = assemble(old, [], tmp_path / "gate.jsonl")
    frozen = (tmp_path / "gate.jsonl").read_bytes()
    later = assemble([*old, *examples(300, 1, NOW)], [], tmp_path / "gate.jsonl")
    assert (tmp_path / "gate.jsonl").read_bytes() == frozen
    gate = digests(first.gate)
    assert digests(later.gate) == gate != set()
    assert not gate & digests((*later.train, *later.new, *later.week))


def test_a_gate_set_that_could_judge_nobody_yet_is_not_frozen(tmp_path: Path) -> None:
    """Who tried `improve` in the first week had an empty gate set for ever, and every round refused."""
    first, gate_file = examples(300, 0, NOW - DAY), tmp_path / "gate.jsonl"
    assert assemble(first, [], gate_file).gate == ()
    later = assemble([*first, *examples(150, 1, NOW + 14 * DAY)], [], gate_file)
    assert digests(later.gate) < digests(first)
    assert digests(assemble([*first, *examples(150, 2, NOW + 28 * DAY)], [], gate_file).gate) == digests(later.gate)


def test_a_gate_set_of_an_older_release_that_was_frozen_empty_is_drawn_anew(tmp_path: Path) -> None:
    (tmp_path / "gate.jsonl").write_text("")
    assert len(assemble([*examples(300, 0), *examples(150, 1, NOW)], [], tmp_path / "gate.jsonl").gate) > 40


def test_pictures_labelled_for_being_hard_judge_nobody_and_calibrate_nobody(tmp_path: Path) -> None:
    hard = [replace(e, representative=False, source="human") for e in examples(200, 3, NOW)]
    split = assemble([*examples(300, 0), *examples(100, 1, NOW), *hard], [], tmp_path / "gate.jsonl")
    assert len(split.gate) > 0 < len(split.new)
    assert all(e.representative for e in (*split.gate, *split.new, *split.week))
    assert {e.record.sha256 for e in hard} <= {e.record.sha256 for e in split.train}
    with pytest.raises(FitError, match="got 0 and 0"):
        STEPS["refit"](hard, Candidate(OWN))


def test_a_thin_week_is_filled_up_with_the_ones_before(tmp_path: Path) -> None:
    thin = [*examples(15, 1, NOW), *examples(15, 2, NOW - 10 * DAY), *examples(150, 4, NOW - 20 * DAY)]
    split = assemble([*examples(300, 0, NOW - 26 * DAY), *thin], [], tmp_path / "gate.jsonl")
    assert digests(split.week) == digests(thin)


def test_pictures_without_a_group_are_groups_of_their_own(tmp_path: Path) -> None:
    alone = [replace(e, record=replace(e.record, group="")) for e in examples(300, 0)]
    split = assemble([*alone, *examples(50, 1, NOW)], [], tmp_path / "gate.jsonl")
    assert len(split.train) + len(split.gate) == 350
    assert 60 < len(split.gate) < 120


def test_groups_are_not_split_between_gate_and_training(tmp_path: Path) -> None:
    grouped = [
        replace(e, record=replace(e.record, group=f"camera {number % 20}"), at=NOW - 60 * DAY)
        for number, e in enumerate(examples(400, 0))
    ]
    newest = examples(50, 1, NOW)
    split = assemble([*grouped, *newest], [], tmp_path / "gate.jsonl")
    train, gate = ({e.record.group for e in part} - digests(newest) for part in (split.train, split.gate))
    assert not train & gate
    assert train | gate == {f"camera {number}" for number in range(20)}
    assert len(train) > len(gate) > 0


def test_a_base_set_comes_from_labelled_trace_lines(tmp_path: Path) -> None:
    base = examples(100, 0)
    unlabelled = replace(base[0].record, label=-1)
    lines = [write(e.record) for e in base] + [write(unlabelled)]
    (tmp_path / "base.jsonl").write_text("\n".join(lines))
    found = base_examples(tmp_path / "base.jsonl")
    assert len(found) == 100
    split = assemble(examples(60, 5, NOW), found, tmp_path / "gate.jsonl")
    assert len(split.train) + len(split.gate) == 160
    assert len(split.new) == 60


def test_without_labels_there_is_nothing_to_learn(tmp_path: Path) -> None:
    with pytest.raises(ImproveError, match="review page"):
        assemble([], [], tmp_path / "gate.jsonl")


# --- the gate ---------------------------------------------------------------------------------------------------------


def worlds(sharpness: float, n: int = 60, many: int = 200) -> list[Comparison]:
    """Comparisons on 2 n pictures, a third of them road work: few. sharpness: of the candidate's answers; the version
    in force has 1.0."""
    rng, found = np.random.default_rng(0), []
    for seed in range(many):
        labels = (rng.random(2 * n) < 1 / 3).astype(np.int64)
        seen = rng.standard_normal((2, 2 * n)) + (2 * labels - 1) * np.array([[1.0], [sharpness]])
        before, after = 1.0 / (1.0 + np.exp(-2.0 * seen))
        found.append(compare(labels, before, after, [str(i) for i in range(2 * n)], n=200, seed=seed))
    return found


def test_what_is_no_better_is_called_better_in_one_round_of_twenty() -> None:
    same = worlds(sharpness=1.0)
    assert 0 < sum(it.low > 0.0 for it in same) <= 17  # 10 of 200 expected, more than 17 once in a hundred runs
    assert 0 < sum(it.high < 0.0 for it in same) <= 17
    assert sum(it.low > 0.0 for it in worlds(sharpness=0.8)) <= 2


def test_what_is_better_is_mostly_called_better() -> None:
    assert sum(it.low > 0.0 for it in worlds(sharpness=1.3)) > 100


def test_a_comparison_is_paired() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([0, 1] * 50)
    before = rng.random(100)
    it = compare(labels, before, before + 0.01 * (labels - before), [str(i) for i in range(100)])
    assert 0.0 < it.low < it.gain < it.high < 0.02  # apart, each would be uncertain by 0.05
    assert it.gain == pytest.approx(np.mean((before - labels) ** 2) * (1 - 0.99**2))


@pytest.mark.slow
def test_a_better_fit_is_promoted_and_the_audit_says_on_what_figures(versions: Versions) -> None:
    name, judgement = improve(data(bias=3.0, n=100), versions, OWN)
    assert judgement.passed
    assert name == "0001" == versions.current()
    (line,) = versions.audit()
    assert (line["event"], line["version"], line["previous"], line["trained_on"]) == ("promoted", "0001", "", 200)
    assert line["gate"]["mcc_after"] > line["gate"]["mcc_before"] + 0.02
    assert line["both"]["low"] > 0.0
    path = versions.profile_path()
    assert path is not None
    assert load(path).fit is not None  # what is in force is a profile like any other


def test_a_worse_candidate_is_refused_and_the_live_version_stays(versions: Versions, quick: None) -> None:
    name, judgement = improve(data(bias=0.0), versions, OWN, steps=["worsen"])
    assert (name, versions.current()) == ("", "")
    assert not judgement.passed
    (line,) = versions.audit()
    assert line["event"] == "refused"
    assert [reason[:17] for reason in line["reasons"]] == ["together: not bet", "gate: worse at 95"]


def test_no_gain_is_no_reason_to_change(versions: Versions) -> None:
    same = Candidate(OWN)
    (reason,) = judge(data(bias=0.0), same, same, same.probabilities).reasons
    assert reason.startswith("together: not better at 95 %")


def test_too_few_pictures_judge_nobody() -> None:
    some = data(bias=0.0, n=800)
    few = replace(some, new=some.new[:30])
    judgement = judge(few, Candidate(OWN), Candidate(OWN), Candidate(OWN).probabilities)
    assert judgement.new is None
    assert "new labels: expected 20 pictures of each label, got" in judgement.reasons[0]


def test_new_labels_that_are_wrong_praise_who_learned_them_and_the_gate_set_refuses(versions: Versions) -> None:
    older, gate = (tuple(examples(150, seed, embeddings=True)) for seed in (0, 1))
    poisoned = tuple(examples(600, 2, embeddings=True, flip=1.0))
    name, judgement = improve(Data((*older, *poisoned), gate, poisoned, poisoned), versions, OWN, steps=["head"])
    assert name == ""
    assert judgement.new is not None
    assert judgement.new.low > 0.0
    assert any(reason.startswith("gate: worse at 95 %") for reason in judgement.reasons)


def test_new_pictures_are_answered_by_fits_that_did_not_know_them() -> None:
    noise = [
        replace(e, embedding=np.random.default_rng(number).standard_normal(150).astype(np.float32))
        for number, e in enumerate(examples(200, 0))
    ]
    only_head = OWN.model_copy(update={"tiers": (OWN.tiers[0].model_copy(update={"members": (Member(model=HEAD),)}),)})
    labels = np.array([e.label for e in noise])
    knowing = retrain_head(noise, Candidate(only_head)).probabilities(noise)
    answers = out_of_fold(noise[50:], noise, [retrain_head], Candidate(only_head))
    assert np.mean((knowing > 0.5) == labels) > 0.75  # it knows its training set by heart
    assert np.mean((answers > 0.5) == labels[50:]) < 0.62


def test_too_few_labels_to_fit_say_so(versions: Versions) -> None:
    few = data(bias=0.0, n=15)
    with pytest.raises(ImproveError, match="label more"):
        improve(few, versions, OWN)
    with pytest.raises(ImproveError, match="known: head, memory, refit"):
        improve(few, versions, OWN, steps=["distil"])


# --- versions ---------------------------------------------------------------------------------------------------------

FINE = Judgement(Comparison(100, 50, 0.5, 0.6, 0.1, 0.05, 0.15), None, None, ())


def put(versions: Versions) -> str:
    name = versions.write(Candidate(OWN))
    versions.promote(name, FINE)
    return name


def test_a_version_knows_no_label_that_came_after_it_was_made(tmp_path: Path) -> None:
    days = iter(range(1, 9))
    versions = Versions(tmp_path, now=lambda: datetime(2026, 1, next(days), tzinfo=UTC))
    assert versions.made("") == 0.0
    assert versions.made(put(versions)) == datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    staged = versions.write(Candidate(OWN))
    versions.stage(staged, FINE)
    versions.promote(staged, FINE)
    versions.rollback()
    assert versions.made(staged) == datetime(2026, 1, 2, tzinfo=UTC).timestamp()
    assert versions.made(versions.current()) == datetime(2026, 1, 1, tzinfo=UTC).timestamp()


def test_rollback_goes_back_one_and_one_more_to_the_own_profile(versions: Versions) -> None:
    put(versions)
    put(versions)
    assert versions.rollback(who="me") == "0001" == versions.current()
    assert versions.rollback(who="me") == "" == versions.current()
    with pytest.raises(ImproveError, match="nothing to go back to"):
        versions.rollback()
    events = [(line["event"], line["version"], line.get("previous")) for line in versions.audit()]
    assert events[2:] == [("rollback", "0001", "0002"), ("rollback", "", "0001")]


def test_rollback_to_a_version_that_is_gone_says_which_are_there(versions: Versions) -> None:
    put(versions)
    with pytest.raises(ImproveError, match="there: 0001"):
        versions.rollback("0007")


def test_the_last_versions_stay_and_the_live_one_and_the_one_before_always(tmp_path: Path) -> None:
    versions = Versions(tmp_path, keep=3)
    for _ in range(6):
        put(versions)
    assert versions.names() == ["0004", "0005", "0006"]
    versions.rollback("0004")
    assert put(versions) == "0007"  # a number is never used twice
    assert versions.names() == ["0004", "0006", "0007"]


def test_numbers_go_on_even_after_all_versions_are_deleted(versions: Versions) -> None:
    import shutil

    put(versions)
    shutil.rmtree(versions.directory / "0001")
    assert put(versions) == "0002"


@pytest.mark.parametrize("name", shipped())
def test_profiles_survive_the_way_to_disk(name: str, versions: Versions) -> None:
    profile = load(name)
    assert versions.read(versions.write(Candidate(profile)), OWN).profile == profile


def test_every_key_of_a_profile_survives_the_way_to_disk(versions: Versions) -> None:
    asked = SecondQuestion(model="second", when_logit_gap=2.0)
    more = SecondQuestion(model="second", doubter="first", when_logit_gap=1.0)
    profile = OWN.model_copy(update={"second_questions": (asked, more), "prior": 0.3})
    (versions.directory / "p.toml").write_text(to_toml(profile))
    assert load(versions.directory / "p.toml") == profile


# --- a head -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_head_becomes_a_member_and_helps(versions: Versions) -> None:
    older, gate, new = (tuple(examples(n, seed, embeddings=True)) for seed, n in enumerate((50, 300, 100)))
    name, judgement = improve(Data((*older, *new), gate, new, new), versions, OWN, steps=["head", "refit"])
    assert judgement.gate is not None
    assert judgement.gate.mcc_after > judgement.gate.mcc_before + 0.05
    again = versions.read(name, OWN)
    assert HEAD in {member.model for member in again.profile.tiers[0].members}
    assert again.head is not None
    assert again.head.n == 150


@pytest.mark.parametrize("step", ["head", "memory"])
def test_without_embeddings_nothing_is_learned_from_them(step: str) -> None:
    candidate = Candidate(OWN)
    assert STEPS[step](examples(500, 0), candidate) is candidate


def test_a_memory_is_part_of_the_version_and_judged_with_it(versions: Versions) -> None:
    train, others = (examples(n, seed, embeddings=True) for seed, n in enumerate((300, 200)))
    candidate = STEPS["memory"](train, Candidate(OWN))
    assert MEMORY in {member.model for member in candidate.profile.tiers[0].members}
    labels = np.array([e.label for e in others])
    without, with_it = (c.probabilities(others) for c in (Candidate(OWN), candidate))
    assert mcc(labels, with_it) > mcc(labels, without) + 0.05
    again = versions.read(versions.write(candidate), OWN)
    assert again.probabilities(others) == pytest.approx(with_it, abs=0.05)
    with pytest.raises(ModelUnavailable, match="embedder"):
        again.memory.assess([frame(1)])  # type: ignore[union-attr]


def test_the_fusion_learns_from_opinions_of_heads_that_did_not_know_the_picture() -> None:
    noise = [
        replace(e, embedding=np.random.default_rng(number).standard_normal(150).astype(np.float32))
        for number, e in enumerate(examples(200, 0))
    ]
    head = retrain_head(noise, Candidate(OWN)).head
    assert head is not None
    fitted = cross_fitted(noise, Candidate(OWN, head))
    honest = [next(o.logit for o in e.record.verdict.opinions if o.model == HEAD) for e in fitted]
    labels = np.array([e.label for e in noise])
    seen = head.logits(np.stack([e.embedding for e in noise if e.embedding is not None]))
    assert np.mean((seen > 0) == labels) > 0.75  # it knows its training set by heart
    assert np.mean((np.array(honest) > 0) == labels) < 0.62


# --- shadow and canary ------------------------------------------------------------------------------------------------

SAYS_YES = OWN.model_copy(update={"tiers": (OWN.tiers[0].model_copy(update={"members": (Member(model="second"),)}),)})


def frame(number: int) -> Frame:
    return Frame(np.zeros((2, 2, 3), dtype=np.uint8), f"{number * 2654435761 % 2**32:016x}".ljust(64, "0"))


async def live(frame: Frame, deadline: Deadline, caller: str) -> Verdict:
    return verdict(0.2, opinions=(Opinion("first", -1.4, 1.0), Opinion("second", 3.0, 1.0)))


def beside(note: Callable[..., object], canary: float = 0.0, decide: Decide = live) -> Shadow:
    shadow = Shadow(decide, note, canary)
    shadow.run("0007", Candidate(SAYS_YES))
    return shadow


async def test_a_shadow_is_noted_and_never_sent() -> None:
    seen: list[tuple[object, ...]] = []
    shadow = beside(lambda *told: seen.append(told))
    said = await shadow.decide(frame(1), Deadline.after(1), "")
    await shadow.settled()
    assert said.probability == 0.2
    assert seen == [(frame(1).sha256, "0007", pytest.approx(sigmoid(3.0)), 0.2, False)]


async def test_a_candidate_comes_and_goes_while_the_miner_serves() -> None:
    seen: list[tuple[object, ...]] = []
    shadow = Shadow(live, lambda *told: seen.append(told))
    await shadow.decide(frame(1), Deadline.after(1), "")
    shadow.run("0008", Candidate(SAYS_YES))
    await shadow.decide(frame(2), Deadline.after(1), "")
    await shadow.settled()
    shadow.run("", None)
    await shadow.decide(frame(3), Deadline.after(1), "")
    await shadow.settled()
    assert [told[:2] for told in seen] == [(frame(2).sha256, "0008")]


async def test_a_canary_answers_its_share_and_the_same_picture_alike() -> None:
    sent: list[bool] = []
    shadow = beside(lambda *told: sent.append(told[-1]), canary=0.1)
    said = [await shadow.decide(frame(number), Deadline.after(1), "") for number in range(1000)]
    again = [await shadow.decide(frame(number), Deadline.after(1), "") for number in range(1000)]
    await shadow.settled()
    answered = [v.probability > 0.5 for v in said]
    assert answered == [v.probability > 0.5 for v in again]
    assert 60 < sum(answered) < 140
    assert sum(sent) == 2 * sum(answered)
    assert {v.tiers for v in said if v.probability > 0.5} == {("one", "canary")}


async def test_a_candidate_that_knows_embeddings_is_shown_them() -> None:
    vectors = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
    head = Weights.of(vectors, (vectors[:, 0] > 0).astype(np.int64))
    only_head = SAYS_YES.tiers[0].model_copy(update={"members": (Member(model=HEAD),)})
    candidate = Candidate(SAYS_YES.model_copy(update={"tiers": (only_head,)}), head)
    seen: list[float] = []
    for side in (-1, 1):
        known = np.eye(8, dtype=np.float32)[0] * side
        shadow = Shadow(live, lambda *told: seen.append(told[2]), 0.0, lambda sha256, known=known: known)
        shadow.run("0009", candidate)
        await shadow.decide(frame(1), Deadline.after(1), "")
        await shadow.settled()
    assert seen[0] < 0.2 < 0.8 < seen[1]


async def test_a_candidate_that_fails_or_is_slow_costs_the_live_answer_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Verdict:
        raise RuntimeError("on purpose")

    shadow = beside(lambda *_: None, canary=1.0)
    with monkeypatch.context() as patch:
        patch.setattr(Candidate, "answer", broken)
        assert (await shadow.decide(frame(1), Deadline.after(1), "")).probability == 0.2
    go = threading.Event()
    monkeypatch.setattr(Candidate, "answer", lambda *_: go.wait(10))
    assert (await shadow.decide(frame(1), Deadline.after(0.05), "")).probability == 0.2
    go.set()


async def test_the_prior_has_no_shadow() -> None:
    async def nothing(frame: Frame, deadline: Deadline, caller: str) -> Verdict:
        return verdict(0.5, opinions=(), source=Source.PRIOR)

    seen: list[object] = []
    shadow = beside(lambda *told: seen.append(told), decide=nothing)
    await shadow.decide(frame(1), Deadline.after(1), "")
    await shadow.settled()
    assert seen == []


def test_a_staged_version_is_promoted_on_what_it_said_in_the_shadow(versions: Versions, quick: None) -> None:
    with pytest.raises(ImproveError, match="staged"):
        promote_staged(versions, [])
    name, _ = improve(data(bias=3.0), versions, OWN, steps=["unbias"], shadow=True)
    assert (versions.staged(), versions.current()) == (name, "")
    assert promote_staged(versions, [])[0] == ""  # nothing was seen yet
    worse = [(str(i), i % 2, float(i % 2), float(i % 3 == 0)) for i in range(200)]
    assert promote_staged(versions, worse)[0] == ""
    better = [(str(i), i % 2, float(i % 3 == 0), float(i % 2)) for i in range(200)]
    assert promote_staged(versions, better)[0] == name == versions.current()
    assert versions.staged() == ""
    assert [line["event"] for line in versions.audit()] == ["staged", "refused", "refused", "promoted"]


def test_the_audit_log_is_one_json_line_for_each_event(versions: Versions) -> None:
    put(versions)
    versions.rollback()
    lines = (versions.directory / "audit.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in lines] == ["promoted", "rollback"]
