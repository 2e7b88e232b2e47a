"""Two patterns against each other: overlap, cover, and which is the more specific one."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pubsub.topics import Pattern, pattern_covers, patterns_overlap, specificity

WORDS = ("a", "b", "c")  # "c" stands in no pattern: it is any other word
TOPICS = [".".join(topic) for length in range(1, 6) for topic in product(WORDS, repeat=length)]

segments = st.lists(st.sampled_from(["a", "b", "*"]), min_size=1, max_size=4)
patterns = st.builds(
    lambda words, tail: ".".join([*words, ">"] if tail else words), segments, st.booleans()
) | st.just(">")


def _matching(pattern: str) -> frozenset[str]:
    return frozenset(filter(Pattern(pattern).matches, TOPICS))


@given(patterns, patterns)
def test_overlap_is_a_topic_that_matches_both(left: str, right: str) -> None:
    """As the enumeration of all topics says, and the same the other way around."""
    both = _matching(left) & _matching(right)

    assert patterns_overlap(left, right) == patterns_overlap(right, left) == bool(both)


@given(patterns, patterns)
def test_a_pattern_covers_what_it_matches_all_of(wide: str, narrow: str) -> None:
    """Every topic of the narrow one is one of the wide one."""
    assert pattern_covers(wide, narrow) == (_matching(narrow) <= _matching(wide))


@given(patterns, patterns)
def test_what_is_covered_is_more_specific(wide: str, narrow: str) -> None:
    """A pattern inside another one comes before it; two different ones are never equal."""
    if wide == narrow:
        assert specificity(wide) == specificity(narrow)
    elif pattern_covers(wide, narrow):
        assert specificity(narrow) < specificity(wide)
    else:
        assert specificity(narrow) != specificity(wide)


@pytest.mark.parametrize(
    "ordered",
    [["logs.audit", "logs.*", "logs.>", "*.audit", "*.*", ">"], ["a.b.c", "a.b.>", "a.*.c", "a.>"]],
)
def test_words_come_first_then_stars(ordered: list[str]) -> None:
    """The earlier segment decides."""
    shuffled = [*ordered[2:], *ordered[:2]]

    assert sorted(shuffled, key=specificity) == ordered
