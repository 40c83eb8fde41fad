"""What a person should know before a card costs money: ordered checks, each with a verdict, a figure and a remedy.

    world -> machine, weights, chain, network, running -> examination

`examination.examine(world)` runs every check side by side. A check that cannot look (no chain, no card, no network)
says "unknown" and why; only "fail" counts against the miner. Everything outside this process is reached through
`World`, so that the checks themselves can be tested with nothing there; no check knows of another.
"""
