"""The deterministic simulator: many nodes in one process, one seed decides everything.

This is its consensus level: the production `Core` and `Driver`, a log store with crash semantics
and a toy state, in heap-ordered virtual time. `python -m simulation --seed N` replays a run.
"""
