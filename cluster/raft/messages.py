"""The frames between nodes: `[group, message]`, a message being a map with a `type`.

A frame of a type we know is checked for the keys and types that its receiver uses, so that a
malformed one ends a session instead of a node. Unknown types pass: a newer release may send them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cluster.raft.consensus import STALL_MAX_S
from cluster.raft.membership import Membership
from cluster.raft.peers import GROUP
from cluster.raft.stock import Message

FRAME_BYTES_MAX = 96 << 20
"""More than a window of entries, one oversized entry and their framing."""

NUMBER_MAX = 1 << 62
"""Terms and indexes end below what SQLite can keep."""

_INT, _BYTES, _LIST, _BOOL = (int,), (bytes,), (list, tuple), (bool,)
_INT_OR_NONE = (int, type(None))
_NUMBER = (int, float)
_Keys = dict[str, tuple[type, ...]]
_POSITION: _Keys = {"term": _INT, "last_log_index": _INT, "last_log_term": _INT}
_ABSENT = object()
_KEYS: dict[str, _Keys] = {
    "append_entries": {
        "term": _INT, "commit_index": _INT, "flight": _INT, "round": _INT, "stall": _NUMBER,
        "wall": _INT,
    },
    "append_reply": {
        "term": _INT, "match": _INT_OR_NONE, "reset_to": _INT_OR_NONE, "flight": _INT,
        "round": _INT, "wall": _INT, "stall": _NUMBER,
    },
    "request_vote": {**_POSITION, "transfer": _BOOL},
    "response_vote": {"term": _INT, "wall": _INT},
    "pre_vote": _POSITION,
    "pre_vote_reply": {"term": _INT, "for": _INT, "granted": _BOOL, "wall": _INT},
    "timeout_now": {"term": _INT},
    "forward": {"id": _INT, "payloads": _LIST},
    "forward_reply": {"id": _INT},
    "read_index": {"id": _INT},
    "read_index_reply": {"id": _INT, "index": _INT_OR_NONE},
    "admin": {
        "id": _INT, "request": (str,), "name": (str, type(None)), "address": (str,),
    },
    "admin_reply": {"id": _INT, "error": (list, type(None))},
    "release": {"entry_version": _INT},
    "digest": {"index": _INT, "digest": _BYTES},
    "snapshot_chunk": {
        "term": _INT, "id": _INT, "index": _INT, "log_term": _INT, "members": _LIST,
        "offset": _INT, "data": _BYTES, "digest": (bytes, type(None)),
    },
    "snapshot_reply": {"term": _INT, "id": _INT, "offset": _INT, "installed": _INT_OR_NONE},
}  # fmt: skip


def check(frame: Any) -> Message | None:
    """The message of a frame, or None when the frame is malformed. HOT."""
    if not (isinstance(frame, list) and len(frame) == 2 and frame[0] == GROUP):
        return None
    message = frame[1]
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        return None
    kind = message["type"]
    keys = _KEYS.get(kind)
    if keys is None:
        return message
    for key, types in keys.items():
        if not isinstance(message.get(key, _ABSENT), types):
            return None
    if "term" in keys and not 0 <= message["term"] < NUMBER_MAX:
        return None
    more = _MORE.get(kind)
    return message if more is None or more(message) else None


def _appends(message: Message) -> bool:
    if not 0 <= message["stall"] <= STALL_MAX_S:
        return False
    if "prevLogIdx" not in message:
        return True  # a heartbeat
    index, term = message["prevLogIdx"], message.get("prevLogTerm")
    entries = message.get("entries")
    if not (isinstance(index, int) and isinstance(term, int) and isinstance(entries, list)):
        return False
    if not (0 <= index < NUMBER_MAX and term >= 0):
        return False
    for entry in entries:
        index += 1
        if not (isinstance(entry, list) and len(entry) == 3 and isinstance(entry[0], bytes)):
            return False
        # terms never go back in a log, and no entry is newer than its leader (Fig. 2)
        if entry[1] != index or not isinstance(entry[2], int) or entry[2] < term or not entry[0]:
            return False
        term = entry[2]
    return bool(term <= message["term"])


def _answers(message: Message) -> bool:
    return bool(0 <= message["stall"] <= STALL_MAX_S)


def _claims(message: Message) -> bool:
    shown = message.get("shown")
    return shown is None or (
        isinstance(shown, list)
        and len(shown) == 2
        and all(type(number) is int and 0 <= number < NUMBER_MAX for number in shown)
    )


def _forwards(message: Message) -> bool:
    return all(isinstance(payload, bytes) for payload in message["payloads"])


def _places(message: Message) -> bool:
    if "index" in message:
        place = (message.get("term"), message.get("offset"), message["index"])
        return all(isinstance(number, int) and number >= 0 for number in place)
    leader = message.get("leader", 0)
    return isinstance(leader, str | None) and isinstance(message.get("overloaded"), bool)


def _installs(message: Message) -> bool:
    try:
        Membership.decode(message["members"])
    except (ValueError, TypeError, LookupError):
        return False
    index, term = message["index"], message["log_term"]
    return bool(0 < index < NUMBER_MAX and 0 <= term <= message["term"])


def _is_result(message: Message) -> bool:
    return message["error"] is not None or "result" in message


_MORE: dict[str, Callable[[Message], bool]] = {
    "append_entries": _appends,
    "append_reply": _answers,
    "response_vote": _claims,
    "pre_vote_reply": _claims,
    "forward": _forwards,
    "forward_reply": _places,
    "admin_reply": _is_result,
    "snapshot_chunk": _installs,
}
