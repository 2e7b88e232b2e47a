"""Nodes with hook services on a fake cluster, and a record of what their handlers did."""

from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from hooks.configuration.definition import HandlerDefinition, HandlerType, Scope
from hooks.execution.service import HookService
from hooks.execution.succession import take_over
from hooks.handlers.inprocess import InlineRunner
from hooks.limits import HookLimits
from hooks.registry import HookContext, Registry, hook
from pubsub.topics import Pattern
from tests.hooks.fake_cluster import FakeCluster, FakePort
from tests.hooks.workbench import definition

Body = Callable[[HookContext], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Run:
    """One attempt that a handler began; `ended` is None while it runs or if it was stopped."""

    node: str
    handler: str
    key: str | None
    revision: int
    attempt: int
    token: int
    began: float
    boot: int  # the how-manieth service of the node


class Node:
    """A node that can be started, stopped, cut off and killed."""

    def __init__(self, fleet: "Fleet", name: str) -> None:
        self.fleet = fleet
        self.name = name
        self.port = FakePort(fleet.cluster, name, seed=len(fleet.nodes))
        self.boots = 0
        self.service: HookService
        self._scope = trio.CancelScope()
        self._gone = trio.Event()

    async def start(self) -> None:
        self.service = self._make(None)
        self._scope, self._gone = trio.CancelScope(), trio.Event()
        await self.fleet.nursery.start(self._run, self.service, self._scope, self._gone)

    async def reload(self) -> None:
        """Another service, with the fleet's handlers as they are now, takes the place of this one;
        returns when the old one is gone."""
        old, gone = self.service, self._gone
        old.retire()
        self.service = new = self._make(old)
        self._scope, self._gone = trio.CancelScope(), trio.Event()
        await self.fleet.nursery.start(self._run, new, self._scope, self._gone)
        await take_over(new, old)
        await gone.wait()

    def _make(self, predecessor: HookService | None) -> HookService:
        self.boots += 1
        registry = Registry()
        for handler in self.fleet.handlers:
            registry.add(self._recorded(handler.name))
        runner = InlineRunner(registry, self.port.log, self.fleet.limits)
        return HookService(
            self.port,
            self.fleet.handlers,
            {HandlerType.IN_PROCESS: runner},
            boot_id=str(self.boots),
            publish_topics=self.fleet.publish_topics,
            load_problems=self.fleet.load_problems,
            predecessor=predecessor,
            limits=self.fleet.limits,
        )

    async def stop(self) -> None:
        await self.service.stop()
        await self._gone.wait()

    async def kill(self) -> None:
        """As kill -9: nothing is said to anybody."""
        self._scope.cancel()
        await self._gone.wait()

    async def _run(
        self,
        service: HookService,
        scope: trio.CancelScope,
        gone: trio.Event,
        task_status: trio.TaskStatus[None],
    ) -> None:
        with scope:
            await service.run(task_status=task_status)
        gone.set()

    def _recorded(self, name: str) -> Body:
        body, boot = self.fleet.bodies[name], self.boots

        @hook(name=name)
        async def handler(context: HookContext) -> object:
            fleet = self.fleet
            run = Run(
                self.name, name, context.key, context.revision, context.attempt,
                context.fencing_token, trio.current_time(), boot,
            )  # fmt: skip
            fleet.begun.append(run)
            per_node = any(h.name == name and h.scope is Scope.NODE for h in fleet.handlers)
            running = (f"{name}@{self.name}" if per_node else name, context.key)
            fleet.overlaps += running in fleet.running
            fleet.running.append(running)
            try:
                result = await body(context)
            finally:
                fleet.running.remove(running)
            fleet.ended.append(run)
            return result

        return handler


class Fleet:
    """Several nodes with the same handlers."""

    def __init__(self, nursery: trio.Nursery, limits: HookLimits) -> None:
        self.nursery = nursery
        self.limits = limits
        self.cluster = FakeCluster()
        self.handlers: list[HandlerDefinition] = []
        self.bodies: dict[str, Body] = {}
        self.publish_topics: tuple[Pattern, ...] = ()
        self.load_problems: dict[str, str] = {}
        self.nodes: dict[str, Node] = {}
        self.begun: list[Run] = []
        self.ended: list[Run] = []
        self.running: list[tuple[str, str | None]] = []
        self.overlaps = 0  # times that one key was in the hands of two at once

    def handle(self, name: str, body: Body, **keys: object) -> None:
        """Give all nodes a handler."""
        self.handlers.append(definition(**{"name": name, "start": "earliest", **keys}))
        self.bodies[name] = body

    async def start(
        self, *names: str, labels: Mapping[str, dict[str, str]] | None = None
    ) -> list[Node]:
        nodes = []
        for name in names:
            self.nodes[name] = node = Node(self, name)
            node.port.labels = (labels or {}).get(name, {})
            await node.start()
            nodes.append(node)
        return nodes

    def revisions(self, handler: str, node: str | None = None) -> list[int]:
        """What a handler has handled, on one node or on any, in that order."""
        return [
            run.revision
            for run in self.ended
            if run.handler == handler and node in (None, run.node)
        ]

    async def until(self, condition: Callable[[], object], seconds: float = 120) -> None:
        with trio.fail_after(seconds):
            while not condition():  # noqa: ASYNC110 - on virtual time
                await trio.sleep(0.01)

    async def until_done(self, handler: str, revision: int | None = None) -> None:
        """Wait until the cluster knows that everything was handled."""
        target = self.cluster.revision if revision is None else revision
        await self.until(lambda: self.cluster.described(handler)["floor"] >= target)


@asynccontextmanager
async def a_fleet(**limits: int) -> AsyncIterator[Fleet]:
    """A fleet whose nodes end with the block."""
    async with trio.open_nursery() as nursery:
        fleet = Fleet(nursery, HookLimits(**limits))
        nursery.start_soon(fleet.cluster.expire_members)
        yield fleet
        nursery.cancel_scope.cancel()


async def at_once(context: HookContext) -> None:
    """A handler that is done immediately."""


async def takes_10_ms(context: HookContext) -> None:
    """A handler that needs a while."""
    await trio.sleep(0.01)


def assert_in_order(fleet: Fleet, handler: str) -> None:
    """No two attempts at one key at once, and each key's events in the order of the log."""
    assert fleet.overlaps == 0
    by_key = defaultdict(list)
    for run in fleet.ended:
        if run.handler == handler:
            by_key[run.key].append(run.revision)
    for revisions in by_key.values():
        firsts = list(dict.fromkeys(revisions))
        assert firsts == sorted(firsts)
