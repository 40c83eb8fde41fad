"""Coverage-guided fuzzing of what strangers' bytes meet first: the picture decoder, and the gate with its readers.

    pip install atheris && python -m benchmarks.fuzz decode|gate -max_total_time=600

Finds inputs that make either raise anything but its own typed errors. Options after the target are libFuzzer's.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["miner", "PIL"]):
    from miner import btauth, gate
    from miner.axon import verify_signature
    from miner.decode import PictureError, decode
    from miner.metagraph import Neuron, Snapshot
    from miner.replay_store import ReplayStore

from bittensor_wallet import Keypair

from tests.edge.pictures import jpeg, noise, text
from tests.edge.signing import Dendrite

NOW = 1_795_435_661_000_000_000
VALIDATOR = Keypair.create_from_uri("//validator")
MINER = Keypair.create_from_uri("//miner").ss58_address
SIGNED = Dendrite(VALIDATOR, MINER).headers(nonce=NOW)
NAMES = sorted(
    [*SIGNED, *(f"x-bittensor-{name}" for name in ("version", "hotkey", "receiver", "nonce", "signature", "crypto"))]
)
SUBNET = Snapshot(72, 1, 1.0, {VALIDATOR.ss58_address: Neuron(1, VALIDATOR.ss58_address, 1.0, True)})


def fuzz_decode(data: bytes) -> None:
    """The bytes as a picture, as base64 text, and laid over a sound JPEG."""
    sound = jpeg(noise(16, 16))
    over = bytearray(sound)
    if data:
        at = int.from_bytes(data[:2]) % len(sound)
        over[at : at + len(data) - 2] = data[2:]
    for picture in (text(data), data.decode("latin-1"), text(bytes(over))):
        try:
            frame = decode(picture, max_pixels=4_000_000)
        except PictureError:
            continue
        if frame.pixels.ndim != 3:
            raise AssertionError(f"expected (H, W, 3), got {frame.pixels.shape}")


def fuzz_gate(data: bytes) -> None:
    """Signed headers with some replaced, through both protocols' readers."""
    provider = atheris.FuzzedDataProvider(data)
    headers = dict(SIGNED)
    for _ in range(provider.ConsumeIntInRange(0, 5)):
        name = NAMES[provider.ConsumeIntInRange(0, len(NAMES) - 1)]
        headers[name] = provider.ConsumeBytes(provider.ConsumeIntInRange(0, 100)).decode("latin-1")
    body = provider.ConsumeBytes(50)
    one = gate.Gate(MINER, lambda: SUBNET, verify_signature, ReplayStore(), clock=lambda: NOW)
    for read in (gate.read_claim, btauth.read_claim):
        try:
            claim = read(headers)
            one.screen(claim)
            admission = one.prove(claim if read is gate.read_claim else btauth.cover(claim, "POST", "/", body))
        except gate.Refusal:
            continue
        if admission.hotkey != VALIDATOR.ss58_address or not 1.0 <= admission.timeout <= 12.0:
            raise AssertionError(f"admitted {admission}")


TARGETS = {"decode": fuzz_decode, "gate": fuzz_gate}


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(__doc__)
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
