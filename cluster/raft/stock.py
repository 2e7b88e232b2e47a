"""PySyncObj, loaded privately, and the small objects that it expects around it.

Loaded under another name, so that giving it our clock changes nothing for a program that uses
PySyncObj itself. No socket, thread, poller, file or pickle of it is ever used.
"""

from __future__ import annotations

import importlib.util
import sys
import zlib
from collections.abc import Callable
from functools import lru_cache
from types import ModuleType
from typing import Any

Message = dict[str, Any]
"""A message between nodes: a map with a `type`."""


class Now:
    """PySyncObj asks for the time with a module function: it gets the `now` of the call that is
    being made. Set at each call into consensus, never kept between two of them."""

    value = 0.0


def _private_copy() -> ModuleType:
    """PySyncObj's core module under another name, so that giving it our clock and codec changes
    nothing for a program that uses PySyncObj itself."""
    spec = importlib.util.find_spec("pysyncobj.syncobj")
    if spec is None or spec.origin is None:
        raise ImportError("pysyncobj is not installed")
    name = "pysyncobj._tremula_core"
    own = importlib.util.spec_from_file_location(name, spec.origin)
    if own is None or own.loader is None:
        raise ImportError("pysyncobj cannot be loaded")
    module = importlib.util.module_from_spec(own)
    sys.modules[name] = module
    own.loader.exec_module(module)
    module.monotonicTime = lambda: Now.value  # type: ignore[attr-defined]
    module.createJournal = lambda journal: journal  # type: ignore[attr-defined]
    module.createPoller = lambda kind: _NoPoller()  # type: ignore[attr-defined]
    module.pickle = None  # type: ignore[attr-defined]  # nothing may reach it
    return module


class _NoPoller:
    def poll(self, timeout: float) -> None:
        """PySyncObj has no sockets here: the caller brings what arrived."""


_stock = _private_copy()
SyncObj, SyncObjConf = _stock.SyncObj, _stock.SyncObjConf
FOLLOWER: int = _stock._RAFT_STATE.FOLLOWER
LEADER: int = _stock._RAFT_STATE.LEADER


class Peer(_stock.Node):  # type: ignore[misc, name-defined]
    """PySyncObj's node object with a hash that is the same in every process (seeds replay)."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._hash = zlib.crc32(name.encode())

    def __hash__(self) -> int:
        return self._hash


@lru_cache(maxsize=256)
def peer_of(name: str) -> Peer:
    """Always the same object for a name, as long as it is in use: each message needs it."""
    return Peer(name)


class Outbox(_stock.Transport):  # type: ignore[misc, name-defined]
    """PySyncObj's transport interface: it only collects."""

    ready = True

    def __init__(self, send: Callable[[str, Message], None]) -> None:
        super().__init__(None, None, [])
        self._send = send

    def send(self, node: Any, message: Message) -> None:
        self._send(node.id, message)

    def destroy(self) -> None:
        """Nothing to close."""
