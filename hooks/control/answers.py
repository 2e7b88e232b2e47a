"""What `cluster hook list | info | metrics | trigger` show and do, as functions of a service.

Any node can answer: what concerns the cluster (members, floors, completed events, dead letters)
comes from replicated state; what only a node knows (its definition, its attempts) is marked as its
own. Answers are plain values.
"""

import json
from typing import Any

from hooks.configuration.definition import GROUP_PREFIX
from hooks.execution.service import HookService
from pubsub import groups
from pubsub.rejection import Rejection
from pubsub.topics import closest

DEAD_LETTERS_SHOWN = 100


def list_handlers(service: HookService) -> list[dict[str, Any]]:
    """One row per handler that this node defines or that any node has registered."""
    return [_row(service, name) for name in handler_names(service)]


def handler_info(service: HookService, name: str) -> dict[str, Any] | Rejection:
    """Everything about one handler: definition, place of every partition, dead letters."""
    if name not in (names := handler_names(service)):
        return unknown_handler(name, names)
    described = groups.describe(service.port.connection, GROUP_PREFIX + name)
    letters = groups.dead_letters(
        service.port.connection, GROUP_PREFIX + name, limit=DEAD_LETTERS_SHOWN
    )
    definition = next((h.as_dict() for h in service.handlers if h.name == name), None)
    return {
        **_row(service, name),
        "definition": definition,
        "partitions": described["partitions"] if described else [],
        "member_names": [member["member"] for member in described["members"]] if described else [],
        "dead_letters": letters,
        "node_metrics": _node_metrics(service, name),
    }


def handler_metrics(
    service: HookService, name: str | None = None
) -> list[dict[str, Any]] | Rejection:
    """Counters of one handler or of all: those of the cluster, and those of this node."""
    names = handler_names(service)
    if name is not None and name not in names:
        return unknown_handler(name, names)
    rows: list[dict[str, Any]] = []
    for each in names if name is None else [name]:
        row = _row(service, each)
        counters = ("handler", "completed", "dead_letters", "dead_letters_held", "lag", "members")
        cluster = {counter: row[counter] for counter in counters}
        rows.append({**cluster, "node": service.port.node, "local": _node_metrics(service, each)})
    return rows


async def trigger(
    service: HookService, topic: str, payload: object = None, key: str | None = None
) -> dict[str, Any] | Rejection:
    """Run the handlers that match `topic`, once per cluster, on an event made by hand.

    `payload` is what they get as the event's payload; raises Unavailable like any submit.
    """
    try:
        encoded = json.dumps({} if payload is None else payload, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        return Rejection("malformed", f"payload: not JSON: {error}")
    result = await service.port.submit("hook.trigger", [topic, key, encoded])
    if isinstance(result, Rejection):
        return result
    revision, handlers = result
    return {"revision": revision, "topic": topic, "handlers": list(handlers)}


def handler_names(service: HookService) -> list[str]:
    """The handlers that this node defines or that any node has registered."""
    names = {handler.name: None for handler in service.handlers}
    for group in groups.names(service.port.connection):
        if group.startswith(GROUP_PREFIX):
            names[group.removeprefix(GROUP_PREFIX)] = None
    return sorted(names)


def unknown_handler(name: str, names: list[str]) -> Rejection:
    """The refusal of a name that no handler has."""
    nearest = closest(name, names)
    hint = f'; did you mean "{nearest}"?' if nearest else ""
    return Rejection("unknown_handler", f'there is no handler "{name}"{hint}')


def _row(service: HookService, name: str) -> dict[str, Any]:
    definition = next((h for h in service.handlers if h.name == name), None)
    group = groups.describe(service.port.connection, GROUP_PREFIX + name)
    floors = [partition["floor"] for partition in group["partitions"]] if group else []
    owned = sum(p["owner"] == service.member for p in group["partitions"]) if group else 0
    pattern = group["pattern"] if group else None
    problem = service.session.problems.get(name)
    if definition is not None and pattern not in (None, definition.pattern.text):
        problem = problem or f'another node has registered it with pattern "{pattern}"'
    return {
        "handler": name,
        "pattern": definition.pattern.text if definition else pattern,
        "type": definition.type.value if definition else None,
        "scope": definition.scope if definition else "cluster",
        "defined_here": definition is not None,
        "enabled_here": definition is not None and definition.enabled,
        "members": len(group["members"]) if group else 0,
        "partitions_here": owned,
        "lag": service.port.revision - min(floors) if floors else 0,
        "completed": group["completed"] if group else 0,
        "dead_letters": group["dead"] if group else 0,
        "dead_letters_held": group["dead_held"] if group else 0,
        "problem": problem,
    }


def _node_metrics(service: HookService, name: str) -> dict[str, Any] | None:
    for work in service.works:
        if work.definition.name == name:
            return {**work.metrics.snapshot(), "in_flight": work.running}
    return None
