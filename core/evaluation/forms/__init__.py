"""Forms of test-time training that only measurements use. Those that a bot can choose are in `core.learning.forms`.

    ttt, lact       the pure operations of TTT-Linear, TTT-MLP (arXiv 2407.04620) and LaCT (arXiv 2505.23884)
    native          memories with slow projections of their own, trained by the outer loop

What each gives: `core.evaluation.inner_rows`, with its figures in evaluation/LOG.md.
"""
