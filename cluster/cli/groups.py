"""`cluster group ...`: consumer groups, where they stand, and their events."""

from typing import Annotated, Any

import typer

from cluster.cli.events import show_event
from cluster.cli.names import GroupName
from cluster.cli.patterns import check_pattern, note_silent
from cluster.cli.session import Cli, online
from cluster.cli.start import START_HELP, parse_start
from hooks.configuration.definition import handler_of
from pubsub.limits import PARTITIONS_MAX, READ_ROWS_MAX
from pubsub.topics import validate_name

COLUMNS = (
    "group", "mode", "pattern", "members", "lag", "in_hand", "completed", "dead_letters", "paused",
    "held",
)  # fmt: skip
MODES = ("partitioned", "competing")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Consumer groups: clients that share events.")
    online(group, "create")(_create)
    online(group, "list")(_list)
    online(group, "describe")(_describe)
    online(group, "consume")(_consume)
    online(group, "pause")(_pause)
    online(group, "resume")(_resume)
    online(group, "seek")(_seek)
    online(group, "skip")(_skip)
    online(group, "delete")(_delete)
    app.add_typer(group, name="group")


async def _create(
    cli: Cli,
    name: GroupName,
    pattern: Annotated[str, typer.Argument(help='"*" is one segment, ">" one or more.')],
    mode: Annotated[
        str,
        typer.Option("--mode", help="partitioned (each key in order) or competing (any member)."),
    ] = "partitioned",
    start: Annotated[str, typer.Option("--from", help=START_HELP)] = "latest",
    partitions: Annotated[
        int | None,
        typer.Option("--partitions", min=1, max=PARTITIONS_MAX, help="A power of two, for ever."),
    ] = None,
    version: Annotated[
        int, typer.Option("--version", min=0, help="A higher one changes pattern and options.")
    ] = 0,
    lease_ms: Annotated[
        int | None, typer.Option("--lease-ms", help="Competing: time to handle an event.")
    ] = None,
    max_deliveries: Annotated[
        int | None, typer.Option("--max-deliveries", help="Competing: then it is a dead letter.")
    ] = None,
    backoff_ms: Annotated[
        str | None, typer.Option("--backoff-ms", help="Competing: pauses, like 100,1000,10000.")
    ] = None,
    max_in_flight: Annotated[
        int | None, typer.Option("--max-in-flight", help="Competing: leased at once.")
    ] = None,
    ordered: Annotated[
        bool, typer.Option("--ordered", help="Competing: one event of a key at a time.")
    ] = False,
    cooldown_ms: Annotated[
        int | None, typer.Option("--cooldown-ms", help="Partitioned: rest between two moves.")
    ] = None,
    unprotected: Annotated[
        bool, typer.Option("--unprotected", help="Retention does not wait for this group.")
    ] = False,
) -> None:
    """Define a group, or change its definition with a higher version."""
    if problem := validate_name(name, "group"):
        raise typer.BadParameter(problem)
    if mode not in MODES:
        raise typer.BadParameter(f"--mode is {' or '.join(MODES)}, got {mode!r}")
    known = check_pattern(pattern)
    async with cli.client() as client:
        floor = await client.group(name).create(
            pattern,
            mode=mode,
            start=parse_start(start),
            partitions=partitions,
            version=version,
            protected=False if unprotected else None,
            cooldown_ms=cooldown_ms,
            lease_ms=lease_ms,
            max_deliveries=max_deliveries,
            backoff_ms=None if backoff_ms is None else _numbers(backoff_ms),
            max_in_flight=max_in_flight,
            ordered=True if ordered else None,
        )
        await note_silent(cli.out, client, known)
    cli.out.say(f"{name} reads from revision {floor + 1}", {"group": name, "floor": floor})


async def _list(cli: Cli) -> None:
    """The groups, where they stand and what they gave up; those of handlers too."""
    found: list[dict[str, Any]] = []
    async with cli.client() as client:
        revision = int((await client.status())["revision"])
        while page := await client.groups(found[-1]["name"] if found else "", READ_ROWS_MAX):
            found += page
    rows = [summary(group, revision) for group in found]
    cli.out.show(
        {"groups": rows},
        lambda: cli.out.table(COLUMNS, [[row[name] for name in COLUMNS] for row in rows]),
    )
    if not rows:
        cli.out.note("no group is defined: `cluster group create NAME PATTERN` defines one")


async def _describe(cli: Cli, name: GroupName) -> None:
    """Everything about one group: options, members, partitions, leases."""
    async with cli.client() as client:
        group = await client.group(name).describe()
    row = summary(group, group["revision"])

    def people() -> None:
        settings = {key: value for key, value in group["settings"].items() if key != "mode"}
        cli.out.facts([*row.items(), ("version", group["version"])])
        cli.out.line("\noptions")
        cli.out.facts(settings.items())
        competing = group.get("competing")
        tables = [("members", group["members"])]
        if competing is None:
            tables.append(("partitions", group["partitions"]))
        else:
            tables.append(("leases", competing["leases"]))
        for title, rows in tables:
            if rows:
                cli.out.line(f"\n{title}")
                cli.out.table(tuple(rows[0]), [list(each.values()) for each in rows])

    cli.out.show(row | group, people)
    if group["held"]:
        cli.out.note(f"held: its handler is disabled; {_enabling(name)} lets it go on")


async def _consume(
    cli: Cli,
    name: GroupName,
    member: Annotated[
        str | None, typer.Option("--member", help="Take over from a process of that name.")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="Stop after so many.")] = None,
    prefetch: Annotated[
        int | None, typer.Option("--prefetch", min=2, help="Events in hand at once.")
    ] = None,
) -> None:
    """Take events as a member of the group, print each and ack it, until Ctrl-C."""
    seen = 0
    async with cli.client() as client:
        cluster_id = (await client.status())["cluster_id"]
        group = await client.group(name).describe()
        if group["paused"]:
            cli.out.note(f"{name} is paused: `cluster group resume {name}` lets it go on")
        wanted = prefetch or (min(count, 1000) + 1 if count else None)
        async with client.group(name).consume(member, prefetch=wanted) as deliveries:
            async for delivery in deliveries:
                show_event(cli.out, delivery.event, cluster_id)
                if not cli.out.as_json and (delivery.attempt > 1 or delivery.replayed):
                    how = "replayed" if delivery.replayed else f"attempt {delivery.attempt}"
                    cli.out.note(f"  {delivery.revision}: {how}")
                seen += 1
                if seen == count:
                    await delivery.ack()
                    return


async def _pause(cli: Cli, name: GroupName) -> None:
    """Hand out nothing until `resume`; what is in hand can still be acked."""
    async with cli.client() as client:
        await client.group(name).pause()
    cli.out.say(f"{name} is paused", {"group": name, "paused": True})


async def _resume(cli: Cli, name: GroupName) -> None:
    """Hand out events again."""
    async with cli.client() as client:
        is_held = (await client.group(name).describe())["held"]
        await client.group(name).resume()
    cli.out.say(
        f"{name} is no longer paused" if is_held else f"{name} goes on",
        {"group": name, "paused": False, "held": is_held},
    )
    if is_held:
        cli.out.note(f"it still waits: its handler is disabled; {_enabling(name)} lets it go on")


async def _seek(
    cli: Cli, name: GroupName, start: Annotated[str, typer.Argument(help=START_HELP)]
) -> None:
    """Go to another place of the log; what the members have in hand is void."""
    async with cli.client() as client:
        floor = await client.group(name).seek(parse_start(start))
    cli.out.say(f"{name} reads from revision {floor + 1}", {"group": name, "floor": floor})


async def _skip(
    cli: Cli, name: GroupName, revision: Annotated[int, typer.Argument(min=1, help="Of the event.")]
) -> None:
    """Complete one event without handling it, so that the group gets past it."""
    async with cli.client() as client:
        skipped = await client.group(name).skip(revision)
    words = "is skipped" if skipped else "was dealt with before"
    cli.out.say(f"event {revision} {words}", {"group": name, "skipped": bool(skipped)})


async def _delete(cli: Cli, name: GroupName) -> None:
    """Forget a group with all that it holds; it lets go of retention."""
    async with cli.client() as client:
        await client.group(name).delete()
    cli.out.say(f"{name} is deleted", {"group": name, "deleted": True})


def summary(group: dict[str, Any], revision: int) -> dict[str, Any]:
    """A group on one line."""
    floors = [partition["floor"] for partition in group["partitions"]]
    competing = group.get("competing") or {}
    return {
        "group": group["name"],
        "mode": group["mode"],
        "pattern": group["pattern"],
        "members": len(group["members"]),
        "lag": max(0, revision - min(floors, default=revision)),
        "in_hand": competing.get("in_flight"),
        "completed": group["completed"],
        "dead_letters": group["dead_held"],
        "paused": group["paused"],
        "held": group["held"],
    }


def _enabling(group: str) -> str:
    return f"`cluster hook enable {handler_of(group)}`"


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isascii() and part.isdigit() for part in parts):
        raise typer.BadParameter(f"milliseconds with commas between them are needed, got {text!r}")
    return [int(part) for part in parts]
