"""Learning from what was served, behind a gate: assemble, fit, compare, and only then promote; each step on record.

    examples -> steps -> candidate -> judging -> versions      one round: `improve`
    serving: journal, repeats, shadow, drift, beside the live cascade

Nothing is promoted that was not compared with the version in force on pictures neither of them learned from:

- the gate set, drawn once and frozen: what the miner could do it must not forget;
- the newest labelled week (up to four, until it holds enough of both labels), never used by the fit that it judges:
  what the world looks like now.
"""
