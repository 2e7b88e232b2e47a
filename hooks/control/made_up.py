"""What handlers would make of an event that is in no log, as far as it is described.

A condition may ask for what nobody has said of the event: its payload, its key, who published it.
Then it is not known whether the handler would run, and the answer says what that depends on.
"""

from collections.abc import Collection, Mapping
from typing import Any, Final

from hooks import routing
from hooks.clauses import Read
from hooks.conditions import Condition, condition
from hooks.control.explain import Row, Stage, routed, why
from hooks.control.known import KnownHandler, publish_topics
from hooks.delivery import (
    JSON_TYPE,
    TRIGGER_HEADER,
    TRIGGER_TOPIC,
    Delivery,
    deliver,
    payload_bytes,
)
from hooks.execution.service import HookService
from hooks.routing import Decision, Verdict
from pubsub.events import SYSTEM_TOPICS, Event
from pubsub.rejection import Rejection
from pubsub.topics import closest, is_reserved, validate_topic

CERTAIN: Final = frozenset(("topic", "replayed"))  # of any event that is made up


def made_up(service: HookService, asked: Mapping[str, Any]) -> Delivery | Rejection:
    """An event that is in no log; one of the cluster's own topics carries its payload as a trigger
    does."""
    topic, key, payload = asked.get("topic"), asked.get("key"), asked.get("payload")
    if problem := validate_topic(topic):
        return Rejection("malformed", problem)
    assert isinstance(topic, str), "it would be a problem otherwise"
    if key is not None and not isinstance(key, str):
        return Rejection("malformed", "key: a text or nil")
    if is_reserved(topic) and topic not in (topics := [*SYSTEM_TOPICS.values(), TRIGGER_TOPIC]):
        nearest = closest(topic, topics)
        hint = f'; did you mean "{nearest}"?' if nearest else ""
        return Rejection("unknown_topic", f'the cluster has no topic "{topic}"{hint}')
    try:
        body = payload_bytes(topic, payload)
    except (TypeError, ValueError) as error:
        return Rejection("malformed", f"payload: not JSON: {error}")
    headers = {TRIGGER_HEADER: topic} if is_reserved(topic) else None
    data = (body, JSON_TYPE, headers)
    revision = service.port.revision + 1
    return deliver(
        Event(
            revision=revision,
            topic=TRIGGER_TOPIC if is_reserved(topic) else topic,
            key=key,
            data=data,
            actor=None,
            correlation_id=None,
            causation_id=None,
            hops=0,
            traceparent=None,
            wall_ms=0,
            log_index=0,
            ordinal=0,
            size_bytes=len(data[0]),
        )
    )


def made_up_row(
    service: HookService, handler: KnownHandler, delivery: Delivery, given: Collection[str]
) -> Row:
    """What a handler would do with an event of which, besides the topic, `given` is said."""
    topics = publish_topics(service)
    decision = routing.decide(handler.definition, delivery, topics)
    kept_back = decision.kind is not Verdict.PATTERN and not routing.is_published(
        delivery.topic, topics
    )
    if kept_back:  # it is made up in the form of a triggered event, which nothing holds back
        decision = Decision(Verdict.NOT_PUBLISHED, ", ".join(topics))
    row = routed(handler.definition, delivery, decision, service.port.node)
    if decision.kind in (Verdict.PATTERN, Verdict.NOT_PUBLISHED):
        return {**row, "stage": Stage.NO_MATCH.value}
    missing = _missing(handler.definition.filter, delivery, given)
    row["clauses"] = [
        [text, None if names else said]
        for (text, said), names in zip(row["clauses"], missing, strict=True)
    ]
    if any(said is False for _, said in row["clauses"]):
        because = why(
            Decision(Verdict.FILTER, handler.definition.filter), delivery.topic, row["clauses"]
        )
        no_match = {"stage": Stage.NO_MATCH.value, "decision": Verdict.FILTER.value}
        return {**row, **no_match, "because": because}
    if any(missing):
        names = dict.fromkeys(name for each in missing for name in each)
        open_clauses = [text for text, said in row["clauses"] if said is None]
        because = f"not said of the event: {', '.join(names)}; {' and '.join(open_clauses)} decides"
        depends = Stage.DEPENDS.value
        return {**row, "stage": depends, "decision": depends, "because": because}
    stage = Stage.WOULD_RUN if decision.matches else Stage.WOULD_FAIL
    return {**row, "stage": stage.value}


def _missing(text: str | None, delivery: Delivery, given: Collection[str]) -> list[list[str]]:
    """For each part of a condition what it asks for and nobody has said."""
    known = None if text is None else condition(text)
    if not isinstance(known, Condition):
        return []
    found = [[_said_by(read, delivery) for read in reads] for reads in known.reads()]
    return [
        [name for name in dict.fromkeys(names) if name is not None and name not in given]
        for names in found
    ]


def _said_by(read: Read, delivery: Delivery) -> str | None:
    """What has to be said of an event for this to be known; None when it is, in any case."""
    if read.variable != "event":
        is_key = read == ("data", "key") and not delivery.triggered  # of a user's topic
        return "key" if is_key else "payload"
    # That one of the cluster's own topics is triggered is the form alone in which it is made up.
    if read.field in CERTAIN or (read.field == "triggered" and not delivery.triggered):
        return None
    return "key" if read.field == "key" else f"event.{read.field}"
