"""`cluster dlq ...`: events that a group gave up, and what becomes of them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.events import event_line
from cluster.cli.kv import value_bytes
from cluster.cli.outcome import Failure
from cluster.cli.output import Brief
from cluster.cli.session import Cli, online
from cluster.cli.transfer import written
from cluster.client import Client
from cluster.client.subscription import event_from_wire
from cluster.errors import Rejected
from hooks.events.publisher import cloud_event
from pubsub.events import Event

COLUMNS = (
    "revision", "topic", "key", "original", "attempts", "redrives", "died", "error",
)  # fmt: skip
LIST_DEFAULT = 100
PER_REQUEST = 100  # letters that one redrive or purge names

GroupArgument = Annotated[
    str, typer.Argument(help='The group; of a handler it is "hook." and its name.')
]
RevisionArgument = Annotated[int, typer.Argument(help="The letter, as `dlq list` shows it.")]
RevisionsArgument = Annotated[
    list[int] | None, typer.Argument(help="Letters, as `dlq list` shows them.")
]
All = Annotated[bool, typer.Option("--all", help="Every letter that the group holds now.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Dead letters: events that a group gave up.")
    online(group, "list")(_list)
    online(group, "show")(_show)
    online(group, "edit")(_edit)
    online(group, "redrive")(_redrive)
    online(group, "purge")(_purge)
    online(group, "export")(_export)
    app.add_typer(group, name="dlq")


async def _list(
    cli: Cli,
    group: GroupArgument,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = LIST_DEFAULT,
    every: Annotated[bool, typer.Option("--all", help="No limit.")] = False,
) -> None:
    """What a group gave up, and why."""
    letters: list[dict[str, Any]] = []
    more = False
    async with cli.client() as client, aclosing(_letters(client, group)) as found:
        async for letter in found:
            if not every and len(letters) == limit:
                more = True
                break
            letters.append(letter)
    cli.out.show(
        {"letters": letters, "more": more}, lambda: cli.out.table(COLUMNS, map(_row, letters))
    )
    if more:
        cli.out.note(f"only the first {limit}; --all shows the rest")
    if not letters:
        cli.out.note(f'group "{group}" holds no dead letters')


async def _show(
    cli: Cli,
    group: GroupArgument,
    revision: RevisionArgument,
    raw: Annotated[
        bool, typer.Option("--raw", help="The bytes of the payload and nothing else.")
    ] = False,
) -> None:
    """One letter with its event."""
    async with cli.client() as client:
        letter, event = await _letter(client, group, revision)
        cluster_id = (await client.request("status"))["cluster_id"]
    if raw:
        cli.out.raw(_user_data(group, letter, event)[0])
        return

    def people() -> None:
        cli.out.facts((name, value) for name, value in letter.items() if value is not None)
        if event is not None:
            cli.out.line(f"\n{event_line(event)}")

    shown = {**letter, "event": None if event is None else cloud_event(event, cluster_id)}
    cli.out.show(shown, people)
    if event is None:
        cli.out.note("retention took its event: it can only be purged", style="yellow")


async def _edit(
    cli: Cli,
    group: GroupArgument,
    revision: RevisionArgument,
    payload: Annotated[str | None, typer.Argument(help="- reads it from input.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="Payload from a file.")] = None,
    content_type: Annotated[
        str | None, typer.Option("--content-type", help="Default: as it was.")
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option("--header", help="NAME=VALUE; repeatable. Default: as they were."),
    ] = None,
) -> None:
    """Change what the group gets when the letter is redriven; the log stays as it is."""
    data = value_bytes(payload, file)
    headers: dict[str, str] = {}
    for text in header or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"--header is NAME=VALUE, got {text!r}")
        headers[name] = value
    async with cli.client() as client:
        letter, event = await _letter(client, group, revision)
        _, old_type, old_headers = _user_data(group, letter, event)
        arguments = [group, revision, data, content_type or old_type, headers or old_headers]
        await client.request("dlq.edit", arguments)
    cli.out.say(
        f"edited: `cluster dlq redrive {group} {revision}` gives it back",
        {"group": group, "revision": revision, "size_bytes": len(data)},
    )


async def _redrive(
    cli: Cli, group: GroupArgument, revisions: RevisionsArgument = None, every: All = False
) -> None:
    """Give letters back to their group, in order, as they are or as they were edited."""
    redriven: list[list[int]] = []
    async with cli.client() as client:
        wanted = await _wanted(client, group, revisions, every)
        left = wanted
        while left:
            done = await client.request("dlq.redrive", [group, left[:PER_REQUEST]])
            redriven += done
            known = {revision for revision, _ in done}
            # what is not named did not fit into one request, or is not there: once more will tell
            rest = [revision for revision in left[:PER_REQUEST] if revision not in known]
            left = (rest if done else []) + left[PER_REQUEST:]
            if every and len(redriven) < len(wanted):
                cli.out.note(f"{len(redriven)} of {len(wanted)}")
    found = {revision for revision, _ in redriven}
    missed = [revision for revision in wanted if revision not in found]
    cli.out.say(
        f"{len(redriven)} redriven",
        {"group": group, "redriven": redriven, "not_redriven": missed},
    )
    if missed:
        shown = ", ".join(map(str, missed[:10])) + (", ..." if len(missed) > 10 else "")
        raise Failure(
            f"{len(missed)} of {len(wanted)} not redriven: {shown}",
            hint="There is no such letter, or retention took its event (`dlq list` shows which).",
        )


async def _purge(
    cli: Cli, group: GroupArgument, revisions: RevisionsArgument = None, every: All = False
) -> None:
    """Throw letters away for good."""
    purged = 0
    async with cli.client() as client:
        wanted = await _wanted(client, group, revisions, every)
        for start in range(0, len(wanted), PER_REQUEST):
            purged += await client.request(
                "group.discard", [group, wanted[start : start + PER_REQUEST]]
            )
            if every and start + PER_REQUEST < len(wanted):
                cli.out.note(f"{purged} of {len(wanted)}")
    cli.out.say(f"{purged} purged", {"group": group, "purged": purged})
    if purged < len(wanted) and not every:
        raise Failure(f"{len(wanted) - purged} of {len(wanted)} were not there")


async def _export(
    cli: Cli,
    group: GroupArgument,
    file: Annotated[Path | None, typer.Option("--file", help="Default: output.")] = None,
) -> None:
    """Write letters with their events as NDJSON, one on each line."""
    number = 0
    async with cli.client() as client:
        cluster_id = (await client.request("status"))["cluster_id"]
        await client.request("dlq.list", [group, 0, 1])  # is there such a group?
        with written(file) as stream:
            async with aclosing(_letters(client, group)) as found:
                async for letter in found:
                    try:
                        facts, event = await _letter(client, group, letter["revision"])
                    except Rejected:
                        continue  # redriven or purged meanwhile
                    shown = None if event is None else cloud_event(event, cluster_id)
                    line = json.dumps({**facts, "event": shown}, ensure_ascii=False)
                    stream.write(line + "\n")
                    number += 1
    cli.out.note(f"{number} letters")


async def _letters(client: Client, group: str) -> AsyncGenerator[dict[str, Any], None]:
    """All letters of a group, page by page."""
    after = 0
    while page := await client.request("dlq.list", [group, after]):
        for letter in page:
            yield letter
        after = page[-1]["revision"]


async def _letter(client: Client, group: str, revision: int) -> tuple[dict[str, Any], Event | None]:
    """The facts of one letter, and its event if somebody still has it."""
    letter = dict(await client.request("dlq.show", [group, revision]))
    fields = letter.pop("event")
    return letter, None if fields is None else event_from_wire(fields)


async def _wanted(
    client: Client, group: str, revisions: list[int] | None, every: bool
) -> list[int]:
    """The letters that were asked for, those of `--all` from the oldest on."""
    if every == bool(revisions):
        raise typer.BadParameter("give the revisions of letters, or else --all")
    if revisions:
        return list(dict.fromkeys(revisions))
    async with aclosing(_letters(client, group)) as found:
        return [letter["revision"] async for letter in found]


def _user_data(group: str, letter: dict[str, Any], event: Event | None) -> tuple[Any, Any, Any]:
    """Payload, content type and headers of what a user published."""
    revision = letter["revision"]
    if event is None:
        raise Failure(f"retention took the event of dead letter {revision} of group {group!r}")
    if event.is_system:
        raise Failure(
            f"{event.topic} says what happened: it has no payload that somebody chose",
            hint="`cluster dlq show` has its facts.",
        )
    payload, content_type, headers, *_ = event.data
    return payload, content_type, headers


def _row(letter: dict[str, Any]) -> list[object]:
    died = datetime.fromtimestamp(letter["wall_ms"] / 1000).isoformat(" ", "seconds")
    original = letter["original_revision"]
    return [
        letter["revision"],
        letter["topic"],
        letter["key"],
        original if original != letter["revision"] else None,
        letter["attempts"],
        letter["redrives"],
        died,
        Brief(letter["error"]),
    ]
