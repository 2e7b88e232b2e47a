"""`cluster pub | sub`: events of user topics, and everything that happened."""

import json
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.events import show_event
from cluster.cli.kv import value_bytes
from cluster.cli.session import Cli, online
from cluster.cli.start import START_HELP, parse_start
from pubsub.topics import validate_pattern, validate_topic


def register(app: typer.Typer) -> None:
    """Add the commands."""
    online(app, "pub")(_pub)
    online(app, "sub")(_sub)


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
) -> None:
    """Append an event to the log."""
    if problem := validate_topic(topic):
        raise typer.BadParameter(problem)
    headers: dict[str, str] = {}
    for text in header or ():
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"--header is NAME=VALUE, got {text!r}")
        headers[name] = value
    data = value_bytes(payload if payload is not None or file else "", file)
    async with cli.client() as client:
        revision = await client.publish(
            topic,
            data,
            key=key,
            content_type=content_type or _content_type(data),
            headers=headers or None,
        )
    cli.out.say(f"revision {revision}", {"topic": topic, "revision": revision})


async def _sub(
    cli: Cli,
    pattern: Annotated[str, typer.Argument(help='"*" is one segment, ">" one or more.')] = ">",
    start: Annotated[str, typer.Option("--from", help=START_HELP)] = "latest",
    count: Annotated[int | None, typer.Option("--count", min=1, help="Stop after so many.")] = None,
) -> None:
    """Follow the events that match, each exactly once, until Ctrl-C."""
    if problem := validate_pattern(pattern):
        raise typer.BadParameter(problem)
    seen = 0
    async with cli.client() as client:
        cluster_id = (await client.request("status"))["cluster_id"]
        async with client.subscribe(pattern, parse_start(start)) as events:
            async for event in events:
                show_event(cli.out, event, cluster_id)
                seen += 1
                if seen == count:
                    return


def _content_type(data: bytes) -> str:
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
