"""One module a command of `./run_miner.sh`; each is loaded only when it is called."""
