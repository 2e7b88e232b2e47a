"""The leader's view of one follower: one probe at a time, a window in flight, no way back."""

from cluster.raft.replication import WINDOW_BYTES, Progress


def matched(match: int) -> Progress:
    """A peer that has answered that it has everything up to `match`."""
    progress = Progress(match + 1, True)
    progress.acknowledged(match)
    return progress


def test_a_new_peer_is_asked_with_one_message() -> None:
    """Until its first success its log may differ, so that only one probe is under way."""
    progress = Progress(10, True)
    assert progress.can_send(9)
    progress.sent_probe = True
    assert not progress.can_send(99)
    progress.acknowledged(9)
    assert progress.can_send(10)
    assert not progress.can_send(9)


def test_who_is_away_or_gets_a_snapshot_is_sent_no_entries() -> None:
    """Nothing is queued for a session that does not exist."""
    progress = matched(5)
    progress.connected = False
    assert not progress.can_send(9)
    progress.connected, progress.snapshotting = True, True
    assert not progress.can_send(9)


def test_the_window_bounds_what_is_in_flight() -> None:
    """It opens again as entries are acknowledged, each message as a whole."""
    progress = matched(5)
    progress.sent(7, WINDOW_BYTES - 1)
    progress.sent(8, 1)
    assert not progress.can_send(9)
    progress.acknowledged(6)
    assert not progress.can_send(9)
    progress.acknowledged(7)
    assert progress.in_flight_bytes == 1
    assert progress.can_send(9)


def test_an_old_acknowledgement_takes_nothing_back() -> None:
    """Neither what the peer has nor what is sent next ever goes back by a success (defect B)."""
    progress = matched(5)
    progress.sent(9, 100)
    progress.acknowledged(8)
    progress.acknowledged(6)
    assert (progress.match, progress.next) == (8, 10)


def test_a_restart_is_a_new_flight() -> None:
    """It never asks for what the peer is known to have, and answers of the old one are told."""
    progress = matched(5)
    progress.sent(9, 100)
    progress.told_commit = 5
    progress.restart(2)
    assert (progress.flight, progress.next, progress.probing) == (1, 6, True)
    assert (progress.in_flight_bytes, progress.told_commit) == (0, 0)
    assert progress.can_send(5)


def test_a_peer_lacks_a_commit_that_it_could_have_and_was_not_told() -> None:
    """Only as far as it has the entries, and only while it is there."""
    progress = matched(5)
    assert progress.lacks_commit(7)
    progress.told_commit = 5
    assert not progress.lacks_commit(7)
    progress.acknowledged(7)
    assert progress.lacks_commit(7)
    progress.connected = False
    assert not progress.lacks_commit(7)


def test_a_commit_is_awaited_when_a_caller_at_the_peer_waits_for_it() -> None:
    """Not before it is committed, and not once the peer was told."""
    progress = matched(9)
    progress.told_commit, progress.awaited = 5, 7
    assert not progress.is_awaiting(6)
    assert progress.is_awaiting(7)
    progress.told_commit = 7
    assert not progress.is_awaiting(9)
