"""Topics, patterns and spelling."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pubsub.limits import SEGMENT_BYTES_MAX, TOPIC_SEGMENTS_MAX
from pubsub.topics import (
    Pattern,
    closest,
    is_reserved,
    validate_name,
    validate_pattern,
    validate_topic,
)

segments = st.sampled_from(["a", "b", "ab", "orders", "a+b", "é"])
topics = st.lists(segments, min_size=1, max_size=5).map(".".join)
patterns = st.builds(
    lambda parts, rest: ".".join([*parts, *rest]),
    st.lists(segments | st.just("*"), min_size=1, max_size=4),
    st.sampled_from([[], [], [">"]]),
) | st.just(">")


def naive_matches(pattern: list[str], topic: list[str]) -> bool:
    if not pattern or not topic:
        return pattern == topic
    if pattern[0] == ">":
        return True
    return pattern[0] in ("*", topic[0]) and naive_matches(pattern[1:], topic[1:])


@given(patterns, topics)
def test_matches_as_the_naive_matcher(pattern: str, topic: str) -> None:
    """A compiled pattern decides like the definition, segment by segment."""
    expected = naive_matches(pattern.split("."), topic.split("."))

    assert expected == Pattern(pattern).matches(topic)


@pytest.mark.parametrize(
    ("pattern", "topic", "expected"),
    [
        ("orders.created", "orders.created", True),
        ("orders.created", "orders.created.now", False),
        ("orders.*", "orders.created", True),
        ("orders.*", "orders", False),
        ("orders.*", "orders.created.now", False),
        ("orders.>", "orders", False),
        ("orders.>", "orders.created.now", True),
        ("*.created.>", "orders.created", False),
        ("*.created.>", "orders.created.now.here", True),
        (">", "orders", True),
        ("a+b.*", "aab.c", False),
    ],
)
def test_wildcards(pattern: str, topic: str, expected: bool) -> None:
    """A star is exactly one segment, a final > is one or more, everything else is literal."""
    assert expected is Pattern(pattern).matches(topic)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "non-empty"),
        (None, "non-empty"),
        (7, "non-empty"),
        (".", "segment 1 is empty"),
        ("a..b", "segment 2 is empty"),
        ("a.b.", "segment 3 is empty"),
        ("a.*", "segment 2"),
        ("a.>", "segment 2"),
        ("a b", "segment 1"),
        ("a\tb", "segment 1"),
        ("a\x00", "segment 1"),
        ("a\u00a0b", "segment 1"),
        ("a\u202eb", "segment 1"),
        ("a\ud800", "segment 1"),
        (".".join("a" * (TOPIC_SEGMENTS_MAX + 1)), "at most 16"),
        ("é" * (SEGMENT_BYTES_MAX // 2 + 1), "longer than 256 bytes"),
    ],
)
def test_bad_topics_are_named(text: object, complaint: str) -> None:
    """Each breach of the grammar is refused with the segment that breaks it."""
    problem = validate_topic(text)

    assert problem is not None
    assert complaint in problem


@pytest.mark.parametrize(
    "text",
    ["a", "a.b-c_d", "日本.été", "x" * SEGMENT_BYTES_MAX, ".".join("a" * TOPIC_SEGMENTS_MAX)],
)
def test_good_topics(text: str) -> None:
    """Printable text of any script within the bounds is a topic, and a pattern."""
    assert validate_topic(text) is None
    assert validate_pattern(text) is None


@pytest.mark.parametrize("text", [">.a", "a.>.b", "a*", "a.b>", "**", "a.>>", "a. "])
def test_bad_patterns(text: str) -> None:
    """A wildcard stands alone in its segment and > stands last."""
    assert validate_pattern(text) is not None
    with pytest.raises(ValueError, match="pattern"):
        Pattern(text)


@pytest.mark.parametrize("text", ["", None, "a b", "a\n", "x" * 257])
def test_bad_names(text: object) -> None:
    """Names of groups and members are short printable texts without whitespace."""
    problem = validate_name(text, "group")

    assert problem is not None
    assert problem.startswith("group: ")


def test_good_names() -> None:
    """Names may hold what topics may not: dots and wildcards."""
    assert validate_name("hook:a.b*c>", "group") is None


def test_reserved_topics() -> None:
    """The cluster's own topics are those below hooks, and hooks itself."""
    assert is_reserved("hooks.kv.write_committed")
    assert is_reserved("hooks")
    assert not is_reserved("hooksmith.sold")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hooks.kv.write_commited", "hooks.kv.write_committed"),
        ("hooks.kv.wirte_committed", "hooks.kv.write_committed"),
        ("hook.kv.ttl_expired", "hooks.kv.ttl_expired"),
        ("weather", None),
        ("", None),
    ],
)
def test_closest(name: str, expected: str | None) -> None:
    """The nearest spelling is found, and nothing is suggested when nothing is near."""
    names = ["hooks.kv.write_committed", "hooks.kv.ttl_expired", "hooks.cluster.node_added"]

    assert expected == closest(name, names)


def test_closest_does_not_depend_on_the_order() -> None:
    """Of equally near names the first in text order wins."""
    assert closest("abcd", ["abce", "abca"]) == closest("abcd", ["abca", "abce"]) == "abca"
