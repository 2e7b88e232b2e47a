"""Commands against a real node: what they print, for people and programs, and how they end."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.cli_node import Ran, run, running_node


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running cluster of one."""
    with running_node(tmp_path_factory.mktemp("node")) as address:
        yield address


def _on(endpoint: str, *arguments: str, stdin: str = "") -> Ran:
    return run(*arguments, "--endpoints", endpoint, stdin=stdin)


def test_put_get_delete_round_trip(endpoint: str) -> None:
    """A value comes back as it was written; a deleted key is an error with exit code 1."""
    assert _on(endpoint, "kv", "put", "k1", "hällo").out.startswith("revision ")
    assert _on(endpoint, "kv", "get", "k1").out == "hällo\n"
    fields = _on(endpoint, "kv", "get", "k1", "--json").json
    assert (fields["value"], fields["version"]) == ("hällo", 1)
    assert _on(endpoint, "kv", "delete", "k1").code == 0
    gone = _on(endpoint, "kv", "get", "k1")
    assert (gone.code, gone.err) == (1, "error: there is no key 'k1'\n")
    assert _on(endpoint, "kv", "delete", "k1").code == 1


def test_values_from_input_and_files_are_kept_byte_for_byte(endpoint: str, tmp_path: Path) -> None:
    """`-` reads standard input, `--file` a file; bytes that are no text come out as base64."""
    assert _on(endpoint, "kv", "put", "k2", "-", stdin="a\nb").code == 0
    assert _on(endpoint, "kv", "get", "k2", "--raw").out == "a\nb"
    (tmp_path / "binary").write_bytes(b"\xff\x00")
    assert _on(endpoint, "kv", "put", "k2", "--file", str(tmp_path / "binary")).code == 0
    assert _on(endpoint, "kv", "get", "k2", "--json").json["value_base64"] == "/wA="


def test_wrong_revision_says_what_to_do(endpoint: str) -> None:
    """A compare that fails is a definite error with code, hint and exit code 1."""
    _on(endpoint, "kv", "put", "k3", "x")
    refused = _on(endpoint, "kv", "put", "k3", "y", "--expected-revision", "0", "--json")
    error = json.loads(refused.err)
    assert (refused.code, error["code"], error["outcome"]) == (
        1,
        "revision_mismatch",
        "did not happen",
    )
    assert "read it and decide again" in error["hint"]


def test_list_pages_counts_and_says_when_there_is_more(endpoint: str) -> None:
    """`kv list` shows a prefix in order, up to a limit; tables in a pipe are tab-separated."""
    for number in range(5):
        _on(endpoint, "kv", "put", f"l/{number}", "v")
    listed = _on(endpoint, "kv", "list", "l/", "--limit", "3", "--keys-only")
    lines = [line.split("\t") for line in listed.out.splitlines()]
    assert lines[0] == ["key", "revision", "version"]
    assert [line[0] for line in lines[1:]] == ["l/0", "l/1", "l/2"]
    assert "only the first 3" in listed.err
    document = _on(endpoint, "kv", "list", "l/", "--all", "--json").json
    assert (len(document["entries"]), document["more"]) == (5, False)
    assert _on(endpoint, "kv", "list", "l/", "--count").out == "5\n"


def test_publish_and_subscribe(endpoint: str) -> None:
    """A published event is seen by a subscriber, as a line and as a CloudEvent."""
    published = _on(
        endpoint, "pub", "orders.created", '{"id": 1}', "--key", "o1", "--header", "a=b", "--json"
    )
    revision = str(published.json["revision"])
    seen = _on(endpoint, "sub", "orders.*", "--from", revision, "--count", "1")
    assert "orders.created  o1  " in seen.out
    event = _on(endpoint, "sub", ">", "--from", revision, "--count", "1", "--json").json
    assert (event["type"], event["subject"], event["data"]) == ("orders.created", "o1", {"id": 1})


def test_watch_shows_only_the_prefix(endpoint: str) -> None:
    """`kv watch` passes over the changes of other keys."""
    first = _on(endpoint, "kv", "put", "w/1", "a", "--json").json["revision"]
    _on(endpoint, "kv", "put", "other", "b")
    _on(endpoint, "kv", "put", "w/2", "c")
    watched = _on(endpoint, "kv", "watch", "w/", "--from", str(first), "--count", "2")
    assert [line.split()[3] for line in watched.out.splitlines()] == ["w/1", "w/2"]


def test_reserved_topics_and_bad_patterns_are_refused(endpoint: str) -> None:
    """What can never work is said before anything is sent, or refused by name."""
    reserved = _on(endpoint, "pub", "hooks.kv.x", "y")
    assert (reserved.code, "belong to the cluster" in reserved.err) == (1, True)
    assert _on(endpoint, "pub", "a..b", "y").code == 2
    assert _on(endpoint, "sub", "a.>.b").code == 2
    assert _on(endpoint, "sub", "a", "--from", "yesterday").code == 2


def test_status_and_members(endpoint: str) -> None:
    """`status` has a row for each endpoint, those that do not answer included."""
    status = _on(f"{endpoint},127.0.0.1:1", "status", "--timeout", "0.5", "--json")
    first, second = status.json["nodes"]
    assert (first["node"], first["role"], status.code) == ("solo", "leader", 0)
    assert "could not reach" in second["unreachable"]
    assert _on(endpoint, "member", "list").out.splitlines()[1].split("\t")[:2] == ["solo", "voter"]


def test_doctor_finds_a_healthy_cluster_healthy(endpoint: str) -> None:
    """Nothing is a problem in a fresh cluster, and an unreachable node is one."""
    healthy = _on(endpoint, "doctor", "--json")
    levels = {finding["check"]: finding["level"] for finding in healthy.json["findings"]}
    assert (levels["node"], levels["packages"], healthy.code) == ("ok", "ok", 0)
    sick = _on(f"{endpoint},127.0.0.1:1", "doctor", "--timeout", "0.5")
    assert (sick.code, "problem   node: could not reach" in sick.out) == (1, True)


def test_import_is_resumable_and_export_reads_back(endpoint: str, tmp_path: Path) -> None:
    """A file is written once, a second run knows, and an export can be imported again."""
    file = tmp_path / "in.ndjson"
    file.write_text("".join(f'{{"key": "i/{n}", "value": {{"n": {n}}}}}\n' for n in range(250)))
    first = _on(endpoint, "kv", "import", str(file), "--batch", "20", "--json")
    assert first.json == {"records": 250, "written": 250, "unchanged": 0, "complete": True}
    again = _on(endpoint, "kv", "import", str(file))
    assert "was imported before (250 records)" in again.out
    changed = _on(endpoint, "kv", "import", str(file), "--restart", "--changed-only")
    assert changed.out == "250 records: 0 written, 250 unchanged\n"
    out = tmp_path / "out.ndjson"
    assert _on(endpoint, "kv", "export", "i/", "--file", str(out)).err == "250 keys\n"
    assert len(out.read_text().splitlines()) == 250


def test_bad_line_stops_an_import_with_its_number(endpoint: str, tmp_path: Path) -> None:
    """Everything before the bad line is kept; once it is mended the import goes on there."""
    file = tmp_path / "in.ndjson"
    file.write_text('{"key": "b/1", "value": 1}\n{"key": "b/2"}\n')
    stopped = _on(endpoint, "kv", "import", str(file), "--batch", "1")
    assert stopped.code == 1
    assert 'line 2: needs either "value" or "value_base64"' in stopped.err
    file.write_text('{"key": "b/1", "value": 1}\n{"key": "b/2", "value": 2}\n')
    assert _on(endpoint, "kv", "import", str(file)).out == "2 records: 1 written, 0 unchanged\n"


def test_csv_is_imported_by_its_columns(endpoint: str, tmp_path: Path) -> None:
    """A CSV file's header says which column is the key."""
    file = tmp_path / "people.csv"
    file.write_text("id,name\nc/7,Eve\n")
    assert _on(endpoint, "kv", "import", str(file), "--key-column", "id").code == 0
    assert _on(endpoint, "kv", "get", "c/7").out == '{"name": "Eve"}\n'


@pytest.mark.parametrize(
    "options",
    [
        ("--workload", "put", "--depth", "8"),
        ("--workload", "put", "--batch", "10", "--connections", "2", "--to", "spread"),
        ("--workload", "get", "--keys", "50"),
        ("--workload", "publish", "--rate", "100"),
        ("--workload", "publish", "--batch", "10", "--depth", "4"),
        ("--workload", "watch", "--rate", "100"),
        ("--workload", "deliver", "--rate", "100"),
    ],
)
def test_bench_measures_each_workload(endpoint: str, options: tuple[str, ...]) -> None:
    """Every workload yields operations, percentiles and no errors."""
    times = ("--seconds", "0.3", "--warm-up", "0.05", "--json")
    (result,) = _on(endpoint, "bench", *options, *times).json["results"]
    assert result["requests"] > 0
    assert result["errors"] == {}
    assert 0 < result["latency_ms"]["p50"] <= result["latency_ms"]["max"]


@pytest.mark.parametrize("workload", ["partitioned", "competing"])
def test_bench_has_members_take_every_event_once(endpoint: str, workload: str) -> None:
    """All events that were published are consumed, and the group is gone afterwards."""
    options = ("-w", workload, "--connections", "2", "--events", "700", "--seconds", "20", "--json")
    (result,) = _on(endpoint, "bench", *options).json["results"]
    assert (result["requests"], result["errors"]) == (700, {})


def test_bench_of_hooks_says_what_its_nodes_lack(endpoint: str) -> None:
    """Without the handler nothing is published, and the way to get one is named."""
    refused = _on(endpoint, "bench", "hooks")
    assert refused.code == 1
    assert 'this cluster has no handler "bench"' in refused.err
    assert "configs/bench-hooks.toml" in refused.err
    assert _on(endpoint, "bench", "hook").code == 2


def test_bench_of_hooks_measures_both_ways(tmp_path: Path) -> None:
    """With the file that the hint names, every event is handled and every mark comes back."""
    configuration = Path(__file__).parents[2] / "configs" / "bench-hooks.toml"
    options = ("--events", "700", "--seconds", "0.5", "--warm-up", "0.1", "--json")
    with running_node(tmp_path, configuration.read_text()) as address:
        handled, reaction = _on(address, "bench", "hooks", *options).json["results"]
    assert (handled["requests"], handled["errors"]) == (700, {})
    assert (reaction["requests"] > 0, reaction["errors"]) == (True, {})
    assert reaction["parts_ms"]["written"]["p50"] <= reaction["latency_ms"]["max"]


def test_unreachable_cluster_is_exit_code_4() -> None:
    """Nothing happened and the cluster cannot serve: 4, with what to do next."""
    refused = run("kv", "get", "x", "--endpoints", "127.0.0.1:1", "--timeout", "0.3")
    assert refused.code == 4
    assert "cluster dev" in refused.err
