"""The profile, and whether its models are here and ours to read."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.error import HTTPError

from cascade.profile import ProfileError
from miner.assembly import LEARNED, in_force
from miner.doctor.finding import Said, fail, ok, warn
from miner.doctor.world import World
from miner.profiles import members
from miner.settings import UsageError
from models.base import BadWeights, ModelError
from models.catalog import entries
from models.weights import locate


def profile(world: World) -> Said:
    try:
        served = in_force(world.settings)
    except (UsageError, ProfileError) as error:
        return fail(str(error), "see docs/tuning.md for the profiles that ship; ./run_miner.sh improve rollback")
    except ModelError as error:
        return fail(str(error), "./run_miner.sh improve rollback")
    chosen = served.profile
    strange = sorted({member.model for member in chosen.members} - set(entries()) - set(LEARNED))
    if strange:
        return fail(f"{chosen.name}: no such model: {', '.join(strange)}", "models/catalog.toml lists the known ones")
    fitted = f"fitted {chosen.fit.date[:10]} on {chosen.fit.n} pictures" if chosen.fit else "default weights and band"
    number = f", version {served.version} of improve" if served.version else ""
    return ok(f"{chosen.name}{number}: {len(chosen.tiers)} tiers, {len(chosen.members)} models, {fitted}")


def present(world: World) -> Said:
    chosen = members(world.settings.profile)
    remote = [entry for entry in chosen if entry.repository]
    missing = []
    for entry in remote:
        try:
            locate(entry)
        except BadWeights as error:
            missing.append(str(error))
    if missing:
        return warn("; ".join(missing), f"./run_miner.sh fetch {world.settings.profile}")
    return ok(f"{len(chosen) - len(remote)} in the package, {len(remote)} in the hub's cache")


def readable(world: World) -> Said:
    gated = [entry.repository for entry in members(world.settings.profile) if entry.gated]
    if not gated:
        return ok(f"profile {world.settings.profile} needs no token")
    token = hub_token()
    if not token:
        return fail(
            f"no token, and gated: {', '.join(gated)}", "accept each licence on its page there, then set HF_TOKEN"
        )
    refused = [name for name in gated if not _granted(world, name, token)]
    if refused:
        pages = " ".join(f"https://huggingface.co/{name}" for name in refused)
        return fail(f"the token may not read {', '.join(refused)}", f"accept the licence: {pages}")
    return ok(f"token may read {', '.join(gated)}")


def _granted(world: World, repository: str, token: str) -> bool:
    try:
        world.fetch(f"https://huggingface.co/api/models/{repository}/auth-check", {"Authorization": f"Bearer {token}"})
    except HTTPError as error:
        if error.code in {401, 403, 404}:
            return False
        raise
    return True


def hub_token() -> str:
    """The Hugging Face token of this user, empty if there is none. Never shown."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    kept = Path(os.environ.get("HF_TOKEN_PATH", home / "token"))
    return os.environ.get("HF_TOKEN", "") or (kept.read_text(encoding="utf-8").strip() if kept.is_file() else "")
