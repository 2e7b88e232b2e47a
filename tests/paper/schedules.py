"""The schedules that break stock PySyncObj (A to I), written for any class on the bench.

Each function drives a fresh laboratory through one schedule; its test judges what came of it.
Links, clocks and processes are the only levers; no schedule looks into a message.
Where the number of messages that get through decides (A), it is a parameter, and the tests try
every value: what is one burst of messages for one class is a single message for another.
"""

from __future__ import annotations

from tests.paper.laboratory import Crashed, Laboratory

THREE = "abc"
FIVE = "abcde"
LARGE_BYTES = 2 << 16
"""Twice what stock sends in one piece (`appendEntriesBatchSizeBytes`)."""


def labels(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{number}" for number in range(count)]


def settled(laboratory: Laboratory) -> None:
    """`a` leads, everybody has its no-op applied, nothing is under way."""
    others = [name for name in laboratory.names if name != "a"]
    laboratory.elect("a", *others)
    laboratory.run(*laboratory.names)


def acknowledged_while_in_flight(laboratory: Laboratory, size: int, let_through: int) -> None:
    """A: an acknowledgement arrives while later batches are under way; then the leader dies.

    A hundred writes of `size` bytes are more than one batch. `let_through` counts the messages
    that still reach the follower after it acknowledged all.
    """
    settled(laboratory)
    laboratory.write("a", *labels("early", 100), size=size)
    laboratory.tick("a", "a")
    first_burst = laboratory.waiting("a", "b")
    laboratory.write("a", *labels("late", 100), size=size)
    laboratory.tick("a", "a")
    laboratory.deliver("a", "b", first_burst)
    laboratory.deliver("b", "a")
    second_burst = laboratory.waiting("a", "b")
    laboratory.tick("a")  # what it learned makes the leader send again, behind the second burst
    laboratory.deliver("a", "b", second_burst)
    laboratory.deliver("b", "a")
    laboratory.tick("a")
    laboratory.deliver("a", "b", let_through)
    laboratory.crash("a")  # c never heard of any of it
    laboratory.elect("b", "c")
    laboratory.run("b", "c")


def diverged_follower_returns(laboratory: Laboratory, rounds: int) -> None:
    """B: a deposed leader with a short orphaned tail returns under the second leader after it."""
    settled(laboratory)
    laboratory.isolate("a")
    laboratory.write("a", *labels("orphan", 3))
    laboratory.tick("a", "a")
    laboratory.elect("b", "c")
    laboratory.write("b", *labels("kept", 400), size=700)
    laboratory.run("b", "c")
    laboratory.crash("b")
    laboratory.restart("b")
    laboratory.elect("c", "b")  # begins to look for a's place at the end of a much longer log
    laboratory.run("c", "b")
    laboratory.reunite("a")
    laboratory.run("c", "b", "a", rounds=rounds)


def large_command(laboratory: Laboratory, size: int) -> int:
    """C: one write of `size` bytes; a follower that dies of it is restarted. How often it died."""
    settled(laboratory)
    laboratory.cut("a", "c")
    laboratory.write("a", "large", size=size)
    crashes = 0
    for _ in range(12):
        laboratory.tick("a")
        try:
            laboratory.exchange("a", "b")
        except Crashed as crash:
            crashes += 1
            laboratory.crash(crash.node)
            laboratory.restart(crash.node)
    return crashes


def overlapping_removals(laboratory: Laboratory) -> None:
    """D: a leader that is cut off removes both others, one right after the other; they elect."""
    settled(laboratory)
    laboratory.isolate("a")
    laboratory.remove("a", "b")
    laboratory.remove("a", "c")
    laboratory.write("a", "here")
    laboratory.tick("a", "a", "a")
    laboratory.elect("b", "c")
    laboratory.write("b", "there")
    laboratory.run("b", "c")


def orphans_meet_a_snapshot(laboratory: Laboratory) -> None:
    """E: a deposed leader with unreplicated writes comes back when the others have compacted."""
    settled(laboratory)
    laboratory.isolate("a")
    laboratory.write("a", *labels("orphan", 3))
    laboratory.tick("a", "a")
    laboratory.elect("b", "c")
    laboratory.write("b", *labels("kept", 20))
    laboratory.run("b", "c")
    laboratory.compact("b")
    laboratory.exchange("b", "c")
    laboratory.reunite("a")
    for _ in range(20):
        laboratory.tick("b")
        while laboratory.deliver("b", "a", 1):
            laboratory.tick("a")  # applies, and answers its clients, what it believes committed
            laboratory.deliver("a", "b")


def acknowledgement_delayed_over_two_elections(laboratory: Laboratory) -> None:
    """G: what `b` acknowledged to `a` in one term arrives when `a` leads again, two terms later."""
    settled(laboratory)
    laboratory.write("a", *labels("first", 5))
    laboratory.tick("a", "a")
    laboratory.deliver("a", "b")  # b holds and acknowledges; its answers are under way from here
    laboratory.elect("c", "d", "e")
    laboratory.tick("c")
    laboratory.deliver("c", "a")  # a is deposed, and its tail replaced by c's
    laboratory.isolate("c")  # d and e know of c's term, and of nothing that it wrote
    laboratory.elect("a", "d", "e")
    laboratory.write("a", "second")
    for _ in range(4):
        laboratory.tick("a")
        laboratory.deliver("a", "d")
        laboratory.deliver("d", "a")
    laboratory.deliver("b", "a")
    laboratory.tick("a", "a")
    laboratory.crash("a")
    laboratory.crash("d")  # two of five may go
    laboratory.reunite("c")
    laboratory.elect("c", "b", "e")
    laboratory.run("c", "b", "e")


def snapshot_wanted_while_one_is_made(laboratory: Laboratory) -> int:
    """H: a follower needs a snapshot while the leader makes one. Messages sent in that tick."""
    settled(laboratory)
    laboratory.isolate("c")
    laboratory.write("a", *labels("before", 20))
    laboratory.run("a", "b")
    laboratory.compact("a")
    laboratory.write("a", *labels("after", 5))
    laboratory.run("a", "b")
    laboratory.begin_compaction("a")
    laboratory.reunite("c")  # what c lacks is in no log any more
    sent_before = laboratory.sent
    laboratory.tick("a")
    return laboratory.sent - sent_before


def acknowledgement_of_a_removed_node(laboratory: Laboratory) -> None:
    """I: the leader removes a node whose acknowledgement is under way."""
    settled(laboratory)
    laboratory.write("a", "last words")
    laboratory.tick("a", "a")
    laboratory.deliver("a", "b")
    laboratory.remove("a", "b")
    laboratory.tick("a")
    laboratory.deliver("b", "a")
