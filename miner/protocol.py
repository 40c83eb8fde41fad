"""`ImageSynapse`, field for field as the subnet's validators send it.

Only a dendrite needs this class (the mock validator, tests). The axon reads and writes the same wire without it,
because building the SDK's models costs more than all the rest of a request; a golden test holds the two together.
"""

from __future__ import annotations

import bittensor


class ImageSynapse(bittensor.Synapse):  # type: ignore[misc]  # the SDK ships no types
    """One street picture in, one probability of road work out.

    image: base64 of a JPEG, without a data: prefix.
    prediction: probability in [0, 1]; -1.0 says that nobody answered.
    testnet_label: the truth (0 or 1), only ever set on testnet; -1 elsewhere.
    No field is in `required_hash_fields`, so a dendrite's signature does not cover the picture.
    """

    image: str = ""
    prediction: float = -1.0
    testnet_label: int = -1

    def deserialize(self) -> float:
        """What `dendrite(...)` returns for this synapse by default: the probability alone."""
        return self.prediction
