"""How the proof's programs reach the cluster: from what they are told when they are started."""

from __future__ import annotations

import ssl
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from cluster.client import Client, open_client
from cluster.security.tls import client_context


def reach(settings: dict[str, Any]) -> AbstractAsyncContextManager[Client]:
    """A client; `settings` hold [host, port] of each node, and what it presents under TLS."""
    endpoints = [(host, port) for host, port in settings["endpoints"]]
    tls: ssl.SSLContext | None = None
    if settings["tls"] is not None:
        authority, certificate, key = (Path(name) for name in settings["tls"])
        tls = client_context(authority, certificate, key)
    return open_client(endpoints, tls=tls)
