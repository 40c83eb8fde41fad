"""The running miner, and whether its software is the newest."""

from __future__ import annotations

import time

from miner.doctor.finding import Said, fail, ok, unknown, warn
from miner.doctor.world import World, listen


def miner(world: World) -> Said:
    said = world.running()
    if said is None:
        return unknown(f"no miner at {world.health}", f"./run_miner.sh serve --network {world.settings.network}")
    if not said.get("ready"):
        return fail(f"not ready: {said.get('reason')}", "its log says more")
    return ok(f"ready, uid {said.get('uid')} on {said.get('network')}")


def last_challenge(world: World) -> Said:
    try:
        text = world.fetch(f"{world.health}/metrics", None).decode()
    except OSError:
        return unknown(f"no miner at {world.health} to ask")
    seen = [line.split()[-1] for line in text.splitlines() if line.startswith("streetvision_last_challenge_timestamp")]
    at = float(seen[0]) if seen else 0.0
    remedy = "the subnet may be halted: look at the burn rate above and the subnet's announcements"
    if not at:
        return warn("none since the miner started", remedy)
    figure = f"{time.time() - at:.0f} s ago"
    return ok(figure) if time.time() - at < 3600 else warn(figure, remedy)


def health_port(world: World) -> Said:
    host = world.settings.health_host
    if world.running() is None:
        try:
            listen(host, world.settings.health_port).close()
        except OSError as error:
            return fail(
                f"{host}:{world.settings.health_port}: {str(error.strerror).partition(' (')[0]}",
                f"ss -ltnp 'sport = :{world.settings.health_port}' shows the owner; or --health-port",
            )
    if host in {"127.0.0.1", "::1", "localhost"}:
        return ok(f"{host}:{world.settings.health_port}, this machine only")
    return warn(
        f"{host}:{world.settings.health_port}", "anybody who reaches it reads the metrics: keep it in a private net"
    )


def update(world: World) -> Said:
    mine, theirs = world.revisions()
    return (
        ok(mine[:10])
        if mine == theirs
        else warn(f"{mine[:10]} here, {theirs[:10]} at origin", "git pull, then restart")
    )
