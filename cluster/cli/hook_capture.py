"""`cluster hook capture ...`: what the log keeps of the values that are put."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.cli.quantities import parse_size, show_size
from cluster.cli.session import Cli, online
from hooks.replicated.capture import FULL, MODES, TRUNCATED
from pubsub.topics import closest

COLUMNS = ("prefix", "mode", "bytes")
EVERY_KEY = "(every key)"

Prefix = Annotated[str, typer.Argument(help='What the keys begin with; "" is every key.')]


def register(hook: typer.Typer) -> None:
    """Add the commands to `cluster hook`."""
    group = typer.Typer(no_args_is_help=True, help="What the log keeps of values.")
    online(group, "list")(_list)
    online(group, "set")(_set)
    online(group, "delete")(_delete)
    hook.add_typer(group, name="capture")


async def _list(cli: Cli) -> None:
    """The rules by prefix; the longest prefix of a key wins."""
    async with cli.client() as client:
        rules = await client.request("capture.list")
    cli.out.show(
        {"rules": rules},
        lambda: cli.out.table(
            COLUMNS,
            [
                [rule["prefix"] or EVERY_KEY, rule["mode"], show_size(rule["bytes"])]
                for rule in rules
            ],
        ),
    )
    if not rules:
        cli.out.note("there are no rules: the log keeps every value")


async def _set(
    cli: Cli,
    prefix: Prefix,
    mode: Annotated[
        str,
        typer.Argument(help="full, truncated, hash (SHA-256 and size) or none (size alone)."),
    ],
    size: Annotated[
        str | None, typer.Option("--bytes", help="truncated: so much is kept, like 1KiB.")
    ] = None,
) -> None:
    """Set what the log keeps of values from now on; values in the store are always whole."""
    if mode not in MODES:
        nearest = closest(mode, MODES)
        hint = f'; did you mean "{nearest}"?' if nearest else ""
        raise typer.BadParameter(f"the modes are {', '.join(MODES)}{hint}")
    kept = parse_size(size, "--bytes")
    if kept is not None and mode != TRUNCATED:
        raise typer.BadParameter(f"--bytes is for mode {TRUNCATED}")
    async with cli.client() as client:
        changed = await client.request("capture.set", [prefix, mode, kept])
    cli.out.say(
        f"{'set' if changed else 'was so already'}: {prefix or EVERY_KEY} {mode}",
        {"prefix": prefix, "mode": mode, "changed": changed},
    )
    if changed and mode != FULL:
        cli.out.note("what the log has already stays as it is")


async def _delete(cli: Cli, prefix: Prefix) -> None:
    """Delete the rule of a prefix; its keys go by that of a shorter one, if there is one."""
    async with cli.client() as client:
        await client.request("capture.delete", [prefix])
    cli.out.say(f"deleted: {prefix or EVERY_KEY}", {"prefix": prefix})
