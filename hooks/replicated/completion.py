"""Checkpoints of handlers: that of any group, and an event for each event that a handler gave up;
of handlers that want it so (`report_executions`) also for each that was handled.

    group.checkpoint [group, member, partitions, effects]   as pubsub's, for every group

Of an event that is itself about hooks nothing is said (the guard against a handler of
`hooks.hook.failed` that fails, and of `hooks.hook.executed` that feeds itself), and nothing of one
that retention took before the handler was done with it: nobody could tell any more what it was
about. Deciding code: never raises for bad input.
"""

from typing import Any, Final

from hooks.configuration.definition import handler_of
from hooks.delivery import Delivery, deliver, deliver_again
from hooks.events.catalogue import ABOUT_HOOKS
from pubsub import log
from pubsub.apply import Apply
from pubsub.consumer_groups import checkpoint as checkpoints
from pubsub.consumer_groups.addressing import meta_of_fact, recipient
from pubsub.consumer_groups.group_tables import cut_error
from pubsub.events import HOOK_EXECUTED, HOOK_FAILED
from pubsub.rejection import Rejection

DEAD_LETTER: Final = "dead_letter"
SKIPPED: Final = "skipped"


def checkpoint(
    apply: Apply, group: Any, member: Any, partitions: Any, effects: Any
) -> list[list[Any]] | Rejection:
    """Record progress as in any group, and say what a handler gave up, and what it handled."""
    outcome = checkpoints.record(apply, group, member, partitions, effects)
    if isinstance(outcome, Rejection):
        return outcome
    handler = handler_of(group) if apply.version >= 2 else None
    if handler is not None:
        node = member.rpartition("/")[0] or None
        given_up = [(letter, DEAD_LETTER) for letter in outcome.letters]
        given_up += [(letter, SKIPPED) for letter in outcome.skipped]
        for letter, verdict in sorted(given_up):
            became = (letter.attempts, cut_error(letter.error), node, verdict)
            _tell(apply, HOOK_FAILED, group, letter.revision, became)
        for revision, attempts, duration_ms, events in sorted(outcome.executed):
            was = (attempts, events, node, duration_ms)
            _tell(apply, HOOK_EXECUTED, group, revision, was)
    return outcome.refused


def _tell(apply: Apply, topic: int, group: str, revision: int, facts: tuple[Any, ...]) -> None:
    """Say what became of an event, unless it is about hooks."""
    delivery = _delivery(apply, group, revision)
    if delivery is None or delivery.topic.startswith(ABOUT_HOOKS):
        return
    data = (handler_of(group), revision, delivery.topic, delivery.event.key, *facts)
    # Caused by the event: a chain of such news and of effects that lead to more comes to an end.
    apply.emit(topic, None, data, meta_of_fact(apply.meta, delivery.event))


def _delivery(apply: Apply, group: str, revision: int) -> Delivery | None:
    """What the handler was given; None when retention has taken it. What is handed out again to
    another one is for this one the plain fact."""
    event = log.event_at(apply.connection, revision)
    if event is None:
        return None
    if recipient(event) == group:
        return deliver_again(event, lambda original: log.event_at(apply.connection, original))
    return deliver(event)
