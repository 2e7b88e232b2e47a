"""Reading the log of this node once for all handlers: each event goes to those that it is for."""

from collections.abc import Sequence

from hooks.delivery import TRIGGER_TOPIC, Delivery, deliver, deliver_again
from hooks.execution.work import HandlerWork
from hooks.limits import HookLimits
from hooks.ports import ClusterPort
from hooks.routing import is_published
from pubsub.consumer_groups.addressing import ADDRESSED, recipient
from pubsub.events import Event
from pubsub.log import has_gap
from pubsub.retention import compacted


class Reading:
    """Offers the events of the log to the handlers of one node."""

    def __init__(self, port: ClusterPort, limits: HookLimits) -> None:
        self._port = port
        self._limits = limits
        self._works: Sequence[HandlerWork] = ()
        self._publish_topics: Sequence[str] = ()
        self._routes: dict[tuple[str, bool], list[HandlerWork]] = {}
        self._lost_to: dict[str, int] = {}  # handler -> up to where it was told

    def route_to(self, works: Sequence[HandlerWork], publish_topics: Sequence[str]) -> None:
        """From now on: these handlers, in the order of their starts, and these topics."""
        self._works = works
        self._publish_topics = publish_topics
        self._routes.clear()

    def read_slice(self) -> bool:
        """One pass over the log for all handlers that want more; whether there may be more."""
        for work in self._works:
            work.unpark()
        revision = self._port.revision
        hungry = [work for work in self._works if work.wants(revision)]
        if not hungry:
            return False
        position = min(work.position for work in hungry)
        limits = self._limits
        found = self._port.read_events(position + 1, limits.read_events_max, limits.read_bytes_max)
        if has_gap(found, position + 1):
            self._tell_lost(hungry, found)
        for event in found:
            self._route(event)
        for work in hungry:
            work.advance(found[-1].revision if found else position)
        return bool(found)

    def _route(self, event: Event) -> None:
        """Offer an event to the handlers of its topic. HOT."""
        delivery: Delivery | None = None
        topic, triggered = event.topic, False
        if topic in ADDRESSED:
            self._route_again(event)
            return
        if topic == TRIGGER_TOPIC:
            delivery = deliver(event)
            topic, triggered = delivery.topic, True
        route = self._route_of(topic, triggered)
        if route:
            delivery = delivery or Delivery(event, topic, False)
            for work in route:
                work.offer(delivery)

    def _route_again(self, fact: Event) -> None:
        """Offer an event that is handed out again to the handler whose group it names; for all
        others it is the plain fact."""
        group = recipient(fact)
        readers = self._route_of(fact.topic, False)
        for work in self._works:
            if work.definition.group_of(self._port.node) == group:
                delivery = deliver_again(fact, self._read_event)
                if delivery is None:
                    self._port.log.warning("an event to replay is gone", revision=fact.data[1])
                else:
                    work.offer(delivery)
            elif work in readers:
                work.offer(Delivery(fact, fact.topic, False))

    def _read_event(self, revision: int) -> Event | None:
        found = self._port.read_events(revision, 1, 1)
        return found[0] if found and found[0].revision == revision else None

    def _tell_lost(self, hungry: Sequence[HandlerWork], found: Sequence[Event]) -> None:
        """Say what retention took from handlers: their groups are not protected, or the cap of the
        whole log outweighed them."""
        for work in hungry:
            first, last = work.position + 1, found[-1].revision
            lost = compacted(self._port.connection, work.definition.pattern.text, first)
            missing = last - first + 1 - sum(event.revision >= first for event in found)
            if lost is None or missing <= 0:
                continue
            work.metrics.compacted += missing
            name = work.definition.name
            if lost.first_revision > self._lost_to.get(name, 0):
                self._lost_to[name] = lost.first_revision
                self._port.log.error(
                    "retention took events that a handler had not read",
                    handler=name,
                    from_revision=first,
                    first_revision=lost.first_revision,
                )

    def _route_of(self, topic: str, triggered: bool) -> list[HandlerWork]:
        """The handlers whose pattern matches a topic. HOT."""
        route = self._routes.get((topic, triggered))
        if route is not None:
            return route
        route = []
        if triggered or is_published(topic, self._publish_topics):  # by hand it is meant
            route = [work for work in self._works if work.definition.pattern.matches(topic)]
        if len(self._routes) >= self._limits.topics_cached_max:
            self._routes.clear()
        self._routes[topic, triggered] = route
        return route
