"""Every kind of handler deals with every type of event, on three real nodes: when all goes well,
and when the leader dies between applying the events and handing them to handlers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

from cluster.client import Client
from cluster.errors import Rejected
from hooks.control.explain import Row, merge
from hooks.events.catalogue import CATALOGUE
from tests.real.processes import NAMES, eventually
from tests.real.story import Story, reload, settings

WRITERS = ("python", "command")  # of deeds
LEADING = ("python-leading", "command-leading")
FILES = ("hosts", "members")
HOLD_MS = 600_000  # longer than a test may take: only a new policy ends it


async def test_every_kind_of_handler_deals_with_every_type_of_event(tmp_path: Path) -> None:
    """Functions, commands and files get each event, as what it is and in order per key; a type that
    the catalogue has and this story has not fails it."""
    async with Story.told(tmp_path) as story:
        handlers = (*WRITERS, *FILES)
        before = await all_done(story, handlers)
        leader = await story.everything()
        assert types(story, story.events) == {*CATALOGUE}
        await all_noted(story, WRITERS)
        await story.files_show("hosts", "kept")
        await story.dealt_with(handlers, story.events.keys() - before)
        for handler in FILES:
            done = await story.attempts(handler, leader)
            assert {*done} >= {*story.events}, handler
            assert in_order(done, dict.fromkeys(done, handler)), handler


async def test_what_a_leader_had_in_hand_when_it_was_killed_is_dealt_with(tmp_path: Path) -> None:
    """Events of every type are applied and held back when the leader dies: the others deal with
    what it had in hand, and itself with what is a matter of each node, once it is back."""
    async with Story.told(tmp_path, hold_ms=0) as story:
        handlers = (*WRITERS, *LEADING, *FILES)
        before = await all_done(story, handlers)
        await under_policy(story, 2, HOLD_MS)
        began = story.newest  # until then a node may have handled what another one held already
        leader = await story.everything()
        others = [name for name in NAMES if name != leader]
        held = await held_by(story, leader, handlers, began)
        check_held(story, held)

        await story.cluster.kill(leader)
        await story.cluster.leader(other_than=leader)
        await under_policy(story, 3, 0)
        await story.until("hooks.system.health_changed", lambda f: f["node"] == leader)
        await all_noted(story, (*WRITERS, *LEADING))
        for handler in (*WRITERS, *LEADING):
            by = {deed.node for deed in story.deeds(handler) if deed.revision in held[handler]}
            assert by <= {*others}, handler
        await story.files_show("hosts", "kept", others)

        await story.cluster.start(leader)
        await story.files_show("hosts", "kept")
        await story.read()
        await story.dealt_with(handlers, story.events.keys() - before)
        await all_noted(story, (*WRITERS, *LEADING))
        for name in NAMES:
            done = await story.attempts("hosts", name)
            assert {*done} >= held["hosts"], name
            assert in_order(done, dict.fromkeys(done, "hosts")), name


async def all_done(story: Story, handlers: Iterable[str]) -> set[int]:
    """Wait until handlers are done with everything there is, before retention may take it."""
    handlers = tuple(handlers)
    await story.read()
    done = {*story.events}
    await story.dealt_with(handlers, done)
    await story.no_lag(handlers)
    return done


async def under_policy(story: Story, version: int, hold_ms: int) -> None:
    """Let every handler have another policy on every node; one that is down, when it starts."""
    after = story.newest
    for name in NAMES:
        node = story.cluster.nodes[name]
        node.settings = settings(story.cluster.folder, name, version, hold_ms)
        if node.running:
            reload(node)
            await story.reloaded(node, after)


def check_held(story: Story, held: Mapping[str, set[int]]) -> None:
    """Every type of event is in the leader's hands, for each kind of handler, and not dealt with:
    of those whose partitions all nodes share, at least some."""
    for handler in (*LEADING, "hosts"):
        assert types(story, held[handler]) == {*CATALOGUE}, handler
    for handler in (*WRITERS, "members"):
        assert held[handler], handler
    for handler in (*WRITERS, *LEADING):
        assert not held[handler] & {deed.revision for deed in story.deeds(handler)}, handler
    assert not any(story.file_shows("hosts", name, "kept") for name in NAMES)


async def held_by(
    story: Story, leader: str, handlers: Iterable[str], began: int
) -> dict[str, set[int]]:
    """The events after `began` that a node has applied and has in hand for each handler, not begun
    by any."""
    held: dict[str, set[int]] = {handler: set() for handler in handlers}
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(story.cluster.client(name)) for name in NAMES]

        async def look(revision: int) -> None:
            for row in await explained(clients, revision):
                is_here = row["owner"] is not None and row["owner"] == row["node"] == leader
                if is_here and row["stage"] in ("held", "queued") and not row["attempts"]:
                    held[row["handler"]].add(revision)

        async def newest() -> bool:
            await story.read()
            await look(max(story.events))
            return bool(held["members"])

        for revision in sorted(revision for revision in story.events if revision > began):
            await look(revision)
        await eventually(newest, "the newest event is debounced: the others are coalesced")
    return held


async def explained(clients: Iterable[Client], revision: int) -> list[Row]:
    """What all nodes together say of an event; nothing, if retention took it."""
    try:
        answers = [(await client.hooks.explain(revision))["handlers"] for client in clients]
    except Rejected as refusal:
        if refusal.code != "unknown_event":
            raise
        return []
    return merge(answers)


async def all_noted(story: Story, handlers: Iterable[str]) -> None:
    """Wait until handlers have written down every event; each as what it is, in order per key."""
    for handler in handlers:

        async def ask(handler: str = handler) -> bool:
            return {deed.revision for deed in story.deeds(handler)} >= {*story.events}

        await eventually(ask, f"{handler} has had every event")
        deeds = [deed for deed in story.deeds(handler) if deed.revision <= story.newest]
        noted = {deed.revision: (deed.topic, deed.triggered) for deed in deeds}
        assert noted == story.expected(), handler
        assert in_order([deed.revision for deed in deeds], story.keys()), handler


def types(story: Story, revisions: Iterable[int]) -> set[str]:
    return {story.events[revision].topic for revision in revisions}


def in_order(revisions: Iterable[int], keys: Mapping[int, str]) -> bool:
    """Whether the events of each key came, each for its first time, as they stand in the log."""
    newest: dict[str, int] = {}
    for revision in dict.fromkeys(revisions):
        key = keys[revision]
        if newest.get(key, 0) > revision:
            return False
        newest[key] = revision
    return True
