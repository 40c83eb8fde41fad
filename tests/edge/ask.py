"""Ask a running axon through the SDK's real dendrite; works with every bittensor from 9 to 10.

    python tests/edge/ask.py PORT HOTKEY COUNT [CONCURRENCY]

Prints one JSON line: the SDK's version, how often each status came, and the predictions seen. Stands alone, so that it
runs in an environment that holds nothing but the SDK of the subnet's validators.
"""

from __future__ import annotations

import asyncio
import collections
import json
import sys

import bittensor
from bittensor_wallet import Keypair


class ImageSynapse(bittensor.Synapse):
    """As `miner.protocol` has it."""

    image: str = ""
    prediction: float = -1.0
    testnet_label: int = -1


async def main(port: int, hotkey: str, count: int, concurrency: int) -> None:
    bittensor.utils.networking.get_external_ip = lambda: "192.0.2.1"  # offline
    target = bittensor.AxonInfo(
        version=1, ip="127.0.0.1", port=port, ip_type=4, hotkey=hotkey, coldkey=hotkey, protocol=4
    )
    room = asyncio.Semaphore(concurrency)
    async with bittensor.Dendrite(wallet=Keypair.create_from_uri("//validator")) as dendrite:

        async def ask() -> bittensor.Synapse:
            async with room:
                return await dendrite(target, ImageSynapse(image="aGVsbG8="), timeout=9.0, deserialize=False)

        answers = await asyncio.gather(*(ask() for _ in range(count)))
    report = {
        "bittensor": bittensor.__version__,
        "statuses": collections.Counter(str(answer.dendrite.status_code) for answer in answers),
        "messages": sorted({str(answer.dendrite.status_message) for answer in answers}),
        "predictions": sorted({answer.prediction for answer in answers}),
    }
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 16))
