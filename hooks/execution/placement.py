"""Which handlers a node runs now, and under which policy: decided from what the cluster knows.

The code of a handler is a node's own, its policy is the cluster's: whatever the file of a node
says, it routes and handles by what is registered. In a cluster whose entries are older than
registrations each node goes by its own file. Deciding code.

    scope      members of the group          group
    cluster    every node                    hook.NAME
    selector   nodes whose labels fit        hook.NAME
    leader     the node that leads           hook.NAME
    node       every node, each of its own   hook.NAME@NODE
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import apsw

from hooks.configuration.definition import HandlerDefinition, HandlerType, Scope
from hooks.replicated import registrations, settings
from hooks.replicated.registrations import Registration
from pubsub.topics import Pattern


@dataclass(frozen=True, slots=True, kw_only=True)
class InForce:
    """What the cluster says of its handlers."""

    registered: Mapping[str, Registration]
    publish_topics: tuple[str, ...]  # of which topics events reach handlers; none: of all
    is_registered: bool  # False: the cluster knows no registrations, files count

    @classmethod
    def load(cls, connection: apsw.Connection) -> "InForce":
        """As it stands in the replicated state."""
        return cls(
            registered=registrations.load(connection),
            publish_topics=tuple(settings.publish_topics(connection)),
            is_registered=True,
        )

    @classmethod
    def of_files(cls, publish_topics: Iterable[Pattern]) -> "InForce":
        """By the file of this node alone."""
        topics = tuple(pattern.text for pattern in publish_topics)
        return cls(registered={}, publish_topics=topics, is_registered=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Here:
    """What a node knows of itself."""

    name: str
    labels: Mapping[str, str]
    leads: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A handler on one node."""

    definition: HandlerDefinition  # this node's code under the policy in force
    group: str
    is_member: bool  # whether this node takes part in the handler's group now
    problem: str | None = None  # why it can never, as things stand

    def continues(self, other: "Place") -> bool:
        """Whether what this one had in hand is also the other one's."""
        mine, others = self.definition, other.definition
        return (
            self.group == other.group
            and mine.type is others.type
            and mine.partitions == others.partitions
        )


def place(handler: HandlerDefinition, in_force: InForce, here: Here) -> Place:
    """The place of a handler that this node has code for."""
    if not in_force.is_registered:
        member = handler.enabled and _takes_part(handler, here)
        return Place(definition=handler, group=handler.group_of(here.name), is_member=member)
    registration = in_force.registered.get(handler.name)
    problem: str | None = None
    definition = handler
    if registration is None:
        return Place(definition=handler, group=handler.group_of(here.name), is_member=False)
    if registration.policy["type"] != handler.type.value:
        there = registration.policy["type"]
        problem = f'it is registered as a handler of type "{there}", not "{handler.type.value}"'
    else:
        try:
            definition = handler.with_policy(registration.policy)
        except (ValueError, TypeError, KeyError) as error:
            problem = f"its registered policy needs a newer release: {error}"
    return Place(
        definition=definition,
        group=definition.group_of(here.name),
        is_member=problem is None and _takes_part(definition, here),
        problem=problem,
    )


def _takes_part(definition: HandlerDefinition, here: Here) -> bool:
    if definition.scope is Scope.LEADER:
        return here.leads
    if definition.scope is Scope.SELECTOR:
        return all(here.labels.get(name) == value for name, value in definition.selector)
    return True


def others_to_put_out(members: Iterable[str], own: str, predecessor: str | None) -> dict[str, bool]:
    """The members of a group of scope leader that the new leader's member makes leave, and whether
    at once: what ran on this very node is dead, others may know by themselves in a moment."""
    node = f"{own.partition('/')[0]}/"
    return {
        member: member.startswith(node) for member in members if member not in (own, predecessor)
    }


def missing_types(
    handlers: Iterable[HandlerDefinition], types: Iterable[HandlerType]
) -> dict[str, str]:
    """Handlers that a node cannot run whatever is registered, and why."""
    known = dict.fromkeys(types)
    return {
        handler.name: f'this node runs no handlers of type "{handler.type.value}"'
        for handler in handlers
        if handler.type not in known
    }
