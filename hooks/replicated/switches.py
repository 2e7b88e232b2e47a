"""What an operator does to a registered handler: enabling, disabling and forgetting it.

    hook.enable [handler, start | nil]     -> whether it was disabled
    hook.disable [handler, reason | nil]   -> whether it was enabled
    hook.forget [handler]                  -> true

A disabled handler keeps its place: its events wait in the log. Deciding code: never raises for bad
input.
"""

from typing import Any, NamedTuple

from hooks.limits import REASON_BYTES_MAX
from hooks.replicated import handler_groups
from hooks.replicated.registrations import note_change
from pubsub import groups
from pubsub.apply import Apply
from pubsub.events import HOOK_DISABLED, HOOK_ENABLED
from pubsub.rejection import Rejection


class _Known(NamedTuple):
    """What a switch has to know of a registered handler."""

    is_enabled: bool
    scope: str


def enable(apply: Apply, handler: Any, start: Any = None) -> bool | Rejection:
    """Let a disabled handler go on where it stands, or at `start` (as in `group.seek`). A group
    that somebody paused stays paused.

    Of one that is enabled nothing changes, its place neither: False.
    """
    known = _find(apply, handler)
    if known is None:
        return _unknown(handler)
    if known.is_enabled:
        return False
    own_groups = handler_groups.by_handler(apply.connection).get(handler, [])
    if start is not None:
        used = [group for group in own_groups if handler_groups.fits(group, known.scope)]
        if not used:
            detail = f'handler "{handler}" has no group yet; enable it without a start'
            return Rejection("unknown_group", detail)
        for group in used:
            floor = groups.seek(apply, group, start)
            if isinstance(floor, Rejection):
                return floor
    apply.connection.execute(
        "UPDATE hooks SET enabled = 1, disabled_reason = NULL WHERE name = ?", (handler,)
    )
    handler_groups.release(apply, own_groups)
    note_change(apply.connection)
    apply.emit(HOOK_ENABLED, None, (handler,), apply.meta)
    return True


def disable(apply: Apply, handler: Any, reason: Any = None) -> bool | Rejection:
    """Start nothing of a handler on any node; what runs may finish. False: that was so."""
    if reason is not None and not (
        isinstance(reason, str) and len(reason.encode("utf-8", "replace")) <= REASON_BYTES_MAX
    ):
        return Rejection("malformed", f"reason: a text of at most {REASON_BYTES_MAX} bytes or nil")
    known = _find(apply, handler)
    if known is None:
        return _unknown(handler)
    if not known.is_enabled:
        return False
    apply.connection.execute(
        "UPDATE hooks SET enabled = 0, disabled_reason = ? WHERE name = ?", (reason, handler)
    )
    handler_groups.hold(apply, handler_groups.by_handler(apply.connection).get(handler, []))
    note_change(apply.connection)
    apply.emit(HOOK_DISABLED, None, (handler, reason), apply.meta)
    return True


def forget(apply: Apply, handler: Any) -> bool | Rejection:
    """Forget a removed handler with its groups, their place and their dead letters, for good."""
    if _find(apply, handler) is None:
        return _unknown(handler)
    connection = apply.connection
    node = connection.execute(
        "SELECT node FROM hook_nodes WHERE name = ? ORDER BY node LIMIT 1", (handler,)
    ).get
    if node is not None:
        return Rejection("handler_in_use", f'node "{node}" has handler "{handler}"')
    for group in handler_groups.by_handler(connection).get(handler, []):
        groups.remove(apply, group)
    connection.execute("DELETE FROM hooks WHERE name = ?", (handler,))
    note_change(connection)
    return True


def _find(apply: Apply, handler: Any) -> _Known | None:
    if not isinstance(handler, str):
        return None
    row: Any = apply.connection.execute(
        "SELECT enabled, scope FROM hooks WHERE name = ?", (handler,)
    ).fetchone()
    return None if row is None else _Known(bool(row[0]), row[1])


def _unknown(handler: Any) -> Rejection:
    shown = handler if isinstance(handler, str) else "?"
    return Rejection("unknown_handler", f'there is no handler "{shown}"')
