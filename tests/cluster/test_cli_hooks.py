"""`cluster hook ...` and `--wait-for` against a real node with handlers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.doctor import handlers
from cluster.client import blocking
from cluster.client.connector import Endpoint
from cluster.errors import Malformed, Rejected, Timeout, UnknownRequest
from cluster.hookrequests import SHAPES
from tests.cluster.cli_node import Ran, run, running_node

MODULE = """
from hooks.effects import put
from hooks.registry import hook


@hook("orders.>", retry_count=0)
async def note_order(context):
    if context.key == "bad":
        raise ValueError("no such order")
    return [put(f"handled/{context.key}", context.event_id)]
"""
HOOKS = """
[hooks]
modules = ["cli_hooks_module"]

[[hooks.handlers]]
name = "audit"
pattern = "hooks.kv.*"
type = "shell"
command = ["cat"]
filter = 'event.key.startsWith("a/")'

[[hooks.handlers]]
name = "stuck"
pattern = "slow.*"
type = "shell"
command = ["sleep", "3"]
"""


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running cluster of one, whose handlers have joined their groups."""
    folder = tmp_path_factory.mktemp("node")
    (folder / "cli_hooks_module.py").write_text(MODULE)
    with running_node(folder, HOOKS) as address:
        assert run("kv", "put", "a/0", "x", "--wait-for", "audit", "--endpoints", address).code == 0
        order = ("pub", "orders.made", "{}", "--key", "o0", "--wait-for", "note_order")
        assert run(*order, "--endpoints", address).code == 0
        yield address


def _on(endpoint: str, *arguments: str) -> Ran:
    return run(*arguments, "--endpoints", endpoint)


def _put(endpoint: str, key: str) -> int:
    return int(_on(endpoint, "kv", "put", key, "x", "--json").json["revision"])


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("kv", "put", "a/1", "x", "--wait-for", "audit"), 0, "handled by audit"),
        (("kv", "put", "b/1", "x", "--wait-for", "audit"), 1, "no match: the condition is false"),
        (("kv", "put", "a/1", "x", "--wait-for", "adit"), 1, 'did you mean "audit"?'),
        (("pub", "orders.made", "{}", "--key", "o1", "--wait-for", "note_order"), 0, "handled by"),
        (("pub", "orders.made", "{}", "--key", "bad", "--wait-for", "note_order"), 1, "no such"),
        (("pub", "slow.a", "--wait-for", "stuck", "--timeout", "0.5"), 3, "is not done with it"),
        (("pub", "slow.a", "--wait-for", "stuck", "--delay-ms", "5"), 2, "published now"),
    ],
)
def test_a_write_can_wait_for_its_handler(
    endpoint: str, arguments: tuple[str, ...], code: int, told: str
) -> None:
    """What became of the event is said in words and by the exit code."""
    ran = _on(endpoint, *arguments)
    assert (ran.code, told in ran.out + ran.err) == (code, True), ran


def test_a_name_that_no_handler_has_is_refused_before_anything_is_written(endpoint: str) -> None:
    """A typing error must not leave a write behind that nobody waits for."""
    assert _on(endpoint, "kv", "put", "never", "x", "--wait-for", "adit").code == 1
    assert _on(endpoint, "kv", "get", "never").code == 1


def test_explain_says_why_and_where(endpoint: str) -> None:
    """For every handler one row; the clause that is false; the attempts of one handler."""
    revision = _put(endpoint, "b/2")
    ran = _on(endpoint, "hook", "explain", str(revision))
    rows = {line.split("\t")[0]: line.split("\t") for line in ran.out.splitlines()}
    assert rows["audit"][1] == "no_match"
    assert rows["note_order"][-1].startswith("the topic hooks.kv.write_committed does not match")
    assert rows['event.key.startsWith("a/")'][1] == "false"
    order = _on(endpoint, "pub", "orders.made", "{}", "--key", "bad", "--json").json["revision"]
    _on(endpoint, "pub", "orders.made", "{}", "--key", "bad", "--wait-for", "note_order")
    told = _on(endpoint, "hook", "explain", str(order), "--handler", "note_order", "--json").json
    (row,) = told["handlers"]
    assert (row["stage"], told["nodes_answered"]) == ("dead_letter", 1)
    assert "ValueError: no such order" in row["attempts"][0]["error"]
    waiting = _on(endpoint, "pub", "slow.b", "--json").json["revision"]
    running = _on(endpoint, "hook", "explain", str(waiting), "--handler", "stuck", "--json").json
    assert running["handlers"][0]["stage"] in ("unread", "queued", "running")


def test_explain_takes_an_events_id_and_made_up_events(endpoint: str) -> None:
    """What CloudEvents show as id is as good as the revision; another cluster's is refused."""
    cluster_id = _on(endpoint, "status", "--json").json["nodes"][0]["cluster_id"]
    revision = _put(endpoint, "a/3")
    told = _on(endpoint, "hook", "explain", f"{cluster_id}-{revision}", "--json").json
    assert told["event"]["revision"] == revision
    assert _on(endpoint, "hook", "explain", f"other-{revision}").code == 2
    made_up = ("--topic", "hooks.kv.write_committed", "--key", "a/9", "--payload", "{}")
    rows = _on(endpoint, "hook", "explain", *made_up, "--json").json["handlers"]
    assert {row["handler"]: row["stage"] for row in rows}["audit"] == "would_run"
    assert (
        "did you mean" in _on(endpoint, "hook", "explain", "--topic", "hooks.kv.write_commited").err
    )
    assert _on(endpoint, "hook", "explain").code == 2
    assert _on(endpoint, "hook", "explain", "1", "--key", "k").code == 2


def test_a_handler_is_tried_on_history(endpoint: str, tmp_path: Path) -> None:
    """As it is, as a file has it, and for real with its effects thrown away."""
    first, last = _put(endpoint, "a/4"), _put(endpoint, "b/4")
    span = f"{first}..{last}"
    counts = _on(endpoint, "hook", "test", "audit", "--against", span, "--json").json["counts"]
    assert (counts["match"], counts["filter"]) == (1, 1)
    shown = _on(endpoint, "hook", "test", "audit", "--against", span).out
    assert f"{first}\thooks.kv.write_committed\ta/4" in shown
    file = tmp_path / "new.toml"
    file.write_text(
        '[[handlers]]\nname = "fresh"\npattern = "hooks.kv.*"\ntype = "shell"\ncommand = ["cat"]\n'
    )
    fresh = ("hook", "test", "fresh", "--against", span)
    assert _on(endpoint, *fresh, "--file", str(file), "--json").json["counts"]["match"] == 2
    assert 'did you mean "fresh"' in _on(endpoint, "hook", "test", "frsh", "--against", "..",
                                         "--file", str(file)).err  # fmt: skip
    order = _on(endpoint, "pub", "orders.made", "{}", "--key", "o7", "--json").json["revision"]
    span = f"{order}..{order}"
    ran = _on(endpoint, "hook", "test", "note_order", "--against", span, "--run")
    assert (ran.code, f"{order}: would put handled/o7" in ran.out) == (0, True)
    assert _on(endpoint, "hook", "test", "audit", "--against", "7").code == 2


def test_history_names_the_attempts_that_failed(endpoint: str) -> None:
    """The newest first, with when, where and why."""
    _on(endpoint, "pub", "orders.made", "{}", "--key", "bad", "--wait-for", "note_order")
    newest = _on(endpoint, "hook", "history", "note_order", "--json").json["attempts"][0]
    assert (newest["outcome"], newest["node"]) == ("error", "solo")
    lines = _on(endpoint, "hook", "history", "note_order", "--limit", "1").out.splitlines()
    assert len(lines) == 2
    assert "ValueError: no such order" in lines[1]


def test_a_handler_is_disabled_and_enabled(endpoint: str) -> None:
    """Its events wait; what is so already is no error; a near name is named."""
    disabled = _on(endpoint, "hook", "disable", "audit", "--reason", "for a test")
    assert (disabled.code, disabled.out) == (0, "audit is disabled\n")
    assert _on(endpoint, "hook", "disable", "audit").out == "audit was disabled before\n"
    info = _on(endpoint, "hook", "info", "audit", "--json").json
    assert (info["state"], info["disabled_reason"]) == ("disabled", "for a test")
    waiting = _on(endpoint, "kv", "put", "a/5", "x", "--wait-for", "audit", "--timeout", "0.3")
    assert (waiting.code, "it is disabled" in waiting.err) == (3, True)
    assert 'did you mean "audit"' in _on(endpoint, "hook", "enable", "adit").err
    assert _on(endpoint, "hook", "enable", "audit").code == 0
    assert _on(endpoint, "kv", "put", "a/5", "y", "--wait-for", "audit").code == 0
    assert _on(endpoint, "hook", "enable", "audit", "--from", "earliest").code == 1
    assert "has handler" in _on(endpoint, "hook", "forget", "audit").err


def test_what_reaches_handlers_is_a_setting_of_the_cluster(endpoint: str) -> None:
    """Set, shown, said by explain, and taken back."""
    try:
        chosen = _on(endpoint, "hook", "settings", "--publish-topics", "hooks.cluster.*")
        assert chosen.out == "publish_topics  hooks.cluster.*\n"
        revision = _put(endpoint, "a/6")
        assert "publish_topics keeps" in _on(endpoint, "hook", "explain", str(revision)).out
    finally:
        everything = _on(endpoint, "hook", "settings", "--publish-all", "--json")
    assert everything.json["publish_topics"] == []
    assert _on(endpoint, "hook", "settings", "--publish-topics", "hooks.kvv.*").code == 2
    assert _on(endpoint, "hook", "settings", "--publish-topics", "orders.>").code == 2


def test_a_handler_gets_a_range_again(endpoint: str) -> None:
    """The replay of its group: what matches is handled once more, as an event of its own."""
    ran = _on(endpoint, "hook", "replay", "note_order", "1..", "--key", "o0", "--wait")
    assert (ran.code, ran.out.endswith(": 1 events\n")) == (0, True)
    query = ("event", "query", "--pattern", "hooks.group.event_replayed", "--limit", "1", "--json")
    fact = int(_on(endpoint, *query).json["id"].rpartition("-")[2])
    host, _, port = endpoint.rpartition(":")
    with blocking.open_client([(host, int(port))]) as client:
        assert client.wait_handled("note_order", fact).is_done
        assert client.hooks.history("note_order", 1)["attempts"][0]["revision"] == fact


def test_the_catalogue_needs_no_cluster() -> None:
    """All of it, one type with its fields, and what is misspelt."""
    listed = run("hook", "events").out
    assert "hooks.kv.write_committed\t" in listed
    assert (
        "previous_revision\tinteger|null" in run("hook", "events", "hooks.kv.write_committed").out
    )
    schemas = run("hook", "events", "hooks.kv.*", "--json").json["events"]
    assert [each["schema"]["title"] for each in schemas] == [each["topic"] for each in schemas]
    assert run("hook", "events", "hooks.kvv.*").code == 2


def test_handlers_are_validated_before_a_node_has_them(tmp_path: Path) -> None:
    """A file of handlers, a module, a folder; what is wrong is listed, with exit code 2."""
    good = '[[handlers]]\nname = "h"\npattern = "orders.*"\ntype = "shell"\ncommand = ["cat"]\n'
    (tmp_path / "good.toml").write_text(good)
    assert run("hook", "validate", str(tmp_path / "good.toml")).code == 0
    (tmp_path / "module.py").write_text(MODULE)
    assert run("hook", "validate", str(tmp_path / "module.py")).code == 0
    assert run("hook", "validate", str(tmp_path)).out.endswith(": ok\n")
    (tmp_path / "bad.toml").write_text(good.replace("pattern", "patern"))
    wrong = run("hook", "validate", str(tmp_path), "--json")
    assert wrong.code == 2
    assert any("patern" in problem for problem in wrong.json["problems"])
    assert run("hook", "validate", str(tmp_path / "nothing.toml")).code == 2


def test_blocking_clients_have_the_same(endpoint: str) -> None:
    """Waiting, switching and asking from a program."""
    host, _, port = endpoint.rpartition(":")
    address: Endpoint = (host, int(port))
    with blocking.open_client([address]) as client:
        revision = client.put("a/8", b"x")
        assert client.wait_handled("audit", revision).is_done
        assert client.hooks.wait("note_order", revision).state == "no_match"
        assert client.hooks.disable("audit") is True
        assert client.hooks.enable("audit") is True
        assert client.hooks.enable("audit") is False
        with pytest.raises(Rejected, match="did you mean"):
            client.wait_handled("adit", revision)
        with pytest.raises(Timeout):
            client.wait_handled("audit", revision + 1_000, timeout_ms=50)
        explained = client.hooks.explain(revision, handler="audit")
        assert explained["handlers"][0]["stage"] == "done"
        assert client.hooks.history("audit", 1)["attempts"][0]["revision"] == revision


@pytest.mark.parametrize("name", SHAPES)
def test_arguments_of_a_wrong_shape_are_an_answer(endpoint: str, name: str) -> None:
    """Whatever a client sends, the node refuses it by name and goes on."""
    host, _, port = endpoint.rpartition(":")
    wrong: list[list[Any]] = [[[1], {1: 2}, [], []], [1.5, "x", -1, 7], [None] * 9]
    if SHAPES[name].required:
        wrong.append([])
    with blocking.open_client([(host, int(port))]) as client:
        for arguments in wrong:
            with pytest.raises(Malformed):
                client.request(name, arguments)
        with pytest.raises(UnknownRequest):
            client.request(f"{name}s")
        assert client.request("ping") is None


def test_every_request_about_handlers_is_documented() -> None:
    """docs/protocol.md has a row for each."""
    document = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()
    assert [name for name in SHAPES if f"| `{name}` |" not in document] == []


def test_doctor_names_what_is_wrong_with_handlers() -> None:
    """A problem of a node, dead letters, a handler that nobody has, a file that did not load."""
    sound = {"handler": "h", "problem": None, "state": "enabled", "members": 1,
             "dead_letters_held": 0}  # fmt: skip
    settings: dict[str, Any] = {"load_problems": [], "differing": []}
    assert [finding.level for finding in handlers([sound], settings)] == ["ok"]
    found = [
        *handlers([{**sound, "problem": "a: no such command"}], settings),
        *handlers([{**sound, "dead_letters_held": 3}], settings),
        *handlers([{**sound, "state": "removed"}], settings),
        *handlers([{**sound, "members": 0}], settings),
        *handlers([], {**settings, "load_problems": [{"node": "a", "name": "m", "problem": "p"}]}),
    ]
    assert [f.level for f in found if f.level != "ok"] == [
        "problem", "warning", "warning", "warning", "problem",
    ]  # fmt: skip
    assert "cluster dlq list hook.h" in json.dumps([finding.remedy for finding in found])
