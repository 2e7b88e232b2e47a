"""What the log keeps of the values that are put: rules per key prefix, the same on every node.

A value always stands in the key-value store; a rule says what its `hooks.kv.write_committed` says
of it: `full` (as without any rule), the first bytes (`truncated`), a SHA-256 (`hash`), or its size
alone (`none`). The longest prefix wins. What an entry left out of the log is in no backup of it and
cannot be had again later. Deciding code: never raises for bad input.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any, Final, NamedTuple, Protocol

import apsw

from pubsub.consumer_groups.group_tables import is_count, malformed
from pubsub.events import SYSTEM_SETTINGS_CHANGED, Meta
from pubsub.limits import (
    CAPTURE_BYTES_DEFAULT,
    CAPTURE_BYTES_MAX,
    CAPTURE_PREFIX_BYTES_MAX,
    CAPTURE_RULES_MAX,
)
from pubsub.rejection import Rejection
from pubsub.topics import closest

FULL: Final = "full"
TRUNCATED: Final = "truncated"
HASH: Final = "hash"
NONE: Final = "none"
MODES: Final = (FULL, TRUNCATED, HASH, NONE)
SETTING: Final = "capture"

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS capture_rules(
    prefix TEXT PRIMARY KEY,
    mode TEXT NOT NULL,
    bytes INTEGER                    -- of truncated
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS capture_origin(
    id INTEGER PRIMARY KEY CHECK (id = 0),
    told INTEGER NOT NULL            -- somebody has said what the rules are: files no longer count
) STRICT;
"""


class Rule(NamedTuple):
    """What is kept of the values of all keys that begin with `prefix`."""

    prefix: str
    mode: str
    bytes: int | None = None  # truncated: so many at most


class Rules:
    """The rules in force, so that a put finds its own in a few lookups."""

    __slots__ = ("_by_prefix", "_lengths")

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._by_prefix = {rule.prefix: rule for rule in rules}
        lengths = dict.fromkeys(map(len, self._by_prefix))
        self._lengths = sorted(lengths, reverse=True)  # the longest prefix wins

    def of(self, key: str) -> Rule | None:
        """The rule of a key."""
        for length in self._lengths:
            rule = self._by_prefix.get(key[:length])
            if rule is not None:
                return rule
        return None

    def applied(self, key: str, data: tuple[Any, ...]) -> tuple[Any, ...]:
        """The data of a write event, value first, as the rule of its key has it. HOT."""
        rule = self.of(key)
        if rule is None or rule.mode == FULL:
            return data
        value, *others = data
        size = len(value)
        if rule.mode == NONE:
            return (None, *others, (NONE, size, None))
        if rule.mode == HASH:
            return (None, *others, (HASH, size, sha256(value).hexdigest()))
        if size <= (rule.bytes or 0):
            return data
        return (cut(value, rule.bytes or 0), *others, (TRUNCATED, size, sha256(value).hexdigest()))


class Capturing(Protocol):
    """What the operations need of the entry that is applied: its puts go by `capture`."""

    connection: apsw.Connection
    meta: Meta | None
    capture: Rules | None

    def emit(self, topic: int | str, key: str | None, data: object, meta: Meta | None) -> int: ...


def load(connection: apsw.Connection) -> Rules | None:
    """The rules in force; None when there are none, so that a put need not look."""
    rules = listing(connection)
    return Rules(rules) if rules else None


def listing(connection: apsw.Connection) -> list[Rule]:
    """The rules by prefix."""
    rows: Iterable[Any] = connection.execute(
        "SELECT prefix, mode, bytes FROM capture_rules ORDER BY prefix"
    )
    return [Rule(*row) for row in rows]


def is_told(connection: apsw.Connection) -> bool:
    """Whether somebody has said what the rules are: from then on only operations change them."""
    return connection.execute("SELECT told FROM capture_origin").get is not None


def differing(connection: apsw.Connection, rules: Sequence[Rule]) -> list[str]:
    """The prefixes for which a file says something else than what is in force."""
    known = {rule.prefix: rule for rule in listing(connection)}
    wanted = {rule.prefix: rule for rule in rules}
    prefixes = sorted(known | wanted)
    return [prefix for prefix in prefixes if known.get(prefix) != wanted.get(prefix)]


def cut(value: bytes, bytes_max: int) -> bytes:
    """The beginning of a value: of text whole characters, so that what is left is text."""
    beginning = value[:bytes_max]
    try:
        _, whole = codecs.utf_8_decode(beginning, "strict", False)
    except UnicodeDecodeError:
        return beginning
    return beginning[:whole]


# --- operations ---


def set_rule(apply: Capturing, prefix: Any, mode: Any, bytes_kept: Any = None) -> bool | Rejection:
    """`capture.set [prefix, mode, bytes | nil]`: the rule of a prefix; returns whether that is
    news. `bytes` is for `truncated` alone. What the log has already stays as it is."""
    problem = rule_problem(prefix, mode, bytes_kept)
    if problem is not None:
        return malformed(problem)
    known = {rule.prefix: rule for rule in listing(apply.connection)}
    if prefix not in known and len(known) >= CAPTURE_RULES_MAX:
        return Rejection(
            "limit_exceeded", f"a cluster has at most {CAPTURE_RULES_MAX} rules of capture"
        )
    rule = complete(prefix, mode, bytes_kept)
    _tell(apply.connection)
    if known.get(prefix) == rule:
        return False
    _store(apply, rule)
    return True


def delete_rule(apply: Capturing, prefix: Any) -> bool | Rejection:
    """`capture.delete [prefix]`: the keys go by the rule of a shorter prefix, if there is one."""
    known = [rule.prefix for rule in listing(apply.connection)]
    if prefix not in known:
        if not isinstance(prefix, str):
            return malformed("prefix: a text is needed")
        nearest = closest(prefix, known)
        hint = f'; did you mean "{nearest}"?' if nearest else ""
        return Rejection("unknown_rule", f'there is no rule of capture for "{prefix}"{hint}')
    _tell(apply.connection)
    apply.connection.execute("DELETE FROM capture_rules WHERE prefix = ?", (prefix,))
    _changed(apply, Rule(prefix, FULL))
    return True


def seed(apply: Capturing, rules: Any) -> list[str] | Rejection:
    """`capture.seed [[[prefix, mode, bytes | nil], ...]]`: what a node's file says holds if nobody
    has said anything yet. Returns the prefixes for which something else is in force."""
    if not isinstance(rules, list | tuple) or len(rules) > CAPTURE_RULES_MAX:
        return malformed(f"at most {CAPTURE_RULES_MAX} rules are expected")
    wanted: list[Rule] = []
    for row in rules:
        if not isinstance(row, list | tuple) or len(row) != 3:
            return malformed("a rule is [prefix, mode, bytes | nil]")
        problem = rule_problem(*row)
        if problem is not None:
            return malformed(problem)
        wanted.append(complete(*row))
    if not is_told(apply.connection) and wanted:
        _tell(apply.connection)
        for rule in wanted:
            _store(apply, rule)
    return differing(apply.connection, wanted)


def rule_problem(prefix: Any, mode: Any, bytes_kept: Any) -> str | None:
    """What is wrong with a rule, or None."""
    if not isinstance(prefix, str) or len(prefix.encode()) > CAPTURE_PREFIX_BYTES_MAX:
        return f"prefix: a text of at most {CAPTURE_PREFIX_BYTES_MAX} bytes is expected"
    if mode not in MODES:
        nearest = closest(mode, MODES) if isinstance(mode, str) else None
        hint = f'; did you mean "{nearest}"?' if nearest else ""
        return f"mode: {', '.join(MODES)} are known{hint}"
    if bytes_kept is None:
        return None
    if mode != TRUNCATED:
        return f'bytes: only mode "{TRUNCATED}" has it'
    if not is_count(bytes_kept, 1) or bytes_kept > CAPTURE_BYTES_MAX:
        return f"bytes: a whole number from 1 to {CAPTURE_BYTES_MAX} is expected"
    return None


def complete(prefix: str, mode: str, bytes_kept: int | None) -> Rule:
    """The rule, with the default where it says no number of bytes."""
    if mode == TRUNCATED and bytes_kept is None:
        bytes_kept = CAPTURE_BYTES_DEFAULT
    return Rule(prefix, mode, bytes_kept)


def _store(apply: Capturing, rule: Rule) -> None:
    apply.connection.execute("INSERT OR REPLACE INTO capture_rules VALUES(?, ?, ?)", rule)
    _changed(apply, rule)


def _changed(apply: Capturing, rule: Rule) -> None:
    """Puts of this very entry go by it already, and an event says so."""
    apply.capture = load(apply.connection)
    actor = apply.meta[0] if apply.meta else None
    value = {"prefix": rule.prefix, "mode": rule.mode, "bytes": rule.bytes}
    apply.emit(SYSTEM_SETTINGS_CHANGED, None, (SETTING, value, actor), apply.meta)


def _tell(connection: apsw.Connection) -> None:
    connection.execute("INSERT OR IGNORE INTO capture_origin VALUES(0, 1)")
