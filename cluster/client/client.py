"""The client of a cluster, for programs under trio.

    async with open_client([("127.0.0.1", 7470)]) as client:
        revision = await client.put("greeting", b"hello")

Any node serves. A request is repeated on another node as long as that is safe, until its timeout;
then it ends with a `DefiniteError` (it did not happen) or `OutcomeUnknown` (it may have). A
mutation is applied once however often it was sent. Requests that are under way together have no
order among each other: await the first where the order matters.

Many tasks may share one client: they share its connection and its session.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from random import Random
from typing import Any, NamedTuple, Unpack

import outcome
import trio

from cluster import VERSION
from cluster.client.call import Done
from cluster.client.connector import Connector, Endpoint
from cluster.client.consumer import CLOSE_S, Consumer
from cluster.client.dispatcher import Dispatcher
from cluster.client.event_store import EventStore
from cluster.client.group import Group
from cluster.client.hooks import WAIT_MS, Handled, Hooks
from cluster.client.options import ClientOptions
from cluster.client.publishing import Meta, Publishing, trace_of, with_defaults
from cluster.client.subscription import Start, Subscription, event_from_wire
from cluster.errors import TremulaError
from cluster.net import Dialer, TcpNetwork
from cluster.protocol import LINEARIZABLE
from pubsub.events import Event


class Entry(NamedTuple):
    """A key of the store; `value` is None where only keys were asked for."""

    key: str
    value: bytes | None
    create_revision: int
    mod_revision: int
    version: int
    expires_ms: int | None


class Page(NamedTuple):
    """Some keys of a range; `revision` is that of the state they were read from."""

    entries: list[Entry]
    more: bool
    revision: int


class Client(Publishing, EventStore):
    """What a cluster offers. Every method may raise a `TremulaError`."""

    def __init__(self, dispatcher: Dispatcher, nursery: trio.Nursery, random: Random) -> None:
        self.dispatcher = dispatcher
        self.nursery = nursery
        self.random = random
        self.consumers: dict[Consumer, None] = {}
        self._trace: list[Any] | None = None  # of requests that say nothing about their cause

    def with_meta(self, **meta: Unpack[Meta]) -> Client:
        """The same client, whose requests say what they belong to and what caused them, unless a
        request says something else itself."""
        client = Client(self.dispatcher, self.nursery, self.random)
        client.consumers = self.consumers
        trace = trace_of(**meta)
        client._trace = with_defaults(trace, self._trace)
        return client

    @property
    def node(self) -> str | None:
        """The name of the node that is connected at the moment."""
        link = self.dispatcher.link
        return None if link is None else link.facts.get("node")

    async def request(
        self,
        name: str,
        args: Sequence[Any] = (),
        *,
        timeout_ms: int | None = None,
        trace: list[Any] | None = None,
        identity: tuple[int, int] | None = None,
    ) -> Any:
        """Any request of docs/protocol.md.

        `trace` is [correlation id, causation id, hops, traceparent]; `identity` see `Dispatcher`.
        """
        task: trio.lowlevel.Task | None = None
        results: list[Any] = []

        def done(result: Any) -> None:
            if task is not None:
                trio.lowlevel.reschedule(task, outcome.Value(result))
            else:
                results.append(result)

        def abandon(_: object) -> trio.lowlevel.Abort:
            nonlocal task
            task = None  # Cancelled: the answer goes nowhere.
            return trio.lowlevel.Abort.SUCCEEDED

        if self._trace is not None:
            trace = with_defaults(trace, self._trace)
        self.dispatcher.start(name, list(args), done, timeout_ms, trace, identity)
        if results:
            result = results[0]
        else:
            task = trio.lowlevel.current_task()
            result = await trio.lowlevel.wait_task_rescheduled(abandon)
        if isinstance(result, TremulaError):
            raise result
        return result

    def request_nowait(
        self, name: str, args: list[Any], done: Done, *, timeout_ms: int | None = None
    ) -> None:
        """The same without a task: `done(result or TremulaError)` is called once. HOT."""
        self.dispatcher.start(name, args, done, timeout_ms, self._trace)

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        ttl_ms: int | None = None,
        expected_revision: int | None = None,
        timeout_ms: int | None = None,
    ) -> int:
        """Write a key; returns the revision. `expected_revision` 0: only if it does not exist."""
        args = [key, value, ttl_ms, expected_revision]
        return int(await self.request("put", args, timeout_ms=timeout_ms))

    async def delete(
        self, key: str, *, expected_revision: int | None = None, timeout_ms: int | None = None
    ) -> int:
        """Delete a key; returns the revision, or 0 if there was nothing to delete."""
        args = [key, expected_revision]
        return int(await self.request("delete", args, timeout_ms=timeout_ms))

    async def batch(
        self, operations: Iterable[Sequence[Any]], *, timeout_ms: int | None = None
    ) -> tuple[int, int]:
        """All of `["put", ...]`, `["delete", ...]` or nothing; returns (first revision, count)."""
        args = [[list(operation) for operation in operations]]
        first, count = await self.request("batch", args, timeout_ms=timeout_ms)
        return first, count

    async def txn(
        self,
        compares: Iterable[Sequence[Any]],
        thens: Iterable[Sequence[Any]] = (),
        elses: Iterable[Sequence[Any]] = (),
        *,
        timeout_ms: int | None = None,
    ) -> tuple[bool, list[Any]]:
        """Compare, then do one of two lists, in one step; returns (succeeded, results)."""
        args = [[list(item) for item in items] for items in (compares, thens, elses)]
        succeeded, results = await self.request("txn", args, timeout_ms=timeout_ms)
        return succeeded, results

    async def get(
        self, key: str, *, level: str = LINEARIZABLE, timeout_ms: int | None = None
    ) -> Entry | None:
        """The key, or None. `level` "local": this node's applied state, possibly old."""
        row = await self.request("get", [key, level], timeout_ms=timeout_ms)
        return None if row is None else Entry(*row)

    async def range(
        self,
        start: str,
        end: str | None = "",
        *,
        limit: int | None = None,
        after: str | None = None,
        keys_only: bool = False,
        level: str = LINEARIZABLE,
        timeout_ms: int | None = None,
    ) -> Page:
        """One page of the keys from `start` up to before `end` ("" = no end), after `after`."""
        args = [start, end, limit, after, keys_only, level]
        rows, more, revision = await self.request("range", args, timeout_ms=timeout_ms)
        return Page([Entry(*row) for row in rows], more, revision)

    async def count(
        self,
        start: str,
        end: str | None = "",
        *,
        level: str = LINEARIZABLE,
        timeout_ms: int | None = None,
    ) -> int:
        """How many keys there are from `start` up to before `end`."""
        return int(await self.request("count", [start, end, level], timeout_ms=timeout_ms))

    async def read_events(
        self,
        from_revision: int,
        *,
        pattern: str | None = None,
        limit: int | None = None,
        level: str = LINEARIZABLE,
        timeout_ms: int | None = None,
    ) -> tuple[list[Event], int, int]:
        """One page of the log: (events that match, revision to go on from, newest revision).

        A page may be empty and not the last one: the log ends where the two revisions meet.
        """
        args = [from_revision, pattern, limit, level]
        events, following, newest = await self.request("events.read", args, timeout_ms=timeout_ms)
        return [event_from_wire(fields) for fields in events], following, newest

    async def status(self, *, timeout_ms: int | None = None) -> dict[str, Any]:
        """Facts about the node that is connected, for people."""
        return dict(await self.request("status", timeout_ms=timeout_ms))

    async def members(
        self, *, level: str = LINEARIZABLE, timeout_ms: int | None = None
    ) -> list[list[str]]:
        """The configuration: [name, uid, address, "voter" | "learner"] of each member."""
        return list(await self.request("members", [level], timeout_ms=timeout_ms))

    def subscribe(
        self, pattern: str, start: Start = "latest", *, credits: int | None = None
    ) -> Subscription:
        """Events that match, from a revision, "latest", "earliest" or ["time", wall_ms] on; of the
        cluster's own ones those that `publish_topics` lets through."""
        granted = self.dispatcher.options.credits if credits is None else credits
        return Subscription(self.dispatcher, pattern, start, granted)

    def group(self, name: str) -> Group:
        """The consumer group of that name."""
        return Group(self, name)

    async def groups(
        self, after: str = "", limit: int | None = None, *, timeout_ms: int | None = None
    ) -> list[dict[str, Any]]:
        """A page of the consumer groups, each as `Group.describe` has it, by name."""
        args = [after, limit]
        return list(await self.request("group.list", args, timeout_ms=timeout_ms))

    @property
    def hooks(self) -> Hooks:
        """The handlers of the cluster."""
        return Hooks(self)

    async def wait_handled(
        self, handler: str, revision: int, *, timeout_ms: int = WAIT_MS
    ) -> Handled:
        """Wait until a handler is done with an event, such as that of a put; see `Hooks.wait`."""
        return await self.hooks.wait(handler, revision, timeout_ms=timeout_ms)

    def watch(
        self, key_prefix: str, start: Start = "latest", *, credits: int | None = None
    ) -> Subscription:
        """Every change of the keys that begin with `key_prefix`, whatever `publish_topics` says."""
        granted = self.dispatcher.options.credits if credits is None else credits
        return Subscription(self.dispatcher, "hooks.kv.*", start, granted, key_prefix)


def make_client(
    nursery: trio.Nursery,
    endpoints: Sequence[Endpoint],
    *,
    network: Dialer,
    tls: ssl.SSLContext | None = None,
    options: ClientOptions | None = None,
    random: Random | None = None,
) -> Client:
    """A client for as long as `nursery` lives; nobody says farewell for it."""
    options = options or ClientOptions()
    random = random or Random()
    info: dict[str, object] = {"client": f"tremula-python/{VERSION}"}
    dispatcher = Dispatcher(Connector(network, endpoints, tls, options, random, info), options)
    nursery.start_soon(dispatcher.run)
    return Client(dispatcher, nursery, random)


@asynccontextmanager
async def open_client(
    endpoints: Sequence[Endpoint],
    *,
    tls: ssl.SSLContext | None = None,
    options: ClientOptions | None = None,
    network: Dialer | None = None,
    random: Random | None = None,
) -> AsyncIterator[Client]:
    """A client for the time of the block. It connects in the background, to the first endpoint
    that answers; requests wait for that as long as their timeout allows."""
    if not endpoints:
        raise ValueError("a client needs at least one endpoint")
    problem: Exception | None = None
    async with trio.open_nursery() as outer:
        # A program that is cancelled still writes down what its consumers acked, and leaves.
        nursery = outer if network is not None else await outer.start(_shielded_nursery)
        client = make_client(
            nursery,
            endpoints,
            network=network or TcpNetwork(nursery),
            tls=tls,
            options=options,
            random=random,
        )
        try:
            yield client
        except Exception as error:
            # Carried around the nursery, which would wrap it in an ExceptionGroup: `except
            # Rejected` around the block is to work as inside it.
            problem = error
        finally:
            await _leave_groups(client)
            client.dispatcher.farewell()
            nursery.cancel_scope.cancel()
    if problem is not None:
        raise problem


async def _shielded_nursery(task_status: trio.TaskStatus[trio.Nursery]) -> None:
    """A nursery that ends when it is cancelled itself, and not with its surroundings."""
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            task_status.started(nursery)
            await trio.sleep_forever()


async def _leave_groups(client: Client) -> None:
    """Let the consumers leave that are still there: their events go on at once elsewhere."""
    if client.consumers:
        with trio.CancelScope(deadline=trio.current_time() + CLOSE_S, shield=True):
            async with trio.open_nursery() as nursery:
                for consumer in list(client.consumers):
                    nursery.start_soon(consumer.aclose)
