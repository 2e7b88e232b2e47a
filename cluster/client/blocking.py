"""The client for programs without an event loop: every method waits for its answer.

    from cluster.client.blocking import open_client

    with open_client([("127.0.0.1", 7470)]) as client:
        client.put("greeting", b"hello")
        with client.group("billing").consume() as deliveries:
            for delivery in deliveries:  # acks the one before
                print(delivery.event.data)

The methods are those of `cluster.client.Client`, with the same arguments, results and errors; many
threads may share one client. It runs in a thread of its own (portal.py). Leave a consumer with its
block: what was acked is written down, what was not goes to somebody else at once.
"""

from __future__ import annotations

import ssl
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Sequence,
)
from concurrent.futures import Future
from contextlib import contextmanager
from functools import wraps
from types import TracebackType
from typing import Concatenate, Generic, ParamSpec, TypeVar, Unpack

from cluster.client.client import Client
from cluster.client.connector import Endpoint
from cluster.client.consumer import MEMBER_TTL_MS, Consumer
from cluster.client.delivery import Delivery as TrioDelivery
from cluster.client.delivery import Effect
from cluster.client.group import Group
from cluster.client.hooks import Hooks
from cluster.client.options import ClientOptions
from cluster.client.portal import Arrivals, Portal
from cluster.client.publishing import Meta
from cluster.client.subscription import Start, Subscription
from pubsub.events import Event

P = ParamSpec("P")
S = TypeVar("S")
S_co = TypeVar("S_co", covariant=True)
T = TypeVar("T")


class _Facade(Generic[S_co]):
    """Something of the client in the portal's thread."""

    def __init__(self, portal: Portal, target: S_co) -> None:
        self._portal = portal
        self._target = target


def _wait(future: Future[T]) -> T:
    try:
        return future.result()
    except BaseException:
        future.cancel()  # Interrupted: nobody waits for it any more.
        raise


def _blocking(
    method: Callable[Concatenate[S, P], Awaitable[T]],
) -> Callable[Concatenate[_Facade[S], P], T]:
    """The same method, waiting."""

    @wraps(method)
    def call(self: _Facade[S], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return _wait(self._portal.call(lambda: method(self._target, *args, **kwargs)))

    return call


def _iterating(
    method: Callable[Concatenate[S, P], AsyncIterator[T]],
) -> Callable[Concatenate[_Facade[S], P], Iterator[T]]:
    """The same method, as an iterator that waits."""

    @wraps(method)
    def call(self: _Facade[S], /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        iterator = method(self._target, *args, **kwargs)
        while True:
            try:
                yield _wait(self._portal.call(lambda: anext(iterator)))
            except StopAsyncIteration:
                return

    return call


class BlockingDelivery(_Facade[TrioDelivery]):
    """One event in hand; see `cluster.client.delivery.Delivery`."""

    @property
    def event(self) -> Event:
        """The event to handle."""
        return self._target.event

    @property
    def revision(self) -> int:
        """By which it counts in the group."""
        return self._target.revision

    @property
    def attempt(self) -> int:
        """1 for the first delivery, as far as is known."""
        return self._target.attempt

    @property
    def replayed(self) -> bool:
        """It was handed out before, by a replay or out of the dead letters."""
        return self._target.replayed

    @property
    def is_valid(self) -> bool:
        """False once it was settled or lost."""
        return self._target.is_valid

    ack = _blocking(TrioDelivery.ack)
    nack = _blocking(TrioDelivery.nack)
    dead_letter = _blocking(TrioDelivery.dead_letter)
    extend = _blocking(TrioDelivery.extend)

    def ack_nowait(self, effects: Iterable[Effect] = ()) -> None:
        """Ack without waiting: it travels with the next batch."""
        self._portal.settle_soon(self._target, list(effects))


class BlockingSubscription:
    """An iterator of events, to be left with its block or with `close`."""

    def __init__(self, portal: Portal, make: Callable[[], Subscription]) -> None:
        self._portal = portal
        self._made: list[Subscription] = []
        self._arrivals: Arrivals[Event] = Arrivals(portal, lambda: self._keep(make()))

    def __iter__(self) -> Iterator[Event]:
        return self

    def __next__(self) -> Event:
        """The next event; waits for it."""
        while (event := self._arrivals.pop()) is None:
            _wait(self._arrivals.refill())
        return event

    def __enter__(self) -> BlockingSubscription:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the subscription."""
        self._portal.soon(lambda: self._made[0].close())

    def _keep(self, subscription: Subscription) -> Subscription:
        self._made.append(subscription)
        return subscription


class BlockingConsumer(_Facade[Consumer]):
    """An iterator of deliveries; see `cluster.client.consumer.Consumer`."""

    def __init__(self, portal: Portal, target: Consumer, auto_ack: bool) -> None:
        super().__init__(portal, target)
        self._auto_ack = auto_ack
        self._last: BlockingDelivery | None = None
        self._arrivals: Arrivals[TrioDelivery] = Arrivals(portal, lambda: target)

    def __iter__(self) -> Iterator[BlockingDelivery]:
        return self

    def __next__(self) -> BlockingDelivery:
        """The next delivery; acks the one before, if it is still in hand and not settled."""
        last, self._last = self._last, None
        if last is not None and self._auto_ack:
            last.ack_nowait()
        while True:
            delivery = self._arrivals.pop()
            if delivery is None:
                _wait(self._arrivals.refill())
            elif delivery.is_valid:  # Else it was lost on its way here, and comes again.
                self._last = BlockingDelivery(self._portal, delivery)
                return self._last

    def __enter__(self) -> BlockingConsumer:
        _wait(self._portal.call(self._target.__aenter__))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def member(self) -> str:
        """The name under which it is a member of the group."""
        return self._target.member

    flush = _blocking(Consumer.flush)
    close = _blocking(Consumer.aclose)


class BlockingGroup(_Facade[Group]):
    """One consumer group; see `cluster.client.group.Group`."""

    @property
    def name(self) -> str:
        """The group's name."""
        return self._target.name

    create = _blocking(Group.create)
    describe = _blocking(Group.describe)
    pause = _blocking(Group.pause)
    resume = _blocking(Group.resume)
    seek = _blocking(Group.seek)
    skip = _blocking(Group.skip)
    delete = _blocking(Group.delete)
    dead_letters = _blocking(Group.dead_letters)
    redrive = _blocking(Group.redrive)
    purge = _blocking(Group.purge)

    def consume(
        self,
        member: str | None = None,
        *,
        prefetch: int | None = None,
        auto_ack: bool = True,
        ttl_ms: int = MEMBER_TTL_MS,
    ) -> BlockingConsumer:
        """A consumer of the group's events; see `cluster.client.group.Group.consume`."""
        consumer = self._target.consume(member, prefetch=prefetch, auto_ack=False, ttl_ms=ttl_ms)
        return BlockingConsumer(self._portal, consumer, auto_ack)


class BlockingHooks(_Facade[Hooks]):
    """The handlers of the cluster; see `cluster.client.hooks.Hooks`."""

    list = _blocking(Hooks.list)
    info = _blocking(Hooks.info)
    metrics = _blocking(Hooks.metrics)
    trigger = _blocking(Hooks.trigger)
    enable = _blocking(Hooks.enable)
    disable = _blocking(Hooks.disable)
    forget = _blocking(Hooks.forget)
    settings = _blocking(Hooks.settings)
    set_publish_topics = _blocking(Hooks.set_publish_topics)
    events = _blocking(Hooks.events)
    explain = _blocking(Hooks.explain)
    test = _blocking(Hooks.test)
    history = _blocking(Hooks.history)
    wait = _blocking(Hooks.wait)


class BlockingClient(_Facade[Client]):
    """What a cluster offers; every method may raise a `TremulaError`."""

    request = _blocking(Client.request)
    put = _blocking(Client.put)
    delete = _blocking(Client.delete)
    batch = _blocking(Client.batch)
    txn = _blocking(Client.txn)
    get = _blocking(Client.get)
    range = _blocking(Client.range)
    count = _blocking(Client.count)
    publish = _blocking(Client.publish)
    publish_batch = _blocking(Client.publish_batch)
    publish_all = _blocking(Client.publish_all)
    publish_later = _blocking(Client.publish_later)
    cancel_delayed = _blocking(Client.cancel_delayed)
    delayed_events = _blocking(Client.delayed_events)
    topics = _blocking(Client.topics)
    read_events = _blocking(Client.read_events)
    event = _blocking(Client.event)
    query_events = _blocking(Client.query_events)
    every_event = _iterating(Client.every_event)
    trace_events = _blocking(Client.trace_events)
    status = _blocking(Client.status)
    members = _blocking(Client.members)
    groups = _blocking(Client.groups)
    wait_handled = _blocking(Client.wait_handled)

    @property
    def node(self) -> str | None:
        """The name of the node that is connected at the moment."""
        return self._target.node

    @property
    def hooks(self) -> BlockingHooks:
        """The handlers of the cluster."""
        return BlockingHooks(self._portal, self._target.hooks)

    def with_meta(self, **meta: Unpack[Meta]) -> BlockingClient:
        """The same client, whose requests say what they belong to and what caused them."""
        return BlockingClient(self._portal, self._target.with_meta(**meta))

    def group(self, name: str) -> BlockingGroup:
        """The consumer group of that name."""
        return BlockingGroup(self._portal, self._target.group(name))

    def subscribe(
        self, pattern: str, start: Start = "latest", *, credits: int | None = None
    ) -> BlockingSubscription:
        """Events that match, from a revision, "latest", "earliest" or ["time", wall_ms] on."""
        return BlockingSubscription(
            self._portal, lambda: self._target.subscribe(pattern, start, credits=credits)
        )

    def watch(
        self, key_prefix: str, start: Start = "latest", *, credits: int | None = None
    ) -> BlockingSubscription:
        """Every change of the keys that begin with `key_prefix`."""
        return BlockingSubscription(
            self._portal, lambda: self._target.watch(key_prefix, start, credits=credits)
        )


@contextmanager
def open_client(
    endpoints: Sequence[Endpoint],
    *,
    tls: ssl.SSLContext | None = None,
    options: ClientOptions | None = None,
) -> Iterator[BlockingClient]:
    """A client for the time of the block; see `cluster.client.open_client`."""
    portal = Portal(endpoints, tls=tls, options=options)
    portal.start().result()
    try:
        yield BlockingClient(portal, portal.client)
    finally:
        portal.stop()
