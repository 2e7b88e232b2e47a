"""`--wait-for HANDLER`: a write that is not over until handlers are done with its event."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from cluster.cli.outcome import Exit, Failure
from cluster.cli.session import Cli
from cluster.client import Client
from cluster.errors import Timeout

ENABLED = "enabled"

WaitFor = Annotated[
    list[str] | None,
    typer.Option("--wait-for", metavar="HANDLER", help="Until it is done with it; repeatable."),
]


async def check_handlers(client: Client, handlers: Sequence[str] | None) -> None:
    """Refuse a name that no handler has before anything is written."""
    for name in handlers or ():
        await client.hooks.info(name)


async def finish_write(
    cli: Cli,
    client: Client,
    sentence: str,
    value: dict[str, Any],
    handlers: Sequence[str] | None,
) -> None:
    """Print what was written, and how each handler dealt with it; a Failure if one did not."""
    if not handlers:
        cli.out.say(sentence, value)
        return
    revision = value["revision"]
    ends: dict[str, str | None] = {}
    for name in handlers:
        try:
            end = await client.wait_handled(name, revision, timeout_ms=int(cli.timeout_s * 1000))
        except Timeout:
            state = (await client.hooks.info(name))["state"]
            cli.out.say(sentence, value | {"handled": [*ends]})
            raise Failure(
                f"revision {revision} is written; handler {name} is not done with it after "
                f"{cli.timeout_s:g} s" + ("" if state == ENABLED else f": it is {state}"),
                hint=f"`cluster hook explain {revision}` says where it is.",
                code=Exit.UNKNOWN_OUTCOME,
                happened=True,
            ) from None
        if not end.is_done:
            cli.out.say(sentence, value | {"handled": [*ends]})
            raise Failure(
                f"revision {revision} is written; handler {name} did not process it: "
                f"{end.state.replace('_', ' ')}: {end.because}",
                hint=f"`cluster hook explain {revision}` says more.",
                word="not_handled",
                happened=True,
            )
        ends[name] = end.state
    cli.out.say(f"{sentence}, handled by {', '.join(ends)}", value | {"handled": [*ends]})
