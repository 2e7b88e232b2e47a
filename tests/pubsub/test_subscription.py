"""Subscriptions: order, credits, numbers, bookmarks."""

from hypothesis import given
from hypothesis import strategies as st

from pubsub import limits
from pubsub.events import Event
from pubsub.log import Compacted
from pubsub.subscription import Subscription
from pubsub.topics import Pattern


class ListSource:
    """A log that is a list of topics; the first one has revision `first`, what was before it is
    gone."""

    def __init__(self, topics: list[str], first: int = 1) -> None:
        self.first = first
        self.trimmed_to = first - 1
        self.events = [
            Event(first + n, topic, None, (), None, None, None, 0, None, 0, 0, 0, 10)
            for n, topic in enumerate(topics)
        ]

    def read_events(self, from_revision: int, events_max: int, bytes_max: int) -> list[Event]:
        found = [event for event in self.events if event.revision >= from_revision]
        return found[: min(events_max, max(1, bytes_max // 10))]

    def compacted(self, pattern: str, from_revision: int) -> Compacted | None:
        return Compacted(self.trimmed_to + 1) if from_revision <= self.trimmed_to else None

    def take(self, revision: int, matters: bool = True) -> None:
        """Retention takes one event."""
        self.events = [event for event in self.events if event.revision != revision]
        if matters:
            self.trimmed_to = revision


@given(
    st.lists(st.sampled_from(["a", "b", "a.b"]), max_size=30),
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 7), st.integers(1, 60)), max_size=15),
)
def test_delivers_every_match_once_in_order(
    topics: list[str], pumps: list[tuple[int, int, int]]
) -> None:
    """However credits and bounds fall, the reader gets all matches in order, numbered 1, 2, 3..."""
    source = ListSource(topics)
    subscription = Subscription(Pattern("a"), 1)
    got: list[tuple[int, int]] = []
    granted = 0
    for credits, limit, bytes_max in [*pumps, *[(1, 7, 60)] * 31]:
        subscription.grant(credits)
        granted += credits
        pumped = subscription.pump(source, limit, bytes_max)
        revisions = [event.revision for event in pumped.events]
        got += list(enumerate(revisions, pumped.first_number))
        assert len(got) <= granted

    expected = [event.revision for event in source.events if event.topic == "a"]
    assert list(enumerate(expected, 1)) == got
    assert subscription.next_revision == len(topics) + 1


def test_without_credits_nothing_is_read() -> None:
    """A reader that grants nothing costs nothing and keeps its place."""
    subscription = Subscription(Pattern(">"), 1)

    pumped = subscription.pump(ListSource(["a"]), 10)

    assert (pumped.events, pumped.more, subscription.next_revision) == ([], False, 1)


def test_more_says_whether_to_pump_again() -> None:
    """There is more to do until the head of the log is reached or the credits are used up."""
    source = ListSource(["a", "b", "a"])
    subscription = Subscription(Pattern("a"), 1, credits=5)

    assert [subscription.pump(source, 2).more for _ in range(3)] == [True, True, False]

    subscription = Subscription(Pattern("a"), 1, credits=1)
    assert not subscription.pump(source, 3).more


def test_a_bookmark_on_request() -> None:
    """A quiet reader learns how far the log was looked at, once for each step forward."""
    source = ListSource(["b", "b", "a", "b"])
    subscription = Subscription(Pattern("a"), 1, credits=5)

    subscription.pump(source, 2)
    assert (subscription.bookmark(), subscription.bookmark()) == (2, None)
    subscription.pump(source, 1)
    assert subscription.bookmark() is None  # the event itself said so
    subscription.pump(source, 1)
    assert subscription.bookmark() == 4


def test_a_bookmark_is_due_after_many_misses() -> None:
    """A reader of a rare topic hears from its subscription now and then without asking."""
    source = ListSource(["b"] * limits.BOOKMARK_REVISIONS)
    subscription = Subscription(Pattern("a"), 1, credits=1)

    first = subscription.pump(source, limits.BOOKMARK_REVISIONS - 1)
    second = subscription.pump(source, 1)

    assert (first.bookmark, second.bookmark) == (None, limits.BOOKMARK_REVISIONS)


def test_compaction_ends_the_subscription() -> None:
    """A reader that retention overtook is told where the log starts and gets nothing more."""
    subscription = Subscription(Pattern(">"), 3, credits=5)

    for _ in range(2):
        pumped = subscription.pump(ListSource(["a"], first=7), 10)
        assert (pumped.events, pumped.compacted, pumped.more) == ([], Compacted(7), False)


def test_credits_are_bounded() -> None:
    """Grants beyond the limit do not add up, and a negative grant takes nothing away."""
    subscription = Subscription(Pattern(">"), 1, credits=limits.CREDITS_MAX)
    subscription.grant(1)
    subscription.grant(-5)

    assert subscription.credits == limits.CREDITS_MAX


def test_a_gap_of_other_topics_is_no_compaction() -> None:
    """What retention took and the reader does not want does not end its subscription."""
    source = ListSource(["a", "b", "a"])
    source.take(2, matters=False)
    subscription = Subscription(Pattern("a"), 1, credits=5)

    pumped = subscription.pump(source, 10)

    assert [event.revision for event in pumped.events] == [1, 3]
    assert (pumped.compacted, subscription.next_revision) == (None, 4)


def test_who_takes_what_is_left_is_not_told_of_old_gaps() -> None:
    """A reader that began with the earliest is only told of what went since then."""
    source = ListSource(["a"] * 6)
    source.take(2)
    strict = Subscription(Pattern("a"), 1, credits=9)
    lenient = Subscription(Pattern("a"), 1, credits=9, intact_from=3)

    assert strict.pump(source, 10).compacted == Compacted(3)
    assert [event.revision for event in lenient.pump(source, 2).events] == [1, 3]
    source.take(5)
    assert lenient.pump(source, 10).compacted == Compacted(6)


def test_what_is_not_published_takes_no_number_and_no_credit() -> None:
    """It is looked at as what does not match, so bookmarks go on over it."""
    source = ListSource(["a", "b", "a", "b", "b"])
    subscription = Subscription(Pattern(">"), 1, credits=2)

    pumped = subscription.pump(source, 10, is_published=lambda topic: topic == "a")

    assert [event.revision for event in pumped.events] == [1, 3]
    assert (pumped.first_number, subscription.delivered, subscription.credits) == (1, 2, 0)
    assert subscription.bookmark() == 5
    subscription.grant(5)
    assert subscription.pump(source, 10, is_published=lambda topic: False).events == []
    source = ListSource(["a", "b", "a", "b", "b", "b"])
    pumped = subscription.pump(source, 10)
    assert (pumped.first_number, [event.revision for event in pumped.events]) == (3, [6])
