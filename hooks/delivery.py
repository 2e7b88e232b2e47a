"""What a handler is handed: an event under the topic that handlers know it by.

They differ for a triggered event and for one that is handed out again. To trigger a handler is
itself something that happened, so it is an event of its own (`TRIGGER_TOPIC`) that carries the
topic it imitates: the log never says that a key was written when it was not. Handlers get it
under the imitated topic, marked; of a user's topic exactly as if it had been published. In the
same way an event that a group gets again, by a replay or a
redrive, is a fact of its own that names the group (`pubsub.consumer_groups.addressing`): its
handler gets the original, marked.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from hooks.events import publisher
from hooks.events.catalogue import TRIGGERED, TRIGGERED_TOPIC_HEADER
from pubsub.consumer_groups.addressing import resolve
from pubsub.events import Event
from pubsub.topics import is_reserved

TRIGGER_TOPIC: Final = TRIGGERED
TRIGGER_HEADER: Final = TRIGGERED_TOPIC_HEADER
JSON_TYPE: Final = "application/json"


class Delivery(NamedTuple):
    """An event on its way to a handler."""

    event: Event
    topic: str  # what patterns are matched against
    triggered: bool
    fact: int | None = None  # where it stands in the log when that is not the event's own place
    redrives: int = 0  # how often it came back out of the dead letters

    @property
    def revision(self) -> int:
        """Where it stands in the log: what the group's progress counts by. HOT."""
        return self.event.revision if self.fact is None else self.fact

    @property
    def replayed(self) -> bool:
        """Whether the group had the event before, and somebody wanted it to get it again."""
        return self.fact is not None

    @property
    def order_key(self) -> str:
        """Deliveries of one order key reach a handler one after the other; the event's partition
        goes by it, so it is that of the event in the log."""
        if self.event.key is not None:
            return self.event.key
        return TRIGGER_TOPIC if self.triggered else self.event.topic

    @property
    def is_made_up(self) -> bool:
        """Whether a person gave the whole payload: of a triggered topic of the cluster's own."""
        return self.triggered and is_reserved(self.topic)

    def payload(self) -> dict[str, Any]:
        """The payload for handlers."""
        if self.is_made_up:
            loaded = json.loads(self.event.data[0])
            return loaded if isinstance(loaded, dict) else {"payload": loaded}
        return publisher.payload(self.event)

    def cloud_event(self, cluster_id: str) -> dict[str, Any]:
        """The CloudEvent that shell handlers read."""
        document = publisher.cloud_event(self.event, cluster_id)
        if self.is_made_up:
            document |= {"type": self.topic, "data": self.payload()}
            document.pop("dataschema", None)  # a person's payload is of no type of ours
        if self.triggered:
            document["triggered"] = True
        if self.replayed:
            document["replayed"] = True
        if self.redrives:
            document["redrives"] = self.redrives
        return document

    def to_wire(self) -> list[object]:
        return [tuple(self.event), *self[1:]]

    @classmethod
    def from_wire(cls, wire: Sequence[Any]) -> "Delivery":
        return cls(Event(*wire[0]), *wire[1:])


def payload_bytes(topic: str, payload: object) -> bytes:
    """What somebody gives as the payload of an event of a topic, as the log has it: of a user's
    topic any bytes or text; else data that becomes JSON, or the bytes of some. ValueError or
    TypeError for what is none."""
    if not is_reserved(topic):
        if isinstance(payload, bytes):
            return payload
        if payload is None or isinstance(payload, str):
            return (payload or "").encode(errors="surrogateescape")
    try:
        if isinstance(payload, bytes):
            payload = json.loads(payload)
        return json.dumps({} if payload is None else payload, allow_nan=False).encode()
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def deliver(event: Event) -> Delivery:
    """The delivery that stands for `event`."""
    if event.topic != TRIGGER_TOPIC:
        return Delivery(event, event.topic, False)
    body, content_type, headers = event.data[:3]
    topic = headers[TRIGGER_HEADER]
    if not is_reserved(topic):
        event = event._replace(topic=topic, data=(body, content_type, None))
    return Delivery(event, topic, True)


def deliver_again(fact: Event, read: Callable[[int], Event | None]) -> Delivery | None:
    """The delivery of an event that `fact` hands out again; `read` gets one by its revision. None
    when retention took it meanwhile."""
    found = resolve(fact, read)
    if found is None:
        return None
    again = deliver(found.event)
    return again._replace(fact=fact.revision, redrives=found.redrives)


def event_id(cluster_id: str, revision: int) -> str:
    """The id of an event outside the cluster: the same on every node, for ever."""
    return f"{cluster_id}-{revision}"
