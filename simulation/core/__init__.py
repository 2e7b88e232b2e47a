"""The core level: the production `Core` and `Driver`, a log store with crash semantics and a toy
state, in heap-ordered virtual time. `world.py` is the place to begin."""
