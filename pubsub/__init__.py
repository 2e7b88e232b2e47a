"""The ordered event log: topics, events, subscriptions and consumer groups.

This package knows nobody above it. Everything here is deciding code: synchronous, deterministic, on
the SQLite connection that it is given; no clock, no randomness, no sockets, no logging.
"""
