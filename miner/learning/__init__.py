"""Learning from what was served, behind a gate: assemble, fit, compare, and only then promote; each step on record.

    examples -> steps -> candidate -> judging -> versions      one round: `improve`
    serving: journal, repeats, shadow, drift, beside the live cascade

Nothing is promoted that was not compared with the version in force on answers to pictures neither of them learned from:

- the gate set, drawn once and frozen: what the miner could do it must not forget;
- the labels that came since the version in force was made: what the world looks like now. The candidate learns from
  them, and is judged on them by fits that left them out, a fifth at a time (cross-fitting), so that no label waits.
"""
