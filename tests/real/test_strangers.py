"""Whoever does not speak our protocols, on any port: a closed connection, and a metric."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.real.ports import HOST
from tests.real.processes import RealCluster, eventually

RUBBISH = {
    "noise": bytes(range(256)) * 64,
    "a web browser": b"GET / HTTP/1.1\r\nHost: here\r\n\r\n",
    "an array of four milliards": b"\xdd\xff\xff\xff\xff",
    "a text of four milliards": b"\xdb\xff\xff\xff\xff" + b"x" * 4096,
}


@pytest.mark.parametrize("tls", [False, True], ids=["plaintext", "tls"])
async def test_strangers_are_turned_away_and_counted(tmp_path: Path, tls: bool) -> None:
    """Rubbish on the client and peer ports, and on the third what is no request."""
    async with RealCluster(tmp_path, ["a"], tls=tls) as cluster, cluster.client() as client:
        ports = cluster.nodes["a"].ports
        async with trio.open_nursery() as nursery:
            for rubbish in RUBBISH.values():
                nursery.start_soon(turned_away, ports.client, rubbish)
                nursery.start_soon(turned_away, ports.peer, rubbish)
            nursery.start_soon(turned_away, ports.http, RUBBISH["noise"])
        for name in ports._fields:
            await counted(ports.http, name)
        assert await client.put("x", b"1") > 0


async def turned_away(port: int, rubbish: bytes) -> None:
    """Send it, and read until the node hangs up."""
    with trio.fail_after(20.0):
        async with await trio.open_tcp_stream(HOST, port) as stream:
            try:
                await stream.send_all(rubbish)
                while await stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass  # reset: it hung up before it had read everything


async def counted(http: int, port: str) -> None:
    """Wait until /metrics tells of strangers on a port."""

    async def ask() -> bool:
        page = await get(http, "/metrics")
        lines = [line for line in page.splitlines() if line.startswith("tremula_strangers_total{")]
        return any(f'port="{port}"' in line for line in lines)

    await eventually(ask, f"strangers on the {port} port are counted")


async def get(port: int, path: str) -> str:
    async with await trio.open_tcp_stream(HOST, port) as stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        page = b""
        while data := await stream.receive_some():
            page += bytes(data)
    return page.decode()
