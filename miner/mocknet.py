"""The hotkeys of the validators that exist on the in-memory network, the same for miner and mock validator.

They are well-known development keys: anyone can sign with them, so they mean nothing on a real network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bittensor_wallet import Keypair

VALIDATORS = 16


def dev_validator(index: int) -> Keypair:
    """The sr25519 pair of validator `index`, counted from 0."""
    from bittensor_wallet import Keypair

    if not 0 <= index < VALIDATORS:
        raise ValueError(f"expected a validator from 0 to {VALIDATORS - 1}, got {index}")
    return Keypair.create_from_uri(f"//streetvision-validator-{index}")
