"""Ports on loopback for the nodes of tests, that nobody else gets meanwhile."""

from __future__ import annotations

import random
import socket
from typing import Final, NamedTuple

HOST: Final = "127.0.0.1"
# Below the ports that the kernel hands out: the port of a node that is down must not be given to
# one of the connections that its peers try to open to it.
PORTS: Final = range(12_000, 30_000)
_SHUFFLED: Final = iter(random.sample(PORTS, len(PORTS)))


class Ports(NamedTuple):
    """Where a node listens, on loopback."""

    client: int
    peer: int
    http: int


def free_ports() -> Ports:
    """Three ports on which nobody listens, and that were not given out before."""
    found: list[int] = []
    while len(found) < 3:
        port = next(_SHUFFLED)
        try:
            socket.create_server((HOST, port)).close()
        except OSError:
            continue
        found.append(port)
    return Ports(*found)
