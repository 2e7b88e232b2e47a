"""`cluster event replay ...`: a part of the log once more, for one group."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated, Any

import trio
import typer

from cluster.cli.dead_letters import GroupArgument
from cluster.cli.event_store import group as events
from cluster.cli.outcome import Failure
from cluster.cli.session import Cli, online
from cluster.cli.start import parse_time
from cluster.client import Client
from cluster.errors import UnknownRequest
from pubsub.topics import validate_pattern

COLUMNS = (
    "id", "group", "state", "from", "to", "next", "emitted", "pattern", "key", "rate", "by",
)  # fmt: skip
LOOK_EVERY_S = 0.5
EARLIEST = "earliest"
MAY_BE_GONE = "Retention may have taken it: `cluster retention list` says up to where."

PlaceHelp = "A revision, a time (2026-01-31T12:00) or an age (10m)."


def register(app: typer.Typer) -> None:
    """Add the commands to `event`."""
    online(events, "replay")(_replay)
    online(events, "replays")(_list)
    online(events, "replay-cancel")(_cancel)


async def _replay(
    cli: Cli,
    group: GroupArgument,
    start: Annotated[str, typer.Option("--from", help=f'"earliest". {PlaceHelp}')],
    end: Annotated[str | None, typer.Option("--to", help=f"{PlaceHelp} Default: now.")] = None,
    pattern: Annotated[
        str | None, typer.Option("--pattern", help="Only of these topics of the group.")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", help="Only of this key.")] = None,
    rate: Annotated[
        int | None, typer.Option("--rate", min=1, help="Events per second; default: no limit.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until all are handed out.")] = False,
) -> None:
    """Hand out events to a group again, marked as replayed, without moving the group."""
    if pattern is not None and (problem := validate_pattern(pattern)):
        raise typer.BadParameter(problem)
    given = {"pattern": pattern, "key": key, "rate_per_s": rate}
    options = {name: value for name, value in given.items() if value is not None}
    async with cli.client() as client:
        first = await revision_at(client, start, "--from")
        # events of the moment before a time: the first one that is later is not wanted
        last = None if end is None else await revision_at(client, end, "--to", before=True)
        if last is not None and last < first:
            raise Failure("there is nothing between --from and --to", hint=MAY_BE_GONE)
        await check_kept(cli, client, group, start, (first, last), pattern=pattern, key=key)
        replay_id = await client.request("replay.start", [group, first, last, options or None])
        found = await until_ended(cli, client, replay_id) if wait else None
    if found is None:
        cli.out.say(f"replay {replay_id} of group {group}", {"id": replay_id, "group": group})
        return
    cli.out.say(f"replay {replay_id} {found['state']}: {found['emitted']} events", found)


async def _list(cli: Cli) -> None:
    """Replays under way, and those that ended lately."""
    async with cli.client() as client:
        replays = await client.request("replay.list")
    cli.out.show({"replays": replays}, lambda: cli.out.table(COLUMNS, map(_row, replays)))
    if not replays:
        cli.out.note("nothing is replayed")


async def _cancel(
    cli: Cli,
    replay_id: Annotated[int, typer.Argument(metavar="ID", help="As `event replays` shows it.")],
) -> None:
    """Stop a replay; what was handed out stays so."""
    async with cli.client() as client:
        was_running = await client.request("replay.cancel", [replay_id])
    sentence = "cancelled" if was_running else "it had ended before"
    cli.out.say(sentence, {"id": replay_id, "cancelled": was_running})


async def until_ended(cli: Cli, client: Client, replay_id: int) -> dict[str, Any]:
    told = 0
    while True:
        replays = await client.request("replay.list")
        found = next((replay for replay in replays if replay["id"] == replay_id), None)
        if found is None:
            raise Failure(f"replay {replay_id} is gone: its group was removed")
        if found["state"] != "running":
            return dict(found)
        if found["emitted"] != told:
            told = found["emitted"]
            cli.out.note(f"{told} events, at revision {found['next_revision']}")
        await trio.sleep(LOOK_EVERY_S)


async def check_kept(
    cli: Cli,
    client: Client,
    group: str,
    start: str,
    place: tuple[int, int | None],
    *,
    pattern: str | None = None,
    key: str | None = None,
) -> None:
    """Say what retention has taken of a range that a group is to get again; a Failure if nothing
    is left of it. `start` as it was asked for: who says "earliest" asks for what there is."""
    if start == EARLIEST:
        return
    first, last = place
    wanted = pattern or (await client.request("group.describe", [group]))["pattern"]
    # Of a time the event before may have been meant: that it is gone is all that can be known.
    asked = first if start.isdigit() else max(1, first - 1)
    try:
        kept = await client.request("events.kept", [asked, wanted])
    except UnknownRequest:
        return  # the node is of an older release
    if kept <= asked:
        return
    gone = f"retention took events of {wanted} before revision {kept}"
    pages = client.every_event(
        limit=1, pattern=wanted, key=key, from_revision=first, to_revision=last
    )
    async with aclosing(pages):
        async for page in pages:
            if page.events:
                left = page.events[0].revision
                cli.out.note(f"{gone}; the first that is left of the range is {left}")
                return
    raise Failure(f"nothing is left of the range: {gone}")


async def revision_at(client: Client, text: str, option: str, *, before: bool = False) -> int:
    """The revision that a place in the log means; of a time the first one from then on, or the
    last one before it."""
    if text == EARLIEST and not before:
        return 1
    if text.isascii() and text.isdigit() and int(text) >= 1:
        return int(text)
    wall_ms = parse_time(text)
    if wall_ms is None:
        raise typer.BadParameter(f"{option}: {PlaceHelp} Got {text!r}")
    bounds = {"to_ms": wall_ms} if before else {"from_ms": wall_ms}
    cursor: int | None = None
    while True:  # a page may be empty and not be the last
        arguments = [bounds, cursor, 1, before]
        found, cursor, _ = await client.request("events.query", arguments)
        if found:
            return int(found[0][0])
        if cursor is None:
            when = "before" if before else "since"
            raise Failure(f"{option}: there is no event {when} {text}", hint=MAY_BE_GONE)


def _row(replay: dict[str, Any]) -> list[object]:
    names = (
        "id", "group", "state", "from_revision", "to_revision", "next_revision", "emitted",
        "pattern", "key", "rate_per_s", "actor",
    )  # fmt: skip
    return [replay[name] for name in names]
