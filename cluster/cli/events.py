"""How events are shown while they arrive: one line each for people, a CloudEvent for programs."""

from datetime import datetime

from cluster.cli.output import Output, cell
from hooks.events.publisher import cloud_event, payload
from hooks.replicated.capture import FULL
from pubsub.events import Event

VALUE_CHARACTERS_MAX = 120  # of one field on a line; --json has all of it
# Fields that the line already shows, or that say little to a person who watches.
_ALREADY_SHOWN = frozenset(("key", "value_encoding", "payload_encoding"))


def show_event(out: Output, event: Event, cluster_id: str) -> None:
    """Print one event."""
    if out.as_json:
        out.json_line(cloud_event(event, cluster_id))
    else:
        out.line(event_line(event))


def event_line(event: Event) -> str:
    """Revision, local time, topic, key and the facts of the event."""
    at = datetime.fromtimestamp(event.wall_ms / 1000).strftime("%H:%M:%S.%f")[:-3]
    facts = dict(payload(event))
    for name in ("value", "payload"):
        if facts.get(f"{name}_encoding") == "base64":
            facts[name] = f"({facts[f'{name}_size_bytes']} bytes)"
    if facts.get("value_capture") == FULL:
        del facts["value_capture"]  # as nearly always
    shown = " ".join(
        f"{name}={cell(value)[:VALUE_CHARACTERS_MAX]}"
        for name, value in facts.items()
        if name not in _ALREADY_SHOWN and value not in (None, {}, [])
    )
    key = f"  {cell(event.key)}" if event.key is not None else ""
    by = f"  by {event.actor}" if event.actor and event.actor != "anonymous" else ""
    return f"{event.revision:>8}  {at}  {event.topic}{key}  {shown}{by}"
