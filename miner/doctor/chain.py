"""Who we are, and what the chain says of us and of the subnet."""

from __future__ import annotations

import stat
import time
from importlib.metadata import PackageNotFoundError, version

from miner.chain import SDK, ChainError, ChainUnreadable, register_command
from miner.doctor.finding import Said, fail, ok, unknown, warn
from miner.doctor.world import NotAsked, World
from models.installing import pip_install

NEVER_ASKED_STAKE = 40_096.0  # validators do not ask a miner that holds a permit and more stake than this


def sdk(world: World) -> Said:
    remedy = f"{pip_install(SDK)} (older ones cannot read today's chain, newer ones have no axon)"
    try:
        installed = version("bittensor")
    except PackageNotFoundError:
        return fail("bittensor is not installed", remedy)
    major, minor = (int(part) for part in installed.split(".")[:2])
    if not (major == 10 and minor >= 5):
        return fail(f"bittensor {installed}", remedy)
    try:
        spec = world.chain().told.spec_version
    except ChainUnreadable as error:
        return fail(f"bittensor {installed} cannot read this chain: {error}", "update the SDK, or wait for its release")
    except (NotAsked, ChainError):
        return ok(f"bittensor {installed}")
    return ok(f"bittensor {installed} reads the chain's runtime {spec if spec is not None else '(version not told)'}")


def wallet(world: World) -> Said:
    settings, file = world.settings, world.hotkey_file
    if settings.network == "mock":
        return unknown("network mock: a throw-away hotkey is made", "doctor --network test looks for yours")
    try:
        hotkey = world.hotkey()
    except FileNotFoundError:
        names = f"--wallet.name {settings.wallet_name} --wallet.hotkey {settings.wallet_hotkey}"
        return fail(f"{file}: no such file", f"btcli wallet new-hotkey {names}, or copy the hotkey file there")
    except (ValueError, KeyError):
        return fail(f"{file}: not a hotkey file", "copy it again from where the wallet was made")
    if file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return warn(f"{hotkey}, readable by others", f"chmod 600 {file}")
    cold = file.parent.parent / "coldkey"
    if cold.is_file():
        return warn(f"{hotkey}; the coldkey is on this machine too", f"a miner needs the hotkey only: move {cold} away")
    return ok(hotkey)


def node(world: World) -> Said:
    facts = world.chain()
    figure = f"block {facts.snapshot.block}, {len(facts.snapshot.neurons)} neurons on {facts.snapshot.netuid}"
    if facts.told.block_time is None:
        return ok(figure)
    behind = time.time() - facts.told.block_time
    figure += f", newest block {behind:.0f} s old"
    remedy = "set the clock, or choose another --chain-endpoint: this node lags"
    return ok(figure) if -3 <= behind < 60 else warn(figure, remedy)


def registration(world: World) -> Said:
    mine, settings = world.me(), world.settings
    if mine is None:
        cost = world.chain().told.registration
        price = f" (costs {cost:.4f} TAO now)" if cost is not None else ""
        return fail(
            f"{world.hotkey()} is not registered on {settings.subnet}{price}",
            register_command(settings.subnet, settings.network, settings.wallet_name, settings.wallet_hotkey),
        )
    if mine.validator_permit and mine.stake > NEVER_ASKED_STAKE:
        figure = f"uid {mine.uid}, with a validator permit and a stake of {mine.stake:.0f}"
        return fail(figure, f"validators never ask such a hotkey (limit {NEVER_ASKED_STAKE:.0f}): mine with another")
    return ok(f"uid {mine.uid}")


def permits(world: World) -> Said:
    settings = world.settings
    if settings.allow_non_registered:
        return warn("any signed caller is answered", "for tests only: drop --allow-non-registered")
    everybody = world.chain().snapshot.neurons.values()
    permitted = [one for one in everybody if one.validator_permit or not settings.force_validator_permit]
    admitted = [one for one in permitted if one.stake >= settings.minimum_stake]
    rule = "with a validator permit" if settings.force_validator_permit else "registered"
    figure = f"{len(admitted)} of {len(everybody)} hotkeys may ask ({rule}, stake at least {settings.minimum_stake:g})"
    return ok(figure) if admitted else fail(figure, "lower --minimum-stake: nobody could ask")


def income(world: World) -> Said:
    told = world.chain().told
    if told.burned is None:
        return unknown("the chain did not say what is burned", "look at the subnet's page before paying for a card")
    figure = f"{told.burned:.0%} of the miners' emission is burned"
    if told.emission is not None:
        figure += f", {told.emission:.1f} alpha a day to miners before it"
    return ok(figure) if told.burned < 0.5 else warn(figure, "a miner earns next to nothing while this lasts")
