"""Waiting for callers who are about to be back: when it helps, and what it costs if not."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.raft.gathering import GATHER_S, SKIPS_MAX, Gathering

ROUND_S = 0.001


def entries_of(callers: int, back_s: float, rounds_s: float, seed: int = 1) -> list[int]:
    """The sizes of the entries of a leader whose callers come back at some time up to `back_s`
    after their answers; an entry is answered after a round."""
    random, gathering = Random(seed), Gathering()
    arrivals = sorted(random.random() * 0.01 for _ in range(callers))
    answers: list[tuple[float, int]] = []  # of entries that are under way
    sizes: list[int] = []
    waiting = 0
    now = 0.0
    while now < rounds_s:
        now = min([*arrivals[:1], *(at for at, _ in answers), gathering.deadline])
        while arrivals and arrivals[0] <= now:
            arrivals.pop(0)
            waiting += 1
        for at, size in [answer for answer in answers if answer[0] <= now]:
            answers.remove((at, size))
            arrivals = sorted([*arrivals, *(now + random.random() * back_s for _ in range(size))])
        if waiting and not gathering.waits(now, waiting):
            sizes.append(waiting)
            answers.append((now + ROUND_S, waiting))
            gathering.appended(waiting, sum(size for _, size in answers))
            waiting = 0
    return sizes


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("callers", [1, 2, 8, 40])
def test_callers_that_are_soon_back_end_up_in_one_entry(callers: int, seed: int) -> None:
    """Wherever they began: the entries of a while later hold all of them."""
    sizes = entries_of(callers, 0.0004, 1.0, seed)
    later = sizes[len(sizes) // 2 :]
    assert sum(later) >= 0.95 * callers * len(later)


def test_waiting_in_vain_is_given_up() -> None:
    """Callers with other things to do are waited for once in a while, and that is all."""
    gathering = Gathering()
    waits = 0
    gathering.appended(1, 2)
    for turn in range(1_000):
        now = float(turn)
        if gathering.waits(now, 1):
            waits += 1
            assert not gathering.waits(now + GATHER_S, 1)
        gathering.appended(1, 2)
    assert waits <= 2 + 1_000 / SKIPS_MAX + SKIPS_MAX.bit_length()


def test_it_is_complete_with_as_many_as_were_under_way() -> None:
    """Those who are not answered yet are not expected back, but they may come."""
    gathering = Gathering()
    assert not gathering.is_complete(0)
    assert gathering.is_complete(1)
    gathering.appended(2, 5)
    assert [gathering.is_complete(waiting) for waiting in (1, 4, 5, 6)] == [
        False, False, True, True,
    ]  # fmt: skip


def test_who_is_alone_never_waits() -> None:
    """A single caller, request after request."""
    gathering = Gathering()
    for turn in range(100):
        assert not gathering.waits(float(turn), 1)
        gathering.appended(1, 1)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0.0, 0.002), st.integers(1, 5), st.integers(0, 5), st.booleans()),
        max_size=60,
    )
)
def test_nothing_waits_for_longer_than_a_millisecond(
    turns: list[tuple[float, int, int, bool]],
) -> None:
    """Whatever happens: from when something first waited."""
    gathering = Gathering()
    now, since, waiting = 0.0, None, 0
    for pause, came, elsewhere, forced in turns:
        now += pause
        waiting += came
        if gathering.waits(now, waiting) and not forced:
            since = now if since is None else since
            assert now < since + GATHER_S
            assert gathering.deadline == pytest.approx(since + GATHER_S)
        else:
            gathering.appended(waiting, waiting + elsewhere)
            waiting, since = 0, None
