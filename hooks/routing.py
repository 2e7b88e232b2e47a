"""Whether an event is for a handler: the one answer that routing, `explain` and `test` give.

A pure function of the handler's replicated policy, the replicated settings and the event, so that
every node says the same at any time, of events long past too. Deciding code.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import NamedTuple

from hooks.conditions import Condition, condition
from hooks.configuration.definition import HandlerDefinition
from hooks.delivery import Delivery
from pubsub.topics import compiled, is_reserved


class Verdict(StrEnum):
    """What became of an event on its way to a handler."""

    MATCH = "match"
    PATTERN = "pattern"  # the handler's pattern does not match the topic
    NOT_PUBLISHED = "not_published"  # `publish_topics` keeps the topic from handlers
    FILTER = "filter"  # the handler's condition is false
    ERROR = "error"  # the condition could not be evaluated: a failed attempt, never a silent no


class Decision(NamedTuple):
    """Whether an event is for a handler, and what decided it."""

    kind: Verdict
    detail: str | None = None  # the pattern, the topics, the condition or its error

    @property
    def matches(self) -> bool:
        return self.kind is Verdict.MATCH


_MATCH = Decision(Verdict.MATCH)


def decide(
    definition: HandlerDefinition, delivery: Delivery, publish_topics: Sequence[str]
) -> Decision:
    """Whether `delivery` is for the handler; `publish_topics` are the patterns in force."""
    topic = delivery.topic
    if not definition.pattern.matches(topic):
        return Decision(Verdict.PATTERN, definition.pattern.text)
    # Who triggers a handler by hand means it.
    if not delivery.triggered and not is_published(topic, publish_topics):
        return Decision(Verdict.NOT_PUBLISHED, ", ".join(publish_topics))
    return decide_filter(definition, delivery)


def decide_filter(definition: HandlerDefinition, delivery: Delivery) -> Decision:
    """The last step alone, for an event whose topic is known to fit. HOT."""
    if definition.filter is None:
        return _MATCH
    asked = condition(definition.filter)
    if not isinstance(asked, Condition):
        return Decision(Verdict.ERROR, asked.text)
    found = asked.decide(delivery)
    if found is True:
        return _MATCH
    if found is False:
        return Decision(Verdict.FILTER, definition.filter)
    return Decision(Verdict.ERROR, found.text)


def is_published(topic: str, publish_topics: Sequence[str]) -> bool:
    """Whether events of this topic reach handlers and subscribers: the setting is for the cluster's
    own ones."""
    if not publish_topics or not is_reserved(topic):
        return True
    return any(compiled(pattern).matches(topic) for pattern in publish_topics)


def published(publish_topics: Sequence[str]) -> Callable[[str], bool] | None:
    """`is_published` for one who asks of each event: a topic is matched once and then remembered,
    and there are only so many of the cluster's. None: every topic is published."""
    if not publish_topics:
        return None
    known: dict[str, bool] = {}

    def ask(topic: str) -> bool:
        if not is_reserved(topic):
            return True
        answer = known.get(topic)
        if answer is None:
            answer = known[topic] = is_published(topic, publish_topics)
        return answer

    return ask
