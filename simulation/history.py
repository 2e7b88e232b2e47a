"""The history of a key-value workload: what clients asked of registers, and what they were told.

Each key is a register that holds a value or nothing (None). The order of events is the order in
which they are noted here; the times are for people.

May not: judge (simulation/linearizability.py does), nor take an answer for more than it says. A
definite error is `fail`; whatever else is not an answer is `info`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What an operation does to its register."""

    READ = "read"
    WRITE = "write"
    DELETE = "delete"
    CAS = "cas"
    """Compare and set: puts `value` where `expected` stands (None: where nothing stands)."""


class Outcome(Enum):
    """How an operation ended."""

    OPEN = "open"
    """Not yet. At the end of a history that is as good as INFO."""
    OK = "ok"
    """It happened, between its invocation and now."""
    FAIL = "fail"
    """It did not happen and never will."""
    INFO = "info"
    """Unknown: it takes effect at any time after its invocation, even after the end, or never."""


Result = str | bool | None
"""Of a read: the value, or None. Of a compare and set: whether it matched. Else None."""


@dataclass(slots=True, eq=False)
class Operation:
    """One operation of one client. `invoked` and `completed` count events of the history."""

    client: int
    life: int
    """How many operations of this client had an unknown outcome when this one began."""
    kind: Kind
    key: str
    value: str | None
    expected: str | None
    invoked: int
    invoked_s: float
    outcome: Outcome = Outcome.OPEN
    result: Result = None
    error: str | None = None
    completed: int | None = None
    completed_s: float | None = None

    def __str__(self) -> str:
        what = f"client {self.client} {self.kind.value}"
        if self.kind is Kind.CAS:
            what += f" {quoted(self.expected)} to {quoted(self.value)}"
        elif self.kind is Kind.WRITE:
            what += f" {quoted(self.value)}"
        if self.outcome is Outcome.OK and self.kind is Kind.READ:
            what += f" -> {quoted(self.result)}"
        if self.outcome is Outcome.OK and self.kind is Kind.CAS:
            what += " -> matched" if self.result else " -> did not match"
        until = "" if self.completed_s is None else f"{self.completed_s:.3f}"
        return f"{what} ({self.outcome.value}, {self.invoked_s:.3f}..{until} s)"


class History:
    """Operations in the order of their invocation.

    A client that stops waiting calls `info`, or leaves the operation open when a late answer is
    still to count; in both cases it may go on with its next operation.
    """

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self.events: list[tuple[Operation, bool]] = []
        """Each operation with whether this is its invocation; the place is the event's number."""
        self._newest: dict[int, Operation] = {}  # client -> its operation that began last

    def invoke(
        self,
        client: int,
        kind: Kind,
        key: str,
        value: str | None,
        time_s: float,
        *,
        expected: str | None = None,
    ) -> Operation:
        """An operation begins. `value` is what it writes: None for a read and a delete."""
        assert client >= 0, "process numbers are counted from the number of the client"
        assert (value is not None) == (kind in (Kind.WRITE, Kind.CAS)), "only these two write"
        assert expected is None or kind is Kind.CAS, "only a compare and set expects a value"
        before = self._newest.get(client)
        life = 0
        if before is not None:
            life = before.life + (before.outcome in (Outcome.OPEN, Outcome.INFO))
        operation = Operation(client, life, kind, key, value, expected, len(self.events), time_s)
        self._newest[client] = operation
        self.operations.append(operation)
        self.events.append((operation, True))
        return operation

    def ok(self, operation: Operation, result: Result, time_s: float) -> None:
        """It happened. A compare and set that did not match happened too: it saw another value."""
        kind = operation.kind
        assert isinstance(result, bool) == (kind is Kind.CAS), "whether a compare and set matched"
        assert not isinstance(result, str) or kind is Kind.READ, "only a read returns a value"
        operation.result = result
        self._complete(operation, Outcome.OK, time_s)

    def fail(self, operation: Operation, error: str, time_s: float) -> None:
        """It did not happen and never will."""
        operation.error = error
        self._complete(operation, Outcome.FAIL, time_s)

    def info(self, operation: Operation, error: str, time_s: float) -> None:
        """It may have happened, and may still happen."""
        operation.error = error
        self._complete(operation, Outcome.INFO, time_s)

    def _complete(self, operation: Operation, outcome: Outcome, time_s: float) -> None:
        assert operation.outcome is Outcome.OPEN, f"completed twice: {operation}"
        operation.outcome = outcome
        operation.completed = len(self.events)
        operation.completed_s = time_s
        self.events.append((operation, False))


def to_edn(history: History) -> str:
    """The history in the format of Jepsen: one map per line, times in nanoseconds.

    Jepsen knows a process by one thread of operations and never uses one again whose outcome is
    unknown: the client goes on under its number plus a multiple of the number of clients. A compare
    and set that did not match is `:fail` there.
    """
    return "".join(f"{line}\n" for line in edn_lines(history))


def edn_lines(history: History) -> Iterator[str]:
    """The lines of `to_edn`, for a history that is too long for one string."""
    clients = 1 + max((operation.client for operation in history.operations), default=0)
    for index, (operation, begins) in enumerate(history.events):
        time_s, type_, error = operation.invoked_s, "invoke", None
        if not begins:
            assert operation.completed_s is not None, "this event is its completion"
            time_s, type_, error = operation.completed_s, operation.outcome.value, operation.error
            if operation.kind is Kind.CAS and operation.result is False:
                type_, error = "fail", "did not match"
        fields = [
            f":index {index}",
            f":time {round(time_s * 1e9)}",
            f":type :{type_}",
            f":process {operation.client + operation.life * clients}",
            f":f :{operation.kind.value}",
            f":key {quoted(operation.key)}",
            f":value {_edn_value(operation, begins)}",
        ]
        if error is not None:
            fields.append(f":error {quoted(error)}")
        yield "{" + ", ".join(fields) + "}"


def _edn_value(operation: Operation, begins: bool) -> str:
    if operation.kind is Kind.CAS:
        return f"[{quoted(operation.expected)} {quoted(operation.value)}]"
    if operation.kind is Kind.READ and not begins:
        return quoted(operation.result)
    return quoted(operation.value)


_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def quoted(value: Result) -> str:
    """A value as EDN writes it, on one line whatever is in it."""
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "true" if value else "false"
    return '"' + "".join(map(_escaped, value)) + '"'


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    # EDN counts as Java does: a character beyond U+FFFF is written as its two UTF-16 halves.
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
