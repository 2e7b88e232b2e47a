"""Fixtures of the hook tests."""

import pytest
import trio.testing


@pytest.fixture
def clock(autojump_clock: trio.testing.MockClock) -> trio.testing.MockClock:
    """Virtual time: a sleep ends as soon as nothing else can happen."""
    return autojump_clock
