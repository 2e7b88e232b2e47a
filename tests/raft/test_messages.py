"""Frames from a peer: whatever arrives, it is taken, ignored or refused, and nothing breaks."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.raft.messages import NUMBER_MAX, check
from cluster.raft.peers import GROUP
from tests.raft.ensemble import Ensemble, member

ROWS = [list(member("a"))]
VALID: dict[str, dict[str, Any]] = {
    "append_entries": {
        "term": 3, "commit_index": 4, "flight": 0, "round": 1, "stall": 0.0, "wall": 5,
        "prevLogIdx": 4, "prevLogTerm": 2, "entries": [[b"\x00x", 5, 2], [b"\x00y", 6, 3]],
    },
    "append_reply": {
        "term": 3, "match": 6, "reset_to": None, "flight": 0, "round": 1, "wall": 5, "stall": 0.5,
    },
    "request_vote": {"term": 3, "last_log_index": 6, "last_log_term": 3, "transfer": False},
    "response_vote": {"term": 3, "wall": 5},
    "pre_vote": {"term": 4, "last_log_index": 6, "last_log_term": 3},
    "pre_vote_reply": {"term": 3, "for": 4, "granted": True, "wall": 5},
    "timeout_now": {"term": 3},
    "forward": {"id": 1, "payloads": [b"x"]},
    "forward_reply": {"id": 1, "index": 7, "term": 3, "offset": 0},
    "read_index": {"id": 1},
    "read_index_reply": {"id": 1, "index": None},
    "admin": {"id": 1, "request": "promote", "name": None, "address": ""},
    "admin_reply": {"id": 1, "error": None, "result": 7},
    "digest": {"index": 64, "digest": b"d"},
    "snapshot_chunk": {
        "term": 3, "id": 1, "index": 5, "log_term": 2, "members": ROWS, "offset": 0, "data": b"x",
        "digest": None,
    },
    "snapshot_reply": {"term": 3, "id": 1, "offset": 5, "installed": None},
}  # fmt: skip

PIECES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.sampled_from((-1, 0, 1, 2, 3, NUMBER_MAX))
    | st.floats()
    | st.text(max_size=3)
    | st.binary(max_size=3)
)
VALUES = st.recursive(
    PIECES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.integers(0, 5), inner, max_size=3)
    ),
    max_leaves=8,
)


def framed(kind: str, **changes: Any) -> list[Any]:
    return [GROUP, {"type": kind, **VALID[kind], **changes}]


@pytest.mark.parametrize("kind", VALID)
def test_each_kind_is_taken_whole(kind: str) -> None:
    """None of the keys that its receiver uses may be missing or of another type."""
    assert check(framed(kind)) == {"type": kind, **VALID[kind]}
    for key in VALID[kind].keys() - {"result"}:  # of an admin request: anything
        assert check(framed(kind, **{key: {"odd": 1}})) is None, key
    for key in VALID[kind].keys() - {"prevLogIdx"}:  # without it, it is a heartbeat
        lacking = {name: value for name, value in VALID[kind].items() if name != key}
        assert check([GROUP, {"type": kind, **lacking}]) is None, key


@pytest.mark.parametrize(
    "changes",
    [
        {"term": -1},
        {"term": NUMBER_MAX},
        {"term": 2},
        {"prevLogIdx": 5},
        {"prevLogIdx": NUMBER_MAX},
        {"prevLogTerm": 3},
        {"prevLogTerm": -1},
        {"entries": None},
        {"entries": [[b"x", 5, 3], [b"y", 6, 2]]},
        {"entries": [[b"x", 5, 3], [b"y", 7, 3]]},
        {"entries": [[b"", 5, 3]]},
        {"entries": [["x", 5, 3]]},
        {"entries": [[b"x", 5]]},
        {"stall": -0.1},
        {"stall": 1e9},
        {"stall": float("nan")},
    ],
)
def test_entries_that_no_leader_sends_are_refused(changes: dict[str, Any]) -> None:
    """Gaps, terms that go back or are newer than the leader's, numbers out of range."""
    assert check(framed("append_entries", **changes)) is None


@pytest.mark.parametrize(
    "changes",
    [{"index": 0}, {"index": NUMBER_MAX}, {"log_term": 4}, {"members": [["a"]]}, {"members": [1]}],
)
def test_copies_that_no_leader_sends_are_refused(changes: dict[str, Any]) -> None:
    """A snapshot of no entry, of a later term than its leader's, or without a configuration."""
    assert check(framed("snapshot_chunk", **changes)) is None


def test_what_a_newer_release_sends_passes() -> None:
    """An unknown kind, and a key that we do not know; but not another group of Raft."""
    assert check([GROUP, {"type": "gossip"}]) == {"type": "gossip"}
    assert check(framed("timeout_now", hint=1)) is not None
    assert check([GROUP + 1, {"type": "timeout_now", "term": 3}]) is None


@given(VALUES)
def test_garbage_is_no_message(frame: Any) -> None:
    """Whatever msgpack can decode, the check answers and never raises."""
    checked = check(frame)
    assert checked is None or isinstance(checked["type"], str)


def garbled(data: st.DataObject) -> list[Any]:
    """A message of some kind with a few of its values replaced."""
    kind = data.draw(st.sampled_from(sorted(VALID)))
    changes = data.draw(st.dictionaries(st.sampled_from(sorted(VALID[kind])), VALUES, max_size=3))
    return framed(kind, **changes)


@given(st.data())
def test_garbled_messages_are_no_worse(data: st.DataObject) -> None:
    """One wrong value in an otherwise good message."""
    checked = check(garbled(data))
    assert checked is None or isinstance(checked["type"], str)


@pytest.mark.parametrize("receiver", ["a", "b"])
@settings(max_examples=40)
@given(data=st.data())
def test_a_checked_message_breaks_no_node(receiver: str, data: st.DataObject) -> None:
    """A leader and a follower outlive whatever a member sends of what claims nothing of the log.

    (What a leader claims is believed: a lie about commits or terms is found by other means.)
    """
    nodes = Ensemble()
    nodes.elect("a")
    for _ in range(3):
        frame = garbled(data)
        if frame[1]["type"] in ("append_entries", "append_reply", "snapshot_chunk"):
            continue
        message = check(msgpack.unpackb(msgpack.packb(frame), strict_map_key=False))
        if message is not None:
            nodes.step(receiver, ("c", message))
