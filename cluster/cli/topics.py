"""`cluster pub | sub | topic | delayed`: events of user topics, and everything that happened."""

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.events import show_event
from cluster.cli.handled import WaitFor, check_handlers, finish_write
from cluster.cli.kv import value_bytes
from cluster.cli.outcome import Failure
from cluster.cli.patterns import check_pattern, note_silent, note_unpublished
from cluster.cli.session import Cli, online
from cluster.cli.start import START_HELP, parse_start
from cluster.client.publishing import DelayedEvent
from pubsub.topics import Pattern, validate_pattern, validate_topic
from pubsub.traceparent import validate_traceparent

LISTED_DEFAULT = 1_000


def register(app: typer.Typer) -> None:
    """Add the commands."""
    online(app, "pub")(_pub)
    online(app, "sub")(_sub)
    topic = typer.Typer(no_args_is_help=True, help="The topics that were published to.")
    online(topic, "list")(_list_topics)
    app.add_typer(topic, name="topic")
    delayed = typer.Typer(no_args_is_help=True, help="Events that wait for their time.")
    online(delayed, "list")(_list_delayed)
    online(delayed, "cancel")(_cancel)
    app.add_typer(delayed, name="delayed")


async def _pub(
    cli: Cli,
    topic: Annotated[str, typer.Argument(help="Like orders.created.")],
    payload: Annotated[str | None, typer.Argument(help="- reads it from input.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="Payload from a file.")] = None,
    key: Annotated[
        str | None, typer.Option("--key", help="Events of one key are handled in order.")
    ] = None,
    content_type: Annotated[
        str | None, typer.Option("--content-type", help="Default: JSON when it is JSON, or text.")
    ] = None,
    header: Annotated[
        list[str] | None, typer.Option("--header", help="NAME=VALUE; repeatable.")
    ] = None,
    message_id: Annotated[
        str | None,
        typer.Option("--message-id", help="Again within two minutes: the first one's revision."),
    ] = None,
    expected_last_revision: Annotated[
        int | None,
        typer.Option(
            "--expected-last-revision", min=0, help="Only if the topic has nothing newer; 0: none."
        ),
    ] = None,
    schema_version: Annotated[
        str | None, typer.Option("--schema-version", help="Of the payload.")
    ] = None,
    delay_ms: Annotated[
        int | None, typer.Option("--delay-ms", min=0, help="Publish it later, after so long.")
    ] = None,
    at: Annotated[
        str | None, typer.Option("--at", help="Publish it later, at 2026-01-31T12:00.")
    ] = None,
    correlation_id: Annotated[
        str | None, typer.Option("--correlation-id", help="What the event belongs to.")
    ] = None,
    traceparent: Annotated[
        str | None, typer.Option("--traceparent", help="W3C trace context.")
    ] = None,
    wait_for: WaitFor = None,
) -> None:
    """Append an event to the log, now or later."""
    _check_event(topic, traceparent)
    data = value_bytes(payload if payload is not None or file else "", file)
    at_ms = None if at is None else _wall_ms(at)
    is_later = at_ms is not None or delay_ms is not None
    if is_later:
        _check_later(delay_ms, at_ms, expected_last_revision, wait_for)
    common: dict[str, Any] = {
        "key": key,
        "content_type": content_type or content_type_of(data),
        "headers": _headers(header) or None,
        "message_id": message_id,
        "schema_version": schema_version,
        "correlation_id": correlation_id,
        "traceparent": traceparent,
    }
    async with cli.client() as client:
        await check_handlers(client, wait_for)
        if is_later:
            identity = await client.publish_later(
                topic, data, delay_ms=delay_ms, at_ms=at_ms, **common
            )
            cli.out.say(f"delayed {identity}", {"topic": topic, "id": identity})
            return
        revision = await client.publish(
            topic, data, expected_last_revision=expected_last_revision, **common
        )
        told = {"topic": topic, "revision": revision}
        await finish_write(cli, client, f"revision {revision}", told, wait_for)


async def _sub(
    cli: Cli,
    pattern: Annotated[str, typer.Argument(help='"*" is one segment, ">" one or more.')] = ">",
    start: Annotated[str, typer.Option("--from", help=START_HELP)] = "latest",
    count: Annotated[int | None, typer.Option("--count", min=1, help="Stop after so many.")] = None,
) -> None:
    """Follow the events that match, each exactly once, until Ctrl-C."""
    known = check_pattern(pattern)
    first = parse_start(start)
    seen = 0
    async with cli.client() as client:
        cluster_id = (await client.request("status"))["cluster_id"]
        async with client.subscribe(pattern, first) as events:
            await note_silent(cli.out, client, known)
            await note_unpublished(cli.out, client, known)
            async for event in events:
                show_event(cli.out, event, cluster_id)
                seen += 1
                if seen == count:
                    return


async def _list_topics(
    cli: Cli,
    pattern: Annotated[str, typer.Argument(help="Only those that match.")] = ">",
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = LISTED_DEFAULT,
) -> None:
    """List the topics of users, with the revision of the newest event of each."""
    if problem := validate_pattern(pattern):
        raise typer.BadParameter(problem)
    matches = Pattern(pattern).matches
    found: list[tuple[str, int]] = []
    after, more = "", True
    async with cli.client() as client:
        while more and len(found) <= limit:
            page, more = await client.topics(after)
            found += [row for row in page if matches(row[0])]
            after = page[-1][0] if page else after
    more = more or len(found) > limit
    del found[limit:]
    cli.out.show(
        {"topics": [{"topic": t, "last_revision": r} for t, r in found], "more": more},
        lambda: cli.out.table(["topic", "last revision"], found),
    )
    if more:
        cli.out.note(f"only the first {len(found)}; --limit shows more")


async def _list_delayed(
    cli: Cli,
    limit: Annotated[int, typer.Option("--limit", min=1, help="At most so many.")] = LISTED_DEFAULT,
) -> None:
    """List the events that wait, in the order in which they were left."""
    found: list[DelayedEvent] = []
    more = True
    async with cli.client() as client:
        while more and len(found) <= limit:
            page, more = await client.delayed_events(found[-1].id if found else 0)
            found += page
    more = more or len(found) > limit
    del found[limit:]
    cli.out.show(
        {"delayed": [event._asdict() for event in found], "more": more},
        lambda: cli.out.table(
            ["id", "due", "topic", "key", "bytes"],
            [(e.id, _local_time(e.due_ms), e.topic, e.key, e.size_bytes) for e in found],
        ),
    )
    if more:
        cli.out.note(f"only the first {len(found)}; --limit shows more")


async def _cancel(
    cli: Cli, identity: Annotated[int, typer.Argument(metavar="ID", min=0, help="As listed.")]
) -> None:
    """Cancel a delayed event, if it still waits."""
    async with cli.client() as client:
        if not await client.cancel_delayed(identity):
            raise Failure(f"no event waits under the id {identity}")
    cli.out.say(f"cancelled {identity}", {"id": identity})


def _check_event(topic: str, traceparent: str | None) -> None:
    problem = validate_topic(topic) or (traceparent and validate_traceparent(traceparent))
    if problem:
        raise typer.BadParameter(problem)


def _check_later(
    delay_ms: int | None, at_ms: int | None, expected: int | None, wait_for: WaitFor
) -> None:
    if at_ms is not None and delay_ms is not None:
        raise typer.BadParameter("--delay-ms and --at exclude each other")
    if expected is not None:
        raise typer.BadParameter("--expected-last-revision is for what is published now")
    if wait_for:
        raise typer.BadParameter("--wait-for is for what is published now")


def _headers(texts: list[str] | None) -> dict[str, str]:
    headers: dict[str, str] = {}
    for text in texts or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"--header is NAME=VALUE, got {text!r}")
        headers[name] = value
    return headers


def _wall_ms(text: str) -> int:
    """A time in milliseconds since 1970; one without a zone is the local one."""
    try:
        return max(0, int(datetime.fromisoformat(text).timestamp() * 1_000))
    except (ValueError, OverflowError, OSError):
        raise typer.BadParameter(
            f"--at: a time like 2026-01-31T12:00 is needed, got {text!r}; for a delay --delay-ms"
        ) from None


def _local_time(wall_ms: int) -> str:
    return datetime.fromtimestamp(wall_ms / 1000).isoformat(" ", "milliseconds")


def content_type_of(data: bytes) -> str:
    """What a payload is when nobody says it."""
    try:
        json.loads(data)
    except ValueError:
        pass
    else:
        return "application/json"
    try:
        data.decode()
    except UnicodeDecodeError:
        return "application/octet-stream"
    return "text/plain; charset=utf-8"
