"""Who is meant when a name is to be added as a member."""

from cluster.acquaintances import NAMES_MAX, TURNED_AWAY_S, Acquaintances
from cluster.raft.peers import Hello


def hello(name: str, uid: str) -> Hello:
    return Hello(name, uid, "127.0.0.1:1", None, [], [], 0)


def test_whoever_has_a_session_is_meant() -> None:
    """A node in touch can be added; once it is gone, what it said is no reason to add its uid."""
    known = Acquaintances()
    known.met(hello("d", "1"))
    assert known.candidate("d", "1", 0.0) == hello("d", "1")
    assert known.candidate("d", None, 0.0) is None
    assert known.candidate("e", None, 0.0) is None


def test_a_wiped_directory_is_not_added_under_its_old_uid() -> None:
    """The new directory that was turned away a moment ago is meant, not the one that was met."""
    known = Acquaintances()
    known.met(hello("c", "old"))
    known.turned_away(hello("c", "new"), 10.0)
    assert known.candidate("c", None, 11.0) == hello("c", "new")
    assert known.candidate("c", None, 10.0 + TURNED_AWAY_S + 1) is None


def test_of_two_directories_nobody_is_meant() -> None:
    """After a power cut the old one's session still stands while the new one is turned away: the
    old one would never come back. Once the new one has a session it is meant."""
    known = Acquaintances()
    known.met(hello("c", "old"))
    known.turned_away(hello("c", "new"), 10.0)
    assert known.candidate("c", "old", 11.0) is None
    known.met(hello("c", "new"))
    assert known.candidate("c", "new", 11.5) == hello("c", "new")
    known.met(hello("c", "old"))
    assert known.candidate("c", "old", 10.0 + TURNED_AWAY_S + 1) == hello("c", "old")


def test_names_are_bounded() -> None:
    """Strangers with ever new names push the oldest out and nothing more."""
    known = Acquaintances()
    for number in range(NAMES_MAX + 1):
        known.met(hello(f"n{number}", "u"))
    assert len(list(known.everybody())) == NAMES_MAX
    assert known.candidate("n0", "u", 0.0) is None
