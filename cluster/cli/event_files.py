"""`cluster event export | import`: events to a file and from one, as CloudEvents in NDJSON."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from cluster.cli.outcome import Exit, Failure, failure_of
from cluster.cli.session import Cli, online, only
from cluster.cli.transfer import PATIENCE_S, STDIN, opened, written
from cluster.client import Client, EventFilter
from cluster.errors import TremulaError
from cluster.transfer import progress as state
from cluster.transfer.events import EventImporter, Imported, Trace, read_events
from cluster.transfer.records import BadRecord
from hooks.events.publisher import cloud_event
from pubsub.limits import MESSAGE_ID_WINDOW_MS

Advance = Callable[[int, int], None]  # how far, and how many


def register(group: typer.Typer, wanted: Callable[..., EventFilter]) -> None:
    """Add the commands to `event`; `wanted` makes a filter of their options."""

    async def export(
        cli: Cli,
        file: Annotated[Path | None, typer.Option("--file", help="Default: output.")] = None,
        pattern: Annotated[
            str | None, typer.Option("--pattern", help="Only topics that match.")
        ] = None,
        key: Annotated[str | None, typer.Option("--key", help="Only this key.")] = None,
        from_revision: Annotated[int | None, typer.Option("--from-revision", min=1)] = None,
        to_revision: Annotated[int | None, typer.Option("--to-revision", min=1)] = None,
        since: Annotated[
            str | None, typer.Option("--since", help="A time (2026-01-31T12:00) or an age (10m).")
        ] = None,
        until: Annotated[str | None, typer.Option("--until", help="As --since.")] = None,
    ) -> None:
        """Write events as CloudEvents, one on each line, in the order of the log."""
        async with cli.client(timeout_s=max(cli.timeout_s, PATIENCE_S)) as client:
            status = await client.request("status", timeout_ms=int(cli.timeout_s * 1000))
            cluster_id = status["cluster_id"]
            asked = wanted(
                cluster_id,
                pattern=pattern,
                key=key,
                actor=None,
                correlation_id=None,
                causation_id=None,
                from_revision=from_revision,
                to_revision=to_revision,
                since=since,
                until=until,
            )
            # what is published meanwhile is another export's business
            newest = int(status["revision"])
            asked["to_revision"] = min(to_revision or newest, newest)
            number = await _export(cli, client, cluster_id, asked, file) if newest else 0
        cli.out.note(f"{number} events")

    online(group, "export")(export)
    online(group, "import")(_import)


class ClientTarget:
    """A cluster as the importer sees it."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def publish(self, items: list[list[Any]], trace: Trace) -> int:
        """One atomic request; the client repeats it safely until the timeout."""
        correlation_id, causation_id, traceparent = trace
        meta = [correlation_id, causation_id, None, traceparent] if any(trace) else None
        _, count, *_ = await self._client.request("publish_batch", [items], trace=meta)
        return int(count)


async def _export(
    cli: Cli, client: Client, cluster_id: str, asked: EventFilter, file: Path | None
) -> int:
    number = 0
    first, last = asked.get("from_revision") or 1, asked.get("to_revision") or 1
    pages = client.every_event(**asked)
    with written(file) as stream, _bar(cli, "export", last - first + 1) as advance:
        async with aclosing(pages):
            async for page in pages:
                for event in page.events:
                    line = json.dumps(cloud_event(event, cluster_id), ensure_ascii=False)
                    stream.write(line + "\n")
                number += len(page.events)
                advance((page.cursor or last + 1) - first, number)
    return number


async def _import(
    cli: Cli,
    file: Annotated[Path, typer.Argument(help="NDJSON of CloudEvents; - reads from input.")],
    batch: Annotated[int, typer.Option("--batch", min=1, max=1000, help="Events per request.")] = (
        500
    ),
    restart: Annotated[
        bool, typer.Option("--restart", help="Forget an earlier import of this file.")
    ] = False,
) -> None:
    """Publish the user events of a file again, in order; resumable."""
    with opened(file) as stream:
        async with cli.client(timeout_s=max(cli.timeout_s, PATIENCE_S)) as client:
            status = await client.request("status", timeout_ms=int(cli.timeout_s * 1000))
            kept = _progress(cli, file, status["cluster_id"], restart)
            if kept.complete:
                cli.out.say(
                    f"{file} was imported before ({kept.written} lines); --restart does it again",
                    {"lines": kept.written, "published": 0, "complete": True},
                )
                return
            save: Callable[[state.Progress], None] = (
                partial(state.save, file) if file != STDIN else lambda progress: None
            )
            total = None if file == STDIN else file.stat().st_size
            with _bar(cli, "import", total) as advance:
                seen = 0

                def notify(records: int) -> None:
                    nonlocal seen
                    seen += records
                    advance(0 if file == STDIN else stream.tell(), seen)

                importer = EventImporter(
                    ClientTarget(client), kept, save=save, records_max=batch, notify=notify
                )
                result = await _run(importer, read_events(stream), file)
    cli.out.say(
        f"{result.published} events published, {result.known} were there already, "
        f"{result.skipped} of the cluster itself left out",
        {**result._asdict(), "complete": True},
    )


async def _run(importer: EventImporter, records: Iterator[Any], file: Path) -> Imported:
    again = "What was published stays published."
    if file != STDIN:
        again += (
            " Run the same command again to go on; within "
            f"{MESSAGE_ID_WINDOW_MS // 60_000} minutes nothing comes twice."
        )
    try:
        return await importer.run(records)
    except BaseException as error:
        cause = only(error)
        if isinstance(cause, BadRecord):
            raise Failure(f"{file}, {cause}", hint=f"Mend the line. {again}") from None
        if isinstance(cause, state.ProgressMismatch):
            raise _mismatch(cause) from None
        if isinstance(cause, TremulaError):
            known = failure_of(cause)
            message = f"stopped after {importer.progress.written} lines: {cause.message()}"
            code = known.code if known else Exit.DEFINITE_ERROR
            raise Failure(message, hint=again, code=code) from None
        raise


def _progress(cli: Cli, file: Path, cluster_id: str, restart: bool) -> state.Progress:
    if file == STDIN:
        return state.Progress(cluster_id=cluster_id, size_bytes=0, modified_ns=0)
    try:
        kept = state.start(file, cluster_id) if restart else state.resume(file, cluster_id)
    except state.ProgressMismatch as error:
        raise _mismatch(error) from None
    if kept.written or kept.sent:
        cli.out.note(f"resuming after {kept.written} lines")
    doubtful = kept.sent - kept.written
    if doubtful > 0:
        saved_ms = state.progress_path(file).stat().st_mtime_ns // 1_000_000
        if time.time_ns() // 1_000_000 - saved_ms >= MESSAGE_ID_WINDOW_MS:
            cli.out.note(
                f"the {doubtful} lines after that may have been published before: it is too long "
                "ago for the cluster to know"
            )
    return kept


def _mismatch(error: state.ProgressMismatch) -> Failure:
    return Failure(str(error), hint="--restart forgets the earlier import.", code=Exit.USAGE)


@contextmanager
def _bar(cli: Cli, what: str, total: int | None) -> Iterator[Advance]:
    """A progress bar on a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal or cli.out.as_json:
        yield lambda position, number: None
        return
    columns = (
        TextColumn("{task.fields[events]} events"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(what, total=total, events=0)
        yield lambda position, number: bar.update(task, completed=position, events=number)
