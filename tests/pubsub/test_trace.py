"""Events of a correlation, drawn as a tree of what caused what."""

from hypothesis import given
from hypothesis import strategies as st

from pubsub.events import Event
from pubsub.store.trace import Branch, lines, tree


def event(revision: int, causation_id: int | str | None = None) -> Event:
    """One with a cause."""
    return Event(revision, "t", None, (), None, 1, causation_id, 0, None, 0, revision, 0, 10)


def drawn(*events: Event) -> list[str]:
    """The lines of the tree."""
    return [f"{line.prefix}{line.event.revision}" for line in lines(tree(events))]


def test_a_tree_shows_what_caused_what() -> None:
    """Each event stands below its cause, siblings in the order of the log."""
    events = [event(1), event(2, 1), event(3, 1), event(4, 2), event(5, 3), event(6, 4)]
    assert drawn(*reversed(events)) == [
        "1",
        "├─ 2",
        "│  └─ 4",
        "│     └─ 6",
        "└─ 3",
        "   └─ 5",
    ]


def test_an_event_without_a_known_cause_is_a_root() -> None:
    """Its cause may be gone, of another cluster, or nonsense that a client sent."""
    events = [event(5, 2), event(6, "elsewhere-5"), event(7, 7), event(8, 9), event(9)]
    assert drawn(*events) == ["5", "6", "7", "8", "9"]


def test_an_event_that_comes_twice_stands_there_once() -> None:
    """The pages of a query may overlap the root that was asked for before."""
    assert drawn(event(1), event(1), event(2, 1)) == ["1", "└─ 2"]


def test_a_long_chain_is_drawn() -> None:
    """Nothing recurses."""
    assert len(drawn(*(event(n, n - 1) for n in range(1, 3_000)))) == 2_999


@given(st.dictionaries(st.integers(1, 30), st.none() | st.integers(0, 40) | st.text(max_size=2)))
def test_every_event_is_there_once(causes: dict[int, int | str | None]) -> None:
    """Whatever the causes say, each event has one line, and its depth is that of its cause plus
    one."""
    events = [event(revision, cause) for revision, cause in causes.items()]
    found = list(lines(tree(events)))
    assert sorted(line.event.revision for line in found) == sorted(causes)
    depths = {line.event.revision: line.depth for line in found}
    for revision, cause in causes.items():
        is_known = isinstance(cause, int) and cause in causes and cause < revision
        assert depths[revision] == (depths[cause] + 1 if is_known else 0)  # type: ignore[index]


def test_a_tree_of_nothing_is_empty() -> None:
    """No events, no roots."""
    roots: list[Branch] = tree([])
    assert roots == []
