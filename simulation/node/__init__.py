"""The node level: production nodes, hook services and clients, unchanged, in one process on
virtual time. `world.py` is the place to begin."""
