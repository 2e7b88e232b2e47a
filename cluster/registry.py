"""Every operation that an entry can carry and that needs nothing but the state.

The machine adds those of the sessions and of the cluster itself. A name is for ever; an operation
that a later release adds says from which entry version on it exists, so that nodes of two releases
never answer differently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from cluster import kv, letters, publishing, transactions
from cluster.operations import VERSION
from hooks.replicated import (
    capture,
    completion,
    handler_groups,
    reports,
    switches,
)
from hooks.replicated.trigger import trigger
from pubsub import groups, retention
from pubsub.consumer_groups import competing, dead_letters, membership, replays
from pubsub.publishing import delayed, message_ids


class Operation(NamedTuple):
    """How an operation is run."""

    function: Callable[..., Any]  # (apply, *args) -> a result that msgpack packs, or a Rejection
    arguments_min: int
    arguments_max: int
    nestable: bool = False  # may be an effect of a handler, inside a checkpoint
    revocable: bool = False  # may be refused after it began to write: runs under a savepoint
    since: int = 1  # the entry version that introduced it; in older entries it is unknown
    # (version, count): in entries up to that version it took no more arguments than that
    older: tuple[int, int] | None = None


OPERATIONS: Final[dict[str, Operation]] = {
    "put": Operation(kv.put, 2, 4, nestable=True),
    "delete": Operation(kv.delete, 1, 2, nestable=True),
    "batch": Operation(transactions.batch, 1, 1, nestable=True),
    "txn": Operation(transactions.txn, 2, 3, nestable=True),
    "kv.expire": Operation(kv.expire, 1, 2),
    "publish": Operation(publishing.publish, 3, 6, nestable=True, older=(1, 5)),
    "publish_batch": Operation(publishing.publish_batch, 1, 1, nestable=True),
    "publish_later": Operation(publishing.publish_later, 7, 8, nestable=True, since=2),
    "delayed.cancel": Operation(delayed.cancel, 1, 1, nestable=True, since=2),
    "delayed.publish": Operation(delayed.publish, 2, 2, since=2),
    "message.forget": Operation(message_ids.forget, 1, 1, since=2),
    "group.define": Operation(handler_groups.define, 5, 6, revocable=True, older=(1, 5)),
    "group.remove": Operation(groups.remove, 1, 1, revocable=True),
    "group.join": Operation(membership.join, 3, 4, revocable=True, older=(1, 3)),
    "group.keepalive": Operation(membership.keepalive, 1, 1, revocable=True),
    "group.leave": Operation(membership.leave, 1, 2, revocable=True),
    "group.expire": Operation(membership.expire, 1, 1, revocable=True),
    "group.checkpoint": Operation(completion.checkpoint, 4, 4, revocable=True),
    "group.seek": Operation(groups.seek, 2, 2, revocable=True),
    "group.pause": Operation(handler_groups.pause, 1, 1, since=2),
    "group.resume": Operation(handler_groups.resume, 1, 1, since=2),
    "group.skip": Operation(groups.skip, 2, 2, since=2),
    "group.rebalance": Operation(groups.rebalance, 1, 1, since=2),
    "group.fetch": Operation(competing.fetch, 4, 4, since=2),
    "group.settle": Operation(competing.settle, 4, 4, since=2),
    "lease.expire": Operation(competing.expire, 1, 1, since=2),
    "group.discard": Operation(groups.discard, 2, 2, revocable=True),
    "retention.set": Operation(retention.set_rule, 2, 4, since=2),
    "retention.delete": Operation(retention.delete_rule, 1, 1, since=2),
    "retention.cap": Operation(retention.set_cap, 1, 2, since=2),
    "retention.trim": Operation(retention.trim, 1, 1, since=2),
    "dlq.edit": Operation(letters.edit, 3, 5, revocable=True, since=2),
    "dlq.redrive": Operation(dead_letters.redrive, 2, 2, since=2),
    "replay.start": Operation(replays.start, 2, 4, since=2),
    "replay.cancel": Operation(replays.cancel, 1, 1, since=2),
    "replay.step": Operation(replays.step, 2, 2, since=2),
    "capture.set": Operation(capture.set_rule, 2, 3, since=2),
    "capture.delete": Operation(capture.delete_rule, 1, 1, since=2),
    "capture.seed": Operation(capture.seed, 1, 1, since=2),
    "system.report": Operation(reports.report, 5, 5, since=2),
    "health.report": Operation(reports.health, 2, 3, since=2),
    "hook.trigger": Operation(trigger, 3, 4, older=(2, 3)),
    "hook.enable": Operation(switches.enable, 1, 2, revocable=True, since=2),
    "hook.disable": Operation(switches.disable, 1, 2, since=2),
    "hook.forget": Operation(switches.forget, 1, 1, since=2),
}


def by_version(operations: Mapping[str, Operation]) -> dict[int, dict[str, Operation]]:
    """What the operations are in entries of each version."""
    return {
        version: {
            name: _as_of(operation, version)
            for name, operation in operations.items()
            if operation.since <= version
        }
        for version in range(1, VERSION + 1)
    }


def _as_of(operation: Operation, version: int) -> Operation:
    if operation.older is None or version > operation.older[0]:
        return operation
    return operation._replace(arguments_max=operation.older[1])
