"""The requests of the event store: their arguments, their answers, and that they need no index."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest

from cluster import indexing
from cluster.client import Client
from cluster.errors import Malformed
from cluster.indexing import Parts
from cluster.server import ServerLimits
from pubsub import log
from pubsub.log import Columns
from pubsub.store import event_index, event_query
from pubsub.store.event_terms import Recent
from tests.cluster.client_cluster import Cluster, client_of, cluster_of, outcome_of


@asynccontextmanager
async def store(limits: ServerLimits | None = None) -> AsyncIterator[tuple[Cluster, Client]]:
    """Thirty events of three topics, in three chains."""
    async with cluster_of(1, limits) as cluster, client_of(cluster) as client:
        for number in range(1, 31):
            await client.publish(
                f"orders.kind-{number % 3}",
                b"x" * 100,
                key=f"key-{number}",
                correlation_id=f"chain-{number // 10}",
                causation_id=number - 1,
            )
        yield cluster, client


async def found(client: Client, limit: int | None = None, **wanted: Any) -> list[int]:
    """The revisions on all pages."""
    revisions: list[int] = []
    async for page in client.every_event(limit=limit, **wanted):
        revisions += [event.revision for event in page.events]
        assert page.newest_revision == 30
    return revisions


async def test_events_are_found_by_every_field_of_a_filter() -> None:
    """Alone and together, in both directions, over any number of pages."""
    async with store() as (_, client):
        assert await found(client) == list(range(1, 31))
        assert await found(client, key="key-7") == [7]
        assert await found(client, actor="anonymous", from_revision=29) == [29, 30]
        assert await found(client, correlation_id="chain-3") == [30]
        assert await found(client, causation_id=4) == [5]
        topic = {"pattern": "orders.kind-1", "correlation_id": "chain-1"}
        assert await found(client, limit=2, **topic) == [10, 13, 16, 19]
        assert await found(client, limit=2, descending=True, **topic) == [19, 16, 13, 10]
        assert await found(client, pattern="*.kind-2", to_revision=5) == [2, 5]
        assert await found(client, pattern="payments.>") == []


async def test_times_are_bounds_that_include_themselves() -> None:
    """From the first event of a millisecond to the last one."""
    async with store() as (cluster, client):
        events, *_ = await client.read_events(1)
        middle = events[14]
        same = [event.revision for event in events if event.wall_ms == middle.wall_ms]
        at = middle.wall_ms
        assert await found(client, from_ms=at, to_ms=at) == same
        assert await found(client, from_ms=at) == list(range(same[0], 31))
        assert await found(client, to_ms=at) == list(range(1, same[-1] + 1))
        assert await found(client, from_ms=1 << 60) == []
        assert cluster.node.machine.revision == 30


async def test_an_event_is_got_by_its_revision() -> None:
    """One that is not there is nil."""
    async with store() as (_, client):
        event = await client.event(7)
        assert event is not None
        assert event.key == "key-7"
        assert await client.event(31) is None
        assert await client.event(0) is None


async def test_a_trace_is_all_of_a_correlation() -> None:
    """And says when it is cut."""
    async with store() as (_, client):
        events, more = await client.trace_events("chain-1")
        assert ([event.revision for event in events], more) == (list(range(10, 20)), False)
        events, more = await client.trace_events("chain-1", limit=3)
        assert (len(events), more) == (3, True)
        assert await client.trace_events("no-such") == ([], False)


async def test_pages_are_bounded_by_the_node() -> None:
    """However many events are asked for."""
    async with store(ServerLimits(page_rows_max=4)) as (_, client):
        page = await client.query_events(limit=1_000)
        assert len(page.events) == 4
        assert page.cursor == 5
        assert await found(client) == list(range(1, 31))
    async with store(ServerLimits(page_bytes_max=1)) as (_, client):
        assert len((await client.query_events()).events) == 1


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [
        ("events.query", [{"patern": "a"}], 'did you mean "pattern"'),
        ("events.query", [{"pattern": "a..b"}], "segment 2 is empty"),
        ("events.query", [{"key": 5}], "key must be text"),
        ("events.query", [{"correlation_id": -1}], "correlation_id must be identifier"),
        ("events.query", [{"from_ms": "now"}], "from_ms must be count"),
        ("events.query", [{}, "x"], "argument 1 must be count"),
        ("events.get", [], "argument 0 must be count"),
        ("events.trace", [None], "argument 0 must be identifier"),
        ("events.trace", ["x", 1, "sometimes"], "a consistency level is"),
    ],
)
async def test_wrong_arguments_are_named(name: str, arguments: list[Any], says: str) -> None:
    """With the nearest right thing."""
    async with store() as (_, client):
        outcome = await outcome_of(client, name, *arguments)
        assert isinstance(outcome, Malformed)
        assert says in str(outcome)


class IndexOfFile:
    """Opens an index for each query, as a node does, of a file that a test may spoil."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.distrusted: list[apsw.Error] = []

    def build(self, events: Columns) -> None:
        """Everything in one run."""
        connection = indexing._connect(self.path)
        connection.reserve_bytes(reserve=8)
        connection.pragma("journal_mode", "WAL")
        event_index.create(connection, "test")
        recent = Recent(1)
        recent.add(events)
        event_index.flush(connection, recent)
        connection.close()

    def spoil(self, table: str) -> None:
        """Flip a bit in the middle of each page of a table."""
        connection = indexing._connect(self.path)
        page_bytes = int(connection.pragma("page_size"))
        pages = connection.execute("SELECT pageno FROM dbstat WHERE name = ?", (table,)).fetchall()
        connection.close()
        content = bytearray(self.path.read_bytes())
        for row in pages:
            content[int(str(row[0])) * page_bytes - page_bytes // 2] ^= 1
        self.path.write_bytes(content)

    def open(self) -> Parts:
        connection = indexing._connect(self.path, readonly=True)
        return Parts(event_query.sources(connection, None), connection, self.distrusted.append)


async def test_an_index_that_breaks_changes_no_answer(tmp_path: Path) -> None:
    """A reader that meets a corrupt page answers without the index, and tells."""
    async with store() as (cluster, client):
        index = IndexOfFile(tmp_path / "index.db")
        events = log.columns(cluster.node.machine.connection, 1, 100, 1 << 20)
        assert events is not None
        index.build(events)
        cluster.node.open_index = index.open  # type: ignore[method-assign]
        assert await found(client, key="key-7") == [7]
        assert index.distrusted == []
        index.spoil("blocks")
        assert await found(client, key="key-7") == [7]
        assert index.distrusted
