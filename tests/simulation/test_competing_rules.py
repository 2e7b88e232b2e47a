"""The simulator's rules of competing groups: what may happen passes, what may not is found."""

from typing import Any

import apsw
import pytest

from cluster import operations
from cluster.raft.log import Entry
from pubsub import groups
from pubsub.consumer_groups import competing
from simulation.node.cursors import Cursors, read_groups, step_of
from simulation.violation import Violation
from tests.pubsub.small_machine import SmallMachine

TTL = 100_000
LOSE = "DELETE FROM competing_waiting; DELETE FROM competing_keys WHERE order_key = 'm'"
NAMES = {
    groups.seek: "group.seek", groups.skip: "group.skip", groups.leave: "group.leave",
    competing.fetch: "group.fetch", competing.settle: "group.settle",
    competing.expire: "lease.expire",
}  # fmt: skip


class Watched:
    """A group with two leased events and one that waits, and the rules that look at each step."""

    def __init__(self) -> None:
        self.machine = SmallMachine()
        self.machine.publish("k", "k", "l", "m")
        options = {"mode": "competing", "ordered": True}
        self.machine.do(groups.define, "g", ">", 1, "earliest", 1, options)
        self.machine.do(groups.join, "g", "a", TTL)
        self.cursors = Cursors()
        self.cursors.judge(step_of([]), read_groups(self.connection))
        self.do(competing.fetch, "g", "a", 9, 9_999)
        self.do(competing.settle, "g", "a", [[4, 1, "nack", [9_000, None]]], [])

    @property
    def connection(self) -> apsw.Connection:
        return self.machine.connection

    def do(self, operation: Any, *arguments: Any) -> None:
        """Apply an operation, and judge what it led to."""
        self.machine.do(operation, *arguments)
        self.judge(operation, *arguments)

    def judge(self, operation: Any, *arguments: Any) -> None:
        """Judge the tables as if the operation had led to them."""
        payload = operations.pack(0, 0, NAMES[operation], list(arguments))
        entry = Entry(b"\x00" + operations.seal([payload], 0, 0), 2, 1)
        self.cursors.judge(step_of([entry]), read_groups(self.connection))


def test_what_a_competing_group_may_do_passes() -> None:
    """Answers, ends of leases, skips and seeks."""
    watched = Watched()
    watched.do(competing.settle, "g", "a", [[1, 1, "ack", None], [3, 1, "dead", "no"]], [])
    watched.do(groups.skip, "g", 4)
    watched.do(competing.fetch, "g", "a", 9, 9_999)
    watched.machine.elapsed_ms = 50_000
    watched.do(competing.expire, 50_000)
    watched.do(competing.fetch, "g", "a", 9, 9_999)
    watched.do(groups.leave, "a")
    watched.do(groups.seek, "g", "earliest")


@pytest.mark.parametrize(
    ("what", "statement"),
    [
        ("nobody answered", LOSE + "; UPDATE competing_groups SET waiting = 0"),
        ("counts", LOSE),
        ("counts", "UPDATE competing_groups SET held = 0"),
        ("two places", "UPDATE competing_waiting SET revision = 1"),
        ("nobody has", "UPDATE competing_keys SET revision = 0 WHERE revision = 1"),
        ("its cursor is at 3", "UPDATE competing_groups SET cursor = 3"),
        ("low watermark", "UPDATE group_partitions SET floor = 3"),
        ("low watermark", "UPDATE group_partitions SET owner = 'a'"),
        ("old token", "UPDATE competing_leases SET token = 1 WHERE token = 2"),
        ("no cursor any more", "DELETE FROM competing_groups"),
    ],
)  # fmt: skip
def test_what_a_competing_group_may_not_do_is_found(what: str, statement: str) -> None:
    """Judged by its tables, whatever was answered."""
    watched = Watched()
    if what == "old token":
        watched.machine.do(competing.settle, "g", "a", [[1, 1, "nack", None]], [])
        watched.judge(competing.settle, "g", "a", [[1, 1, "nack", None]], [])
        watched.machine.do(competing.fetch, "g", "a", 9, 9_999)
    watched.connection.execute(statement).fetchall()

    with pytest.raises(Violation, match=what):
        watched.judge(competing.fetch, "g", "a", 9, 9_999)


def test_an_answer_under_another_lease_completes_nothing() -> None:
    """The fence is judged by the tables: whoever lets it through is found."""
    watched = Watched()
    watched.machine.do(competing.settle, "g", "a", [[1, 1, "ack", None]], [])

    with pytest.raises(Violation, match="event 1 of g is completed"):
        watched.judge(competing.settle, "g", "a", [[1, 0, "ack", None], [3, 1, "ack", None]], [])


def test_a_completed_event_is_not_handed_out_again() -> None:
    """Only a seek goes back."""
    watched = Watched()
    watched.do(competing.settle, "g", "a", [[1, 1, "ack", None]], [])
    watched.machine.do(groups.seek, "g", 1)
    watched.machine.do(competing.fetch, "g", "a", 9, 9_999)

    with pytest.raises(Violation, match="event 1 of g was completed"):
        watched.judge(competing.fetch, "g", "a", 9, 9_999)
