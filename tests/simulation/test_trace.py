"""The hash of a run, its table, and what is found to have lasted."""

from __future__ import annotations

import math

import pytest

from simulation.trace import Kind, Moment, Span, Trace, columns, spans

NODES = ["n1", "n2", "n3"]


def _trace(*texts: str, kept: int | None = None) -> Trace:
    trace = Trace(kept)
    for number, text in enumerate(texts):
        trace.add(number / 10, "n1", "commit", text)
    return trace


def test_the_hash_knows_every_moment_and_the_trace_keeps_the_last() -> None:
    """What fell out of the trace still tells two runs apart."""
    short, other = _trace("one", "two", "three", kept=2), _trace("1", "two", "three", kept=2)
    assert short.moments == other.moments
    assert short.fingerprint != other.fingerprint
    assert short.fingerprint == _trace("one", "two", "three").fingerprint
    assert len(short.fingerprint) == 32


def test_every_field_is_in_the_hash() -> None:
    """Runs that differ in a nanosecond, a name or an end are not equal."""
    fields: list[tuple[float, str, Kind, str, str | None, float | None]] = [
        (0.1, "n1", "fault", "freeze", None, None),
        (0.1 + 1e-9, "n1", "fault", "freeze", None, None),
        (0.1, "n2", "fault", "freeze", None, None),
        (0.1, "n1", "node", "freeze", None, None),
        (0.1, "n1", "fault", "froze", None, None),
        (0.1, "n1", "fault", "freeze", "n2", None),
        (0.1, "n1", "fault", "freeze", None, 2.0),
    ]
    found = set()
    for moment in fields:
        trace = Trace()
        trace.add(*moment)
        assert trace.moments[0] == moment
        found.add(trace.fingerprint)
    assert len(found) == len(fields)


def test_messages_change_no_fingerprint() -> None:
    """A run that is replayed for its page is the run that failed."""
    with_messages, without = _trace("one"), _trace("one")
    assert not without.keeps_messages
    with_messages.keeps_messages = True
    with_messages.add(0.5, "n1", "message", "append_entries", "n2", 0.6)
    assert with_messages.fingerprint == without.fingerprint
    assert with_messages.moments[-1].to == "n2"


def test_any_text_can_be_added() -> None:
    """Also half a surrogate pair, as a log may have it that was read from bytes."""
    assert _trace("\ud800").fingerprint != _trace("\udc00").fingerprint


@pytest.mark.parametrize("count", [3, 5, 7])
def test_each_node_has_a_column(count: int) -> None:
    """A moment stands under the name of its node, and a line fits on a wide screen."""
    nodes = [f"n{number}" for number in range(1, count + 1)]
    long = "a text that is much longer than any column"
    head, *lines = columns([Moment(1.5, node, "log", long) for node in nodes], nodes)
    for node, line in zip(nodes, lines, strict=True):
        assert line.index("a text") == head.index(node)
        assert line.startswith("   1.5000  ")
        assert line.endswith("…")
        assert len(line) <= 160


def test_what_is_of_no_node_says_who() -> None:
    """The world's column holds everybody else; an arrow says who a message goes to."""
    moments = [
        Moment(0.25, "client-3", "client", "write k1\n v-1"),
        Moment(0.5, "n2", "message", "append_entries", "n1", 0.6),
    ]
    _, first, second = columns(moments, NODES)
    assert first == "   0.2500  client-3: write k1 v-1"
    assert second.split() == ["0.5000", "→", "n1", "append_entries"]


def test_a_node_is_dead_from_its_kill_to_its_start() -> None:
    """Whatever killed it; who has not come back is dead until the end."""
    moments = [
        Moment(0.0, "n1", "node", "start"),
        Moment(0.0, "n2", "node", "start"),
        Moment(1.0, "n1", "fault", "kill -9"),
        Moment(1.1, "n1", "node", "dies"),
        Moment(2.0, "n1", "node", "starts"),
        Moment(3.0, "n3", "node", "start"),
        Moment(4.0, "world", "fault", "kill -9 of all"),
        Moment(5.0, "n2", "fault", "starts"),
        Moment(6.0, "n2", "log", "power loss: a word in its log"),
    ]
    assert spans(moments, NODES, 9.0) == [
        Span("n1", "dead", 1.0, 2.0, "kill -9"),
        Span("n3", "dead", 0.0, 3.0, "not started"),
        Span("n2", "dead", 4.0, 5.0, "kill -9 of all"),
        Span("n1", "dead", 4.0, 9.0, "kill -9 of all"),
        Span("n3", "dead", 4.0, 9.0, "kill -9 of all"),
    ]


def test_a_leadership_ends_with_the_next_or_with_its_node() -> None:
    """A leader of an older term that turns up late leads beside the newer one."""
    moments = [
        Moment(1.0, "n1", "election", "leads term 1"),
        Moment(2.0, "n2", "election", "leads term 3"),
        Moment(3.0, "n3", "election", "leads term 2"),
        Moment(3.5, "n3", "election", "steps down"),
        Moment(4.0, "n2", "fault", "power loss"),
        Moment(5.0, "n1", "election", "leads term 4", None, 5.5),
    ]
    leaderships = [span for span in spans(moments, NODES, 9.0) if span.style == "leads"]
    assert leaderships == [
        Span("n1", "leads", 1.0, 2.0, "leads term 1"),
        Span("n3", "leads", 3.0, 3.5, "leads term 2"),
        Span("n2", "leads", 2.0, 4.0, "leads term 3"),
        Span("n1", "leads", 5.0, 5.5, "leads term 4"),
    ]


def test_a_fault_lasts_until_it_is_healed() -> None:
    """Or as long as it was said to; one of which neither is known is a moment only."""
    moments = [
        Moment(1.0, "links", "fault", "a | bc"),
        Moment(1.5, "n1", "fault", "freeze", None, 2.5),
        Moment(2.0, "links", "fault", "healed: a | bc"),
        Moment(3.0, "links", "fault", "a | bc", None, math.inf),
        Moment(3.5, "n2", "fault", "clock off by 5 ms"),
        Moment(4.0, "n2", "fault", "slow disk", None, 99.0),
    ]
    assert spans(moments, NODES, 9.0) == [
        Span("links", "fault", 1.0, 2.0, "a | bc"),
        Span("n1", "fault", 1.5, 2.5, "freeze"),
        Span("links", "fault", 3.0, 9.0, "a | bc"),
        Span("n2", "fault", 4.0, 9.0, "slow disk"),
    ]


def test_an_operation_lasts_from_its_call_to_its_answer() -> None:
    """With its outcome; one without an answer lasts until the end, a remark does not last."""
    moments = [
        Moment(0.5, "client-1", "client", "connects"),
        Moment(1.0, "client-1", "client", "write k1 v-1-1"),
        Moment(1.5, "client-1", "client", "read k1 "),
        Moment(2.0, "client-1", "client", "write k1 v-1-1 info Timeout"),
        Moment(2.5, "client-1", "client", "read k1  ok v-1-1"),
        Moment(3.0, "client-1", "client", "write k1 v-1-10"),
        Moment(3.5, "client-2", "client", "write k2 v-2-1"),
        Moment(4.0, "client-2", "client", "write k2 v-2-1 fail NotLeader"),
        Moment(5.0, "client-2", "client", "scan ok", None, 6.0),
        Moment(7.0, "n1", "client", "ack k1=v-1-1 at 7"),
    ]
    assert spans(moments, NODES, 9.0) == [
        Span("client-1", "unknown", 1.0, 2.0, "write k1 v-1-1 info Timeout"),
        Span("client-1", "ok", 1.5, 2.5, "read k1  ok v-1-1"),
        Span("client-2", "failed", 3.5, 4.0, "write k2 v-2-1 fail NotLeader"),
        Span("client-2", "ok", 5.0, 6.0, "scan ok"),
        Span("client-1", "unknown", 3.0, 9.0, "write k1 v-1-10 (no answer)"),
    ]
