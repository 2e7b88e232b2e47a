"""`cluster hook test | history | replay`: handlers and what has happened."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli.hook_attempts import (
    ATTEMPT_COLUMNS,
    attempt_row,
    note_silent,
)
from cluster.cli.members import ask_all
from cluster.cli.names import HandlerName
from cluster.cli.outcome import Exit, Failure
from cluster.cli.output import Brief, cell
from cluster.cli.replays import EARLIEST, MAY_BE_GONE, check_kept, revision_at, until_ended
from cluster.cli.session import Cli, online
from cluster.client import Client
from cluster.errors import Rejected, TremulaError
from hooks.configuration.discovery import read_handlers_file
from hooks.routing import Verdict
from pubsub.topics import closest

SHOWN_DEFAULT = 20
RUN_MS = 60_000  # an attempt may take as long as its handler's timeout
RANGE_HELP = (
    "FROM..TO, both included: revisions, times (2026-01-31T12:00), ages (10m). "
    "Nothing before the dots: from the oldest event on; after them: to the newest."
)
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most so many.")]


def register(hook: typer.Typer) -> None:
    """Add the commands to `cluster hook`."""
    online(hook, "test")(_test)
    online(hook, "history")(_history)
    online(hook, "replay")(_replay)


async def _test(
    cli: Cli,
    name: HandlerName,
    against: Annotated[str, typer.Option("--against", metavar="FROM..TO", help=RANGE_HELP)],
    run: Annotated[
        bool,
        typer.Option("--run", help="Also make an attempt at each match; its effects are shown."),
    ] = False,
    file: Annotated[
        Path | None,
        typer.Option("--file", help="Its definition there instead of the one in force."),
    ] = None,
    limit: Limit = SHOWN_DEFAULT,
) -> None:
    """Try a handler on real history: routing and condition, and with --run the handler itself."""
    total: dict[str, Any] = {
        "handler": name,
        "examined": 0,
        "replayed": 0,
        "matches": [],
        "errors": [],
        "runs": [],
    }
    counts: Counter[str] = Counter()
    policy = None if file is None else _policy(file, name)
    async with cli.client() as client:
        first, last = await _range(client, against)
    endpoint = await _with_code(cli, name) if run else None
    async with cli.client(endpoint) as client:
        following: int | None = first
        while following is not None and not (run and len(total["runs"]) >= limit):
            page = await client.hooks.test(
                name,
                following,
                last,
                run=run,
                policy=policy,
                limit=limit,
                timeout_ms=_patience_ms(cli, run),
            )
            total |= {"node": page["node"], "from": first, "to": page["to"]}
            last = page["to"]
            total["examined"] += page["examined"]
            total["replayed"] += page.get("replayed", 0)  # an older node tells nothing of them
            counts.update(page["counts"])
            for found in ("matches", "errors", "runs"):
                total[found] = [*total[found], *page[found]][:limit]
            following = page["next_revision"]
            if following is not None:
                cli.out.note(f"{total['examined']} events, at revision {following}")
    total |= {"counts": {verdict.value: counts[verdict.value] for verdict in Verdict}}
    total["next_revision"] = following
    cli.out.show(total, lambda: _show_tested(cli, total, run=run))
    failed = [each for each in total["runs"] if each["outcome"] != "done"]
    if total["errors"] or failed:
        raise typer.Exit(Exit.DEFINITE_ERROR)


def _show_tested(cli: Cli, total: dict[str, Any], *, run: bool) -> None:
    counts = total["counts"]
    cli.out.line(
        f"{total['handler']} on {total['examined']} events, {total['from']} to {total['to']}: "
        f"{counts['match']} match, {counts['error']} cannot be told"
    )
    cli.out.facts(
        [
            ("its pattern is for others", counts["pattern"]),
            ("not let through by publish_topics", counts["not_published"]),
            ("its condition is false", counts["filter"]),
            ("passed over: an earlier one, handed out again", total["replayed"]),
        ]
    )
    columns = ("revision", "topic", "key")
    if total["errors"]:
        cli.out.line("\nevents whose condition cannot be evaluated")
        cli.out.table(
            (*columns, "error"), [_row(each, *columns, "error") for each in total["errors"]]
        )
    if run:
        cli.out.line(f"\nattempts on {total['node']}, of which nothing was written down")
        ran = (*columns, "outcome", "duration_ms", "error")
        cli.out.table(ran, [_row(each, *ran) for each in total["runs"]])
        for each in total["runs"]:
            for effect, arguments in each["effects"]:
                told = _shown(arguments, whole=not cli.out.people)
                cli.out.line(f"  {each['revision']}: would {effect} {told}")
        if total["next_revision"] is not None:
            cli.out.note(f"stopped before revision {total['next_revision']}: --limit allows more")
    elif total["matches"]:
        cli.out.line("\nthe first that match")
        cli.out.table(columns, [_row(each, *columns) for each in total["matches"]])


def _policy(file: Path, name: str) -> dict[str, Any]:
    """The policy of the handler of that name in a file."""
    found = read_handlers_file(file)
    handlers = {candidate.handler.name: candidate.handler for candidate in found.handlers}
    if name in handlers:
        return handlers[name].policy()
    # What else is wrong with the file may be its own matter: a node's file has more sections.
    problems = [each for each in found.problems if each.name == name or not handlers]
    if problems:
        raise Failure("; ".join(map(str, problems)), code=Exit.USAGE)
    nearest = closest(name, handlers)
    hint = f'; did you mean "{nearest}"?' if nearest else ""
    raise Failure(f'{file} has no handler "{name}"{hint}', code=Exit.USAGE)


async def _with_code(cli: Cli, name: str) -> list[tuple[str, int]]:
    """The first endpoint whose node has the handler's code."""
    refusal: TremulaError | None = None
    for endpoint in cli.endpoints:
        try:
            async with cli.client([endpoint]) as client:
                info = await client.hooks.info(name)
        except TremulaError as error:
            refusal = refusal or error
            continue
        if info["defined_here"]:
            return [endpoint]
    if isinstance(refusal, TremulaError):
        raise refusal
    raise Failure(
        f"no node that was asked has the code of handler {name}",
        hint="--endpoints names the nodes; `cluster hook info` says which have it.",
    )


async def _history(cli: Cli, name: HandlerName, limit: Limit = SHOWN_DEFAULT) -> None:
    """The attempts at events that the nodes remember, the newest first."""
    answers = await ask_all(cli, "hooks.history", [name, limit])
    reached = [answer for answer in answers if not isinstance(answer, TremulaError)]
    if not reached:
        raise next((a for a in answers if isinstance(a, Rejected)), answers[0])
    attempts = [
        {**attempt, "node": answer["node"]} for answer in reached for attempt in answer["attempts"]
    ]
    attempts.sort(key=lambda attempt: -int(attempt.get("started_ms") or 0))
    del attempts[limit:]
    cli.out.show(
        {"handler": name, "attempts": attempts, "nodes_answered": len(reached)},
        lambda: cli.out.table(ATTEMPT_COLUMNS, map(attempt_row, attempts)),
    )
    if not attempts:
        cli.out.note("no node remembers an attempt; a restart forgets them")
    note_silent(cli, answers, reached, "their attempts are not in it")


async def _replay(
    cli: Cli,
    name: HandlerName,
    place: Annotated[str, typer.Argument(metavar="FROM..TO", help=RANGE_HELP)],
    rate: Annotated[
        int | None, typer.Option("--rate", min=1, help="Events per second; default: no limit.")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", help="Only of this key.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Until all are handed out.")] = False,
) -> None:
    """Hand out events to a handler again, marked as replayed, without moving it."""
    given = {"key": key, "rate_per_s": rate}
    options = {option: value for option, value in given.items() if value is not None} or None
    replays: list[dict[str, Any]] = []
    async with cli.client() as client:
        groups = (await client.hooks.info(name))["groups"]
        if not groups:
            raise Failure(f"no node has taken up handler {name} yet")
        first, last = await _range(client, place)
        start = place.partition("..")[0] or EARLIEST
        await check_kept(cli, client, groups[0], start, (first, last), key=key)
        for group in groups:
            replay_id = await client.request("replay.start", [group, first, last, options])
            replays.append({"id": replay_id, "group": group})
        if wait:
            replays = [await until_ended(cli, client, replay["id"]) for replay in replays]
    shown = ", ".join(str(replay["id"]) for replay in replays)
    ended = f": {sum(replay['emitted'] for replay in replays)} events" if wait else ""
    cli.out.say(f"replay {shown} of handler {name}{ended}", {"handler": name, "replays": replays})


async def _range(client: Client, text: str) -> tuple[int, int | None]:
    """The revisions that FROM..TO means; the last one is None for the newest event."""
    first, dots, last = text.partition("..")
    if not dots:
        raise typer.BadParameter(f"{RANGE_HELP} Got {text!r}")
    begin = await revision_at(client, first or EARLIEST, "FROM")
    end = await revision_at(client, last, "TO", before=True) if last else None
    if end is not None and end < begin:
        if first.isdigit() and last.isdigit():
            raise typer.BadParameter(f"FROM..TO: {first} comes after {last}")
        raise Failure(f"there is nothing between {first} and {last}", hint=MAY_BE_GONE)
    return begin, end


def _patience_ms(cli: Cli, run: bool) -> int:
    """How long one page of a test may take."""
    return max(int(cli.timeout_s * 1000), RUN_MS if run else 0)


def _row(each: dict[str, Any], *columns: str) -> list[object]:
    return [
        Brief(each.get(column)) if column == "error" else each.get(column) for column in columns
    ]


def _shown(arguments: list[Any], *, whole: bool) -> str:
    kept = list(arguments)
    while kept and kept[-1] is None:
        kept.pop()
    return " ".join(cell(argument, whole=whole) for argument in kept)
