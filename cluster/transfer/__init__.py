"""Bringing keys into a cluster from files, and out of it again."""
