"""`cluster status | member ... | leader transfer`: who belongs to the cluster and who leads it."""

from collections.abc import Sequence
from typing import Annotated, Any

import trio
import typer

from cluster.cli.session import Cli, online
from cluster.client import Endpoint
from cluster.config import Address, parse_address
from cluster.errors import TremulaError

PROBE_S = 2.0  # a node that does not answer within this is shown as such
# Titles short enough for 80 characters, and the fields of a node's status that they show.
COLUMNS = {
    "node": "node",
    "endpoint": "endpoint",
    "role": "role",
    "leader": "leader",
    "term": "term",
    "applied": "applied_index",
    "revision": "revision",
    "version": "version",
}

Name = Annotated[str, typer.Argument(help="The node's name.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    online(app, "status")(_status)
    member = typer.Typer(no_args_is_help=True, help="Members of the cluster.")
    online(member, "list")(_list)
    online(member, "add")(_add)
    online(member, "promote")(_promote)
    online(member, "remove")(_remove)
    app.add_typer(member, name="member")
    leader = typer.Typer(no_args_is_help=True, help="Leadership.")
    online(leader, "transfer")(_transfer)
    app.add_typer(leader, name="leader")


async def ask_all(cli: Cli, request: str, args: Sequence[Any] = ()) -> list[Any]:
    """What each endpoint answers, asked at once; a TremulaError where one does not."""
    found: dict[Endpoint, Any] = {}

    async def ask(endpoint: Endpoint) -> None:
        try:
            async with cli.client([endpoint], timeout_s=min(PROBE_S, cli.timeout_s)) as client:
                found[endpoint] = await client.request(request, args)
        except TremulaError as error:
            found[endpoint] = error

    async with trio.open_nursery() as nursery:
        for endpoint in cli.endpoints:
            nursery.start_soon(ask, endpoint)
    return [found[endpoint] for endpoint in cli.endpoints]


async def probe_all(cli: Cli) -> list[dict[str, Any]]:
    """What each node says of itself, or why it says nothing (`unreachable`)."""
    answers = await ask_all(cli, "status")
    return [
        {
            "endpoint": str(Address(*endpoint)),
            **({"unreachable": a.message()} if isinstance(a, TremulaError) else a),
        }
        for endpoint, a in zip(cli.endpoints, answers, strict=True)
    ]


async def _status(cli: Cli) -> None:
    """What each node says of itself."""
    nodes = await probe_all(cli)

    def people() -> None:
        answering = [node for node in nodes if "unreachable" not in node]
        cli.out.table(
            tuple(COLUMNS), [[node.get(field) for field in COLUMNS.values()] for node in answering]
        )
        for node in nodes:
            if "unreachable" in node:
                cli.out.note(node["unreachable"], style="red")
            elif node["problem"]:
                cli.out.note(f"{node['node']}: {node['problem']}", style="yellow")

    cli.out.show({"nodes": nodes}, people)
    leaders = {node["leader"] for node in nodes if node.get("leader")}
    if not leaders:
        raise typer.Exit(4)


async def _list(cli: Cli) -> None:
    """The members, as the cluster agreed on them."""
    async with cli.client() as client:
        rows = await client.request("members")
        leader = (await client.request("status")).get("leader")
    members = [
        {"name": name, "role": role, "address": address, "leader": name == leader}
        for name, _, address, role in rows
    ]
    cli.out.show(
        {"members": members},
        lambda: cli.out.table(
            ("name", "role", "address", "leader"), [list(member.values()) for member in members]
        ),
    )


async def _add(
    cli: Cli,
    name: Name,
    address: Annotated[str, typer.Argument(help="Its peer address, HOST:PORT.")],
) -> None:
    """Let a node that was started with [cluster] join learn; `promote` then makes it a voter."""
    try:
        checked = str(parse_address(address))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    await _change(cli, "member.add", [name, checked], f"{name} is a learner")
    cli.out.note(f"next, once it has caught up: cluster member promote {name}")


async def _promote(cli: Cli, name: Name) -> None:
    """Make a learner that has caught up a voter."""
    await _change(cli, "member.promote", [name], f"{name} is a voter")


async def _remove(cli: Cli, name: Name) -> None:
    """Remove a node for good; its data directory cannot come back."""
    endpoints = cli.endpoints
    while True:
        async with cli.client(endpoints) as client:
            # Who is removed does not hear how that ended: another node is asked, if one is named.
            if len(endpoints) > 1 and (await client.status())["node"] == name:
                endpoints = endpoints[1:]
                continue
            result = await client.request("member.remove", [name])
        break
    _say(cli, "member.remove", result, f"{name} is no member any more")


async def _transfer(
    cli: Cli,
    name: Annotated[str | None, typer.Argument(help="Default: whoever is closest.")] = None,
) -> None:
    """Hand leadership to another voter without a pause for an election."""
    await _change(cli, "leader.transfer", [name], "leadership was handed over")


async def _change(cli: Cli, request: str, args: list[object], sentence: str) -> None:
    async with cli.client() as client:
        result = await client.request(request, args)
    _say(cli, request, result, sentence)


def _say(cli: Cli, request: str, result: object, sentence: str) -> None:
    cli.out.say(sentence, {"done": request, "result": result})
