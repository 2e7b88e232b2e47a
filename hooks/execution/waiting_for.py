"""`after = [...]`: whether the handlers that come first are done with an event. Deciding code.

Done is done: completed, skipped or given up. Where the other handler works on this node too, what
it has in hand says so at once; elsewhere the replicated floor and completions do, as soon as the
other node has written them down. A handler that the cluster does not have, that is disabled, or
that is not for this event at all is not waited for; and nobody waits in a ring.
"""

from collections.abc import Iterable, Mapping

import apsw

from hooks.configuration.definition import HandlerDefinition, OrderBy
from hooks.delivery import Delivery
from hooks.execution.partition import Item
from hooks.execution.placement import InForce
from hooks.execution.work import HandlerWork
from hooks.routing import Verdict, decide
from pubsub import groups
from pubsub.consumer_groups.assignment import partition_of


class Predecessors:
    """Who comes first, among the handlers of the cluster, as one node knows them."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._definitions: dict[str, HandlerDefinition] = {}
        self._works: dict[str, HandlerWork] = {}
        self._topics: tuple[str, ...] = ()
        self._circular: frozenset[str] = frozenset()

    def learn(self, in_force: InForce, works: Iterable[HandlerWork]) -> None:
        """Take over what the cluster says now; `works` are those of this node."""
        self._works = {work.definition.name: work for work in works}
        self._topics = in_force.publish_topics
        self._definitions = {name: work.definition for name, work in self._works.items()}
        for name, registration in in_force.registered.items():
            if registration.removed or not registration.enabled:
                self._definitions.pop(name, None)
            elif name not in self._definitions:
                try:
                    self._definitions[name] = HandlerDefinition.of_policy(registration.policy)
                except (ValueError, TypeError, KeyError):
                    continue  # of a newer release; nobody here can tell what it is for
        after = {name: definition.after for name, definition in self._definitions.items()}
        self._circular = frozenset(circular(after))

    def is_blocked(
        self, connection: apsw.Connection, definition: HandlerDefinition, item: Item
    ) -> bool:
        """Whether an event of a handler must wait for another handler."""
        delivery = item.delivery
        if delivery is None or delivery.replayed or definition.name in self._circular:
            return False  # what a group gets again is for that group alone
        return any(not self._is_done(connection, name, delivery) for name in definition.after)

    def _is_done(self, connection: apsw.Connection, name: str, delivery: Delivery) -> bool:
        definition = self._definitions.get(name)
        if definition is None:
            return True
        topics = () if delivery.triggered else self._topics
        verdict = decide(definition, delivery, topics).kind
        if verdict not in (Verdict.MATCH, Verdict.ERROR):
            return True
        work = self._works.get(name)
        known = None if work is None else work.is_done(delivery)
        if known is not None:
            return known
        by_key = definition.order_by is OrderBy.KEY
        number = partition_of(delivery.order_key, definition.partitions) if by_key else 0
        group = definition.group_of(self._node)
        return groups.is_completed(connection, group, number, delivery.revision) is not False


def circular(after: Mapping[str, Iterable[str]]) -> list[str]:
    """The handlers that wait for themselves, by way of others."""
    found: list[str] = []
    for name in after:
        seen: dict[str, None] = {}
        waiting = list(after[name])
        while waiting:
            other = waiting.pop()
            if other not in seen:
                seen[other] = None
                waiting += after.get(other, ())
        if name in seen:
            found.append(name)
    return found
