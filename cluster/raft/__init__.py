"""Raft: PySyncObj as the vote-and-commit core, and everything that we build around it.

`consensus.py` is the only module that knows PySyncObj's private names. What the rest of the node
uses is its small interface (receive, propose, read, tick, take_committed, deadline, outbox).
"""
