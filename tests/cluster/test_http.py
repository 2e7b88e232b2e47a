"""The three HTTP pages of a node, over real loopback connections."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from cluster.http import REQUEST_BYTES_MAX, HttpPages
from cluster.metrics import NodeMetrics
from cluster.net import TcpNetwork


class Server:
    """A node's pages on a port of their own; `problem` is what /readyz reports."""

    def __init__(self, port: int, metrics: NodeMetrics) -> None:
        self.port = port
        self.metrics = metrics
        self.problem: str | None = None

    async def ask(self, request: bytes) -> tuple[str, str, str]:
        """Status, headers and body of the answer to `request`."""
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            await stream.send_all(request)
            answer = b"".join([chunk async for chunk in stream]).decode()
        head, _, body = answer.partition("\r\n\r\n")
        status, _, headers = head.partition("\r\n")
        return status.removeprefix("HTTP/1.1 "), headers, body

    def strangers(self, reason: str) -> float:
        """How many connections were counted for `reason`."""
        sample = self.metrics.registry.get_sample_value
        return sample("tremula_strangers_total", {"port": "http", "reason": reason}) or 0.0


@asynccontextmanager
async def _serving() -> AsyncIterator[Server]:
    async with trio.open_nursery() as nursery:
        metrics = NodeMetrics()
        server = Server(0, metrics)
        pages = HttpPages(metrics, live=lambda: None, ready=lambda: server.problem)
        network = TcpNetwork(nursery)
        listener = await network.serve("127.0.0.1", 0, None, pages.serve, nursery)
        server.port = listener.port
        yield server
        listener.close()
        nursery.cancel_scope.cancel()


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()


async def test_metrics_are_served_in_prometheus_format() -> None:
    """A scrape gets the node's registry, with the content type that Prometheus knows."""
    async with _serving() as server:
        status, headers, body = await server.ask(_get("/metrics?x=1"))
    assert status == "200 OK"
    assert "Content-Type: text/plain; version=0.0.4" in headers
    assert "# TYPE tremula_raft_fsync_seconds histogram" in body
    assert f"Content-Length: {len(body)}" in headers


async def test_readiness_says_why_not() -> None:
    """/readyz is 503 with the reason until the node can serve; /livez does not care."""
    async with _serving() as server:
        server.problem = "no leader is known"
        assert (await server.ask(_get("/readyz")))[::2] == (
            "503 Service Unavailable",
            "no leader is known\n",
        )
        assert (await server.ask(_get("/livez")))[::2] == ("200 OK", "ok\n")
        server.problem = None
        assert (await server.ask(_get("/readyz")))[::2] == ("200 OK", "ok\n")


async def test_head_has_no_body() -> None:
    """HEAD answers like GET without the page."""
    async with _serving() as server:
        status, headers, body = await server.ask(b"HEAD /livez HTTP/1.1\r\n\r\n")
    assert (status, body) == ("200 OK", "")
    assert "Content-Length: 3" in headers


@pytest.mark.parametrize(
    ("request_line", "status"),
    [("POST /metrics", "405 Method Not Allowed"), ("GET /secret", "404 Not Found")],
)
async def test_other_methods_and_pages_are_refused(request_line: str, status: str) -> None:
    """Nothing but three pages is there."""
    async with _serving() as server:
        assert (await server.ask(f"{request_line} HTTP/1.1\r\n\r\n".encode()))[0] == status


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"hello\r\n\r\n",
        b"GET http://x/ HTTP/1.1\r\n\r\n",
        b"GET / HTTP/2\r\n\r\n",
        b"GET /" + b"x" * REQUEST_BYTES_MAX + b" HTTP/1.1\r\n\r\n",
    ],
    ids=["words", "proxy", "version", "long"],
)
async def test_strangers_are_told_so_and_counted(request_bytes: bytes) -> None:
    """What is not a short HTTP/1.1 request is answered with 400, closed and counted."""
    async with _serving() as server:
        assert (await server.ask(request_bytes))[0] == "400 Bad Request"
        assert server.strangers("malformed") == 1


async def test_silent_caller_is_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    """A connection that sends nothing is closed after the bound and counted as slow."""

    class Silent:
        """A session on which nothing ever arrives."""

        peer = None
        buffered_bytes = 0
        closed = False
        close_reason = None

        async def receive(self) -> bytes:
            await trio.sleep(3600)
            return b""

        def send_nowait(self, data: bytes) -> None:
            raise AssertionError("nothing was asked")

        async def drain(self) -> None:
            await trio.lowlevel.checkpoint()

        def close(self, reason: str = "closed") -> None:
            pass

    metrics = NodeMetrics()
    pages = HttpPages(metrics, live=lambda: None, ready=lambda: None)
    await pages.serve(Silent())  # type: ignore[arg-type]
    labels = {"port": "http", "reason": "slow"}
    assert metrics.registry.get_sample_value("tremula_strangers_total", labels) == 1
