"""One request of a client, from the first attempt to its one answer.

What may be done about a failed attempt depends on two things only: whether the request can be
repeated without harm, and whether an earlier attempt may have happened.

May not: know connections or time.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any

from cluster.errors import (
    NoLeader,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    Rejected,
    RetryRefused,
    Stopping,
    TremulaError,
)
from cluster.protocol import MUTATIONS, READS

SESSION_OPEN = "session.open"
SESSION_CLOSE = "session.close"
SESSION_EXPIRED = "session_expired"
REQUEST_TOO_OLD = "request_too_old"
RESULT_FORGOTTEN = "result_forgotten"
# What the retry window says about a repetition; the state machine did not look at the operation.
RETRY_WINDOW_REASONS = frozenset((SESSION_EXPIRED, REQUEST_TOO_OLD, RESULT_FORGOTTEN))

Done = Callable[[Any], None]


class Kind(Enum):
    """What a repetition does."""

    READ = "read"  # nothing
    MUTATION = "mutation"  # nothing, because (client_id, seq) is remembered by the cluster
    OTHER = "other"  # perhaps something: it is sent again only if it certainly did not happen


# By these names in hot code: reading a member from its class costs ten times as much.
READ, MUTATION, OTHER = Kind


class Next(Enum):
    """What to do with a call whose attempt failed."""

    FINISH = "finish"  # hand the error to the caller
    RETRY = "retry"  # the same again, after a pause
    RENEW_SEQ = "renew_seq"  # again under a new seq: this one is refused, and never happened
    RENEW_SESSION = "renew_session"  # again in a new session, for the same reason


class Call:
    """A request and what became of its attempts so far."""

    __slots__ = (
        "args", "attempts", "client_id", "deadline", "done", "kind", "last_error",
        "maybe_happened", "name", "seq", "timeout_ms", "trace",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        args: list[Any],
        done: Done,
        timeout_ms: int,
        deadline: float,
        trace: list[Any] | None,
    ) -> None:
        self.name = name
        self.args = args
        self.done = done
        self.timeout_ms = timeout_ms
        self.deadline = deadline
        self.trace = trace
        self.kind = _KINDS.get(name, OTHER)
        self.client_id = 0  # Given with the first attempt, and then kept, as is `seq`.
        self.seq = 0
        self.attempts = 0  # that failed
        self.maybe_happened = False  # An attempt was sent whose outcome is not known.
        self.last_error: TremulaError | None = None

    def renew(self) -> None:
        """No attempt has happened: the next one may be under another identity."""
        self.client_id = self.seq = 0


_KINDS = dict.fromkeys(READS, READ) | dict.fromkeys(MUTATIONS, MUTATION)
# Opening a session twice leaves one that expires unused; closing twice is closing.
_KINDS |= {SESSION_OPEN: READ, SESSION_CLOSE: READ}


def after_error(call: Call, error: TremulaError) -> tuple[Next, TremulaError]:
    """What to do after an attempt was answered with `error`, and the error to finish with."""
    if isinstance(error, OutcomeUnknown):
        return (Next.FINISH if call.kind is OTHER else Next.RETRY), error
    if isinstance(error, (NoLeader, NotLeader, Overloaded, Stopping)):
        return Next.RETRY, error
    if call.kind is not MUTATION:
        return Next.FINISH, error
    if isinstance(error, Rejected) and error.reason not in RETRY_WINDOW_REASONS:
        # The state machine's verdict on (client_id, seq): it holds for every attempt.
        return Next.FINISH, error
    if call.maybe_happened or error.code == RESULT_FORGOTTEN:
        return Next.FINISH, RetryRefused(error.code, error.message())
    if isinstance(error, Rejected):
        expired = error.reason == SESSION_EXPIRED
        return (Next.RENEW_SESSION if expired else Next.RENEW_SEQ), error
    return Next.FINISH, error
