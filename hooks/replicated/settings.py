"""What holds for the hooks of the whole cluster, whatever the file of one node says.

    hook.settings [values]          an operator sets them
    hook.settings [values, node]    a node says what its file has: all that it says

The first node that says something decides, until an operator does. A node whose file says
otherwise is reported (`differing`) and follows the cluster. Deciding code: never raises for bad
input.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import apsw
import msgpack

from hooks.limits import PUBLISH_TOPICS_BYTES_MAX, PUBLISH_TOPICS_MAX
from pubsub.apply import Apply
from pubsub.events import SYSTEM_SETTINGS_CHANGED, expand
from pubsub.rejection import Rejection
from pubsub.topics import validate_name, validate_pattern

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS hook_settings(
    name TEXT PRIMARY KEY,
    value BLOB NOT NULL              -- msgpack
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hook_node_settings(
    node TEXT NOT NULL,
    name TEXT NOT NULL,
    value BLOB NOT NULL,             -- msgpack: what the node's file says
    PRIMARY KEY(node, name)
) STRICT, WITHOUT ROWID;
"""

PUBLISH_TOPICS: Final = "publish_topics"

SET: Final = "set"
SAME: Final = "same"
KEPT: Final = "kept"  # a node's file says otherwise


class Differing(NamedTuple):
    """A setting that the file of a node has otherwise."""

    node: str
    name: str
    value: Any


def publish_topics(connection: apsw.Connection) -> tuple[str, ...]:
    """The patterns of the topics whose events reach handlers at all; empty: every topic."""
    return tuple(load(connection)[PUBLISH_TOPICS])


def load(connection: apsw.Connection) -> dict[str, Any]:
    """Every setting with the value in force."""
    rows = connection.execute("SELECT name, value FROM hook_settings ORDER BY name")
    known = {name: msgpack.unpackb(value) for name, value in rows}
    return {name: known.get(name, setting.default()) for name, setting in _SETTINGS.items()}


def differing(connection: apsw.Connection) -> list[Differing]:
    """What files of nodes have otherwise than the cluster, by node and name."""
    in_force = load(connection)
    rows = connection.execute(
        "SELECT node, name, value FROM hook_node_settings ORDER BY node, name"
    )
    said = [Differing(node, name, msgpack.unpackb(value)) for node, name, value in rows]
    return [item for item in said if in_force.get(item.name) != item.value]


def change(apply: Apply, values: Any, node: Any = None) -> list[list[Any]] | Rejection:
    """Set what `values` names, or note what the file of `node` says.

    Returns `[[name, value in force, "set" | "same" | "kept"], ...]` by name.
    """
    parsed = _parse(values)
    if isinstance(parsed, Rejection):
        return parsed
    connection = apply.connection
    if node is not None:
        problem = validate_name(node, "node")
        if problem:
            return Rejection("malformed", problem)
        forget_node(connection, node)
        connection.executemany(
            "INSERT INTO hook_node_settings VALUES(?, ?, ?)",
            [(node, name, msgpack.packb(value)) for name, value in parsed.items()],
        )
    before = load(connection)
    decided = {name for (name,) in connection.execute("SELECT name FROM hook_settings")}
    answers: list[list[Any]] = []
    for name, value in parsed.items():
        if node is not None and name in decided:
            answers.append([name, before[name], SAME if before[name] == value else KEPT])
            continue
        connection.execute(
            "INSERT OR REPLACE INTO hook_settings VALUES(?, ?)", (name, msgpack.packb(value))
        )
        answers.append([name, value, SAME if before[name] == value else SET])
        if before[name] != value:
            data = (name, value, expand(apply.meta)[0])
            apply.emit(SYSTEM_SETTINGS_CHANGED, None, data, apply.meta)
    connection.execute("UPDATE hook_state SET changes = changes + 1")
    return answers


def forget_node(connection: apsw.Connection, node: str) -> None:
    """What the file of a node said is over."""
    connection.execute("DELETE FROM hook_node_settings WHERE node = ?", (node,))


class _Setting(NamedTuple):
    default: Callable[[], Any]
    read: Callable[[Any], Any]  # the value in its one form, or what is wrong with it, as a text


def _read_topics(value: Any) -> list[str] | str:
    if not isinstance(value, list | tuple) or len(value) > PUBLISH_TOPICS_MAX:
        return f"{PUBLISH_TOPICS}: a list of at most {PUBLISH_TOPICS_MAX} patterns is needed"
    for pattern in value:
        problem = validate_pattern(pattern)
        if problem:
            return f"{PUBLISH_TOPICS}: {problem}"
    if sum(len(pattern.encode()) for pattern in value) > PUBLISH_TOPICS_BYTES_MAX:
        return f"{PUBLISH_TOPICS}: at most {PUBLISH_TOPICS_BYTES_MAX} bytes of patterns"
    return sorted(dict.fromkeys(value))


_SETTINGS: Final[Mapping[str, _Setting]] = {PUBLISH_TOPICS: _Setting(list, _read_topics)}


def _parse(values: Any) -> dict[str, Any] | Rejection:
    """The settings by name, in order."""
    if not isinstance(values, dict):
        return Rejection("malformed", "settings: a map is needed")
    parsed: dict[str, Any] = {}
    for name, setting in _SETTINGS.items():
        if name in values:
            value = setting.read(values[name])
            if isinstance(value, str):
                return Rejection("malformed", value)
            parsed[name] = value
    if len(parsed) < len(values):
        known = ", ".join(_SETTINGS)
        return Rejection("malformed", f"settings: {known} is known, nothing else")
    return parsed
