"""What `cluster hook list | info | metrics | trigger | history` show and do, as functions of a
service.

Any node can answer: what concerns the cluster (registrations, members, floors, completed events,
dead letters) comes from replicated state; what only a node knows (its code, its attempts) is marked
as its own. Answers are plain values.
"""

from typing import Any, Final

from hooks.control.known import (
    KnownHandler,
    find_handler,
    known_handlers,
    unknown_handler,
)
from hooks.control.places import is_in_use
from hooks.delivery import JSON_TYPE, TRIGGER_TOPIC, payload_bytes
from hooks.execution.service import HookService
from hooks.replicated import registrations, settings
from pubsub import groups
from pubsub.rejection import Rejection
from pubsub.topics import is_reserved

DEAD_LETTERS_SHOWN: Final = 100


def list_handlers(service: HookService) -> list[dict[str, Any]]:
    """One row per handler that this node defines or that any node has registered."""
    return [_row(service, handler) for handler in known_handlers(service).values()]


def handler_info(service: HookService, name: str) -> dict[str, Any] | Rejection:
    """Everything about one handler: policy, nodes, place of every partition, dead letters."""
    handler = find_handler(service, name)
    if isinstance(handler, Rejection):
        return handler
    partitions: list[dict[str, Any]] = []
    members: dict[str, None] = {}
    letters: list[dict[str, Any]] = []
    for group in _groups(handler):
        described = groups.describe(service.port.connection, group)
        if described is None:
            continue
        extra = {"group": group} if len(handler.groups) > 1 else {}
        partitions += [{**extra, **partition} for partition in described["partitions"]]
        members |= dict.fromkeys(member["member"] for member in described["members"])
        found = groups.dead_letters(service.port.connection, group, limit=DEAD_LETTERS_SHOWN)
        letters += [{**extra, **letter} for letter in found]
    registration = handler.registration
    return {
        **_row(service, handler),
        "definition": handler.definition.as_dict(),
        "local": None if handler.local is None else handler.local.as_dict(),
        "nodes": []
        if registration is None
        else [
            {"node": node, "same_policy": report.same, "problem": report.problem}
            for node, report in registration.nodes.items()
        ],
        "groups": _groups(handler),
        "partitions": partitions,
        "member_names": sorted(members),
        "dead_letters": letters[:DEAD_LETTERS_SHOWN],
        "node_metrics": _node_metrics(service, name),
    }


def handler_metrics(
    service: HookService, name: str | None = None
) -> list[dict[str, Any]] | Rejection:
    """Counters of one handler or of all: those of the cluster, and those of this node."""
    handlers = known_handlers(service)
    if name is not None and name not in handlers:
        return unknown_handler(name, handlers)
    rows: list[dict[str, Any]] = []
    for each in handlers.values() if name is None else [handlers[name]]:
        row = _row(service, each)
        counters = ("handler", "completed", "dead_letters", "dead_letters_held", "lag", "members")
        cluster = {counter: row[counter] for counter in counters}
        local = _node_metrics(service, each.name)
        rows.append({**cluster, "node": service.port.node, "local": local})
    return rows


def handler_history(
    service: HookService, name: str, limit: int | None = None
) -> dict[str, Any] | Rejection:
    """The attempts at events that this node made last, the newest first."""
    handler = find_handler(service, name)
    if isinstance(handler, Rejection):
        return handler
    shown = service.limits.answers_shown_max if limit is None else limit
    found = [past.as_dict() for past in service.history.of(name)[:shown]]
    return {"handler": name, "node": service.port.node, "attempts": found}


def cluster_settings(service: HookService) -> dict[str, Any]:
    """What holds for the hooks of the whole cluster, and whose file says otherwise."""
    connection = service.port.connection
    return {
        **settings.load(connection),
        "differing": [item._asdict() for item in settings.differing(connection)],
        "load_problems": [item._asdict() for item in registrations.load_problems(connection)],
    }


async def trigger(
    service: HookService,
    topic: str,
    payload: object = None,
    key: str | None = None,
    content_type: str | None = None,
    *,
    actor: str | None = None,
) -> dict[str, Any] | Rejection:
    """Run the handlers that match `topic`, once per cluster, on an event made by hand.

    `payload` is what would be published: text, bytes, or data that becomes JSON; for a topic of the
    cluster's own always the latter. Raises Unavailable like any submit.
    """
    if topic == TRIGGER_TOPIC:
        return Rejection("malformed", "topic: a triggered event has the topic that it imitates")
    try:
        encoded = payload_bytes(topic, payload)
    except (TypeError, ValueError) as error:
        return Rejection("malformed", f"payload: not JSON: {error}")
    if is_reserved(topic) or not isinstance(payload, str | bytes | None):
        if content_type not in (None, JSON_TYPE):
            return Rejection("malformed", f"content type: this payload is {JSON_TYPE}")
        content_type = JSON_TYPE
    arguments: list[object] = [topic, key, encoded]
    if content_type != JSON_TYPE:  # which is all that older releases know
        arguments.append(content_type)
    result = await service.port.submit("hook.trigger", arguments, actor=actor)
    if isinstance(result, Rejection):
        return result
    revision, handlers = result
    return {"revision": revision, "topic": topic, "handlers": list(handlers)}


def _groups(handler: KnownHandler) -> list[str]:
    """The groups that hold the handler's place with the scope that it has."""
    return [group for group in handler.groups if is_in_use(handler.definition, group)]


def _row(service: HookService, handler: KnownHandler) -> dict[str, Any]:
    definition, registration = handler.definition, handler.registration
    described = [
        found
        for group in _groups(handler)
        if (found := groups.describe(service.port.connection, group)) is not None
    ]
    places = [partition for group in described for partition in group["partitions"]]
    nodes = {member["member"].rpartition("/")[0] for g in described for member in g["members"]}
    return {
        "handler": handler.name,
        "pattern": definition.pattern.text,
        "type": definition.type.value,
        "scope": definition.scope.value,
        "version": definition.version,
        "filter": definition.filter,
        "state": _state(handler, described),
        "defined_here": handler.local is not None,
        "enabled": handler.is_enabled,
        "disabled_reason": None if registration is None else registration.disabled_reason,
        "registered": registration is not None,
        "removed": handler.is_removed,
        "members": sum(len(group["members"]) for group in described),
        "nodes": sorted(nodes),
        "partitions_here": sum(place["owner"] == service.member for place in places),
        "lag": max((service.port.revision - place["floor"] for place in places), default=0),
        "completed": sum(group["completed"] for group in described),
        "dead_letters": sum(group["dead"] for group in described),
        "dead_letters_held": sum(group["dead_held"] for group in described),
        "problem": "; ".join(_problems(service, handler, described)) or None,
    }


def _state(handler: KnownHandler, described: list[dict[str, Any]]) -> str:
    """What the cluster lets it do: one word, or two where it stands still for two reasons."""
    if handler.is_removed:
        return "removed"
    paused = bool(described) and all(group["paused"] for group in described)
    if not handler.is_enabled:
        # An older release paused the groups of a handler that was disabled, and held none.
        return "disabled, paused" if paused and _are_held(described) else "disabled"
    return "paused" if paused else "enabled"


def _are_held(described: list[dict[str, Any]]) -> bool:
    return all(group["held"] for group in described)


def _problems(
    service: HookService, handler: KnownHandler, described: list[dict[str, Any]]
) -> list[str]:
    """What is wrong with a handler, as far as the cluster and this node know."""
    found: dict[str, None] = {}
    if handler.registration is not None:
        for node, report in handler.registration.nodes.items():
            if report.problem is not None:
                found[f"{node}: {report.problem}"] = None
            elif not report.same:
                found[f"{node} has another definition"] = None
    problem = service.problems.get(handler.name) or next(
        (lane.problem for lane in service.lanes if lane.name == handler.name), None
    )
    if problem is not None and not any(problem in text for text in found):
        found[problem] = None
    local = handler.local
    if handler.registration is None and local is not None and described:
        pattern = described[0]["pattern"]
        if pattern != local.pattern.text:
            found[f'another node has registered it with pattern "{pattern}"'] = None
    return list(found)


def _node_metrics(service: HookService, name: str) -> dict[str, Any] | None:
    for work in service.works:
        if work.definition.name == name:
            return {**work.metrics.snapshot(), "in_flight": work.running}
    return None
