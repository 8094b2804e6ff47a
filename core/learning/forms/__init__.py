"""Other ways of test-time training than the shipped inner loop: selectable and measured, never imported by it.

    fast_weights    the loop with other rules, momentum, a low rank, chunk after chunk, a learned start
    budget          how many steps for each chunk: SKIP, or 1, 2 or 4 (PonderTTT); ENGRAM_BUDGET=threshold:4
    branches        ENGRAM_LEARNER=ttt-linear or ttt-mlp: states of TTT beside the MLPs of any model

What each gives: `core.evaluation.ablations` and `core.evaluation.inner_rows`, with their figures in evaluation/LOG.md.
Forms that nobody can select: `core.evaluation.forms`.
"""
