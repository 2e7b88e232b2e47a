"""`cluster hook ...`: the handlers of the cluster, what they did, and how to make one run."""

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer

from cluster.cli.members import ask_all
from cluster.cli.outcome import Failure
from cluster.cli.session import Cli, online
from cluster.errors import TremulaError

LIST_COLUMNS = (
    "handler", "type", "pattern", "members", "lag", "completed", "dead_letters", "problem",
)  # fmt: skip
# What each node counts for itself since it started; `metrics` sums it over the nodes that answer.
LOCAL_COUNTERS = (
    "attempts", "succeeded", "failures", "timeouts", "crashes", "cancelled", "retries", "in_flight",
    "checkpoints", "checkpoints_fenced", "effects_refused", "skipped", "duration_ms_total",
)  # fmt: skip
CLUSTER_COUNTERS = ("completed", "dead_letters", "dead_letters_held", "lag", "members")
METRICS_COLUMNS = (
    "handler", "completed", "dead_letters", "lag", "attempts", "succeeded", "failures", "timeouts",
    "retries", "in_flight", "average_ms",
)  # fmt: skip

_INFO_TABLES = ("definition", "partitions", "dead_letters", "node_metrics")

Name = Annotated[str, typer.Argument(help="The handler's name.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    hook = typer.Typer(no_args_is_help=True, help="Handlers of events.")
    online(hook, "list")(_list)
    online(hook, "info")(_info)
    online(hook, "metrics")(_metrics)
    online(hook, "trigger")(_trigger)
    app.add_typer(hook, name="hook")


async def _list(cli: Cli) -> None:
    """The handlers, where they stand and what is wrong with them."""
    async with cli.client() as client:
        handlers = await client.request("hooks.list")
    cli.out.show(
        {"handlers": handlers},
        lambda: cli.out.table(LIST_COLUMNS, _rows(handlers, LIST_COLUMNS)),
    )
    if not handlers:
        cli.out.note("no node has a handler: [[hooks.handlers]] in its file defines one")


async def _info(cli: Cli, name: Name) -> None:
    """Everything about one handler: definition, partitions, dead letters."""
    async with cli.client() as client:
        handler = await client.request("hooks.info", [name])

    def people() -> None:
        facts = {name: value for name, value in handler.items() if name not in _INFO_TABLES}
        definition = {n: v for n, v in (handler["definition"] or {}).items() if v not in (None, [])}
        counters = {
            n: v for n, v in (handler["node_metrics"] or {}).items() if v and n != "durations"
        }
        cli.out.facts([*facts.items(), *((n, v) for n, v in definition.items() if n not in facts)])
        for title, rows in (
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
        raise answers[0]
    handlers = summed(reached)
    cli.out.show(
        {"handlers": handlers, "nodes_asked": len(answers), "nodes_answered": len(reached)},
        lambda: cli.out.table(METRICS_COLUMNS, _rows(handlers, METRICS_COLUMNS)),
    )
    if len(reached) < len(answers):
        cli.out.note(
            f"{len(answers) - len(reached)} of {len(answers)} nodes did not answer: "
            "their attempts are not in it",
            style="yellow",
        )


async def _trigger(
    cli: Cli,
    topic: Annotated[str, typer.Argument(help="Like hooks.kv.write_committed.")],
    payload: Annotated[str, typer.Argument(help="JSON that the handlers get.")] = "{}",
    key: Annotated[str | None, typer.Option("--key", help="The event's key.")] = None,
) -> None:
    """Run the handlers that match a topic, once in the cluster, on an event made by hand."""
    try:
        value = json.loads(payload)
    except ValueError as error:
        raise typer.BadParameter(f"the payload is not JSON: {error}") from None
    async with cli.client() as client:
        result = await client.request("hooks.trigger", [topic, value, key])
    if not result["handlers"]:
        raise Failure(f'no handler matches "{topic}"', hint="`cluster hook list` shows patterns.")
    cli.out.say(f"revision {result['revision']}: {', '.join(result['handlers'])}", result)


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
