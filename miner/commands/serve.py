"""`serve`: become the miner process. The same process id stays, so signals of pm2, systemd and Docker arrive."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    os.execv(sys.executable, [sys.executable, "-P", "-m", "neurons.miner", *arguments])
