"""Keeps a client connected to one of its endpoints, whichever answers.

May not: know requests. The owner is told when a link is there and when it is gone.
"""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from random import Random
from typing import Any, Protocol

import trio

from cluster.client.link import Link, greet
from cluster.client.link import Owner as LinkOwner
from cluster.client.options import ClientOptions
from cluster.errors import TremulaError
from cluster.net import Dialer, Session
from cluster.protocol import ProtocolViolation

Endpoint = tuple[str, int]


class Owner(LinkOwner, Protocol):
    """Who uses the links."""

    def link_up(self, link: Link) -> None:
        """A link is ready for requests."""

    def link_lost(self, link: Link) -> None:
        """The link is closed; what was under way on it got no answer."""


class Connector:
    """Connects, and connects again, to one endpoint after the other."""

    def __init__(
        self,
        network: Dialer,
        endpoints: Sequence[Endpoint],
        tls: ssl.SSLContext | None,
        options: ClientOptions,
        random: Random,
        info: dict[str, object],
    ) -> None:
        self.endpoints = list(endpoints)
        self.problem = "not connected yet"  # why there is no link, for people
        self._network = network
        self._tls = tls
        self._options = options
        self._random = random
        self._info = info

    @property
    def names(self) -> list[str]:
        """The endpoints, for people."""
        return [f"{host}:{port}" for host, port in self.endpoints]

    async def run(self, owner: Owner) -> None:
        """Keep a link, until cancelled."""
        failures = 0
        position = 0
        while True:
            endpoint = self.endpoints[position % len(self.endpoints)]
            started_at = trio.current_time()
            self.problem = f"{endpoint[0]}:{endpoint[1]}: {await self._use(endpoint, owner)}"
            # A link that lived for a while is replaced at once. One that failed early is not: a
            # port that accepts and closes would be called in a loop.
            lived = trio.current_time() - started_at > self._options.backoff_s_max
            failures = 0 if lived else failures + 1
            position += 1
            if failures >= len(self.endpoints):
                await trio.sleep(self.backoff_s(failures))

    def backoff_s(self, failures: int) -> float:
        """How long to wait after so many failures in a row: doubled each time, and scattered."""
        longest = self._options.backoff_s * 2.0 ** min(failures - 1, 16)
        return min(longest, self._options.backoff_s_max) * (0.5 + 0.5 * self._random.random())

    async def _use(self, endpoint: Endpoint, owner: Owner) -> Any:
        """Connect and serve until it is over; returns why it ended."""
        try:
            session = await self._network.connect(*endpoint, self._tls)
        except OSError as error:
            return error
        try:
            link = await self._greet(session, owner)
            owner.link_up(link)
            try:
                await link.run()
            finally:
                owner.link_lost(link)
        except (OSError, ProtocolViolation, TremulaError) as error:
            return error
        finally:
            session.close()
        return session.close_reason

    async def _greet(self, session: Session, owner: Owner) -> Link:
        with trio.move_on_after(self._options.silence_s_max):
            facts = await greet(session, self._info)
            return Link(session, facts, owner, trio.current_time())
        raise TimeoutError(f"no greeting within {self._options.silence_s_max} s")
