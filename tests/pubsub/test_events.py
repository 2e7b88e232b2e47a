"""The stored form of events and what readers see of it."""

from typing import Any

import apsw
import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pubsub.apply import Apply
from pubsub.events import SYSTEM_TOPICS, array_header, compress, decode, expand
from pubsub.rejection import Rejection


def make_apply() -> Apply:
    apply = Apply(apsw.Connection(":memory:"))
    apply.begin(7, 1_000, 500, 41)
    return apply


def test_codes_never_change() -> None:
    """The codes of system topics stand in running logs, so they are pinned here."""
    assert SYSTEM_TOPICS == {
        1: "hooks.kv.write_committed",
        2: "hooks.kv.delete_committed",
        3: "hooks.kv.ttl_expired",
        10: "hooks.cluster.leader_elected",
        11: "hooks.cluster.membership_changed",
        12: "hooks.cluster.node_added",
        13: "hooks.cluster.node_removed",
        20: "hooks.system.retention_capped",
        21: "hooks.system.snapshot_created",
        22: "hooks.system.snapshot_installed",
        23: "hooks.system.health_changed",
        24: "hooks.system.node_started",
        25: "hooks.system.node_stopped",
        26: "hooks.system.config_reloaded",
        27: "hooks.system.settings_changed",
        30: "hooks.hook.registered",
        31: "hooks.hook.failed",
        32: "hooks.hook.disabled",
        33: "hooks.hook.enabled",
        34: "hooks.hook.removed",
        35: "hooks.hook.load_failed",
        36: "hooks.hook.executed",
        40: "hooks.group.event_replayed",
        41: "hooks.group.event_redriven",
    }


def test_stored_form_is_golden() -> None:
    """The bytes of a stored event are those of every release before."""
    apply = make_apply()
    apply.emit(1, "k", [b"v", 42, 1, 0, None], ["ann", 7])
    apply.emit("orders.created", None, [b"", "text/plain", {"a": "b"}], None)

    assert apply.packed_events == [
        bytes.fromhex("9401a16b95c401762a0100c092a3616e6e07"),
        bytes.fromhex("94ae6f72646572732e63726561746564c093c400aa746578742f706c61696e81a161a162c0"),
    ]


def test_emit_counts_revisions_without_a_gap() -> None:
    """Each event gets the next revision, and the entry's events keep their order."""
    apply = make_apply()

    assert [apply.emit(2, "k", [1, 1], None) for _ in range(3)] == [42, 43, 44]
    assert apply.revision == 44
    assert len(apply.packed_events) == 3


def test_decode_fills_in_what_the_batch_knows() -> None:
    """A reader sees topic, revision, time and place of an event beside what was stored."""
    apply = make_apply()
    apply.emit(2, "k", [5, 1], None)
    apply.emit(2, "k", [6, 2], ["ann", "c-1", 7, 2, "00-aa-bb-01"])
    blob = array_header(2) + b"".join(apply.packed_events)

    first, second = decode(blob, 42, 7, 1_000, 0, 10)

    assert (first.revision, first.topic, first.key, first.data, first.hops) == (
        42,
        "hooks.kv.delete_committed",
        "k",
        (5, 1),
        0,
    )
    assert (second.wall_ms, second.log_index, second.ordinal) == (1_000, 7, 1)
    assert second[4:9] == ("ann", "c-1", 7, 2, "00-aa-bb-01")
    assert second.size_bytes == len(apply.packed_events[1])
    assert second.is_system


def test_an_unknown_code_is_still_an_event() -> None:
    """A log written by a newer release can be read: the event type is unknown, not the event."""
    blob = msgpack.packb([[99, None, [], None]])

    (event,) = decode(blob, 1, 1, 1, 0, 1)

    assert event.topic == "hooks.unknown.99"


identifiers = st.none() | st.integers(1, 2**63 - 1) | st.text(max_size=3)
texts = st.none() | st.text(max_size=3)


@given(st.tuples(texts, identifiers, identifiers, st.integers(0, 20), texts))
def test_meta_survives_compression(fields: tuple[Any, Any, Any, int, Any]) -> None:
    """Cutting the trailing nils of a meta loses nothing."""
    stored = compress(*fields)

    assert fields == expand(stored)
    assert stored is None or stored[-1] is not None


@pytest.mark.parametrize("count", [0, 15, 16, 65_535, 65_536])
def test_array_headers(count: int) -> None:
    """The header written by hand is the one that msgpack writes."""
    assert msgpack.packb([0] * count)[: -count or None] == array_header(count)


def test_atomically_takes_back_state_and_events() -> None:
    """Steps that end in a Rejection leave neither rows nor events nor their meta behind."""
    apply = make_apply()
    apply.connection.execute("CREATE TABLE t(a)")
    apply.meta = ["ann"]

    def steps(result: Any) -> Any:
        apply.meta = ["bob"]
        apply.connection.execute("INSERT INTO t VALUES(1)")
        apply.emit("a", None, [b"", None, None], None)
        return result

    refused = apply.atomically(lambda: steps(Rejection("no", "not this")))

    assert refused == Rejection("no", "not this")
    assert (apply.revision, apply.packed_events, apply.meta) == (41, [], ["ann"])
    assert apply.connection.execute("SELECT count(*) FROM t").get == 0
    assert apply.atomically(lambda: steps(5)) == 5
    assert (apply.revision, len(apply.packed_events)) == (42, 1)
    assert apply.connection.execute("SELECT count(*) FROM t").get == 1


def test_nothing_can_be_nested_without_a_machine() -> None:
    """An Apply that no state machine gave a callback refuses nested operations."""
    assert make_apply().run("put", ["k"]).code == "unknown_operation"
