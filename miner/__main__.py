"""`python -m miner`: what run_miner.sh, pm2, systemd and Docker start."""

import sys

from miner.cli import main

if __name__ == "__main__":
    sys.exit(main())
