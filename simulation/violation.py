"""What a checker of either level raises."""

from __future__ import annotations


class Violation(AssertionError):
    """A promise was broken."""
