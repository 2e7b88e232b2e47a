"""/metrics, /livez and /readyz: three fixed pages over HTTP/1.1, for probes and for Prometheus.

Not a web server: GET and HEAD, no body, one request per connection, and bounds on everything that
a stranger sends: bytes of a request, time for it, time to take the answer. Connections are bounded
by the listener (cluster.net).
"""

from collections.abc import Callable
from typing import Final

import trio

from cluster.metrics import NodeMetrics
from cluster.net import Session

REQUEST_BYTES_MAX: Final = 8_192  # nginx and Apache take 8 KiB of request line and headers
EXCHANGE_S: Final = 5.0  # Prometheus gives up after 10 s, a Kubernetes probe after 1 s
TEXT: Final = "text/plain; charset=utf-8"
METRICS: Final = "text/plain; version=0.0.4; charset=utf-8"

# A check answers None when all is well, else the reason in words.
Check = Callable[[], str | None]


class HttpPages:
    """The pages of one node; `serve` is the handler to give to `Network.serve`."""

    def __init__(self, metrics: NodeMetrics, *, live: Check, ready: Check) -> None:
        self._metrics = metrics
        self._checks = {"/livez": live, "/readyz": ready}

    async def serve(self, session: Session) -> None:
        """Read one request, answer it, close."""
        reason: str | None = "slow"
        with trio.move_on_after(EXCHANGE_S):
            head = await _request_head(session)
            answer = self._answer(head)
            reason = None if head is not None else "malformed"
            session.send_nowait(answer)
            await session.drain()
        if reason is not None:
            self._metrics.strangers.labels("http", reason).inc()

    def _answer(self, head: tuple[str, str] | None) -> bytes:
        if head is None:
            return _response("400 Bad Request", TEXT, b"this is not an HTTP/1.1 request\n")
        method, target = head
        path = target.partition("?")[0]
        if method not in ("GET", "HEAD"):
            return _response(
                "405 Method Not Allowed", TEXT, b"GET and HEAD only\n", "Allow: GET, HEAD"
            )
        if path == "/metrics":
            status, content_type, body = "200 OK", METRICS, self._metrics.render()
        elif check := self._checks.get(path):
            problem = check()
            status = "503 Service Unavailable" if problem else "200 OK"
            content_type, body = TEXT, f"{problem or 'ok'}\n".encode()
        else:
            known = ", ".join(("/metrics", *self._checks))
            status, content_type = "404 Not Found", TEXT
            body = f"there are {known}\n".encode()
        return _response(status, content_type, body, with_body=method == "GET")


async def _request_head(session: Session) -> tuple[str, str] | None:
    """Method and target of the request; None when what came is none."""
    received = b""
    while b"\r\n\r\n" not in received:
        chunk = await session.receive()
        received += chunk
        if not chunk or len(received) > REQUEST_BYTES_MAX:
            return None
    words = received.partition(b"\r\n")[0].split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1.") or not words[1].startswith(b"/"):
        return None
    return words[0].decode("ascii", "replace"), words[1].decode("ascii", "replace")


def _response(
    status: str, content_type: str, body: bytes, *headers: str, with_body: bool = True
) -> bytes:
    lines = [
        f"HTTP/1.1 {status}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "Connection: close",
        *headers,
    ]
    head = "\r\n".join(lines).encode() + b"\r\n\r\n"
    return head + body if with_body else head
