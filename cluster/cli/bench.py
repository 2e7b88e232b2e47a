"""`cluster bench`: how fast is this cluster, through the ordinary client."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, replace
from typing import Annotated, Any

import trio
import typer

from cluster.bench.consume import run_consumers
from cluster.bench.handling import run_handling, run_reaction
from cluster.bench.hook import HANDLER
from cluster.bench.run import OpenClient, Result, run
from cluster.bench.workload import (
    HANDLE,
    HOOK_SUITE,
    RATE_DEFAULT,
    REACT,
    REACT_RATE,
    READ,
    SUITE,
    WORKLOADS,
    Plan,
)
from cluster.cli.members import probe_all
from cluster.cli.outcome import Failure
from cluster.cli.output import Output
from cluster.cli.session import Cli, online
from cluster.client import Client
from cluster.errors import NoLeader, Rejected

HANDLER_S = 3.0
COLUMNS = ("workload", "per second", "p50 ms", "p90 ms", "p99 ms", "max ms", "errors", "client CPU")


def register(app: typer.Typer) -> None:
    """Add the command."""
    online(app, "bench")(_bench)


async def _bench(
    cli: Cli,
    part: Annotated[
        str | None,
        typer.Argument(
            metavar="[hooks]",
            help='Measure the way to handlers, on nodes with modules = ["cluster.bench.hook"].',
        ),
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option("--workload", "-w", help=f"{', '.join(WORKLOADS)}; default: a tour."),
    ] = None,
    connections: Annotated[int, typer.Option("--connections", min=1, max=256)] = 1,
    depth: Annotated[
        int, typer.Option("--depth", min=1, max=256, help="In flight on each connection.")
    ] = 1,
    batch: Annotated[
        int, typer.Option("--batch", min=1, max=1000, help="Operations in one request.")
    ] = 1,
    rate: Annotated[
        float | None,
        typer.Option("--rate", min=0.1, help="Open loop: requests a second, however slow."),
    ] = None,
    value_bytes: Annotated[int, typer.Option("--value-bytes", min=8, max=1 << 20)] = 100,
    keys: Annotated[int, typer.Option("--keys", min=1, max=1_000_000)] = 10_000,
    events: Annotated[
        int, typer.Option("--events", min=1, max=1_000_000, help="There to be consumed.")
    ] = 30_000,
    in_turn: Annotated[
        bool, typer.Option("--in-turn", help="Keys one after the other; default: at random.")
    ] = False,
    local: Annotated[bool, typer.Option("--local", help="get: the node's own state.")] = False,
    to: Annotated[
        str, typer.Option("--to", help="Which nodes serve: leader, followers or spread.")
    ] = "leader",
    seconds: Annotated[float, typer.Option("--seconds", min=0.1)] = 5.0,
    warm_up: Annotated[float, typer.Option("--warm-up", min=0.0)] = 1.0,
) -> None:
    """Measure throughput and latency. It writes keys under bench/ and events under bench.*."""
    if part not in (None, "hooks"):
        raise typer.BadParameter('there is one part that can be named: "hooks"')
    if to not in ("leader", "followers", "spread"):
        raise typer.BadParameter("--to is leader, followers or spread")
    common: dict[str, Any] = {
        "value_bytes": value_bytes, "keys": keys, "seconds": seconds, "warm_up_s": warm_up,
        "in_turn": in_turn, "events": events,
    }  # fmt: skip
    chosen = {"connections": connections, "depth": depth, "batch": batch, "local": local}
    suite = HOOK_SUITE if part else SUITE
    plans = _plans(suite, workload, common, {**chosen, "rate": rate})
    open_numbered = await _opener(cli, to)
    if any(plan.hooks for plan in plans):
        await _require_handler(open_numbered)
    results: list[Result] = []
    for plan in plans:
        cli.out.note(f"{plan.name} ...")
        results.append(await _measure(plan, open_numbered))
    _show(cli.out, results)


async def _measure(plan: Plan, open_numbered: OpenClient) -> Result:
    if plan.workload == HANDLE:
        return await run_handling(plan, open_numbered)
    if plan.workload == REACT:
        return await run_reaction(plan, open_numbered)
    return await (run_consumers if plan.consumes else run)(plan, open_numbered)


async def _require_handler(open_numbered: OpenClient) -> None:
    """Fail with what to do when no node runs the handler of the benchmark, or will at once."""
    hint = (
        'Put modules = ["cluster.bench.hook"] into [hooks] of every node\'s file, or start a'
        " cluster that has it: cluster dev --hooks configs/bench-hooks.toml"
    )
    failure = ""
    async with open_numbered(0) as client:
        with trio.move_on_after(HANDLER_S):
            while True:  # nodes that have just started register their handlers a moment later
                try:
                    (row,) = await client.hooks.metrics(HANDLER)
                except Rejected as rejected:
                    if rejected.reason != "unknown_handler":
                        raise
                    failure = f'this cluster has no handler "{HANDLER}"'
                else:
                    if row["members"]:
                        return
                    failure = f'no node of this cluster runs the handler "{HANDLER}"'
                await trio.sleep(HANDLER_S / 20)
    raise Failure(failure or "no node says which handlers there are", hint=hint)


def _plans(
    suite: Sequence[Plan],
    workload: str | None,
    common: dict[str, Any],
    chosen: dict[str, Any],
) -> list[Plan]:
    """The one that was asked for, or the tour: `chosen` is of the one alone."""
    if workload is None:
        return [replace(plan, **common) for plan in suite]
    if workload not in WORKLOADS:
        raise typer.BadParameter(f"--workload is one of {', '.join(WORKLOADS)}")
    if workload in READ:
        chosen["rate"] = chosen["rate"] or RATE_DEFAULT
    if workload == REACT:
        chosen["rate"] = chosen["rate"] or REACT_RATE
    return [Plan(workload=workload, **chosen, **common)]


async def _opener(cli: Cli, to: str) -> Callable[[int], AbstractAsyncContextManager[Client]]:
    """How connection number n is opened: each starts at a node of the kind that was asked for."""
    nodes = list(zip(cli.endpoints, await probe_all(cli), strict=True))
    leading = [endpoint for endpoint, node in nodes if node.get("leader") == node.get("node")]
    others = [endpoint for endpoint, node in nodes if endpoint not in leading and "node" in node]
    wanted = {"leader": leading, "followers": others, "spread": leading + others}[to]
    if not wanted:
        raise NoLeader if to == "leader" else typer.BadParameter(f"no node for --to {to}")

    def open_numbered(number: int) -> AbstractAsyncContextManager[Client]:
        first = number % len(wanted)
        return cli.client(wanted[first:] + wanted[:first])

    return open_numbered


def _show(out: Output, results: list[Result]) -> None:
    def row(result: Result) -> tuple[object, ...]:
        latency = result.latency_ms
        return (
            result.plan.name,
            round(result.operations_per_s),
            *(latency.get(name) for name in ("p50", "p90", "p99", "max")),
            sum(result.errors.values()),
            f"{result.client_cpu_percent:.0f}%",
        )

    def parts(result: Result) -> list[tuple[object, ...]]:
        return [
            (f"  {name}", "", *(times.get(each) for each in ("p50", "p90", "p99", "max")), "", "")
            for name, times in result.parts_ms.items()
        ]

    rows = [line for result in results for line in (row(result), *parts(result))]
    documents = [
        {
            **asdict(result),
            "name": result.plan.name,
            "operations_per_s": round(result.operations_per_s, 1),
        }
        for result in results
    ]
    out.show({"results": documents}, lambda: out.table(COLUMNS, rows))
    for result in results:
        if result.errors:
            out.note(f"{result.plan.name}: errors {result.errors}", style="yellow")
        if result.client_cpu_percent > 90:
            out.note(
                f"{result.plan.name}: the client's own processor was the limit", style="yellow"
            )
