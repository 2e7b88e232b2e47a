"""`cluster event query | get | trace`: what happened, found by what events have in common."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated

import typer

from cluster.cli import event_files
from cluster.cli.events import event_line, show_event
from cluster.cli.outcome import Failure
from cluster.cli.patterns import check_pattern
from cluster.cli.session import Cli, online
from cluster.cli.start import parse_time
from cluster.client import Client, EventFilter
from cluster.protocol import LINEARIZABLE, LOCAL
from hooks.events.publisher import cloud_event
from pubsub.events import Identifier
from pubsub.store import trace

LISTED_DEFAULT = 20

group = typer.Typer(no_args_is_help=True, help="The log of everything that happened.")

PatternOption = Annotated[
    str | None, typer.Option("--pattern", help='Of the topic: "*" is one segment, ">" the rest.')
]
KeyOption = Annotated[str | None, typer.Option("--key", help="Exactly this key.")]
ActorOption = Annotated[str | None, typer.Option("--actor", help="Who did it.")]
CorrelationOption = Annotated[
    str | None, typer.Option("--correlation-id", help="What it belongs to: an id or a revision.")
]
CausationOption = Annotated[
    str | None, typer.Option("--causation-id", help="What caused it: an id or a revision.")
]
FromOption = Annotated[
    int | None, typer.Option("--from-revision", min=1, help="This one and later ones.")
]
ToOption = Annotated[
    int | None, typer.Option("--to-revision", min=1, help="This one and earlier ones.")
]
SinceOption = Annotated[
    str | None, typer.Option("--since", help="A time (2026-01-31T12:00) or an age (10m).")
]
UntilOption = Annotated[str | None, typer.Option("--until", help="As --since.")]
LocalOption = Annotated[
    bool, typer.Option("--local", help="From the node that answers, possibly not the newest.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    online(group, "query")(_query)
    online(group, "get")(_get)
    online(group, "trace")(_trace)
    event_files.register(group, wanted)
    app.add_typer(group, name="event")


async def _query(
    cli: Cli,
    pattern: PatternOption = None,
    key: KeyOption = None,
    actor: ActorOption = None,
    correlation_id: CorrelationOption = None,
    causation_id: CausationOption = None,
    from_revision: FromOption = None,
    to_revision: ToOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, help="At most so many events.")
    ] = LISTED_DEFAULT,
    every: Annotated[bool, typer.Option("--all", help="No limit.")] = False,
    oldest_first: Annotated[
        bool, typer.Option("--oldest-first", help="Default: the newest first.")
    ] = False,
    local: LocalOption = False,
) -> None:
    """Find events by topic, key, actor, correlation, cause, revision or time."""
    level = LOCAL if local else LINEARIZABLE
    shown = 0
    async with cli.client() as client:
        cluster_id = await cluster_id_of(client)
        asked = wanted(
            cluster_id,
            pattern=pattern,
            key=key,
            actor=actor,
            correlation_id=correlation_id,
            causation_id=causation_id,
            from_revision=from_revision,
            to_revision=to_revision,
            since=since,
            until=until,
        )
        pages = client.every_event(
            descending=not oldest_first,
            level=level,
            limit=None if every else min(limit, 1_000),
            **asked,
        )
        async with aclosing(pages):
            async for page in pages:
                for event in page.events:
                    if shown == limit and not every:
                        cli.out.note(f"there are more than {limit}: --limit or --all shows them")
                        return
                    show_event(cli.out, event, cluster_id)
                    shown += 1
    if not shown:
        cli.out.note("no event matches")


async def _get(
    cli: Cli,
    revision: Annotated[int, typer.Argument(min=1, help="Its place in the log.")],
    local: LocalOption = False,
) -> None:
    """Print one event, whole."""
    async with cli.client() as client:
        cluster_id = await cluster_id_of(client)
        event = await client.event(revision, level=LOCAL if local else LINEARIZABLE)
    if event is None:
        raise Failure(f"there is no event {revision}", hint="It is not there yet, or not any more.")
    envelope = cloud_event(event, cluster_id)
    if cli.out.as_json:
        cli.out.json_line(envelope)
        return
    facts = [(name, value) for name, value in envelope.items() if name != "data"]
    data = envelope.get("data", {})
    inner = data if isinstance(data, dict) else {"data": data}
    cli.out.facts([*facts, *((f"  {name}", value) for name, value in inner.items())])


async def _trace(
    cli: Cli,
    target: Annotated[
        str, typer.Argument(help="The revision of any event of it, or a correlation id.")
    ],
    local: LocalOption = False,
) -> None:
    """Show what an event caused, and what caused it, as a tree."""
    level = LOCAL if local else LINEARIZABLE
    async with cli.client() as client:
        cluster_id = await cluster_id_of(client)
        correlation_id = parse_identifier(target, cluster_id)
        if isinstance(correlation_id, int):
            event = await client.event(correlation_id, level=level)
            if event is not None and event.correlation_id is not None:
                correlation_id = event.correlation_id
        events, more = await client.trace_events(correlation_id, level=level)
    if not events:
        raise Failure(f"no event belongs to {target}")
    for line in trace.lines(trace.tree(events)):
        if cli.out.as_json:
            cli.out.json_line({**cloud_event(line.event, cluster_id), "depth": line.depth})
        else:
            cli.out.line(line.prefix + event_line(line.event).lstrip())
    if more:
        cli.out.note(f"only the first {len(events)} events of it")


def wanted(
    cluster_id: str,
    *,
    correlation_id: str | None,
    causation_id: str | None,
    pattern: str | None,
    since: str | None,
    until: str | None,
    key: str | None,
    actor: str | None,
    from_revision: int | None,
    to_revision: int | None,
) -> EventFilter:
    """The filter that the options ask for."""
    if pattern is not None:
        check_pattern(pattern)
    return {
        "pattern": pattern,
        "key": key,
        "actor": actor,
        "correlation_id": _identifier(correlation_id, cluster_id),
        "causation_id": _identifier(causation_id, cluster_id),
        "from_revision": from_revision,
        "to_revision": to_revision,
        "from_ms": _time("--since", since),
        "to_ms": _time("--until", until),
    }


def parse_identifier(text: str, cluster_id: str) -> Identifier:
    """A revision, alone or as CloudEvents show it, or else a text of a user's own."""
    number = text.removeprefix(f"{cluster_id}-")
    is_revision = number.isascii() and number.isdigit() and len(number) < 19
    return int(number) if is_revision else text


async def cluster_id_of(client: Client) -> str:
    """Of the cluster that answers: a part of every event's id."""
    return str((await client.status())["cluster_id"])


def _identifier(text: str | None, cluster_id: str) -> Identifier | None:
    return None if text is None else parse_identifier(text, cluster_id)


def _time(option: str, text: str | None) -> int | None:
    if text is None:
        return None
    wall_ms = parse_time(text)
    if wall_ms is None:
        raise typer.BadParameter(
            f"{option}: a time like 2026-01-31T12:00 or an age like 10m is needed, got {text!r}"
        )
    return wall_ms
