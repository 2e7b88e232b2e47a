"""What an error means to whoever called: the exit code, and what to do next.

0 done; 1 it did not happen and will not; 2 what was asked makes no sense (arguments or
configuration); 3 it may have happened; 4 the cluster cannot serve now, and nothing happened.
"""

import errno
from enum import IntEnum

from cluster.cli.output import Output
from cluster.config import ConfigError
from cluster.errors import (
    LimitExceeded,
    Malformed,
    NoLeader,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    Rejected,
    Stopping,
    TremulaError,
    Unauthorized,
    UnknownRequest,
    Unreachable,
)
from cluster.security.certs import CertificateError


class Exit(IntEnum):
    """Exit codes of every command."""

    OK = 0
    DEFINITE_ERROR = 1
    USAGE = 2
    UNKNOWN_OUTCOME = 3
    UNAVAILABLE = 4


class Failure(Exception):
    """A command cannot go on: what is wrong, what to do next, the exit code, and for programs the
    word to branch on (docs/errors.md). `happened`: what was asked for is done, and not its end."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        code: Exit = Exit.DEFINITE_ERROR,
        word: str | None = None,
        happened: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code
        self.word = word or _WORDS[code]
        self.outcome = "happened" if happened else _OUTCOMES.get(code, "did not happen")


_WORDS = {
    Exit.DEFINITE_ERROR: "failed",
    Exit.USAGE: "usage",
    Exit.UNKNOWN_OUTCOME: "unknown_outcome",
    Exit.UNAVAILABLE: "unavailable",
}
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OUTCOMES = {Exit.UNKNOWN_OUTCOME: "unknown"}
_UNAVAILABLE = (NoLeader, NotLeader, Overloaded, Stopping, Unreachable)


def failure_of(error: BaseException) -> Failure | None:
    """The failure that a known error means; None for a bug of ours, which shows its traceback."""
    if isinstance(error, Failure):
        return error
    if isinstance(error, ConfigError):
        return Failure(str(error), code=Exit.USAGE, word="configuration")
    if isinstance(error, CertificateError):
        return Failure(str(error), code=Exit.USAGE, word="certificate")
    if isinstance(error, Malformed) and error.__cause__ is not None:
        error = error.__cause__  # it was never sent
        if not isinstance(error, UnicodeEncodeError):
            return Failure(f"an argument cannot be sent: {error}", code=Exit.USAGE)
    if isinstance(error, TremulaError):
        code = Exit.DEFINITE_ERROR
        if isinstance(error, OutcomeUnknown):
            code = Exit.UNKNOWN_OUTCOME
        elif isinstance(error, _UNAVAILABLE):
            code = Exit.UNAVAILABLE
        return Failure(error.message(), hint=_hint(error), code=code, word=error.code)
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        # That is how Python hands over the bytes of an argument that are none.
        return Failure("an argument is not valid UTF-8", code=Exit.USAGE)
    if isinstance(error, OSError) and error.errno in FULL:
        # Of the output: what was asked for may well be done.
        return Failure(f"cannot write: {error.strerror}", code=Exit.UNKNOWN_OUTCOME)
    return None


def report(failure: Failure, out: Output) -> None:
    """Print a failure to standard error, as a sentence or as JSON."""
    if out.as_json:
        facts = {
            "error": failure.message,
            "code": failure.word,
            "exit": int(failure.code),
            "outcome": failure.outcome,
        }
        if failure.hint:
            facts["hint"] = failure.hint
        out.json_note(facts)
        return
    out.note(f"error: {failure.message}", style="red")
    if failure.hint:
        out.note(f"  {failure.hint}", style="")


def _hint(error: TremulaError) -> str:
    if isinstance(error, Unreachable):
        return "Is a node running there? `cluster dev` starts a cluster on this machine."
    if isinstance(error, NoLeader):
        return "A majority of the voters must run: `cluster status` shows who answers."
    if isinstance(error, Unauthorized):
        return "Present a certificate: --ca, --certificate and --key-file (`cluster certs issue`)."
    if isinstance(error, OutcomeUnknown):
        return "It may have happened: read before you repeat it."
    if isinstance(error, LimitExceeded):
        return "docs/limits.md says which limits can be raised."
    if isinstance(error, UnknownRequest):
        return "The node may be older than this command: `cluster status` shows versions."
    if isinstance(error, Rejected):
        return _REJECTED.get(error.code, "")
    return ""


_REJECTED = {
    "revision_mismatch": "Somebody else wrote in between: read it and decide again.",
    "reserved_topic": 'Topics under "hooks." belong to the cluster; choose another one.',
    "no_handler": "`cluster hook list` shows the handlers and their patterns.",
    "session_expired": "The session was idle too long; run the command again.",
}
