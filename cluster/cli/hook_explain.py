"""`cluster hook explain`: what every handler makes of an event, and where the event is."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from cluster.cli.event_store import cluster_id_of, parse_identifier
from cluster.cli.hook_attempts import ATTEMPT_COLUMNS, attempt_row, note_silent
from cluster.cli.members import ask_all
from cluster.cli.output import Brief
from cluster.cli.session import Cli, online
from cluster.errors import Rejected, TremulaError
from hooks.control.explain import Stage, merge
from hooks.routing import Verdict


def register(hook: typer.Typer) -> None:
    """Add the command to `cluster hook`."""
    online(hook, "explain")(_explain)


async def _explain(
    cli: Cli,
    event: Annotated[
        str | None, typer.Argument(help="The revision or the id of an event of the log.")
    ] = None,
    topic: Annotated[
        str | None, typer.Option("--topic", help="Instead: an event that need not have happened.")
    ] = None,
    payload: Annotated[
        str | None, typer.Option("--payload", help="Its payload: JSON for the cluster's topics.")
    ] = None,
    key: Annotated[str | None, typer.Option("--key", help="Its key.")] = None,
    handler: Annotated[str | None, typer.Option("--handler", help="Only this one.")] = None,
) -> None:
    """Say for every handler whether an event is for it, and where the event is."""
    if (event is None) == (topic is None):
        raise typer.BadParameter("give the revision of an event, or else --topic")
    if topic is None and (payload is not None or key is not None):
        raise typer.BadParameter("--payload and --key are for --topic")
    asked: dict[str, Any] = {} if handler is None else {"handler": handler}
    if event is not None:
        async with cli.client() as client:
            revision = parse_identifier(event, await cluster_id_of(client))
        if not isinstance(revision, int):
            raise typer.BadParameter(f"a revision, or an id of this cluster, is needed: {event!r}")
        asked["revision"] = revision
    else:
        assert topic is not None
        asked |= {"topic": topic, **_payload(topic, payload), **({"key": key} if key else {})}
    answers = await ask_all(cli, "hooks.explain", [asked])
    reached = [answer for answer in answers if not isinstance(answer, TremulaError)]
    if not reached:
        raise next((a for a in answers if isinstance(a, Rejected)), answers[0])
    newest = max(reached, key=lambda answer: int(answer["applied_revision"]))
    rows = merge(answer["handlers"] for answer in reached)
    shown = {
        "event": newest["event"],
        "publish_topics": newest["publish_topics"],
        "handlers": rows,
        "nodes_asked": len(answers),
        "nodes_answered": len(reached),
    }
    cli.out.show(shown, lambda: _show_explained(cli, shown, whole=handler is not None))
    note_silent(cli, answers, reached, "what they have in hand is not in it")


def _show_explained(cli: Cli, shown: dict[str, Any], *, whole: bool) -> None:
    event, rows = shown["event"], shown["handlers"]
    marks = [mark for mark in ("triggered", "replayed") if event[mark]]
    number = "made up" if event["revision"] is None else f"event {event['revision']}"
    parts = [f"{number}: {event['topic']}", *([f"key {event['key']}"] if event["key"] else [])]
    cli.out.line("  ".join([*parts, *marks]))
    if not rows:
        cli.out.note("the cluster has no handlers")
        return
    if any(row["stage"] == Stage.DEPENDS for row in rows):
        cli.out.note("--payload and --key say what it depends on")
    cli.out.line("")
    several = len({row["handler"] for row in rows}) < len(rows)
    columns = ("handler", *(["group"] if several else []), "stage", "node", "attempt", "because")
    cli.out.table(columns, [[_cell(row, column) for column in columns] for row in rows])
    told: list[tuple[str, list[Any]]] = []  # of several groups mostly the same
    for row in rows:
        if (row["handler"], row["clauses"]) in told:
            continue
        told.append((row["handler"], row["clauses"]))
        if row["clauses"] and (whole or row["decision"] != Verdict.MATCH.value):
            cli.out.line(f"\nthe condition of {row['handler']}")
            cli.out.table(("clause", "is"), [[text, _truth(said)] for text, said in row["clauses"]])
    if whole and (attempts := [each for row in rows for each in row["attempts"]]):
        cli.out.line("\nattempts that nodes remember")
        cli.out.table(ATTEMPT_COLUMNS, map(attempt_row, attempts))


def _payload(topic: str, text: str | None) -> dict[str, Any]:
    """What handlers get: of the cluster's own topics JSON, of others the bytes."""
    if text is None:
        return {}
    if not topic.startswith("hooks."):
        return {"payload": text}
    return {"payload": json_value(text)}


def json_value(text: str | bytes) -> Any:
    """JSON that somebody typed."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"the payload is not JSON: {error}") from None
    except RecursionError:
        raise typer.BadParameter("the payload is nested too deep") from None


def _cell(row: dict[str, Any], column: str) -> object:
    if column == "node":
        return row.get("owner")
    if column == "because":
        return Brief(_because(row))
    return row.get(column)


def _because(row: dict[str, Any]) -> str | None:
    text: str | None = row["because"]
    if row.get("due_in_ms") is not None:
        text = f"{text or 'it is due'}; due in {row['due_in_ms'] / 1000:g} s"
    if row.get("coalesced"):
        text = f"{text or ''} (stands for {row['coalesced']} earlier ones)".lstrip()
    return text


def _truth(said: object) -> str:
    if said is None:
        return "depends"
    return str(said).lower() if isinstance(said, bool) else f"error: {said}"
