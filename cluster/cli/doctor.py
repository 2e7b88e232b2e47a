"""`cluster doctor`: what is wrong, or soon will be, with this installation and this cluster.

Each check is a finding: ok, a warning, or a problem with what to do about it. A cluster is not
changed by it. `--deep` has each node scan what it stores, which takes disk reads and time.
"""

import resource
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import packages_distributions
from typing import Annotated, Any, Literal

import apsw
import typer

from cluster.cli.members import PROBE_S, ask_all, probe_all
from cluster.cli.output import Output
from cluster.cli.session import Cli, online
from cluster.errors import TremulaError, UnknownRequest
from cluster.installation import conflicts
from cluster.security.certs import CertificateError, facts

DESCRIPTORS_MIN = 4_096  # 1024 client connections, peers, databases, and room
CERTIFICATE_DAYS_MIN = 30
CLOCK_SKEW_MS_MAX = 2_000
LAG_ENTRIES_MAX = 10_000

Level = Literal["ok", "warning", "problem"]


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    level: Level
    detail: str
    remedy: str = ""


def register(app: typer.Typer) -> None:
    """Add the command."""
    online(app, "doctor")(_doctor)


async def _doctor(
    cli: Cli,
    deep: Annotated[
        bool, typer.Option("--deep", help="Each node also scans what it stores.")
    ] = False,
) -> None:
    """Check this installation, the nodes, and that they agree."""
    findings = [*installation(), *_certificate(cli)]
    nodes = await probe_all(cli)
    findings += agreement(nodes)
    findings += await _handlers(cli)
    if deep:
        findings += [
            _scan(node["endpoint"], answer)
            for node, answer in zip(nodes, await ask_all(cli, "doctor.scan"), strict=True)
        ]
    cli.out.show(
        {"findings": [asdict(each) for each in findings]}, lambda: _show(cli.out, findings)
    )
    if any(finding.level == "problem" for finding in findings):
        raise typer.Exit(1)


def installation() -> Iterator[Finding]:
    """This machine and this environment."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding("software", "ok", f"Python {version}, SQLite {apsw.sqlite_lib_version()}")
    found = conflicts(packages_distributions())
    for conflict in found:
        yield Finding("packages", "problem", str(conflict))
    if not found:
        yield Finding("packages", "ok", "no other distribution owns a package of ours")
    descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    level: Level = "ok" if descriptors >= DESCRIPTORS_MIN else "warning"
    yield Finding(
        "descriptors",
        level,
        f"{descriptors} open files are allowed",
        "" if level == "ok" else f"For a node allow {DESCRIPTORS_MIN}: LimitNOFILE, ulimit -n",
    )


def agreement(nodes: list[dict[str, Any]]) -> Iterator[Finding]:
    """Whether the nodes answer, agree on who leads, and hold the same state."""
    answering = [node for node in nodes if "unreachable" not in node]
    for node in nodes:
        if "unreachable" in node:
            yield Finding("node", "problem", node["unreachable"], "Start it, or read its log.")
    for node in answering:
        problem = node.get("problem")
        level: Level = "problem" if problem else "ok"
        yield Finding("node", level, f"{node['node']}: {problem or node['role']}")
    if not answering:
        return
    yield _same("cluster", answering, "cluster_id", "They are nodes of different clusters.")
    yield _same("leader", answering, "leader", "An election may be going on: run this again.")
    yield _same("version", answering, "version", "Upgrade the older ones.", level="warning")
    yield from _digests(answering)
    yield from _distance(answering)
    clocks = [node["wall_ms"] for node in answering]
    own_ms = int(datetime.now(UTC).timestamp() * 1000)
    skew = max(abs(clock - own_ms) for clock in clocks)
    # The cluster's clock stands still while nothing is written: only a clock ahead says something.
    if max(clocks) - own_ms > CLOCK_SKEW_MS_MAX:
        yield Finding(
            "clock", "warning", f"the cluster's clock is {skew} ms ahead of this machine's",
            "Let all machines follow NTP.",
        )  # fmt: skip


def _same(
    check: str, nodes: list[dict[str, Any]], key: str, remedy: str, level: Level = "problem"
) -> Finding:
    values = {str(node.get(key)): str(node["node"]) for node in nodes}
    if len(values) == 1:
        return Finding(check, "ok", f"{key.replace('_', ' ')}: {next(iter(values))}")
    told = ", ".join(f"{node} says {value}" for value, node in values.items())
    return Finding(check, level, f"{key.replace('_', ' ')} differs: {told}", remedy)


def _digests(nodes: list[dict[str, Any]]) -> Iterator[Finding]:
    """Nodes that have applied the same entries must hold the same state."""
    by_index: dict[int, dict[str, str]] = {}
    for node in nodes:
        by_index.setdefault(node["applied_index"], {})[node["node"]] = node["digest"]
    for index, digests in by_index.items():
        if len(set(digests.values())) > 1:
            yield Finding(
                "digest", "problem", f"states differ at log index {index}: {digests}",
                "Stop the node that differs from the majority and add it again.",
            )  # fmt: skip
        elif len(digests) > 1:
            names = ", ".join(sorted(digests))
            yield Finding("digest", "ok", f"the same state at log index {index}: {names}")


def _distance(nodes: list[dict[str, Any]]) -> Iterator[Finding]:
    newest = max(node["commit_index"] for node in nodes)
    for node in nodes:
        behind = newest - node["applied_index"]
        if behind > LAG_ENTRIES_MAX:
            yield Finding("lag", "warning", f"{node['node']} is {behind} entries behind")


def _certificate(cli: Cli) -> Iterator[Finding]:
    path = cli.certificate
    if path is None:
        return
    try:
        left = facts(path).not_after - datetime.now(UTC)
    except CertificateError as error:
        yield Finding("certificate", "problem", str(error))
        return
    level: Level = "ok" if left > timedelta(days=CERTIFICATE_DAYS_MIN) else "warning"
    remedy = "" if level == "ok" else "Issue a new one: cluster certs issue"
    yield Finding("certificate", level, f"{path} ends in {left.days} days", remedy)


async def _handlers(cli: Cli) -> list[Finding]:
    """What the first node that answers knows of the handlers."""
    try:
        async with cli.client(timeout_s=min(PROBE_S, cli.timeout_s)) as client:
            rows = await client.hooks.list()
            settings = await client.hooks.settings()
    except TremulaError:
        return []  # older than this question, or not there: `node` says so
    return list(handlers(rows, settings))


def handlers(rows: list[dict[str, Any]], settings: dict[str, Any]) -> Iterator[Finding]:
    """What does not run as its files say, and what waits for somebody."""
    for item in settings["load_problems"]:
        yield Finding("handlers", "problem", load_problem(item), "cluster hook validate PATH")
    for item in settings["differing"]:
        text = f"the file of {item['node']} says {item['name']} = {item['value']}"
        yield Finding(
            "settings", "warning", text, "`cluster hook settings` shows what is in force."
        )
    for row in rows:
        name = row["handler"]
        if row["problem"]:
            remedy = f"cluster hook info {name}"
            yield Finding("handlers", "problem", f"{name}: {row['problem']}", remedy)
        elif row["state"] == "removed":
            remedy = f"Let a node have it again, or: cluster hook forget {name}"
            yield Finding("handlers", "warning", f"{name}: no node has it any more", remedy)
        elif row["state"] == "enabled" and not row["members"]:
            yield Finding("handlers", "warning", f"{name}: no node runs it", "cluster hook list")
        if row["dead_letters_held"]:
            text = f"{name}: {row['dead_letters_held']} dead letters"
            yield Finding("handlers", "warning", text, f"cluster dlq list hook.{name}")
    if rows and not settings["load_problems"] and not any(row["problem"] for row in rows):
        yield Finding("handlers", "ok", f"{len(rows)} handlers, none with a problem")


def load_problem(item: dict[str, Any]) -> str:
    """What a node could not load, and why; the reason may begin with the name."""
    name, problem = item["name"], item["problem"]
    return f"{item['node']}: {problem if problem.startswith(name) else f'{name}: {problem}'}"


def _scan(endpoint: str, answer: Any) -> Finding:
    if isinstance(answer, UnknownRequest):
        return Finding("scan", "warning", f"{endpoint}: this node cannot scan itself")
    if isinstance(answer, TremulaError):
        return Finding("scan", "problem", f"{endpoint}: {answer.message()}")
    problems: list[str] = answer["problems"]
    if problems:
        return Finding("scan", "problem", f"{endpoint}: {'; '.join(problems)}", answer["remedy"])
    return Finding("scan", "ok", f"{endpoint}: {answer['detail']}")


def _show(out: Output, findings: list[Finding]) -> None:
    styles = {"ok": "green", "warning": "yellow", "problem": "red"}
    for finding in findings:
        remedy = f"\n{'':10}{finding.remedy}" if finding.remedy else ""
        text = f"{finding.check}: {finding.detail}{remedy}"
        out.coloured(f"{finding.level:<8}  ", styles[finding.level], text)
