"""`cluster kv ...`: keys and their values."""

import sys
from contextlib import aclosing
from pathlib import Path
from typing import Annotated

import typer

from cluster import kv
from cluster.cli import transfer
from cluster.cli.events import show_event
from cluster.cli.handled import WaitFor, check_handlers, finish_write
from cluster.cli.outcome import Failure
from cluster.cli.output import Brief, value_fields
from cluster.cli.session import Cli, online
from cluster.cli.start import START_HELP, parse_start
from cluster.client import Client, Entry
from cluster.limits import VALUE_BYTES_MAX
from cluster.protocol import LINEARIZABLE, LOCAL

LIST_KEYS_DEFAULT = 1_000

Key = Annotated[str, typer.Argument(help="The key.")]
Prefix = Annotated[str, typer.Argument(help="Keys that begin with this; all without it.")]
ExpectedRevision = Annotated[
    int | None,
    typer.Option(
        "--expected-revision", min=0, help="Only if this is the key's revision; 0: only if new."
    ),
]
Local = Annotated[
    bool,
    typer.Option("--local", help="What the node has now, possibly old, instead of the latest."),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    group = typer.Typer(no_args_is_help=True, help="Keys and values.")
    online(group, "put")(_put)
    online(group, "get")(_get)
    online(group, "delete")(_delete)
    online(group, "list")(_list)
    online(group, "watch")(_watch)
    transfer.register(group)
    app.add_typer(group, name="kv")


async def _put(
    cli: Cli,
    key: Key,
    value: Annotated[str | None, typer.Argument(help="The value; - reads it from input.")] = None,
    file: Annotated[Path | None, typer.Option("--file", help="Take the value from a file.")] = None,
    ttl_ms: Annotated[int | None, typer.Option("--ttl-ms", min=1, help="Expires after.")] = None,
    expected_revision: ExpectedRevision = None,
    wait_for: WaitFor = None,
) -> None:
    """Write a key."""
    data = value_bytes(value, file)
    async with cli.client() as client:
        await check_handlers(client, wait_for)
        revision = await client.put(key, data, ttl_ms=ttl_ms, expected_revision=expected_revision)
        written = {"key": key, "revision": revision}
        await finish_write(cli, client, f"revision {revision}", written, wait_for)


async def _get(
    cli: Cli,
    key: Key,
    raw: Annotated[
        bool, typer.Option("--raw", help="The bytes of the value and nothing else.")
    ] = False,
    local: Local = False,
) -> None:
    """Print the value of a key."""
    async with cli.client() as client:
        entry = await client.get(key, level=LOCAL if local else LINEARIZABLE)
    if entry is None or entry.value is None:
        raise Failure(f"there is no key {key!r}")
    if cli.out.as_json:
        cli.out.json_line(entry_fields(entry))
    else:
        cli.out.raw(entry.value if raw else entry.value + b"\n")


async def _delete(cli: Cli, key: Key, expected_revision: ExpectedRevision = None) -> None:
    """Delete a key."""
    async with cli.client() as client:
        revision = await client.delete(key, expected_revision=expected_revision)
    if not revision:
        raise Failure(f"there is no key {key!r}")
    cli.out.say(f"revision {revision}", {"key": key, "revision": revision})


async def _list(
    cli: Cli,
    prefix: Prefix = "",
    limit: Annotated[
        int, typer.Option("--limit", min=1, help="At most so many keys.")
    ] = LIST_KEYS_DEFAULT,
    every: Annotated[bool, typer.Option("--all", help="No limit.")] = False,
    keys_only: Annotated[bool, typer.Option("--keys-only", help="Without values.")] = False,
    count: Annotated[bool, typer.Option("--count", help="Only how many there are.")] = False,
    local: Local = False,
) -> None:
    """List keys in order."""
    level = LOCAL if local else LINEARIZABLE
    start, end = kv.prefix(prefix)
    async with cli.client() as client:
        if count:
            number = await client.count(start, end, level=level)
            cli.out.say(number, {"prefix": prefix, "count": number})
            return
        entries, more = await _page(client, prefix, None if every else limit, keys_only, level)
    columns = ["key", "revision", "version"] + ([] if keys_only else ["value"])

    def rows() -> None:
        cli.out.table(
            columns,
            (
                (entry.key, entry.mod_revision, entry.version)
                + (() if entry.value is None else (Brief(entry.value, 60),))
                for entry in entries
            ),
        )

    cli.out.show({"entries": [entry_fields(entry) for entry in entries], "more": more}, rows)
    if more:
        cli.out.note(f"only the first {len(entries)}; --all shows the rest")


async def _watch(
    cli: Cli,
    prefix: Prefix = "",
    start: Annotated[str, typer.Option("--from", help=START_HELP)] = "latest",
    count: Annotated[int | None, typer.Option("--count", min=1, help="Stop after so many.")] = None,
) -> None:
    """Follow the changes of keys, each exactly once, until Ctrl-C."""
    async with cli.client() as client:
        cluster_id = (await client.request("status"))["cluster_id"]
        with_count = 0
        async with client.watch(prefix, parse_start(start)) as changes:
            async for event in changes:
                show_event(cli.out, event, cluster_id)
                with_count += 1
                if with_count == count:
                    return


def value_bytes(value: str | None, file: Path | None) -> bytes:
    """A value from the command line, from standard input (-) or from a file."""
    if (value is None) == (file is None):
        raise typer.BadParameter("give a value, - or --file")
    if file is not None:
        try:
            with file.open("rb") as stream:
                return stream.read(VALUE_BYTES_MAX + 1)  # one more is refused by name, not cut
        except OSError as error:
            raise Failure(f"{file}: {error.strerror}") from None
    if value == "-":
        return sys.stdin.buffer.read(VALUE_BYTES_MAX + 1)
    assert value is not None
    return value.encode(errors="surrogateescape")


def entry_fields(entry: Entry) -> dict[str, object]:
    """A key in JSON."""
    value = {} if entry.value is None else value_fields(entry.value)
    return {
        "key": entry.key,
        **value,
        "create_revision": entry.create_revision,
        "mod_revision": entry.mod_revision,
        "version": entry.version,
        "expires_ms": entry.expires_ms,
    }


async def _page(
    client: Client, prefix: str, limit: int | None, keys_only: bool, level: str
) -> tuple[list[Entry], bool]:
    """The first `limit` keys, and whether there are more."""
    entries: list[Entry] = []
    async with aclosing(
        transfer.entries(client, prefix, keys_only=keys_only, level=level)
    ) as every:
        async for entry in every:
            if limit is not None and len(entries) == limit:
                return entries, True
            entries.append(entry)
    return entries, False
