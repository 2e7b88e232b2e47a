"""Delayed events and message ids on real processes, while the leader is killed."""

from __future__ import annotations

from pathlib import Path

from tests.real.processes import RealCluster, eventually

EVENTS = 300
LAST_DUE_MS = 4_000


async def test_a_killed_leader_loses_and_repeats_no_delayed_event(tmp_path: Path) -> None:
    """Whoever leads then goes on: each comes out once, never early, in the order of its time; a
    message that was published before the kill is still known after it."""
    async with RealCluster(tmp_path) as cluster:
        leader = await cluster.leader()
        others = [label for label in cluster.nodes if label != leader]
        async with cluster.client(*others) as client:
            first = await client.publish("orders.created", b"", message_id="m")
            for number in range(EVENTS):
                delay_ms = number * 7919 % LAST_DUE_MS  # out of order
                identity = await client.publish_later("late", b"%d" % number, delay_ms=delay_ms)
                assert identity == number + 1
            waiting, _ = await client.delayed_events()
            assert waiting, "the kill below must come while events wait"
            await cluster.kill(leader)
            assert await client.publish("orders.created", b"", message_id="m") == first

            async def nothing_waits() -> bool:
                return not (await client.delayed_events())[0]

            await eventually(nothing_waits, "every delayed event comes out")
            events, _, _ = await client.read_events(1, pattern="late")
            assert len(events) == EVENTS
            assert sorted(int(event.data[0]) for event in events) == list(range(EVENTS))
            came = {int(event.data[0]): event for event in events}
            for delayed in waiting:
                number = delayed.id - 1
                assert came[number].wall_ms >= delayed.due_ms
            order = sorted(waiting, key=lambda delayed: (delayed.due_ms, delayed.id))
            revisions = [came[delayed.id - 1].revision for delayed in order]
            assert revisions == sorted(revisions)
            await cluster.start(leader)
            await cluster.same_state(*cluster.nodes)
