"""The client for programs under asyncio: the same methods, to be awaited there.

    from cluster.client.asyncio import open_client

    async with open_client([("127.0.0.1", 7470)]) as client:
        await client.put("greeting", b"hello")
        async with client.group("billing").consume() as deliveries:
            async for delivery in deliveries:  # acks the one before
                print(delivery.event.data)

The methods are those of `cluster.client.Client`, with the same arguments, results and errors. The
client runs under trio in a thread of its own (portal.py); a coroutine that is cancelled gives up
waiting, which does not take back what was sent.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Sequence,
)
from contextlib import asynccontextmanager
from functools import wraps
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, Unpack

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


def _awaited(
    method: Callable[Concatenate[S, P], Awaitable[T]],
) -> Callable[Concatenate[_Facade[S], P], Coroutine[Any, Any, T]]:
    """The same method, as a coroutine of asyncio."""

    @wraps(method)
    async def call(self: _Facade[S], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.wrap_future(
            self._portal.call(lambda: method(self._target, *args, **kwargs))
        )

    return call


def _iterating(
    method: Callable[Concatenate[S, P], AsyncIterator[T]],
) -> Callable[Concatenate[_Facade[S], P], AsyncIterator[T]]:
    """The same method, as an iterator of asyncio."""

    @wraps(method)
    async def call(self: _Facade[S], /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[T]:
        iterator = method(self._target, *args, **kwargs)
        while True:
            try:
                item = await asyncio.wrap_future(self._portal.call(lambda: anext(iterator)))
            except StopAsyncIteration:
                return
            yield item

    return call


class AsyncioDelivery(_Facade[TrioDelivery]):
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

    ack = _awaited(TrioDelivery.ack)
    nack = _awaited(TrioDelivery.nack)
    dead_letter = _awaited(TrioDelivery.dead_letter)
    extend = _awaited(TrioDelivery.extend)

    def ack_nowait(self, effects: Iterable[Effect] = ()) -> None:
        """Ack without waiting: it travels with the next batch."""
        self._portal.settle_soon(self._target, list(effects))


class AsyncioSubscription:
    """An iterator of events, to be left with its block or with `close`."""

    def __init__(self, portal: Portal, make: Callable[[], Subscription]) -> None:
        self._portal = portal
        self._made: list[Subscription] = []
        self._arrivals: Arrivals[Event] = Arrivals(portal, lambda: self._keep(make()))

    def __aiter__(self) -> AsyncIterator[Event]:
        return self

    async def __anext__(self) -> Event:
        """The next event; waits for it."""
        while (event := self._arrivals.pop()) is None:
            await asyncio.wrap_future(self._arrivals.refill())
        return event

    async def __aenter__(self) -> AsyncioSubscription:
        return self

    async def __aexit__(
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


class AsyncioConsumer(_Facade[Consumer]):
    """An iterator of deliveries; see `cluster.client.consumer.Consumer`."""

    def __init__(self, portal: Portal, target: Consumer, auto_ack: bool) -> None:
        super().__init__(portal, target)
        self._auto_ack = auto_ack
        self._last: AsyncioDelivery | None = None
        self._arrivals: Arrivals[TrioDelivery] = Arrivals(portal, lambda: target)

    def __aiter__(self) -> AsyncIterator[AsyncioDelivery]:
        return self

    async def __anext__(self) -> AsyncioDelivery:
        """The next delivery; acks the one before, if it is still in hand and not settled."""
        last, self._last = self._last, None
        if last is not None and self._auto_ack:
            last.ack_nowait()
        while True:
            delivery = self._arrivals.pop()
            if delivery is None:
                await asyncio.wrap_future(self._arrivals.refill())
            elif delivery.is_valid:  # Else it was lost on its way here, and comes again.
                self._last = AsyncioDelivery(self._portal, delivery)
                return self._last

    async def __aenter__(self) -> AsyncioConsumer:
        await asyncio.wrap_future(self._portal.call(self._target.__aenter__))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    @property
    def member(self) -> str:
        """The name under which it is a member of the group."""
        return self._target.member

    flush = _awaited(Consumer.flush)
    aclose = _awaited(Consumer.aclose)


class AsyncioGroup(_Facade[Group]):
    """One consumer group; see `cluster.client.group.Group`."""

    @property
    def name(self) -> str:
        """The group's name."""
        return self._target.name

    create = _awaited(Group.create)
    describe = _awaited(Group.describe)
    pause = _awaited(Group.pause)
    resume = _awaited(Group.resume)
    seek = _awaited(Group.seek)
    skip = _awaited(Group.skip)
    delete = _awaited(Group.delete)
    dead_letters = _awaited(Group.dead_letters)
    redrive = _awaited(Group.redrive)
    purge = _awaited(Group.purge)

    def consume(
        self,
        member: str | None = None,
        *,
        prefetch: int | None = None,
        auto_ack: bool = True,
        ttl_ms: int = MEMBER_TTL_MS,
    ) -> AsyncioConsumer:
        """A consumer of the group's events; see `cluster.client.group.Group.consume`."""
        consumer = self._target.consume(member, prefetch=prefetch, auto_ack=False, ttl_ms=ttl_ms)
        return AsyncioConsumer(self._portal, consumer, auto_ack)


class AsyncioHooks(_Facade[Hooks]):
    """The handlers of the cluster; see `cluster.client.hooks.Hooks`."""

    list = _awaited(Hooks.list)
    info = _awaited(Hooks.info)
    metrics = _awaited(Hooks.metrics)
    trigger = _awaited(Hooks.trigger)
    enable = _awaited(Hooks.enable)
    disable = _awaited(Hooks.disable)
    forget = _awaited(Hooks.forget)
    settings = _awaited(Hooks.settings)
    set_publish_topics = _awaited(Hooks.set_publish_topics)
    events = _awaited(Hooks.events)
    explain = _awaited(Hooks.explain)
    test = _awaited(Hooks.test)
    history = _awaited(Hooks.history)
    wait = _awaited(Hooks.wait)


class AsyncioClient(_Facade[Client]):
    """What a cluster offers; every method may raise a `TremulaError`."""

    request = _awaited(Client.request)
    put = _awaited(Client.put)
    delete = _awaited(Client.delete)
    batch = _awaited(Client.batch)
    txn = _awaited(Client.txn)
    get = _awaited(Client.get)
    range = _awaited(Client.range)
    count = _awaited(Client.count)
    publish = _awaited(Client.publish)
    publish_batch = _awaited(Client.publish_batch)
    publish_all = _awaited(Client.publish_all)
    publish_later = _awaited(Client.publish_later)
    cancel_delayed = _awaited(Client.cancel_delayed)
    delayed_events = _awaited(Client.delayed_events)
    topics = _awaited(Client.topics)
    read_events = _awaited(Client.read_events)
    event = _awaited(Client.event)
    query_events = _awaited(Client.query_events)
    every_event = _iterating(Client.every_event)
    trace_events = _awaited(Client.trace_events)
    status = _awaited(Client.status)
    members = _awaited(Client.members)
    groups = _awaited(Client.groups)
    wait_handled = _awaited(Client.wait_handled)

    @property
    def node(self) -> str | None:
        """The name of the node that is connected at the moment."""
        return self._target.node

    @property
    def hooks(self) -> AsyncioHooks:
        """The handlers of the cluster."""
        return AsyncioHooks(self._portal, self._target.hooks)

    def with_meta(self, **meta: Unpack[Meta]) -> AsyncioClient:
        """The same client, whose requests say what they belong to and what caused them."""
        return AsyncioClient(self._portal, self._target.with_meta(**meta))

    def group(self, name: str) -> AsyncioGroup:
        """The consumer group of that name."""
        return AsyncioGroup(self._portal, self._target.group(name))

    def subscribe(
        self, pattern: str, start: Start = "latest", *, credits: int | None = None
    ) -> AsyncioSubscription:
        """Events that match, from a revision, "latest", "earliest" or ["time", wall_ms] on."""
        return AsyncioSubscription(
            self._portal, lambda: self._target.subscribe(pattern, start, credits=credits)
        )

    def watch(
        self, key_prefix: str, start: Start = "latest", *, credits: int | None = None
    ) -> AsyncioSubscription:
        """Every change of the keys that begin with `key_prefix`."""
        return AsyncioSubscription(
            self._portal, lambda: self._target.watch(key_prefix, start, credits=credits)
        )


@asynccontextmanager
async def open_client(
    endpoints: Sequence[Endpoint],
    *,
    tls: ssl.SSLContext | None = None,
    options: ClientOptions | None = None,
) -> AsyncIterator[AsyncioClient]:
    """A client for the time of the block; see `cluster.client.open_client`."""
    portal = Portal(endpoints, tls=tls, options=options)
    await asyncio.wrap_future(portal.start())
    try:
        yield AsyncioClient(portal, portal.client)
    finally:
        await asyncio.to_thread(portal.stop)
