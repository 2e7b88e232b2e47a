"""`cluster retention ...`: what the log keeps, and what it gives up."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cluster.cli.patterns import check_pattern, note_silent
from cluster.cli.quantities import parse_duration, parse_size, show_duration, show_size
from cluster.cli.session import Cli, online

WHOLE_LOG = "(whole log)"
COLUMNS = (
    "pattern", "max_age", "max_events", "max_bytes", "events", "bytes", "gone_to", "waits_for",
)  # fmt: skip

PatternArgument = Annotated[
    str, typer.Argument(help='Topics; "*" is one segment, ">" one or more.')
]
MaxAge = Annotated[
    str | None, typer.Option("--max-age", help="No older than this: 90s, 10m, 12h, 7d.")
]
MaxEvents = Annotated[int | None, typer.Option("--max-events", min=1, help="No more than these.")]
MaxBytes = Annotated[
    str | None, typer.Option("--max-bytes", help="No more than this: 1000, 10MiB, 2GB.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="What the log keeps, and what it gives up.")
    online(group, "list")(_list)
    online(group, "set")(_set)
    online(group, "delete")(_delete)
    online(group, "cap")(_cap)
    app.add_typer(group, name="retention")


async def _list(cli: Cli) -> None:
    """The rules, the most specific first; an event belongs to the first that matches."""
    async with cli.client() as client:
        rules = await client.request("retention.list")
    cli.out.show({"rules": rules}, lambda: cli.out.table(COLUMNS, map(_row, rules)))
    if not rules:
        cli.out.note("there are no rules: the log keeps everything")


async def _set(
    cli: Cli,
    pattern: PatternArgument,
    max_age: MaxAge = None,
    max_events: MaxEvents = None,
    max_bytes: MaxBytes = None,
    for_ever: Annotated[
        bool, typer.Option("--forever", help="Keep these, whatever a less specific rule says.")
    ] = False,
) -> None:
    """Set the rule of a pattern; protected groups get what they have not read all the same."""
    checked = check_pattern(pattern)
    bounds = [
        parse_duration(max_age, "--max-age"),
        max_events,
        parse_size(max_bytes, "--max-bytes"),
    ]
    if for_ever == any(bound is not None for bound in bounds):
        raise typer.BadParameter("give --max-age, --max-events or --max-bytes, or else --forever")
    async with cli.client() as client:
        is_new = await client.request("retention.set", [pattern, *bounds])
        await note_silent(cli.out, client, checked)
    cli.out.say(f"{'set' if is_new else 'changed'}: {pattern}", {"pattern": pattern, "new": is_new})


async def _delete(cli: Cli, pattern: PatternArgument) -> None:
    """Delete the rule of a pattern; its events belong to the next rule that matches."""
    async with cli.client() as client:
        await client.request("retention.delete", [pattern])
    cli.out.say(f"deleted: {pattern}", {"pattern": pattern})


async def _cap(
    cli: Cli,
    max_events: MaxEvents = None,
    max_bytes: MaxBytes = None,
    off: Annotated[bool, typer.Option("--off", help="Take the cap away.")] = False,
) -> None:
    """Limit the whole log, also against groups that have not read what goes: an event
    hooks.system.retention_capped names them."""
    size = parse_size(max_bytes, "--max-bytes")
    if off == (max_events is not None or size is not None):
        raise typer.BadParameter("give --max-events or --max-bytes, or else --off")
    async with cli.client() as client:
        await client.request("retention.cap", [max_events, size])
    sentence = "the whole log has no cap" if off else "the whole log is capped"
    cli.out.say(sentence, {"max_events": max_events, "max_bytes": size})


def _row(rule: dict[str, Any]) -> list[object]:
    holder = rule["holder"]
    return [
        rule["pattern"] or WHOLE_LOG,
        show_duration(rule["max_age_ms"]),
        rule["max_events"],
        show_size(rule["max_bytes"]),
        rule["events"],
        show_size(rule["bytes"]),
        rule["trimmed_to"],
        None if holder is None else f"{holder} at {rule['holder_floor']}",
    ]
