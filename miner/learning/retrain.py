"""The step `train` of `improve`: a network trained anew on the journal's pictures and a base set, as one more member.

The training is `./run_miner.sh train` (or `train distil`) in a process of its own, with the operator's settings file.
It sees the pictures of `Data.train` that the journal kept, each week of labels a source, and the file's own data less
whatever the gate set and the newest week hold. The network is then asked about the pictures that judge it, and about
those of the sources that the training held out: only these may teach the fusion how far to trust it, so `refit` belongs
behind this step. Nothing is left behind unless a version with the network is put in force.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cascade.deadline import Deadline
from cascade.profile import Profile
from miner.assembly import frame_of, running_engine
from miner.journal_views import Example, Views
from miner.learning.candidate import TRAINED, Candidate
from miner.learning.examples import Data
from miner.learning.improve import StepFailed
from miner.learning.versions import Versions, inline
from miner.profiles import load
from miner.settings import Settings, UsageError
from models.base import ModelError
from models.training.finetune import data as pictures_of
from models.training.finetune.settings import Classify, Distil, parse
from models.training.finetune.settings import Settings as Training

log = logging.getLogger(__name__)

SECONDS = 60.0  # for one picture: nobody waits for the answer
LABELS = ("clear", "roadwork")


@dataclass(frozen=True, slots=True)
class Retrain:
    """Trains and hands back the candidate with the new member, in the place of one trained before.

    training: TOML file of settings of `train` or `train distil`. seconds: after which the training is stopped.
    """

    settings: Settings
    training: Path
    views: Views
    versions: Versions
    seconds: float

    def __call__(self, data: Data, candidate: Candidate) -> Candidate:
        """Raises StepFailed."""
        key = f"{TRAINED}{datetime.now(UTC):%Y%m%d-%H%M%S}"
        work = self.versions.directory / ".train"
        shutil.rmtree(work, ignore_errors=True)  # of a round that was killed
        try:
            table = self._table()
            flags = self._flags(table, work, data, key)
            distil = "teacher" in table
            asked: Training = parse(Distil if distil else Classify, flags)
            command = ["train", "distil"] if distil else ["train"]
            run([sys.executable, "-P", "-m", "miner", *command, *flags], self.seconds)
            said = asyncio.run(self._said(asked.out / "model", self._to_ask(data, asked)))
            return self._adopted(key, asked.out / "model", candidate, said)
        except (ValueError, OSError, UsageError, ModelError, ModuleNotFoundError) as error:
            raise StepFailed(f"training: {error}") from error
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _table(self) -> dict[str, Any]:
        try:
            return tomllib.loads(self.training.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise StepFailed(f"--training {self.training}: expected a TOML file: {error}") from None

    def _flags(self, table: Mapping[str, Any], work: Path, data: Data, key: str) -> list[str]:
        """What `train` is asked; its pictures and the list of those it must not see are written below `work`."""
        base = table.get("data", [])
        sets = [base] if isinstance(base, str) else [str(each) for each in base]
        newest = {example.record.sha256 for example in data.week}
        kept = [self._written(e, work / "journal") for e in data.train if e.record.sha256 not in newest]
        sets += [str(work / "journal")] if any(kept) else []
        judges = (*data.gate, *data.week)
        barred = {name for e in judges for name in (e.record.sha256, e.record.group) if name}
        work.mkdir(parents=True, exist_ok=True)
        (work / "without").write_text("\n".join(sorted(barred)), encoding="utf-8")
        flags = ["--settings", str(self.training), "--out", str(work / "run"), "--name", key]
        flags += ["--without", str(work / "without")]
        return flags + [word for each in sets for word in ("--data", each)]

    def _written(self, example: Example, folder: Path) -> bool:
        """Put a picture where `train` finds it, if the journal kept it. The week of its label is its source."""
        path = self.views.picture(example.record.sha256)
        if path is None:
            return False
        week = datetime.fromtimestamp(example.at, UTC).strftime("journal-%G-W%V")
        goal = folder / week / LABELS[example.label] / f"{example.record.sha256}.jpg"
        goal.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, goal)  # the journal may let go of its own at any time
        return True

    def _to_ask(self, data: Data, asked: Training) -> dict[str, Path]:
        """Pictures by sha256 that the network did not learn from and that are to be had."""
        results = json.loads((asked.out / "results.json").read_text(encoding="utf-8"))
        held_out = {each["source"] for each in results["sources"] if each["part"] != "train"}
        read = pictures_of.read(asked.model_copy(update={"without": None}))
        known = dict(zip(read.sha256, read.pictures, strict=True))
        there = {sha256: picture.path for sha256, picture in known.items()}
        judges = [example.record.sha256 for example in (*data.gate, *data.week)]
        paths = {sha256: there.get(sha256) or self.views.picture(sha256) for sha256 in judges}
        for example in data.train:
            sha256 = example.record.sha256
            if sha256 in known and known[sha256].source in held_out:
                paths[sha256] = known[sha256].path
        return {sha256: path for sha256, path in paths.items() if path is not None}

    async def _said(self, model: Path, pictures: Mapping[str, Path]) -> dict[str, float]:
        """The network's log-odds of each picture."""
        profile = load(model / "profile.toml").asking_all()
        said: dict[str, float] = {}
        settings = self.settings.model_copy(update={"profile": str(model / "profile.toml")})
        async with running_engine(settings, profile) as engine:
            for sha256, path in pictures.items():
                verdict = await engine.decide(frame_of(path, settings.max_pixels), Deadline.after(SECONDS))
                for opinion in verdict.opinions:  # one, or none
                    said[sha256] = opinion.logit
        log.info("the network was asked about %d pictures, %d answered", len(pictures), len(said))
        return said

    def _adopted(self, key: str, model: Path, candidate: Candidate, said: Mapping[str, float]) -> Candidate:
        """The candidate with the network, which now lies with its opinions and its catalog among the versions."""
        home = self.versions.trained.resolve() / key
        home.mkdir(parents=True)
        own = load(model / "profile.toml")
        entry = tomllib.loads((model / "catalog.toml").read_text(encoding="utf-8"))[key]
        model.rename(home / "model")
        (home / "opinions.json").write_text(json.dumps(said), encoding="utf-8")
        tables = {**_tables(candidate.profile.catalog), key: {**entry, "folder": "model"}}
        (home / "catalog.toml").write_text(_toml(tables), encoding="utf-8")
        profile = with_network(candidate.profile, own).model_copy(update={"catalog": str(home / "catalog.toml")})
        return replace(candidate, profile=profile, said={key: said})


def with_network(profile: Profile, own: Profile) -> Profile:
    """`profile` with the only member of `own` in its first tier, instead of one that was trained before; not fitted."""
    first, *rest = profile.tiers
    kept = [member for member in first.members if not member.model.startswith(TRAINED)]
    expected = max(first.expected_ms, own.tiers[0].expected_ms)
    widened = first.model_copy(update={"members": (*kept, *own.members), "expected_ms": expected})
    return profile.model_copy(update={"tiers": (widened, *rest), "fit": None})


def run(command: Sequence[str], seconds: float) -> None:
    """A training to its end, its output in the log. Raises StepFailed with its last lines, also when it took longer
    than `seconds`: then it is stopped, with every process that it started."""
    last: deque[str] = deque(maxlen=3)
    late = threading.Event()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
    )

    def stop() -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def too_late() -> None:
        late.set()
        stop()

    timer = threading.Timer(seconds, too_late)
    timer.start()
    try:
        for line in process.stdout or ():
            if line.strip():
                last.append(line.strip())
                log.info("train: %s", line.rstrip())
        code = process.wait()
    finally:
        timer.cancel()
        stop()
        process.wait()
        if process.stdout:
            process.stdout.close()
    if late.is_set():
        raise StepFailed(f"training: not done after {seconds:g} s, stopped; see --training-hours")
    if code:
        raise StepFailed(f"training: ended with exit code {code}: {' '.join(last)}")


def _tables(catalog: str) -> dict[str, dict[str, Any]]:
    """An operator's own models, their folders as absolute paths; networks that were trained before are left out."""
    if not catalog:
        return {}
    path = Path(catalog)
    tables: dict[str, dict[str, Any]] = tomllib.loads(path.read_text(encoding="utf-8"))
    own = {key: dict(table) for key, table in tables.items() if not key.startswith(TRAINED)}
    for table in own.values():
        if table.get("folder"):
            table["folder"] = str(path.parent / table["folder"])
    return own


def _toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    parts = [f"[{key}]\n" + "".join(f"{k} = {inline(v)}\n" for k, v in table.items()) for key, table in tables.items()]
    return "\n".join(parts)
