"""Topics and patterns: the grammar, the matcher, and the nearest spelling of a wrong one.

A topic is 1 to 16 segments joined by dots. In a pattern `*` stands for exactly one segment and `>`,
which may only come last, for one or more (the meaning that NATS gave them).
"""

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

from pubsub.limits import (
    NAME_BYTES_MAX,
    PATTERNS_COMPILED_MAX,
    SEGMENT_BYTES_MAX,
    TOPIC_SEGMENTS_MAX,
)

RESERVED_PREFIX: Final = "hooks."

# Whitespace, controls, surrogates, format characters that hide or reorder text, non-characters. A
# fixed list and not str.isprintable(), whose answer changes with the interpreter's Unicode tables:
# apply must decide the same on every node.
_UNPRINTABLE: Final = (
    "\\x00-\\x20\\x7f-\\xa0\\xad\\u061c\\u1680\\u180e\\u2000-\\u200f\\u2028-\\u202f\\u205f-\\u206f"
    "\\u3000\\ud800-\\udfff\\ufdd0-\\ufdef\\ufeff\\ufff0-\\ufffb\\ufffe\\uffff\\U000e0000-\\U000e0fff"
)
_SEGMENT: Final = re.compile(f"[^.*>{_UNPRINTABLE}]+")
_NAME: Final = re.compile(f"[^{_UNPRINTABLE}]+")


def validate_topic(text: object) -> str | None:
    """What is wrong with `text` as a topic, or None."""
    return _validate(text, "topic", wildcards=False)


def validate_pattern(text: object) -> str | None:
    """What is wrong with `text` as a pattern, or None."""
    return _validate(text, "pattern", wildcards=True)


def validate_name(text: object, noun: str) -> str | None:
    """What is wrong with `text` as the name of a group or a member, or None."""
    if not isinstance(text, str) or not text:
        return f"{noun}: a non-empty text is needed"
    if not _NAME.fullmatch(text):
        return f"{noun}: no whitespace or control characters are allowed"
    if len(text.encode()) > NAME_BYTES_MAX:
        return f"{noun}: longer than {NAME_BYTES_MAX} bytes"
    return None


def is_reserved(topic: str) -> bool:
    """True for the topics that only the cluster itself publishes to."""
    return topic.startswith(RESERVED_PREFIX) or topic == "hooks"


class Pattern:
    """A valid pattern, compiled: `matches(topic)` takes a valid topic."""

    __slots__ = ("matches", "text")

    def __init__(self, text: str) -> None:
        problem = validate_pattern(text)
        if problem:
            raise ValueError(problem)
        self.text = text
        self.matches: Callable[[str], bool] = _compile(text)

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


def patterns_overlap(left: str, right: str) -> bool:
    """Whether some topic matches both of two valid patterns."""
    a, b = left.split("."), right.split(".")
    for position in range(max(len(a), len(b))):
        # What ends here and has not met a ">" stands for topics that end here, too.
        if position >= len(a) or position >= len(b):
            return False
        mine, other = a[position], b[position]
        if mine == ">" or other == ">":
            return True  # it takes whatever the rest of the other one stands for
        if mine != other and mine != "*" and other != "*":
            return False
    return True


def pattern_covers(wide: str, narrow: str) -> bool:
    """Whether every topic that matches `narrow` matches `wide`; both are valid patterns."""
    a, b = wide.split("."), narrow.split(".")
    for position, mine in enumerate(a):
        if position >= len(b):
            return False
        if mine == ">":
            return True
        other = b[position]
        if other == ">" or (mine != "*" and mine != other):
            return False
    return len(a) == len(b)


def specificity(pattern: str) -> tuple[tuple[int, str], ...]:
    """What to sort patterns by, so that of those that match a topic the most specific comes first.

    They are compared segment by segment: a word comes before `*`, and `*` before `>`. So
    `logs.audit` comes before `logs.*`, that before `*.audit`, and `>` is the last of all.
    """
    kinds = {"*": 1, ">": 2}
    return tuple((kinds.get(segment, 0), segment) for segment in pattern.split("."))


@lru_cache(PATTERNS_COMPILED_MAX)
def compiled(text: str) -> Pattern:
    """The pattern of a valid text, which is often asked for again."""
    return Pattern(text)


def closest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that `name` was probably meant to be, or None if none is near.

    Near is an edit distance (insert, delete, replace, swap neighbours) of at most a third of the
    longer text; of several equally near ones the first in text order.
    """
    best: tuple[int, str] | None = None
    for candidate in sorted(names):
        bound = max(len(name), len(candidate)) // 3
        if abs(len(name) - len(candidate)) > bound:
            continue
        distance = _edit_distance(name, candidate)
        if distance <= bound and (best is None or distance < best[0]):
            best = (distance, candidate)
    return best[1] if best else None


def _validate(text: object, noun: str, *, wildcards: bool) -> str | None:
    if not isinstance(text, str) or not text:
        return f"{noun}: a non-empty text is needed"
    segments = text.split(".")
    if len(segments) > TOPIC_SEGMENTS_MAX:
        return f"{noun}: {len(segments)} segments, at most {TOPIC_SEGMENTS_MAX} are allowed"
    for number, segment in enumerate(segments, 1):
        if wildcards and (segment == "*" or (segment == ">" and number == len(segments))):
            continue
        if not segment:
            return f"{noun}: segment {number} is empty"
        if wildcards and segment == ">":
            return f'{noun}: ">" is only allowed as the last segment'
        if wildcards and ("*" in segment or ">" in segment):
            return f"{noun}: segment {number}: a wildcard stands alone in its segment"
        if not _SEGMENT.fullmatch(segment):
            what = "whitespace" if wildcards else "whitespace, wildcards"
            return f"{noun}: segment {number}: no {what} or control characters are allowed"
        if len(segment.encode()) > SEGMENT_BYTES_MAX:
            return f"{noun}: segment {number} is longer than {SEGMENT_BYTES_MAX} bytes"
    return None


def _compile(text: str) -> Callable[[str], bool]:
    """The cheapest test that decides the pattern: equality, then a prefix, then an expression."""
    segments = text.split(".")
    if "*" not in segments:
        if segments[-1] != ">":
            return text.__eq__
        # A valid topic that starts with "a.b." has a segment after it; ">" alone is prefix "".
        prefix = text[:-1]
        return lambda topic: topic.startswith(prefix)
    parts = [r"[^.]+" if part == "*" else re.escape(part) for part in segments]
    if segments[-1] == ">":
        parts[-1] = r".+"
    match = re.compile(r"\.".join(parts), re.DOTALL).fullmatch
    return lambda topic: match(topic) is not None


def _edit_distance(left: str, right: str) -> int:
    """Optimal string alignment distance, three rows of a table at a time."""
    before: list[int] = []
    above = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        row = [i]
        for j, b in enumerate(right, 1):
            cost = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, above = above, row
    return above[-1]
