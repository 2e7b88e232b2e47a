"""The handlers of a cluster as this node knows them: what is registered, and what it has code for.

The registered policy is in force for every node. Where nothing is registered (entries of an older
release, or a node that has only just started), a node goes by its own definition, and of another
node's handler it knows no more than its group says.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hooks.configuration.definition import (
    NODE_MARK,
    HandlerDefinition,
    HandlerType,
    Scope,
    handler_of,
)
from hooks.delivery import Delivery
from hooks.execution.service import HookService
from hooks.replicated import registrations, settings
from hooks.replicated.registrations import Registration
from pubsub import groups
from pubsub.rejection import Rejection
from pubsub.topics import Pattern, closest


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownHandler:
    """One handler of the cluster."""

    name: str
    definition: HandlerDefinition  # the policy in force, with this node's code if it has it
    local: HandlerDefinition | None  # as this node's own files have it
    registration: Registration | None
    groups: tuple[str, ...]  # that hold its place: one, or with scope node one for each node

    @property
    def is_enabled(self) -> bool:
        """Whether the cluster lets it run."""
        if self.registration is not None:
            return self.registration.enabled
        return self.local is None or self.local.enabled

    @property
    def is_removed(self) -> bool:
        """Whether no node has its code any more."""
        return self.registration is not None and bool(self.registration.removed)


def known_handlers(service: HookService) -> dict[str, KnownHandler]:
    """Every handler that this node defines or that any node has registered, by name."""
    connection = service.port.connection
    registered = registrations.load(connection)
    local = {handler.name: handler for handler in service.handlers}
    places: dict[str, list[str]] = {}
    for group in groups.names(connection):
        if (handler := handler_of(group)) is not None:
            places.setdefault(handler, []).append(group)
    return {
        name: KnownHandler(
            name=name,
            definition=_in_force(service, name, registered.get(name), local.get(name), places),
            local=local.get(name),
            registration=registered.get(name),
            groups=tuple(places.get(name, ())),
        )
        for name in sorted({*registered, *local, *places})
    }


def find_handler(service: HookService, name: str) -> KnownHandler | Rejection:
    """The handler of that name, or its refusal with the nearest one there is."""
    handlers = known_handlers(service)
    return handlers.get(name) or unknown_handler(name, handlers)


def unknown_handler(name: str, names: Iterable[str]) -> Rejection:
    """The refusal of a name that no handler has."""
    nearest = closest(name, list(names))
    hint = f'; did you mean "{nearest}"?' if nearest else ""
    return Rejection("unknown_handler", f'there is no handler "{name}"{hint}')


def publish_topics(service: HookService, delivery: Delivery | None = None) -> tuple[str, ...]:
    """The patterns of what reaches handlers at all; none: everything does, as does what somebody
    triggers by hand."""
    if delivery is not None and delivery.triggered:
        return ()
    return settings.publish_topics(service.port.connection)


def _in_force(
    service: HookService,
    name: str,
    registration: Registration | None,
    local: HandlerDefinition | None,
    places: dict[str, list[str]],
) -> HandlerDefinition:
    if registration is not None:
        policy: dict[str, Any] = {**registration.policy, "name": name}
        try:
            if local is not None and local.type.value == policy.get("type"):
                return local.with_policy(policy)
            return HandlerDefinition.of_policy(policy)
        except (ValueError, TypeError, KeyError):
            pass  # of a newer release: what the group says must do
    if local is not None:
        return local
    own_groups = places.get(name, [])
    described = groups.describe(service.port.connection, own_groups[0]) if own_groups else None
    return HandlerDefinition(
        name=name,
        pattern=Pattern(described["pattern"] if described else ">"),
        type=HandlerType.IN_PROCESS,
        scope=Scope.NODE if own_groups and NODE_MARK in own_groups[0] else Scope.CLUSTER,
        partitions=len(described["partitions"]) if described else 1,
    )
