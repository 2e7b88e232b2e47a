"""Runs by hand: what seeds found once, and what random faults are too short for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from random import Random

import trio

from simulation.node.workloads.operator import Operator
from simulation.node.world import World

Script = Callable[[World], Awaitable[None]]


class Scripted(World):
    """A run whose faults are a script; all checks follow, as ever."""

    def __init__(self, script: Script, *workloads: str, skew_ms: int = 0) -> None:
        drawn = World(1, 3).options
        calm = replace(
            drawn, faults={}, workloads=workloads, membership_rate=0.0, compact_entries=0,
            latency_s=(0.0005, 0.001), clock_skew_ms=skew_ms, think_s=0.2,
        )  # fmt: skip
        super().__init__(1, 3, options=calm)
        self._script = script

    async def _safety_phase(self) -> None:
        await leader(self)
        await self._script(self)


async def until(condition: Callable[[], bool]) -> None:
    """On virtual time, where looking again costs nothing."""
    with trio.fail_after(10.0):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.05)


async def leader(world: World, *but: str) -> str:
    """Wait until somebody else than `but` leads."""
    await until(lambda: world.stage.leader() not in (None, *but))
    return world.stage.leader() or ""


def test_a_node_joins_a_cluster_whose_founders_were_replaced() -> None:
    """It knows them by directories that are no more, and must not hang up on their successors."""

    async def script(world: World) -> None:
        operator = Operator(world, Random(1))
        for name in ("b", "c"):
            async with world.open_client(901, Random(2)) as client:
                await operator.replace(client, name)
        world.stage.transfer("c")
        await leader(world, "a")
        world.add("d", joins=True).start()
        with trio.fail_after(20.0):
            async with world.open_client(902, Random(3)) as client:
                await operator.add(client, "d")

    Scripted(script).run()


def test_a_member_that_lags_reaches_a_leader_that_joined_meanwhile() -> None:
    """Nobody in its own configuration leads: it hears from the others who does."""

    async def script(world: World) -> None:
        operator = Operator(world, Random(1))
        world.stage.transfer("b")
        await leader(world, "a", "c")
        world.stage.crash("a")
        world.add("d", joins=True).start()
        async with world.open_client(901, Random(2)) as client:
            await operator.add(client, "d")
        world.stage.transfer("d")
        await leader(world, "a", "b", "c")
        world.stage.start("a")
        lagging = world.machines["a"]
        await until(lambda: lagging.has_core and lagging.core.leader == "d")

    Scripted(script).run()


def test_a_subscriber_leaves_a_node_that_was_removed() -> None:
    """Which would never hear of anything again, and keeps its connections."""

    async def script(world: World) -> None:
        operator = Operator(world, Random(1))
        world.stage.transfer("a")
        await leader(world, "b", "c")
        async with (
            world.open_client(901, Random(2), first="a") as client,
            world.open_client(902, Random(3), first="b") as reader,
            reader.subscribe("news", "latest") as events,
        ):
            await trio.sleep(1.0)
            await operator.remove(client, "b")
            revision = await client.publish("news", b"after")
            with trio.fail_after(10.0):
                assert (await anext(events)).revision == revision
            await operator.add(client, "b")

    Scripted(script).run()


def test_a_clock_that_was_behind_is_not_jumped_over() -> None:
    """Two voters were started again without the third, and one of them is an hour late: its clock
    is their median. When the third is back and another leads, what was put meanwhile still has its
    time."""

    async def script(world: World) -> None:
        world.stage.wrong_clock(-3_600_000)
        for name in "abc":
            world.stage.crash(name)
        for name in "ab":
            world.stage.start(name)
        first = await leader(world)
        await trio.sleep(6.0)
        world.stage.start("c")
        await trio.sleep(1.0)
        world.stage.crash(first)
        await leader(world, first)
        await trio.sleep(2.0)
        world.stage.start(first)

    Scripted(script, "ttl").run()


def test_a_minute_without_a_leader_expires_nothing_early() -> None:
    """Nobody hears anybody, one clock is an hour late and jumps meanwhile, and all are restarted
    at the end of it. The TTL workload holds every expiry against the time that passed."""

    async def script(world: World) -> None:
        await trio.sleep(4.0)
        pairs = [(one, other) for one in "abc" for other in "abc" if one != other]
        for one, other in pairs:
            world.stage.cut(one, other)
        for off_ms in (3_600_000, -7_200_000, 0):
            await trio.sleep(20.0)
            world.stage.wrong_clock(off_ms)
        for name in "abc":
            world.stage.crash(name, power=True)
        for one, other in pairs:
            world.stage.heal(one, other)
        for name in "abc":
            world.stage.start(name)
        await leader(world)
        await trio.sleep(4.0)

    Scripted(script, "ttl", skew_ms=-3_600_000).run()


def test_a_leader_whose_clock_runs_twice_as_fast_expires_nothing_early() -> None:
    """The others outvote it, also while it leads; then it is an hour ahead and back again."""

    async def script(world: World) -> None:
        world.stage.transfer("a")
        await leader(world, "b", "c")
        world.stage.drift(1_000.0)
        await trio.sleep(8.0)
        world.stage.wrong_clock(3_600_000)
        await trio.sleep(4.0)
        world.stage.crash("a")
        await leader(world, "a")
        world.stage.start("a")
        world.stage.wrong_clock(-3_600_000)
        await trio.sleep(4.0)

    Scripted(script, "ttl").run()


def test_a_run_waits_for_a_node_whose_disk_is_new() -> None:
    """Until it is added again it has no state, and readers are judged by the others' (found by
    seed 101845 with five nodes)."""

    async def script(world: World) -> None:
        machine = world.machines["c"]
        machine.crash(power=True)
        await machine.gone()
        machine.wipe()
        machine.start()
        stateless = False
        for _ in range(500):
            stateless |= machine.node is not None and not machine.has_core
            assert world.revision() > 0
            await trio.sleep(0.001)
        assert stateless
        async with world.open_client(901, Random(2)) as client:
            await Operator(world, Random(1)).replace(client, "c")

    Scripted(script, "subscribers").run()
