"""`python -m miner`: what run_miner.sh, pm2, systemd and Docker start."""

from miner.cli import leave, main

if __name__ == "__main__":
    leave(main())
