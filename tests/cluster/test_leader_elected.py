"""`leader_elected` under elections that overtake each other, in production Raft and machine."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster import state
from cluster.machine import Machine
from hooks.events.publisher import payload
from pubsub import log
from pubsub.events import Event
from tests.cluster.entries import Driver
from tests.raft.ensemble import Ensemble

TOPIC = "hooks.cluster.leader_elected"
FIRST_INDEX = 2  # entry 1 of every log does nothing


def committed(nodes: Ensemble, name: str) -> list[tuple[int, int, bytes]]:
    """Index, term and command of everything that a node knows to be committed."""
    core = nodes.core(name)
    entries = []
    for index in range(FIRST_INDEX, core.commit_index + 1):
        entry = core.log.get(index)
        assert entry is not None
        entries.append((index, entry.term, entry.command))
    return entries


def elections(entries: list[tuple[int, int, bytes]]) -> list[Event]:
    """The elections that a machine tells of when it applies them."""
    machine = Machine(state.open_state(":memory:"))
    for entry in entries:
        machine.apply(*entry)
    machine.commit()
    found = log.read(machine.connection, 1, 100_000, 1 << 30)
    assert isinstance(found, list)
    return [event for event in found if event.topic == TOPIC]


def disturb(nodes: Ensemble, draw: Random) -> None:
    """One node is cut off or comes back, another is the next to stand, messages get stuck."""
    name, other = draw.choice(nodes.names), draw.choice(nodes.names)
    action = draw.randrange(4)
    if action == 0:
        nodes.isolate(name)
    elif action == 1 and name != other:
        if (name, other) not in nodes._links:
            nodes.join(name, other)
    elif action == 2:
        nodes._make_eager(name)
    else:
        nodes.propose(name, "k", str(draw.random()))
    # so little arrives before the next disturbance that elections begin in the middle of others
    nodes.now += draw.choice([0.01, 0.1, 0.6])
    for node in nodes.names:
        nodes.step(node)
        nodes.deliver(draw.randrange(4))


@pytest.mark.parametrize("seed", range(12))
def test_each_term_with_a_committed_entry_has_one_election(seed: int) -> None:
    """At the very first entry of the term, whoever committed it in the end; no other term is
    told of, and every node tells the same."""
    draw = Random(seed)
    nodes = Ensemble("abc")
    for _ in range(150):
        disturb(nodes, draw)
    for name, other in (("a", "b"), ("a", "c"), ("b", "c")):
        if (name, other) not in nodes._links:
            nodes.join(name, other)
    nodes.until(lambda: any(nodes.core(name).ready_to_lead for name in "abc"))
    nodes.until(lambda: len({nodes.core(name).commit_index for name in "abc"}) == 1)

    leaders: dict[int, str] = {}
    for sent in nodes.traffic:
        if sent.message["type"] == "append_entries":
            assert leaders.setdefault(sent.message["term"], sent.source) == sent.source
    entries = committed(nodes, "a")
    told = elections(entries)
    firsts = {term: index for index, term, _ in reversed(entries)}
    assert len(firsts) > 2, "this seed shows nothing: there were no elections"
    assert [(event.data[2], event.log_index) for event in told] == list(firsts.items())[::-1]
    before = None
    for event in told:
        facts = payload(event)
        assert facts["new_leader"] == leaders[facts["term"]]
        assert facts["previous_leader"] == before
        before = facts["new_leader"]
    for name in "bc":
        assert elections(committed(nodes, name)) == told


@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("abc")), max_size=20))
def test_a_term_is_told_once_whatever_stands_in_the_log(steps: list[tuple[int, str]]) -> None:
    """Also when the first entry of a term were there twice, before and after a restart."""
    driver = Driver()
    driver.term = 1
    expected: list[tuple[int, str]] = []
    for step, leader in steps:
        driver.term += step
        if not expected or expected[-1][0] < driver.term:
            expected.append((driver.term, leader))
        driver.no_op(leader, ["a", "b", "c"], [])
    assert [(event.data[2], event.data[0]) for event in driver.events()] == expected


def test_a_key_expires_once_however_often_it_is_proposed() -> None:
    """Two leaders may both propose what is due; the second finds nothing left."""
    driver = Driver()
    driver.do("put", "k", b"v", 500)
    driver.wall_ms += 500
    assert [driver.do("kv.expire", driver.wall_ms, 10) for _ in range(3)] == [1, 0, 0]
    driver.do("put", "k", b"again")
    assert driver.do("kv.expire", driver.wall_ms, 10) == 0
    topics = [event.topic.rpartition(".")[2] for event in driver.events()]
    assert topics == ["write_committed", "ttl_expired", "write_committed"]
