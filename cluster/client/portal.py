"""The client in a thread of its own, for programs that do not run under trio.

A portal runs trio and one `Client` in a thread, takes calls from any other thread, and gives each a
`concurrent.futures.Future`. What is waited for in the thread is a task there; a future that is
cancelled cancels it.

May not: know what is called.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from functools import partial
from ssl import SSLContext
from typing import Any, Final, Generic, Protocol, TypeVar

import trio

from cluster.client.client import Client, open_client
from cluster.client.connector import Endpoint
from cluster.client.delivery import Delivery, Effect, verdict_of
from cluster.client.options import ClientOptions
from cluster.errors import Closed, TremulaError
from cluster.net import Dialer

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

BATCH_MAX: Final = 64
"""What has arrived crosses between the threads together, as far as this."""


class Portal:
    """One client in one thread. `start` it, `call` it from anywhere, `stop` it."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        tls: SSLContext | None = None,
        options: ClientOptions | None = None,
        network: Callable[[trio.Nursery], Dialer] | None = None,
    ) -> None:
        """`network` makes another one than the machine's, for the life of a nursery."""
        self._open = partial(open_client, endpoints, tls=tls, options=options)
        self._network = network
        self._client: Client | None = None
        self._nursery: trio.Nursery | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._stop: trio.Event | None = None
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=self._main, name="tremula-client", daemon=True)

    @property
    def client(self) -> Client:
        """The client; only what runs in the portal's thread may touch it."""
        if self._client is None:
            raise Closed
        return self._client

    def start(self) -> Future[None]:
        """Start the thread; the future is done when the client takes calls."""
        self._thread.start()
        return self._started

    def call(self, function: Callable[[], Awaitable[T]]) -> Future[T]:
        """Run an async function in the portal's thread."""
        future: Future[T] = Future()
        self.soon(partial(self._begin, function, future), future)
        return future

    def soon(self, function: Callable[[], object], future: Future[Any] | None = None) -> None:
        """Run a function in the portal's thread, soon; `future` is told if the portal is closed."""
        try:
            if self._token is None:
                raise Closed
            self._token.run_sync_soon(function)
        except (Closed, trio.RunFinishedError):
            if future is not None:
                future.set_exception(Closed())

    def settle_soon(self, delivery: Delivery, effects: list[Effect]) -> None:
        """Ack in the portal's thread, soon; what is lost by then comes again anyway. What is wrong
        with the effects is raised here."""
        verdict = verdict_of(effects) if effects else None

        def ack() -> None:
            if not delivery.is_settled:
                try:
                    delivery.holder.settle(delivery, verdict, None)
                except TremulaError:
                    pass  # Fenced: as for everything that is not acked.

        self.soon(ack)

    def stop(self) -> None:
        """Let consumers leave, close the client, and end the thread; waits for that."""
        if self._token is not None and self._stop is not None:
            self.soon(self._stop.set)
        self._thread.join()

    def _begin(self, function: Callable[[], Awaitable[T]], future: Future[T]) -> None:
        if self._nursery is None:
            future.set_exception(Closed())
        else:
            self._nursery.start_soon(self._work, function, future)

    async def _work(self, function: Callable[[], Awaitable[T]], future: Future[T]) -> None:
        try:
            with trio.CancelScope() as scope:
                future.add_done_callback(partial(self._abandon, scope))
                try:
                    result = await function()
                except Exception as error:
                    _tell(future, error=error)
                else:
                    _tell(future, result=result)
        finally:
            if not future.done():
                _tell(future, error=Closed())

    def _abandon(self, scope: trio.CancelScope, future: Future[Any]) -> None:
        """Whoever waited has gone: so may the work."""
        if future.cancelled():
            self.soon(scope.cancel)

    def _main(self) -> None:
        try:
            trio.run(self._run)
        except BaseException as error:
            if not self._started.done():
                self._started.set_exception(error)
            else:
                raise

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._stop = trio.Event()
        async with trio.open_nursery() as outer:
            await self._serve(None if self._network is None else self._network(outer), self._stop)
            outer.cancel_scope.cancel()

    async def _serve(self, network: Dialer | None, stop: trio.Event) -> None:
        async with self._open(network=network) as client:
            try:
                async with trio.open_nursery() as nursery:
                    self._client, self._nursery = client, nursery
                    self._started.set_result(None)
                    await stop.wait()
                    self._nursery = None
                    nursery.cancel_scope.cancel()
            finally:
                self._client = self._nursery = None


def _tell(future: Future[Any], *, result: Any = None, error: Exception | None = None) -> None:
    """Answer, unless whoever asked is gone."""
    if future.cancelled() or not future.set_running_or_notify_cancel():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


class Source(Protocol[T_co]):
    """What is iterated in the portal's thread."""

    async def __anext__(self) -> T_co:
        """The next item."""

    def next_nowait(self) -> T_co | None:
        """The next item that has arrived."""


class Arrivals(Generic[T]):
    """Items of a `Source` on their way to another thread, many at a time."""

    def __init__(self, portal: Portal, make: Callable[[], Source[T]]) -> None:
        """`make` makes the source, in the portal's thread, before anything that is asked later."""
        self._portal = portal
        self._sources: list[Source[T]] = []
        portal.soon(lambda: self._sources.append(make()))
        self._items: deque[T] = deque()

    def pop(self) -> T | None:
        """The next item that is here."""
        return self._items.popleft() if self._items else None

    def refill(self) -> Future[None]:
        """Wait until there is an item, or raise what ended the source."""
        return self._portal.call(self._refill)

    async def _refill(self) -> None:
        (source,) = self._sources
        self._items.append(await source.__anext__())
        while len(self._items) < BATCH_MAX and (item := source.next_nowait()) is not None:
            self._items.append(item)
