"""The deterministic simulator: many nodes in one process, one seed decides everything.

Two levels that share their faults and checkers. `core/` drives the Raft core and its log with a
toy state in heap-ordered virtual time; `node/` drives whole production nodes and clients on trio's
virtual clock. `python -m simulation` sweeps seeds of either, or replays one.
"""
