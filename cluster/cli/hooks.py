"""`cluster hook ...`: the handlers of the cluster, what they did, and how to make one run."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from cluster.cli import hook_capture, hook_explain, hook_files, hook_past, hook_switches
from cluster.cli.hook_attempts import note_silent
from cluster.cli.kv import value_bytes
from cluster.cli.members import ask_all
from cluster.cli.names import HandlerName
from cluster.cli.session import Cli, online
from cluster.cli.topics import content_type_of
from cluster.errors import Rejected, TremulaError
from hooks.configuration.definition import HandlerDefinition, HandlerType
from pubsub.topics import Pattern, is_reserved, validate_topic

LIST_COLUMNS = (
    "handler", "type", "pattern", "state", "members", "lag", "completed", "dead_letters", "problem",
)  # fmt: skip
# What each node counts for itself since it started; `metrics` sums it over the nodes that answer.
LOCAL_COUNTERS = (
    "attempts", "succeeded", "failures", "timeouts", "crashes", "cancelled", "retries", "in_flight",
    "checkpoints", "checkpoints_fenced", "effects_refused", "skipped", "filtered",
    "filter_failures", "coalesced", "throttled", "rate_limited", "held_by_after", "breaker_opened",
    "batches", "batched", "partitions_parked", "compacted", "duration_ms_total",
)  # fmt: skip
CLUSTER_COUNTERS = ("completed", "dead_letters", "dead_letters_held", "lag", "members")
# Columns of what most handlers have nothing of: shown when one has.
RARE_COLUMNS = (
    "skipped", "filtered", "filter_failures", "coalesced", "throttled", "rate_limited",
    "held_by_after", "breaker_opened", "crashes", "effects_refused", "compacted",
)  # fmt: skip
METRICS_COLUMNS = (
    "handler", "completed", "dead_letters", "lag", "attempts", "succeeded", "failures", "timeouts",
    "retries", "in_flight", "average_ms",
)  # fmt: skip

_INFO_TABLES = (
    "definition", "local", "nodes", "partitions", "dead_letters", "node_metrics", "defined_here",
    "enabled", "registered", "removed", "groups",
)  # fmt: skip

ALWAYS_SHOWN = ("partitions", "concurrency", "timeout_ms", "retry_count", "on_failure")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    hook = typer.Typer(no_args_is_help=True, help="Handlers of events.")
    online(hook, "list")(_list)
    online(hook, "info")(_info)
    online(hook, "metrics")(_metrics)
    online(hook, "trigger")(_trigger)
    hook_switches.register(hook)
    hook_explain.register(hook)
    hook_past.register(hook)
    hook_files.register(hook)
    hook_capture.register(hook)
    app.add_typer(hook, name="hook")


async def _list(cli: Cli) -> None:
    """The handlers, where they stand and what is wrong with them."""
    async with cli.client() as client:
        handlers = await client.hooks.list()
    cli.out.show(
        {"handlers": handlers},
        lambda: cli.out.table(LIST_COLUMNS, _rows(handlers, LIST_COLUMNS)),
    )
    if not handlers:
        cli.out.note("no node has a handler: [[hooks.handlers]] in its file defines one")


async def _info(cli: Cli, name: HandlerName) -> None:
    """Everything about one handler: definition, partitions, dead letters."""
    async with cli.client() as client:
        handler = await client.hooks.info(name)

    def people() -> None:
        facts = {n: v for n, v in handler.items() if n not in _INFO_TABLES and v not in (None, [])}
        definition = _worth_showing(handler["definition"])
        counters = {
            n: v for n, v in (handler["node_metrics"] or {}).items() if v and n != "durations"
        }
        cli.out.facts([*facts.items(), *((n, v) for n, v in definition.items() if n not in facts)])
        for title, rows in (
            ("nodes that have it", handler["nodes"]),
            ("partitions", handler["partitions"]),
            ("dead letters", handler["dead_letters"]),
            ("on the node that was asked", [counters]),
        ):
            if rows and rows[0]:
                cli.out.line(f"\n{title}")
                cli.out.table(tuple(rows[0]), _rows(rows, tuple(rows[0])))

    cli.out.show(handler, people)


async def _metrics(
    cli: Cli,
    name: Annotated[str | None, typer.Argument(help="One handler; default: all.")] = None,
) -> None:
    """What the handlers did: counted by the cluster, and by each node since it started."""
    answers = await ask_all(cli, "hooks.metrics", [name])
    reached = [answer for answer in answers if not isinstance(answer, TremulaError)]
    if not reached:
        raise next((a for a in answers if isinstance(a, Rejected)), answers[0])
    handlers = summed(reached)
    rare = [name for name in RARE_COLUMNS if any(handler[name] for handler in handlers)]
    columns = (*METRICS_COLUMNS, *rare)
    cli.out.show(
        {"handlers": handlers, "nodes_asked": len(answers), "nodes_answered": len(reached)},
        lambda: cli.out.table(columns, _rows(handlers, columns)),
    )
    note_silent(cli, answers, reached, "their attempts are not in it")


async def _trigger(
    cli: Cli,
    topic: Annotated[str, typer.Argument(help="Like orders.created, or hooks.kv.write_committed.")],
    payload: Annotated[
        str | None, typer.Argument(help="As of `pub`; for the cluster's own topics JSON.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", help="Payload from a file.")] = None,
    key: Annotated[str | None, typer.Option("--key", help="The event's key.")] = None,
    content_type: Annotated[
        str | None, typer.Option("--content-type", help="As of `pub`; for topics of users.")
    ] = None,
) -> None:
    """Run the handlers that match a topic, once in the cluster, on an event made by hand."""
    if problem := validate_topic(topic):
        raise typer.BadParameter(problem)
    given = payload if payload is not None or file else ""
    data = value_bytes(given, file)
    if not is_reserved(topic):
        content_type = content_type or content_type_of(data)
    elif content_type is not None:
        raise typer.BadParameter(f"--content-type: a payload of {topic} is JSON")
    else:
        data = data or b"{}"
        hook_explain.json_value(data)
    async with cli.client() as client:
        result = await client.hooks.trigger(topic, data, key=key, content_type=content_type)
    cli.out.say(f"revision {result['revision']}: {', '.join(result['handlers'])}", result)


def _worth_showing(definition: dict[str, Any]) -> dict[str, Any]:
    """The keys that differ from their defaults, and those that one always wants to know."""
    bare = HandlerDefinition(
        name="", pattern=Pattern(">"), type=HandlerType(definition["type"])
    ).as_dict()
    return {
        name: value
        for name, value in definition.items()
        if name in ALWAYS_SHOWN or bare.get(name) != value
    }


def summed(answers: Iterable[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """One row per handler: what the cluster counts, and the sum of what the nodes count.

    Nodes apply at their own pace, so of the cluster's counters the newest answer holds.
    """
    handlers: dict[str, dict[str, Any]] = {}
    for row in (row for answer in answers for row in answer):
        total = handlers.setdefault(
            row["handler"],
            {"handler": row["handler"], **dict.fromkeys((*CLUSTER_COUNTERS, *LOCAL_COUNTERS), 0)},
        )
        if row["completed"] >= total["completed"]:
            total.update({name: row[name] for name in CLUSTER_COUNTERS})
        for name in LOCAL_COUNTERS:
            total[name] += (row["local"] or {}).get(name, 0)
    for total in handlers.values():
        ended = sum(total[name] for name in ("succeeded", "failures", "timeouts", "crashes"))
        total["average_ms"] = round(total["duration_ms_total"] / ended, 1) if ended else None
    return [handlers[name] for name in sorted(handlers)]


def _rows(dicts: list[dict[str, Any]], columns: tuple[str, ...]) -> list[list[object]]:
    return [[each.get(column) for column in columns] for each in dicts]
