"""`cluster kv import | export`: many keys from a file and to one."""

import json
import sys
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Annotated, BinaryIO

import trio
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cluster import kv
from cluster.cli.outcome import Exit, Failure, failure_of
from cluster.cli.output import value_fields
from cluster.cli.session import Cli, online, only
from cluster.client import Client, Entry
from cluster.errors import TremulaError
from cluster.protocol import LINEARIZABLE
from cluster.transfer import progress as state
from cluster.transfer.importer import Imported, Importer
from cluster.transfer.records import BadRecord, Record, read_csv, read_ndjson

PATIENCE_S = 120.0  # an import outlasts a change of leader, a restart, a short partition
STDIN = Path("-")


def register(group: typer.Typer) -> None:
    """Add the commands to `kv`."""
    online(group, "import")(_import)
    online(group, "export")(_export)


async def entries(
    client: Client, prefix: str, *, keys_only: bool = False, level: str = LINEARIZABLE
) -> AsyncGenerator[Entry, None]:
    """All keys that begin with `prefix`, page by page."""
    start, end = kv.prefix(prefix)
    after: str | None = None
    while True:
        page = await client.range(start, end, after=after, keys_only=keys_only, level=level)
        for entry in page.entries:
            yield entry
        if not page.more:
            return
        after = page.entries[-1].key


class ClientTarget:
    """A cluster as the importer sees it."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def write(self, records: Sequence[Record]) -> None:
        """One atomic request; the client repeats it safely until the timeout."""
        operations = [["put", record.key, record.value, record.ttl_ms, None] for record in records]
        await self._client.batch(operations)

    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        """The values now, asked for all at once."""
        values: list[bytes | None] = [None] * len(keys)

        async def read_one(index: int) -> None:
            entry = await self._client.get(keys[index])
            values[index] = entry.value if entry else None

        async with trio.open_nursery() as nursery:
            for index in range(len(keys)):
                nursery.start_soon(read_one, index)
        return values


async def _import(
    cli: Cli,
    file: Annotated[Path, typer.Argument(help="NDJSON or CSV; - reads NDJSON from input.")],
    file_format: Annotated[
        str | None, typer.Option("--format", help="ndjson or csv; default: the file's name.")
    ] = None,
    key_column: Annotated[str, typer.Option("--key-column", help="CSV: the key.")] = "key",
    value_column: Annotated[
        str | None,
        typer.Option("--value-column", help='CSV: the value; default "value" or all others.'),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, max=1000, help="Keys per request.")] = 100,
    in_flight: Annotated[
        int, typer.Option("--in-flight", min=1, max=64, help="Requests at a time.")
    ] = 8,
    changed_only: Annotated[
        bool, typer.Option("--changed-only", help="Read first, write only what differs.")
    ] = False,
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget an earlier import of this file.")
    ] = False,
) -> None:
    """Write the keys of a file: in atomic batches, resumable, each record exactly once."""
    read = _reader(file, file_format, key_column, value_column)
    with opened(file) as stream:
        async with cli.client(timeout_s=max(cli.timeout_s, PATIENCE_S)) as client:
            status = await client.request("status", timeout_ms=int(cli.timeout_s * 1000))
            kept = _progress(file, status["cluster_id"], restart)
            if kept.complete:
                cli.out.say(
                    f"{file} was imported before ({kept.written} records); --restart does it again",
                    {"records": kept.written, "written": 0, "unchanged": 0, "complete": True},
                )
                return
            if kept.sent:
                cli.out.note(f"resuming after {kept.written} records")
            save: Callable[[state.Progress], None] = (
                partial(state.save, file) if file != STDIN else lambda progress: None
            )
            with _bar(cli, file, stream) as advance:
                importer = Importer(
                    ClientTarget(client),
                    kept,
                    save=save,
                    records_max=batch,
                    in_flight_max=in_flight,
                    changed_only=changed_only,
                    notify=advance,
                )
                result = await _run(importer, read(stream), file)
    cli.out.say(
        f"{result.records} records: {result.written} written, {result.unchanged} unchanged",
        {
            "records": result.records,
            "written": result.written,
            "unchanged": result.unchanged,
            "complete": True,
        },
    )


async def _export(
    cli: Cli,
    prefix: Annotated[str, typer.Argument(help="Keys that begin with this.")] = "",
    file: Annotated[Path | None, typer.Option("--file", help="Default: output.")] = None,
) -> None:
    """Write keys as NDJSON that `kv import` reads. Pages are consistent, not the whole."""
    number = 0
    with written(file) as stream:
        async with cli.client() as client, aclosing(entries(client, prefix)) as every:
            async for entry in every:
                assert entry.value is not None
                fields = {"key": entry.key, **value_fields(entry.value)}
                stream.write(json.dumps(fields, ensure_ascii=False) + "\n")
                number += 1
    cli.out.note(f"{number} keys")


async def _run(importer: Importer, records: Iterator[Record], file: Path) -> Imported:
    again = "What was written stays written."
    if file != STDIN:
        again += " Run the same command again to go on."
    try:
        return await importer.run(records)
    except BaseException as error:
        cause = only(error)
        if isinstance(cause, BadRecord):
            raise Failure(f"{file}, {cause}", hint=f"Mend the line. {again}") from None
        if isinstance(cause, state.ProgressMismatch):
            raise _mismatch(cause) from None
        if isinstance(cause, TremulaError):
            raise _stopped(cause, importer.progress.written, again) from None
        raise


def _stopped(cause: TremulaError, written: int, again: str) -> Failure:
    known = failure_of(cause)
    code = known.code if known else Exit.DEFINITE_ERROR
    message = f"stopped after {written} records: {cause.message()}"
    return Failure(message, hint=again, code=code)


def _reader(
    file: Path, file_format: str | None, key_column: str, value_column: str | None
) -> Callable[[BinaryIO], Iterator[Record]]:
    chosen = file_format or ("csv" if file.suffix.lower() == ".csv" else "ndjson")
    if chosen == "csv":
        return partial(read_csv, key_column=key_column, value_column=value_column)
    if chosen != "ndjson":
        raise typer.BadParameter(f"--format is ndjson or csv, got {chosen!r}")
    return read_ndjson


def _progress(file: Path, cluster_id: str, restart: bool) -> state.Progress:
    if file == STDIN:
        return state.Progress(cluster_id=cluster_id, size_bytes=0, modified_ns=0)
    try:
        return state.start(file, cluster_id) if restart else state.resume(file, cluster_id)
    except state.ProgressMismatch as error:
        raise _mismatch(error) from None


def _mismatch(error: state.ProgressMismatch) -> Failure:
    hint = "--restart forgets the earlier import; with --changed-only nothing is written twice."
    return Failure(str(error), hint=hint, code=Exit.USAGE)


@contextmanager
def opened(file: Path) -> Iterator[BinaryIO]:
    """A file to import, or standard input."""
    if file == STDIN:
        yield sys.stdin.buffer
        return
    try:
        stream = file.open("rb")
    except OSError as error:
        raise Failure(f"{file}: {error.strerror}", code=Exit.USAGE) from None
    with stream:
        yield stream


@contextmanager
def written(file: Path | None) -> Iterator[IO[str]]:
    """A file to export to, which must not exist, or standard output."""
    if file is None:
        yield sys.stdout
        return
    try:
        stream = file.open("x", encoding="utf-8")
    except OSError as error:
        raise Failure(f"{file}: {error.strerror}", code=Exit.USAGE) from None
    with stream:
        yield stream


@contextmanager
def _bar(cli: Cli, file: Path, stream: BinaryIO) -> Iterator[Callable[[int], None]]:
    """A progress bar on a terminal: the position in the file, and the records written so far."""
    console = Console(stderr=True)
    if not console.is_terminal or cli.out.as_json:
        yield lambda records: None
        return
    columns = (
        TextColumn("{task.fields[records]} records"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    written = 0
    with Progress(*columns, console=console) as bar:
        total = None if file == STDIN else file.stat().st_size
        task = bar.add_task("import", total=total, records=0)

        def advance(records: int) -> None:
            nonlocal written
            written += records
            position = 0 if file == STDIN else stream.tell()
            bar.update(task, completed=position, records=written)

        yield advance
