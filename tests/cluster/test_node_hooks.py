"""What a node does with its hooks before it is a member of anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import trio

from cluster.cli.session import only
from cluster.config import load
from cluster.daemon import RealPorts
from cluster.logs import NodeLog
from cluster.node import Node
from hooks.execution.runtime import HooksRefused
from tests.cluster.cli_node import running_node
from tests.hooks.workbench import ListLog
from tests.real.ports import free_ports

HANDLER = """
[hooks]
modules = ["counted"]
[[hooks.handlers]]
name = "audit"
pattern = "orders.*"
type = "in_process"
handler_id = "audit"
"""
MODULE = """
from pathlib import Path
from hooks.registry import hook

with (Path(__file__).parent / "loaded").open("a") as file:
    file.write("once\\n")

@hook(name={name!r})
async def audit(context):
    pass
"""


async def test_a_node_that_lacks_required_hooks_takes_part_in_nothing(tmp_path: Path) -> None:
    """It refuses before it founds a cluster, opens its log or listens to peers and clients."""
    (tmp_path / "counted.py").write_text(MODULE.format(name="adit"))
    ports = free_ports()
    listen = "".join(f'{n} = "127.0.0.1:{port}"\n' for n, port in ports._asdict().items())
    text = f'[node]\nname = "a"\ndata_dir = "data"\n[listen]\n{listen}{HANDLER}required = true\n'
    (tmp_path / "node.toml").write_text(text)
    nodes: list[Node] = []
    listened: list[int] = []

    async def start() -> None:
        async with trio.open_nursery() as nursery:
            surroundings = RealPorts(nursery)
            serve = surroundings.network.serve

            async def noted(host: str, port: int, *others: Any) -> Any:
                listened.append(port)
                return await serve(host, port, *others)

            surroundings.network.serve = noted  # type: ignore[assignment, method-assign]
            config = load(tmp_path / "node.toml", {})
            nodes.append(Node(config, surroundings, cast(NodeLog, ListLog())))
            assert nodes[0].not_ready() == "loading its hooks"
            await nodes[0].run(trio.Event())

    with trio.fail_after(30), pytest.raises(BaseExceptionGroup) as raised:
        await start()
    refused = only(raised.value)
    assert isinstance(refused, HooksRefused)
    assert refused.problems[0].suggestion == "adit"
    assert listened == [ports.http]
    assert nodes[0].engine is None
    assert nodes[0].cluster_id is None


def test_what_was_loaded_first_is_what_serves(tmp_path: Path) -> None:
    """The modules of a node that starts are imported once."""
    (tmp_path / "counted.py").write_text(MODULE.format(name="audit"))
    with running_node(tmp_path, HANDLER):
        assert (tmp_path / "loaded").read_text() == "once\n"
