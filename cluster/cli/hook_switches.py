"""`cluster hook enable | disable | forget | settings`: what holds for handlers on every node."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cluster.cli.doctor import load_problem
from cluster.cli.names import HandlerName
from cluster.cli.outcome import Failure
from cluster.cli.session import Cli, online
from cluster.cli.start import START_HELP, parse_start
from cluster.client import Client
from hooks.events.catalogue import publish_problem


def register(hook: typer.Typer) -> None:
    """Add the commands to `cluster hook`."""
    online(hook, "enable")(_enable)
    online(hook, "disable")(_disable)
    online(hook, "forget")(_forget)
    online(hook, "settings")(_settings)


async def _enable(
    cli: Cli,
    name: HandlerName,
    start: Annotated[
        str | None, typer.Option("--from", help=f"Default: where it stands. {START_HELP}")
    ] = None,
) -> None:
    """Let a disabled handler go on, on every node; a group that is paused stays so."""
    place = None if start is None else parse_start(start)
    async with cli.client() as client:
        is_paused = "paused" in (await _registered(client, name))["state"]
        is_new = await client.hooks.enable(name, place)
    if not is_new and start is not None:
        raise Failure(
            f"{name} is enabled: it goes on where it stands",
            hint=f"To go elsewhere: cluster hook disable {name}, then this again.",
        )
    sentence = f"{name} is enabled" if is_new else f"{name} was enabled before"
    cli.out.say(sentence, {"handler": name, "changed": is_new, "paused": is_paused})
    if is_paused:
        cli.out.note(f"it still waits: {name} is paused (`cluster group resume` lets it go on)")


async def _disable(
    cli: Cli,
    name: HandlerName,
    reason: Annotated[
        str | None, typer.Option("--reason", help="Is shown wherever the handler is.")
    ] = None,
) -> None:
    """Start nothing more of a handler on any node; its events wait."""
    async with cli.client() as client:
        await _registered(client, name)
        is_new = await client.hooks.disable(name, reason)
    sentence = f"{name} is disabled" if is_new else f"{name} was disabled before"
    cli.out.say(sentence, {"handler": name, "changed": is_new})


async def _forget(cli: Cli, name: HandlerName) -> None:
    """Forget a handler that no node has any more: its place and its dead letters, for good."""
    async with cli.client() as client:
        await _registered(client, name)
        await client.hooks.forget(name)
    cli.out.say(f"{name} is forgotten", {"handler": name})


async def _settings(
    cli: Cli,
    topics: Annotated[
        list[str] | None,
        typer.Option("--publish-topics", metavar="PATTERN", help="Set them; repeatable."),
    ] = None,
    every: Annotated[
        bool, typer.Option("--publish-all", help="Every topic reaches handlers and subscribers.")
    ] = False,
) -> None:
    """Show, or set, which of the cluster's own events reach handlers and subscribers."""
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
            cli.out.note(load_problem(item), style="yellow")

    cli.out.show(found, people)


async def _registered(client: Client, name: str) -> dict[str, Any]:
    """What is known of a handler; a name that none has is refused with the nearest one there is,
    before anything is changed."""
    found = await client.hooks.info(name)
    if not found["registered"]:
        raise Failure(
            f"handler {name} is not registered yet",
            hint="Some node is of an older release: `cluster status` shows versions.",
            word="unknown_handler",
        )
    return found
