"""`cluster hook enable | disable | forget | settings`: what holds for handlers on every node."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Annotated, TypeVar

import typer

from cluster.cli.hook_attempts import Name
from cluster.cli.outcome import Failure
from cluster.cli.session import Cli, online
from cluster.cli.start import START_HELP, parse_start
from cluster.client import Client
from cluster.errors import Rejected
from hooks.events.catalogue import publish_problem
from pubsub.topics import closest

T = TypeVar("T")


def register(hook: typer.Typer) -> None:
    """Add the commands to `cluster hook`."""
    online(hook, "enable")(_enable)
    online(hook, "disable")(_disable)
    online(hook, "forget")(_forget)
    online(hook, "settings")(_settings)


async def _enable(
    cli: Cli,
    name: Name,
    start: Annotated[
        str | None, typer.Option("--from", help=f"Default: where it stands. {START_HELP}")
    ] = None,
) -> None:
    """Let a disabled handler go on, on every node."""
    place = None if start is None else parse_start(start)
    async with cli.client() as client:
        is_new = await _known(client, name, client.hooks.enable(name, place))
    if not is_new and start is not None:
        raise Failure(
            f"{name} is enabled: it goes on where it stands",
            hint=f"To go elsewhere: cluster hook disable {name}, then this again.",
        )
    sentence = f"{name} is enabled" if is_new else f"{name} was enabled before"
    cli.out.say(sentence, {"handler": name, "changed": is_new})


async def _disable(
    cli: Cli,
    name: Name,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Is shown wherever the handler is.")
    ] = None,
) -> None:
    """Start nothing more of a handler on any node; its events wait."""
    async with cli.client() as client:
        is_new = await _known(client, name, client.hooks.disable(name, reason))
    sentence = f"{name} is disabled" if is_new else f"{name} was disabled before"
    cli.out.say(sentence, {"handler": name, "changed": is_new})


async def _forget(cli: Cli, name: Name) -> None:
    """Forget a handler that no node has any more: its place and its dead letters, for good."""
    async with cli.client() as client:
        await _known(client, name, client.hooks.forget(name))
    cli.out.say(f"{name} is forgotten", {"handler": name})


async def _settings(
    cli: Cli,
    topics: Annotated[
        list[str] | None,
        typer.Option("--publish-topics", metavar="PATTERN", help="Set them; repeatable."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--publish-all", help="Every topic reaches handlers.")
    ] = False,
) -> None:
    """Show, or set, which of the cluster's own events reach handlers."""
    if topics and every:
        raise typer.BadParameter("--publish-topics and --publish-all exclude each other")
    for pattern in topics or ():
        if problem := publish_problem(pattern):
            raise typer.BadParameter(problem)
    async with cli.client() as client:
        if topics or every:
            await client.hooks.set_publish_topics(topics or ())
        found = await client.hooks.settings()

    def people() -> None:
        cli.out.facts([("publish_topics", found["publish_topics"] or "all")])
        for item in found["differing"]:
            cli.out.note(f"the file of {item['node']} says {item['name']} = {item['value']}")
        for item in found["load_problems"]:
            cli.out.note(f"{item['node']}: {item['name']}: {item['problem']}", style="yellow")

    cli.out.show(found, people)


async def _known(client: Client, name: str, request: Awaitable[T]) -> T:
    """The answer; of a name that no handler has, the refusal with the nearest one there is."""
    try:
        return await request
    except Rejected as error:
        if error.code != "unknown_handler" or "did you mean" in error.detail:
            raise
        names = [row["handler"] for row in await client.hooks.list()]
        nearest = closest(name, names)
        if nearest == name:
            raise Failure(
                f"handler {name} is not registered yet",
                hint="Some node is of an older release: `cluster status` shows versions.",
            ) from None
        hint = f'; did you mean "{nearest}"?' if nearest else ""
        raise Failure(f'there is no handler "{name}"{hint}') from None
