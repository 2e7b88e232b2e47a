"""Hooks: what the committed changes of the cluster set in motion.

This package knows `pubsub`; what it needs from a node it declares as a protocol of its own.
"""
