"""What one event caused: operations that are applied together or not at all.

Both ways of completing an event, the checkpoint of a partitioned group and the ack of a competing
one, apply the effects of its handler here.
"""

from collections.abc import Sequence
from typing import Any

from pubsub import log
from pubsub.apply import Apply
from pubsub.consumer_groups.group_tables import malformed
from pubsub.events import compress, expand
from pubsub.limits import EFFECT_HOPS_MAX, EFFECT_OPERATIONS_MAX
from pubsub.rejection import Rejection


def apply_unit(apply: Apply, revision: int, operations: Any) -> Any:
    """Apply the operations as caused by the event of `revision`; a Rejection changed nothing."""
    meta = apply.meta
    result = _apply_unit(apply, revision, operations)
    apply.meta = meta
    return result


def _apply_unit(apply: Apply, revision: int, operations: Any) -> Any:
    if not isinstance(operations, list | tuple) or not all(map(_is_operation, operations)):
        return malformed("an effect is a list of [operation, arguments]")
    if len(operations) > EFFECT_OPERATIONS_MAX:
        return Rejection("limit_exceeded", f"at most {EFFECT_OPERATIONS_MAX} operations per event")
    # Nobody: retention took the event, because a hard cap outweighs the group that needs it.
    cause = log.event_at(apply.connection, revision)
    hops = 1 + (cause.hops if cause else 0)
    if hops > EFFECT_HOPS_MAX:
        return Rejection("hops_exceeded", f"a chain of more than {EFFECT_HOPS_MAX} effects")
    correlation_id = cause.correlation_id if cause else None
    apply.meta = compress(
        expand(apply.meta)[0],
        revision if correlation_id is None else correlation_id,
        revision,
        hops,
        cause.traceparent if cause else None,
    )
    if len(operations) == 1:
        return apply.run(*operations[0])  # refused alone, it changed nothing
    return apply.atomically(lambda: _run_all(apply, operations))


def _run_all(apply: Apply, operations: Sequence[Sequence[Any]]) -> Rejection | None:
    for name, args in operations:
        result = apply.run(name, args)
        if isinstance(result, Rejection):
            return result
    return None


def _is_operation(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], list | tuple)
    )
