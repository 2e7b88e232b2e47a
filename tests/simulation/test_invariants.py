"""Every check fails on a breach that is made up for it, and passes on what is right."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import apsw
import pytest

from cluster import operations
from cluster.raft.core import Core
from cluster.raft.log import Entry, MemoryTail
from cluster.raft.membership import Member, Membership
from pubsub import groups
from simulation.invariants import Invariants
from simulation.node.cursors import Cursors, Group, Partition, read_groups, step_of
from simulation.violation import Violation

EPOCH_MS = 1_000_000
MEMBERS = Membership(Member(name, f"uid-{name}", f"{name}:1", "voter") for name in "abc")


class FakeDisk:
    """A disk that has the first so many of a log's entries."""

    def __init__(self, log: MemoryTail) -> None:
        self.log = log
        self.term = log.term
        self.last_index = log.last.index

    def holds(self, index: int, term: int) -> bool:
        entry = self.log.get(index)
        return index <= self.last_index and entry is not None and entry.term == term


class FakeNode:
    """A node as its Raft shows it, with an entry for each of `terms`."""

    def __init__(self, cluster: FakeCluster, name: str, terms: list[int]) -> None:
        self.name = name
        self.uid = f"uid-{name}"
        self.skew_ms = 0
        entries = [Entry(b"\x01", 1, 0)]
        entries += [Entry(b"\x00%d" % i, i, term) for i, term in enumerate(terms, 2)]
        self.log = MemoryTail(entries, entries[-1].term, None)
        self.disk = cluster.disks[self.uid] = FakeDisk(self.log)
        self.raft = SimpleNamespace(
            term=self.log.term, is_leader=False, commit_index=1, members=MEMBERS, log=self.log
        )
        self.core = cast(Core, self.raft)

    def entry(self, index: int) -> Entry:
        entry = self.log.get(index)
        assert entry is not None
        return entry


class FakeCluster:
    """Three nodes with the logs of `terms`, the first of which leads, and their checks."""

    def __init__(self, *terms: list[int]) -> None:
        self.disks: dict[str, FakeDisk] = {}
        self.seconds = 100.0
        self.checks = Invariants(self.disks, lambda: self.seconds, EPOCH_MS)
        self.nodes = [FakeNode(self, n, list(t)) for n, t in zip("abc", terms, strict=True)]
        self.nodes[0].raft.is_leader = True

    def commit(self, index: int) -> None:
        leader = self.nodes[0]
        leader.raft.commit_index = index
        self.checks.sends(leader, "b", {"type": "append_entries", "commit_index": index})


def breaks(what: str, check: Callable[[], None]) -> None:
    with pytest.raises(Violation, match=what):
        check()


def test_what_is_right_passes() -> None:
    """A leader that commits what a majority has, and a new one that has all of it."""
    cluster = FakeCluster([1, 1, 1], [1, 1, 1], [1])
    a, b, c = cluster.nodes
    cluster.checks.leads(a)
    cluster.commit(4)
    for node in cluster.nodes:
        cluster.checks.grows(node)
    cluster.checks.applies(b, b.entry(4))
    cluster.checks.sends(b, "a", {"type": "append_reply", "term": 1, "match": 4})
    cluster.checks.sends(c, "b", {"type": "response_vote", "term": 1})
    b.raft.term = b.disk.term = b.log.term = 2
    b.log.voted_for = "b"
    cluster.checks.sends(b, "c", {"type": "request_vote", "term": 2})
    cluster.checks.leads(b)
    cluster.checks.cuts(c, [Entry(b"\x00other", 3, 0)])
    cluster.checks.opens(b, 2, 4, 1)
    cluster.checks.stamps(a, EPOCH_MS + 100_000, 100_000)


def test_two_leaders_of_one_term_are_found() -> None:
    """§5.2, and the same leader may be seen again."""
    cluster = FakeCluster([1], [1], [1])
    a, b, _ = cluster.nodes
    cluster.checks.leads(a)
    cluster.checks.leads(a)
    breaks("a and b both lead term 1", lambda: cluster.checks.leads(b))


def test_a_leader_without_a_committed_entry_is_found() -> None:
    """§5.4."""
    cluster = FakeCluster([1, 1], [1, 1], [1])
    cluster.commit(3)
    c = cluster.nodes[2]
    c.raft.term = 2
    breaks("leads term 2 without entry 3", lambda: cluster.checks.leads(c))


def test_an_entry_that_only_a_minority_has_on_disk_is_not_committed() -> None:
    """§5.3: what a log has in memory does not count."""
    cluster = FakeCluster([1, 1], [1, 1], [1])
    cluster.disks["uid-b"].last_index = 2
    breaks(r"on the disks of \['a'\]", lambda: cluster.commit(3))


def test_a_leader_does_not_commit_an_old_terms_entry_by_its_copies() -> None:
    """§5.4.2."""
    cluster = FakeCluster([1], [1], [1])
    cluster.nodes[0].raft.term = 2
    breaks("commits 2 of term 1 in term 2", lambda: cluster.commit(2))


def test_a_committed_index_has_one_term() -> None:
    """Another leader commits something else there."""
    cluster = FakeCluster([1], [1], [2])
    cluster.commit(2)
    c = cluster.nodes[2]
    breaks("it was of 1", lambda: cluster.checks._commits(c, 2))


def test_a_truncated_entry_must_not_be_committed() -> None:
    """§5.4: it is gone from a disk that a majority counted."""
    cluster = FakeCluster([1], [1], [1])
    cluster.commit(2)
    b = cluster.nodes[1]
    breaks("drops the committed entry 2", lambda: cluster.checks.cuts(b, [b.entry(2)]))


def test_a_second_vote_in_a_term_is_found() -> None:
    """Also when the process that gave the first one is gone: the directory votes."""
    cluster = FakeCluster([1], [1], [1])
    c = cluster.nodes[2]
    cluster.checks.sends(c, "a", {"type": "response_vote", "term": 1})
    vote = {"type": "response_vote", "term": 1}
    breaks("votes for a and b in term 1", lambda: cluster.checks.sends(c, "b", vote))


def test_a_vote_that_is_not_on_disk_is_found() -> None:
    """Stable storage before the answer (Fig. 2)."""
    cluster = FakeCluster([1], [1], [1])
    ask = {"type": "request_vote", "term": 2}
    breaks("not on its disk", lambda: cluster.checks.sends(cluster.nodes[0], "b", ask))


@pytest.mark.parametrize(
    ("kind", "key"), [("append_reply", "match"), ("snapshot_reply", "installed")]
)
def test_an_acknowledgement_of_what_is_not_on_disk_is_found(kind: str, key: str) -> None:
    """Stable storage before the answer (Fig. 2)."""
    cluster = FakeCluster([1], [1], [1])
    reply = {"type": kind, "term": 1, key: 3}
    breaks("its disk ends at 2", lambda: cluster.checks.sends(cluster.nodes[1], "a", reply))


@pytest.mark.parametrize("other", [Entry(b"\x00other", 3, 1), None], ids=["command", "before"])
def test_an_index_and_a_term_name_one_entry_and_one_log_before_it(other: Entry | None) -> None:
    """Log matching (§5.3), in logs of which nothing is committed."""
    cluster = FakeCluster([1, 2], [0, 2], [1])
    a, b, _ = cluster.nodes
    cluster.checks.grows(a)
    if other is not None:
        b.log._entries[1:] = [Entry(b"\x002", 2, 1), other._replace(term=2)]
    breaks("another entry 3 of term 2", lambda: cluster.checks.grows(b))


def test_terms_never_go_back_in_a_log_nor_beyond_the_nodes_own() -> None:
    """Fig. 2."""
    cluster = FakeCluster([2, 1], [1], [2])
    a, _, c = cluster.nodes
    a.raft.term = 2
    breaks("term 1 after one of term 2", lambda: cluster.checks.grows(a))
    c.raft.term = 1
    breaks("in term 1, has entry 2 of term 2", lambda: cluster.checks.grows(c))


def test_a_log_is_read_again_where_it_was_cut() -> None:
    """What replaced a truncated end is judged like everything else."""
    cluster = FakeCluster([1, 1, 1], [1, 1, 1], [1])
    a, b, _ = cluster.nodes
    cluster.checks.grows(a)
    cluster.checks.grows(b)
    b.log._cut_from(3)
    b.log._add(Entry(b"\x00other", 3, 1))
    breaks("another entry 3 of term 1", lambda: cluster.checks.grows(b))


def test_another_entry_applied_at_an_index_is_found() -> None:
    """State machine safety (§5.4.3)."""
    cluster = FakeCluster([1], [1], [1])
    a, b, _ = cluster.nodes
    cluster.commit(2)
    cluster.checks.applies(a, a.entry(2))
    other = Entry(b"\x00other", 2, 1)
    breaks("b applied another entry 2", lambda: cluster.checks.applies(b, other))


def test_what_is_applied_without_being_committed_is_found() -> None:
    """By a follower that believes what nobody told it."""
    cluster = FakeCluster([1], [1], [1, 1])
    c = cluster.nodes[2]
    breaks("commits 3 of term 1 for 3 voters", lambda: cluster.checks.applies(c, c.entry(3)))


def test_a_process_that_starts_without_what_was_on_its_disk_is_found() -> None:
    """Its term, its vote, or a committed entry; what was not committed may be cut."""
    cluster = FakeCluster([1, 1, 1], [1, 1, 1], [1])
    cluster.commit(3)
    a, b, _ = cluster.nodes
    for node in (a, b):
        cluster.checks.grows(node)
    breaks("was in term 2 and starts in term 1", lambda: cluster.checks.opens(b, 2, 4, 1))
    b.log._cut_from(4)
    cluster.checks.opens(b, 1, 4, 1)
    b.log._cut_from(3)
    breaks("without the committed entry 3", lambda: cluster.checks.opens(b, 1, 4, 1))
    cluster.checks.sends(a, "b", {"type": "response_vote", "term": 1})
    breaks("a vote for nobody", lambda: cluster.checks.opens(a, 1, 4, 1))


@pytest.mark.parametrize(("wall_ms", "elapsed_ms"), [(102_000, 0), (100_000, 101_000)])
def test_a_clock_ahead_of_real_time_is_found(wall_ms: int, elapsed_ms: int) -> None:
    """One wrong clock of three is no excuse."""
    cluster = FakeCluster([1], [1], [1])
    b = cluster.nodes[1]
    b.skew_ms = 3_600_000
    breaks("ahead|elapsed", lambda: cluster.checks.stamps(b, EPOCH_MS + wall_ms, elapsed_ms))


def test_a_majority_of_wrong_clocks_is_an_excuse() -> None:
    """From the step on in which a leader might have believed them."""
    cluster = FakeCluster([1], [1], [1])
    for node in (*cluster.nodes[1:], cluster.nodes[0]):
        node.skew_ms = 3_600_000
        cluster.checks.stamps(node, EPOCH_MS, 0)
    cluster.checks.stamps(cluster.nodes[0], EPOCH_MS + 3_700_000, 0)
    breaks("elapsed", lambda: cluster.checks.stamps(cluster.nodes[0], EPOCH_MS, 101_000))


# --- groups ---

BEFORE = Group("g", 5, (10, 0), {0: Partition(4, "ann", 70, 1), 1: Partition(5, "bob", 80, 0)})


def entry_of(*wanted: tuple[str, list[Any]]) -> Entry:
    payloads = [operations.pack(0, 0, name, args) for name, args in wanted]
    return Entry(b"\x00" + operations.seal(payloads, 0, 0), 2, 1)


def checkpoint_of(member: str, token: int, floor: int) -> Entry:
    """A checkpoint of partition 0."""
    item = [0, token, floor, [], False, 1, []]
    return entry_of(("group.checkpoint", ["g", member, [item], []]))


def judge(after: Group | None, *entries: Entry) -> None:
    cursors = Cursors()
    cursors.judge(step_of([]), {1: BEFORE})
    cursors.judge(step_of(entries), {} if after is None else {1: after})


def changed(group: Group = BEFORE, **changes: Any) -> Group:
    """With partition 0 changed."""
    return group._replace(
        partitions={**group.partitions, 0: group.partitions[0]._replace(**changes)}
    )


SEEK = entry_of(("group.seek", ["g", "earliest"]))
KEEPALIVE = entry_of(("group.keepalive", ["ann"]))


@pytest.mark.parametrize(
    ("after", "entry"),
    [
        (BEFORE, KEEPALIVE),
        (changed(floor=75, completions=0), checkpoint_of("ann", 4, 75)),
        (changed(BEFORE._replace(counts=(11, 0)), floor=75), checkpoint_of("ann", 4, 75)),
        (BEFORE, checkpoint_of("cat", 3, 75)),
        (changed(BEFORE._replace(token=6), owner="cat", token=6), KEEPALIVE),
        (changed(owner=None), KEEPALIVE),
        (changed(BEFORE._replace(token=6), floor=0, token=6, completions=0), SEEK),
        (None, entry_of(("group.remove", ["g"]))),
    ],
)
def test_what_groups_may_do_passes(after: Group | None, entry: Entry) -> None:
    """Checkpoints of owners, moves with a new token, seeks and removals."""
    judge(after, entry)


@pytest.mark.parametrize(
    ("what", "after", "entry"),
    [
        ("cursor of g/0 went from 70 back", changed(floor=69), checkpoint_of("ann", 4, 69)),
        ("which no owner told", changed(floor=75), checkpoint_of("cat", 3, 75)),
        ("which no owner told", changed(floor=75), checkpoint_of("cat", 4, 75)),
        ("which no owner told", changed(floor=76), checkpoint_of("ann", 4, 75)),
        ("other completions", changed(completions=2), checkpoint_of("cat", 3, 75)),
        ("all checkpoints were fenced", BEFORE._replace(counts=(11, 0)), KEEPALIVE),
        ("token of g/0 went from 4 back", changed(token=3), KEEPALIVE),
        ("under the token of ann", changed(owner="cat"), KEEPALIVE),
        ("handed out a token twice", changed(token=5), KEEPALIVE),
        ("handed out a token twice", changed(token=6), KEEPALIVE),
        ("last token of group g went", Group("g", 4, (10, 0), {}), KEEPALIVE),
        ("other partitions", BEFORE._replace(partitions={}), KEEPALIVE),
        ("nobody removed it", None, KEEPALIVE),
    ],
)
def test_what_groups_may_not_do_is_found(what: str, after: Group | None, entry: Entry) -> None:
    """Judged by the tables, whatever was answered."""
    breaks(what, lambda: judge(after, entry))


def test_a_group_id_is_used_once() -> None:
    """A new group takes over nothing from one that was removed."""
    cursors = Cursors()
    cursors.judge(step_of([]), {1: BEFORE})
    cursors.judge(step_of([entry_of(("group.remove", ["g"]))]), {})
    breaks("used again", lambda: cursors.judge(step_of([]), {1: BEFORE}))


def test_groups_are_read_from_the_tables() -> None:
    """As production writes them."""
    connection = apsw.Connection(":memory:")
    connection.execute(groups.SCHEMA)
    connection.execute("INSERT INTO consumer_groups VALUES(1, 'g', '>', 2, 0, 5, 10, 0, 0)")
    connection.execute(
        "INSERT INTO group_partitions VALUES(1, 0, 'ann', 4, NULL, 70), (1, 1, 'bob', 5, NULL, 80)"
    )
    connection.execute("INSERT INTO group_completions VALUES(1, 0, 72)")
    assert read_groups(connection) == {1: BEFORE}
