"""Waiting for a place in the log, and for results: every caller is answered exactly once."""

from collections.abc import Callable

from cluster.errors import LeaderChanged, NoLeader, NotLeader, Overloaded
from cluster.raft import proposals
from cluster.raft.proposals import Forwarded, Proposals


class Callers:
    """Callers with names, and what each was told."""

    def __init__(self) -> None:
        self.told: dict[str, object] = {}

    def __call__(self, name: str) -> Callable[[object], None]:
        def done(result: object) -> None:
            assert name not in self.told, f"{name} is told twice"
            self.told[name] = result

        return done

    def kinds(self) -> dict[str, type]:
        return {name: type(result) for name, result in self.told.items()}


def test_what_waits_becomes_one_entry_in_its_order() -> None:
    """Bounded in number and in bytes, but an operation above the bound goes alone."""
    queue = Proposals()
    for payload in (b"1", b"22", b"333", b"4" * 100, b"5"):
        queue.add(payload, None)
    assert [p.payload for p in queue.take(2, 1000)] == [b"1", b"22"]
    assert [p.payload for p in queue.take(9, 50)] == [b"333"]
    assert [p.payload for p in queue.take(9, 50)] == [b"4" * 100]
    assert queue.pending_bytes == 1
    assert [p.payload for p in queue.take(9, 50)] == [b"5"]
    assert (queue.pending_bytes, queue.take(9, 50)) == (0, [])


def test_a_followers_bundle_stays_together() -> None:
    """It is answered with one place in one entry, so that it is never split."""
    queue = Proposals()
    queue.add(b"own", None)
    bundle, next_bundle = Forwarded("b", 1), Forwarded("b", 2)
    for _ in range(5):
        queue.add(b"x", None, bundle)
    queue.add(b"y", None, next_bundle)
    assert [p.origin for p in queue.take(2, 1000)] == [None, *[bundle] * 5]
    assert [p.origin for p in queue.take(2, 1000)] == [next_bundle]


def test_more_than_may_wait_is_refused_at_once() -> None:
    """A bound on bytes and one on operations; a refusal leaves the queue as it was."""
    callers = Callers()
    queue = Proposals()
    large = bytes(proposals.PENDING_BYTES_MAX // 2)
    queue.add(large, callers("one"))
    queue.add(large, callers("two"))
    queue.add(b"x", callers("three"))
    assert callers.kinds() == {"three": Overloaded}
    assert len(queue.pending) == 2
    queue.take(2, 2 * len(large))
    assert not queue.is_full(1)
    for _ in range(proposals.PENDING_OPERATIONS_MAX):
        queue.add(b"", None)
    assert queue.is_full(0)


def test_results_go_to_who_waits_for_the_entry() -> None:
    """Each caller of an entry gets the result at its own place in it."""
    callers = Callers()
    queue = Proposals()
    queue.wait(7, 2, 0, [callers("a"), None, callers("b")])
    queue.wait(7, 2, 3, [callers("forwarded")])
    queue.wait(8, 2, 0, [callers("later")])
    queue.applied(7, 2, [10, 11, 12, 13])
    assert callers.told == {"a": 10, "b": 12, "forwarded": 13}
    queue.applied(8, 2, [20])
    queue.applied(8, 2, [20])
    assert callers.told["later"] == 20


def test_another_terms_entry_in_the_same_place_answers_nobody_falsely() -> None:
    """An overwritten entry's callers hear that the outcome is unknown."""
    callers = Callers()
    queue = Proposals()
    queue.wait(7, 2, 0, [callers("a")])
    queue.applied(7, 3, [10])
    assert callers.kinds() == {"a": LeaderChanged}


def test_a_snapshot_that_jumps_over_an_entry_leaves_its_outcome_unknown() -> None:
    """Entries behind it are still waited for."""
    callers = Callers()
    queue = Proposals()
    for index in (5, 6, 7):
        queue.wait(index, 1, 0, [callers(str(index))])
    queue.skipped(6)
    assert callers.kinds() == {"5": LeaderChanged, "6": LeaderChanged}
    queue.applied(7, 1, ["result"])
    assert callers.told["7"] == "result"


def test_a_forwarded_bundle_waits_where_the_leader_put_it() -> None:
    """The follower answers its own callers when it has applied that entry itself."""
    callers = Callers()
    queue = Proposals()
    queue.add(b"1", callers("one"))
    queue.add(b"2", callers("two"))
    identity, payloads = queue.forward("a", queue.take(9, 1000))
    assert payloads == [b"1", b"2"]
    queue.placed(identity, 9, 4, 3, applied=8)
    queue.applied(9, 4, ["x", "x", "x", "first", "second"])
    assert callers.told == {"one": "first", "two": "second"}


def test_a_place_that_is_told_too_late_is_an_unknown_outcome() -> None:
    """The entry was applied before anybody could wait for its results."""
    callers = Callers()
    queue = Proposals()
    queue.add(b"1", callers("one"))
    identity, _ = queue.forward("a", queue.take(9, 1000))
    queue.placed(identity, 9, 4, 0, applied=9)
    assert callers.kinds() == {"one": LeaderChanged}
    queue.placed(identity, 10, 4, 0, applied=9)
    queue.applied(10, 4, ["nobody's"])


def test_what_was_never_handed_on_fails_definitely() -> None:
    """What a leader refused too; what it may have taken has an unknown outcome."""
    callers = Callers()
    queue = Proposals(first_identity=77)
    for name in ("refused", "lost", "placed", "pending"):
        queue.add(name.encode(), callers(name))
    refused, _ = queue.forward("a", queue.take(1, 1000))
    assert refused == 78
    queue.forward("a", queue.take(1, 1000))
    placed, _ = queue.forward("a", queue.take(1, 1000))
    queue.placed(placed, 9, 1, 0, applied=1)
    queue.refused(refused, NotLeader(None))
    queue.lost_leader("b")
    assert callers.kinds()["refused"] is NotLeader
    queue.lost_leader("a")
    queue.fail_pending(NoLeader())
    assert callers.kinds() == {
        "refused": NotLeader,
        "lost": LeaderChanged,
        "placed": LeaderChanged,
        "pending": NoLeader,
    }
    assert queue.pending_bytes == 0


def test_a_deposed_leader_gives_bundles_back_and_keeps_its_own() -> None:
    """Each bundle is named once; its operations were placed nowhere."""
    callers = Callers()
    queue = Proposals()
    bundle = Forwarded("b", 5)
    queue.add(b"own", callers("own"))
    queue.add(b"1", None, bundle)
    queue.add(b"2", None, bundle)
    assert queue.drop_forwarded() == [bundle]
    assert [p.payload for p in queue.pending] == [b"own"]
    assert queue.pending_bytes == 3
    assert callers.told == {}
