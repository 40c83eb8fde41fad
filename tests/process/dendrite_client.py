"""Runs under the SDK release that validators lock (bittensor 9.12.2): asks a miner many times, prints one JSON line.

python dendrite_client.py HOTKEY PORT COUNT PICTURE.jpg...
"""

import asyncio
import base64
import json
import sys
from collections import Counter

import bittensor
from bittensor.utils import networking
from bittensor_wallet import Keypair

networking.get_external_ip = lambda: "127.0.0.1"  # the SDK would ask a public service


class ImageSynapse(bittensor.Synapse):
    """As the subnet's own repository declares it."""

    image: str = ""
    prediction: float = -1.0
    testnet_label: int = -1


def read(path: str) -> bytes:
    with open(path, "rb") as picture:
        return picture.read()


async def main(hotkey: str, port: int, count: int, pictures: list[str]) -> None:
    caller = Keypair.create_from_uri("//streetvision-validator-0")
    target = bittensor.AxonInfo(version=10005000, ip="127.0.0.1", port=port, ip_type=4, hotkey=hotkey, coldkey=hotkey)
    images = [base64.b64encode(picture).decode() for picture in map(read, pictures)]
    statuses: Counter = Counter()
    predictions: dict = {path: set() for path in pictures}
    async with bittensor.Dendrite(wallet=caller) as dendrite:
        for start in range(0, count, 10):  # a validator asks ten miners at a time
            which = [number % len(images) for number in range(start, min(start + 10, count))]
            answers = await asyncio.gather(
                *(
                    dendrite.forward([target], ImageSynapse(image=images[each]), timeout=9.0, deserialize=False)
                    for each in which
                )
            )
            for each, [answer] in zip(which, answers, strict=True):
                statuses[str(answer.dendrite.status_code)] += 1
                predictions[pictures[each]].add(answer.prediction)
    values = {path: sorted(found) for path, found in predictions.items()}
    print(json.dumps({"sdk": bittensor.__version__, "statuses": statuses, "predictions": values}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:]))
