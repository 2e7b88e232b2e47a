"""`cluster hook ...` and `--wait-for` against a real node with handlers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.cli.doctor import Finding, _show, handlers
from cluster.cli.hook_explain import _show_explained
from cluster.cli.output import Output
from cluster.cli.session import Cli
from cluster.client import blocking
from cluster.client.connector import Endpoint
from cluster.errors import Malformed, Rejected, Timeout, UnknownRequest
from cluster.hookrequests import SHAPES
from tests.cluster.cli_node import Ran, run, running_node
from tests.cluster.trimmed import wait_until_trimmed

MODULE = """
from hooks.effects import put
from hooks.registry import hook


@hook("orders.>", retry_count=0)
async def note_order(context):
    if context.key == "bad":
        raise ValueError("no such order" + "!" * 200)
    if context.key == "refused":
        return [put("handled/o0", "x", expected_revision=10**9)]
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


def test_what_is_written_is_not_said_not_to_have_happened(endpoint: str) -> None:
    """A program that repeats what did not happen must not write it twice."""
    ran = _on(endpoint, "kv", "put", "b/1", "x", "--wait-for", "audit", "--json")
    error = json.loads(ran.err)
    assert (ran.code, error["code"], error["outcome"]) == (1, "not_handled", "happened")


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
    assert "ValueError: no such order" + "!" * 200 in lines[1]  # a pipe gets all of it
    _on(endpoint, "pub", "orders.made", "{}", "--key", "refused", "--wait-for", "note_order")
    newest = _on(endpoint, "hook", "history", "note_order", "--json").json["attempts"][0]
    assert newest["outcome"] == "effects_refused"
    assert newest["error"].startswith("revision_mismatch")
    line = _on(endpoint, "hook", "history", "note_order", "--limit", "1").out.splitlines()[1]
    assert "\teffects_refused\t" in line


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


def test_a_trigger_of_a_users_topic_is_what_pub_would_publish(
    endpoint: str, tmp_path: Path
) -> None:
    """Any bytes, from everywhere that `pub` takes them, in the name of whoever asks."""
    file = tmp_path / "payload"
    file.write_bytes(b"\xff\x00")
    for given, stdin, content_type in (
        (("{no json",), "", "text/plain; charset=utf-8"),
        (('{"total": 5}',), "", "application/json"),
        (("-",), "from input", "text/plain; charset=utf-8"),
        (("--file", str(file)), "", "application/octet-stream"),
        (("--file", str(file), "--content-type", "image/png"), "", "image/png"),
        ((), "", "text/plain; charset=utf-8"),
    ):
        told = run("hook", "trigger", "orders.made", *given, "--key", "t", "--json",
                   "--endpoints", endpoint, stdin=stdin)  # fmt: skip
        assert told.json["handlers"] == ["note_order"], told
        host, _, port = endpoint.rpartition(":")
        with blocking.open_client([(host, int(port))]) as client:
            event = client.event(told.json["revision"])
            assert event is not None
            assert (event.data[1], event.actor) == (content_type, "anonymous")
            assert client.wait_handled("note_order", event.revision).is_done


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("trigger", "hooks.kv.write_committed", "{no json"), 2, "usage"),
        (("trigger", "hooks.kv.write_committed", "[" * 20_000), 2, "usage"),
        (("trigger", "hooks.kv.write_committed", "{}", "--content-type", "a/b"), 2, "usage"),
        (("trigger", "hooks.kv.write_commited"), 1, "unknown_topic"),
        (("trigger", "nobody.cares", "x"), 1, "no_handler"),
        (("trigger", "orders.*", "x"), 2, "usage"),
        (("trigger", "orders.made", "x", "--key", "\udcff"), 2, "usage"),
        (("enable", "adit"), 1, "unknown_handler"),
        (("enable", "adit", "--from", "3"), 1, "unknown_handler"),
        (("enable", "audit", "--from", "3"), 1, "failed"),
        (("enable", "audit", "--from", "x"), 2, "usage"),
        (("disable", "adit"), 1, "unknown_handler"),
        (("forget", "adit"), 1, "unknown_handler"),
        (("forget", "audit"), 1, "handler_in_use"),
        (("disable", ""), 2, "usage"),
        (("disable", "x" * 5_000), 2, "usage"),
        (("info", "\udcff"), 2, "usage"),
        (("info", "adit"), 1, "unknown_handler"),
        (("history", "adit"), 1, "unknown_handler"),
        (("test", "adit", "--against", "1.."), 1, "unknown_handler"),
        (("replay", "adit", "1.."), 1, "unknown_handler"),
        (("explain", "1", "--handler", "adit"), 1, "unknown_handler"),
        (("events", "nothing"), 2, "usage"),
        (("enable",), 2, "usage"),
        (("enabel", "audit"), 2, "usage"),
    ],
)
def test_what_is_wrong_is_told_programs_in_a_word(
    endpoint: str, arguments: tuple[str, ...], code: int, word: str
) -> None:
    """One JSON value with the exit code and a code to branch on, and the nearest name."""
    offline = arguments[0] in ("events", "enabel")
    ran = run("hook", *arguments, "--json", *([] if offline else ["--endpoints", endpoint]))
    told = json.loads(ran.err)
    assert (ran.code, told["exit"], told["code"], ran.out) == (code, code, word, "")
    if word == "unknown_handler":
        assert 'did you mean "audit"?' in told["error"]
    assert len(told["error"]) < 300


def test_a_pause_outlives_that_its_handler_is_disabled(endpoint: str) -> None:
    """Each verb ends what it began, and says what still holds the handler."""
    assert _on(endpoint, "group", "pause", "hook.stuck").code == 0
    assert _on(endpoint, "hook", "disable", "stuck").code == 0
    assert _state(endpoint) == "disabled, paused"
    shown = _on(endpoint, "group", "describe", "hook.stuck", "--json").json
    assert (shown["paused"], shown["held"]) == (True, True)
    enabled = _on(endpoint, "hook", "enable", "stuck")
    assert "it still waits: stuck is paused" in enabled.err
    assert _state(endpoint) == "paused"
    assert _on(endpoint, "hook", "disable", "stuck").code == 0
    resumed = _on(endpoint, "group", "resume", "hook.stuck")
    assert (resumed.out, "`cluster hook enable stuck`" in resumed.err) == (
        "hook.stuck is no longer paused\n",
        True,
    )
    assert _on(endpoint, "group", "resume", "hook.stuck").code == 1
    assert _state(endpoint) == "disabled"
    assert _on(endpoint, "hook", "enable", "stuck").err == ""
    assert _state(endpoint) == "enabled"


def _state(endpoint: str) -> str:
    return str(_on(endpoint, "hook", "info", "stuck", "--json").json["state"])


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


def test_a_range_that_retention_took_is_not_handed_out_in_silence(endpoint: str) -> None:
    """Wholly gone is an error, partly gone a note; who asks for what there is gets that."""
    revisions = [
        _on(endpoint, "pub", "orders.made", "{}", "--key", f"g{number}", "--json").json["revision"]
        for number in range(4)
    ]
    order = ("pub", "orders.made", "{}", "--key", "g4", "--wait-for", "note_order")
    assert _on(endpoint, *order).code == 0
    first, last = revisions[0], revisions[-1]

    def replayed(place: str) -> Ran:
        return _on(endpoint, "hook", "replay", "note_order", place, "--wait")

    assert _on(endpoint, "retention", "set", "orders.>", "--max-events", "2").code == 0
    wait_until_trimmed(endpoint, "orders.>", revisions[2])
    try:
        kept = revisions[2] + 1
        gone = replayed(f"{first}..{revisions[2]}")
        assert (gone.code, gone.out) == (1, "")
        assert "nothing is left of the range" in gone.err
        assert f"before revision {kept}" in gone.err
        part = replayed(f"{first}..{last}")
        assert (part.code, part.out.endswith(": 1 events\n")) == (0, True)
        assert f"before revision {kept}; the first that is left of the range is {last}" in part.err
        by_age = replayed("1h..")
        assert (by_age.code, f"before revision {kept}" in by_age.err) == (0, True)
        for place in (f"..{last}", f"{last}..{last}"):
            whole = replayed(place)
            assert (whole.code, whole.out.endswith(": 1 events\n")) == (0, True)
            assert "retention" not in whole.err
        span = ("--from", str(first), "--to", str(revisions[2]))
        same = _on(endpoint, "event", "replay", "hook.note_order", *span)
        assert (same.code, "nothing is left of the range" in same.err) == (1, True)
    finally:
        assert _on(endpoint, "retention", "delete", "orders.>").code == 0


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


def test_a_condition_is_shown_once_for_all_groups(capsys: pytest.CaptureFixture[str]) -> None:
    """With scope node a handler has a group for each node, and one condition."""
    rows = [
        {"handler": "h", "group": f"hook.h@{node}", "stage": "no_match", "node": node,
         "decision": "filter", "clauses": [["event.hops > 1", False]], "because": None,
         "attempt": None, "attempts": []}
        for node in ("a", "b")
    ]  # fmt: skip
    event = {"revision": 1, "topic": "t", "key": None, "triggered": False, "replayed": False}
    out = Output(as_json=False)
    cli = Cli(out, endpoints=[], tls=None, certificate=None, timeout_s=1.0)
    _show_explained(cli, {"event": event, "handlers": rows}, whole=True)
    assert capsys.readouterr().out.count("the condition of h") == 1


def test_doctor_shows_brackets_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """A reason with the place of an error, or the name of a section, is no markup."""
    detail = "a: /d/x.py: ZeroDivisionError [/d/x.py:1 <module>], see [hooks.shell]"
    _show(Output(as_json=False), [Finding("handlers", "problem", detail)])
    assert capsys.readouterr().out == f"problem   handlers: {detail}\n"


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
    unread = {"node": "a", "name": "/d/x.py", "problem": "/d/x.py: SyntaxError"}
    (finding,) = handlers([sound], {**settings, "load_problems": [unread]})
    assert (finding.level, finding.detail) == ("problem", "a: /d/x.py: SyntaxError")
    assert "cluster dlq list hook.h" in json.dumps([finding.remedy for finding in found])
