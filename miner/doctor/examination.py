"""Every check in order, run side by side."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from urllib.error import URLError

from miner.chain import ChainError
from miner.doctor import chain, machine, network, running, weights
from miner.doctor.finding import Finding, Outcome, Said
from miner.doctor.world import NotAsked, World
from miner.gpu import NoCards

CHECKS: Mapping[str, Callable[[World], Said]] = {
    "python": machine.python,
    "driver and CUDA": machine.driver,
    "video memory": machine.video_memory,
    "disk": machine.disk,
    "clock": machine.clock,
    "profile": weights.profile,
    "weights": weights.present,
    "hub access": weights.readable,
    "SDK": chain.sdk,
    "wallet": chain.wallet,
    "chain": chain.node,
    "registration": chain.registration,
    "who may ask": chain.permits,
    "emission": chain.income,
    "axon port": network.port,
    "reachable": network.reachable,
    "announced address": network.announced,
    "health port": running.health_port,
    "running miner": running.miner,
    "last challenge": running.last_challenge,
    "update": running.update,
}


def examine(world: World) -> list[Finding]:
    """Every check, in the order of `CHECKS`. Never raises: what cannot be looked at is unknown, and says why."""
    with ThreadPoolExecutor(len(CHECKS) + 1) as pool:
        asked_once = pool.submit(world.chain)
        shared = replace(world, chain=asked_once.result)
        return list(pool.map(lambda item: _finding(item[0], item[1], shared), CHECKS.items()))


def _finding(name: str, check: Callable[[World], Said], world: World) -> Finding:
    try:
        return Finding(name, *check(world))
    except ChainError as error:
        return Finding(
            name, Outcome.UNKNOWN, str(error) if check is chain.node else "the chain could not be read: see above"
        )
    except (NotAsked, NoCards) as error:
        return Finding(name, Outcome.UNKNOWN, str(error))
    except network.NotEchoip as error:
        return Finding(name, Outcome.UNKNOWN, str(error), "give --reflector an echoip server: https://ifconfig.co")
    except FileNotFoundError as error:
        return Finding(name, Outcome.UNKNOWN, f"{error.filename}: no such file")
    except subprocess.SubprocessError:
        return Finding(name, Outcome.UNKNOWN, "git could not compare this checkout with an origin")
    except (URLError, TimeoutError, socket.gaierror) as error:
        return Finding(name, Outcome.UNKNOWN, f"no answer: {error}", "needs the network")
    except Exception as error:
        return Finding(name, Outcome.UNKNOWN, f"{type(error).__name__}: {error}")


def failures(findings: Sequence[Finding]) -> int:
    """How many failed: the exit code."""
    return sum(finding.verdict is Outcome.FAIL for finding in findings)


def as_json(findings: Sequence[Finding]) -> str:
    """`{"failures": n, "checks": [{"name", "verdict", "figure", "remedy"}]}`."""
    return json.dumps({"failures": failures(findings), "checks": [asdict(finding) for finding in findings]}, indent=2)
