"""Every error that a caller of the cluster can get, split by what the caller may conclude.

`DefiniteError`: the request did not happen and never will. `OutcomeUnknown`: it may have happened.
When in doubt an error is `OutcomeUnknown`. Each class has a stable `kind`, the key of `REGISTRY`;
docs/errors.md describes each and a test keeps it complete. An exception carries fields and builds
its message from them; it never carries prose made elsewhere, except details of a refusal.

May not: know sockets, trio or how a request travels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, cast

from pubsub.rejection import Rejection

DEFINITE = 0
UNKNOWN = 1


class TremulaError(Exception):
    """The root of all errors that cross an interface of Tremula."""

    kind: ClassVar[str]

    @property
    def code(self) -> str:
        """The stable word to branch on; of a `Rejected` it is the reason of the rejection."""
        return self.kind

    def message(self) -> str:
        """One sentence for people, built from the fields."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.message()

    def to_wire(self) -> list[object]:
        """`[outcome, kind, message, fields]`: who does not know the kind can still act on it."""
        outcome = UNKNOWN if isinstance(self, OutcomeUnknown) else DEFINITE
        values = {name: getattr(self, name) for name in field_names(type(self))}
        return [outcome, self.kind, self.message(), values]


class DefiniteError(TremulaError):
    """The request did not happen, and will not happen unless it is sent again."""


class OutcomeUnknown(TremulaError):
    """The request may have happened, or may still happen."""


@dataclass(eq=False)
class NotLeader(DefiniteError):
    """This node does not lead; `leader` does, as far as this node knows."""

    kind = "not_leader"
    leader: str | None = None

    def message(self) -> str:
        return f"this node is not the leader (known leader: {self.leader or 'none'})"


@dataclass(eq=False)
class NoLeader(DefiniteError):
    """The node knows no leader, so the request was not started."""

    kind = "no_leader"

    def message(self) -> str:
        return "the cluster has no leader at the moment"


@dataclass(eq=False)
class Overloaded(DefiniteError):
    """A bounded queue is full; the request was not started."""

    kind = "overloaded"
    queue: str
    maximum: int | None = None

    def message(self) -> str:
        bound = "" if self.maximum is None else f" (bound {self.maximum})"
        return f"{self.queue} is full{bound}, try again later"


@dataclass(eq=False)
class Rejected(DefiniteError):
    """The replicated state machine refused the operation; `code` is the reason's stable word."""

    kind = "rejected"
    reason: str
    detail: str = ""

    @classmethod
    def of(cls, rejection: Rejection) -> Rejected:
        """The error that stands for a rejection of the state machine."""
        return cls(rejection.code, rejection.detail)

    @property
    def code(self) -> str:
        return self.reason

    def message(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


@dataclass(eq=False)
class LimitExceeded(DefiniteError):
    """Something is larger than its limit (docs/limits.md)."""

    kind = "limit_exceeded"
    limit: str
    actual: int
    maximum: int | None = None

    def message(self) -> str:
        bound = "" if self.maximum is None else f", the limit is {self.maximum}"
        return f"{self.limit}: {self.actual}{bound}"


@dataclass(eq=False)
class Malformed(DefiniteError):
    """The bytes or the arguments do not have the shape that the protocol asks for."""

    kind = "malformed"
    detail: str

    def message(self) -> str:
        return f"malformed: {self.detail}"


@dataclass(eq=False)
class UnknownRequest(DefiniteError):
    """The node serves no request of this name."""

    kind = "unknown_request"
    name: str
    nearest: str | None = None

    def message(self) -> str:
        hint = "" if self.nearest is None else f", did you mean {self.nearest!r}?"
        return f"unknown request {self.name!r}{hint}"


@dataclass(eq=False)
class Compacted(DefiniteError):
    """Events below `first_revision` were removed by retention; the reader missed some."""

    kind = "compacted"
    first_revision: int

    def message(self) -> str:
        return f"events below revision {self.first_revision} were removed by retention"


@dataclass(eq=False)
class Unauthorized(DefiniteError):
    """The caller may not do this."""

    kind = "unauthorized"
    detail: str

    def message(self) -> str:
        return f"not authorised: {self.detail}"


@dataclass(eq=False)
class Stopping(DefiniteError):
    """The node is shutting down and starts no new request; another node will."""

    kind = "stopping"

    def message(self) -> str:
        return "the node is shutting down"


@dataclass(eq=False)
class VersionMismatch(DefiniteError):
    """The two ends share no version of the protocol."""

    kind = "version_mismatch"
    ours: list[int]
    theirs: list[int]

    def message(self) -> str:
        return f"no common protocol version: ours {self.ours}, theirs {self.theirs}"


@dataclass(eq=False)
class Unreachable(DefiniteError):
    """No endpoint could be reached in time; the request was never sent."""

    kind = "unreachable"
    endpoints: list[str]
    detail: str = ""

    def message(self) -> str:
        last = f" ({self.detail})" if self.detail else ""
        return f"could not reach {', '.join(self.endpoints)}{last}"


@dataclass(eq=False)
class Closed(DefiniteError):
    """The client was closed before the request was sent."""

    kind = "closed"

    def message(self) -> str:
        return "the client is closed"


@dataclass(eq=False)
class Fenced(DefiniteError):
    """What was delivered is not this consumer's any more: its session, its lease or its partition
    was lost. The event is delivered again, to whoever has it now."""

    kind = "fenced"
    group: str
    revision: int

    def message(self) -> str:
        return (
            f'event {self.revision} of group "{self.group}" is not this consumer\'s any more; '
            "it is delivered again"
        )


@dataclass(eq=False)
class Timeout(OutcomeUnknown):
    """The deadline passed while the request was under way."""

    kind = "timeout"
    timeout_ms: int

    def message(self) -> str:
        return f"no answer within {self.timeout_ms} ms; the request may still happen"


@dataclass(eq=False)
class LeaderChanged(OutcomeUnknown):
    """Leadership moved while the request was under way."""

    kind = "leader_changed"

    def message(self) -> str:
        return "the leader changed while the request was under way; it may have happened"


@dataclass(eq=False)
class ConnectionLost(OutcomeUnknown):
    """The connection broke after the request was sent, and the request is not safe to repeat."""

    kind = "connection_lost"
    detail: str = ""

    def message(self) -> str:
        why = f" ({self.detail})" if self.detail else ""
        return f"connection lost{why} after the request was sent; it may have happened"


@dataclass(eq=False)
class RetryRefused(OutcomeUnknown):
    """A retry was refused by the retry window, which says nothing about the first attempt."""

    kind = "retry_refused"
    reason: str
    detail: str = ""

    def message(self) -> str:
        return f"the retry was refused ({self.reason}); an earlier attempt may have happened"


@dataclass(eq=False)
class OtherDefinite(DefiniteError):
    """A definite error of a kind that this version does not know."""

    kind = "other_definite"
    name: str
    text: str

    def message(self) -> str:
        return f"{self.name}: {self.text}"


@dataclass(eq=False)
class OtherUnknown(OutcomeUnknown):
    """An error of a kind that this version does not know; the outcome is unknown."""

    kind = "other_unknown"
    name: str
    text: str

    def message(self) -> str:
        return f"{self.name}: {self.text}"


REGISTRY: dict[str, type[TremulaError]] = {
    error.kind: error
    for error in (
        NotLeader, NoLeader, Overloaded, Rejected, LimitExceeded, Malformed, UnknownRequest,
        Compacted, Unauthorized, Stopping, VersionMismatch, Unreachable, Closed, Fenced, Timeout,
        LeaderChanged, ConnectionLost, RetryRefused, OtherDefinite, OtherUnknown,
    )
}  # fmt: skip


def field_names(error: type[TremulaError]) -> list[str]:
    """The names of the fields of an error class, in the order of its constructor."""
    return [field.name for field in fields(cast(Any, error))]


def from_wire(value: Any) -> TremulaError:
    """The error that `to_wire` described; whatever cannot be understood has an unknown outcome."""
    if not (isinstance(value, list) and len(value) >= 4 and isinstance(value[3], dict)):
        return OtherUnknown("undecodable", repr(value)[:200])
    outcome, kind, message, values = value[:4]
    error = REGISTRY.get(kind) if isinstance(kind, str) else None
    # The outcome on the wire wins over what this version believes about the kind.
    if error is not None and issubclass(error, OutcomeUnknown) == (outcome != DEFINITE):
        known = field_names(error)
        try:
            return error(**{name: item for name, item in values.items() if name in known})
        except TypeError:
            pass  # A field is missing: another version's idea of this kind. Keep its words.
    other = OtherDefinite if outcome == DEFINITE else OtherUnknown
    return other(str(kind), str(message))
