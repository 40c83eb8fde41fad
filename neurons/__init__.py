"""Processes: the miner and the mock validator. Wiring, signals, exit codes; no logic."""
