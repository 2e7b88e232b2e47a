"""What rendered files hold: every kind of entry, and what does not fit."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooks.handlers.renderers import Entry, Rendering, render
from tests.hooks.workbench import definition

HEAD = "# Made by the handler h: changes are overwritten.\n"
MEMBERS = [Entry("b", b"10.0.0.2:7471"), Entry("a", b"10.0.0.1:7471"), Entry("c", b"[fd00::3]:7")]


def rendered(entries: list[Entry], **keys: object) -> Rendering:
    handler = definition(type="file", path="/etc/made", **keys)
    return render(handler, entries)


def groups(entries: list[Entry], **keys: object) -> Any:
    return json.loads(rendered(entries, renderer="file_sd", **keys).content)


def test_members_become_lines_of_a_hosts_file() -> None:
    """Sorted by name, with the domain behind each."""
    made = rendered(MEMBERS, domain="cluster.test")
    assert made.content.decode() == HEAD + (
        "10.0.0.1\ta.cluster.test\n10.0.0.2\tb.cluster.test\nfd00::3\tc.cluster.test\n"
    )
    assert (made.entries, made.left_out) == (3, ())
    assert rendered(list(reversed(MEMBERS)), domain="cluster.test") == made


def test_keys_become_lines_of_a_hosts_file() -> None:
    """A value is an address, or an object with an address and names."""
    entries = [
        Entry("web", b" 10.1.0.1\n"),
        Entry("db", b'{"address": "10.1.0.2", "names": ["db", "db-main"]}'),
        Entry("cache", b'{"address": "::1"}'),
    ]
    made = rendered(entries, source="hosts/")
    assert made.content.decode() == HEAD + "::1\tcache\n10.1.0.2\tdb db-main\n10.1.0.1\tweb\n"


def test_nothing_is_a_file_too() -> None:
    """Without keys there is a valid file without entries."""
    assert rendered([], source="hosts/").content.decode() == HEAD
    assert groups([], source="targets/") == []


def test_members_become_targets() -> None:
    """With the handler's port, the node's name and the handler's labels."""
    found = groups(MEMBERS, port=9100, labels={"job": "tremula"})
    assert found == [
        {"targets": ["10.0.0.1:9100"], "labels": {"job": "tremula", "node": "a"}},
        {"targets": ["10.0.0.2:9100"], "labels": {"job": "tremula", "node": "b"}},
        {"targets": ["[fd00::3]:9100"], "labels": {"job": "tremula", "node": "c"}},
    ]


def test_keys_become_targets_grouped_by_their_labels() -> None:
    """A value is a target, or an object with targets and labels; the handler's port fills in."""
    entries = [
        Entry("x", b"web-1.test:80"),
        Entry("y", b"web-2.test"),
        Entry("z", b'{"targets": ["10.0.0.9", "10.0.0.8:1"], "labels": {"env": "live"}}'),
    ]
    assert groups(entries, source="targets/", port=9100) == [
        {"targets": ["web-1.test:80", "web-2.test:9100"], "labels": {}},
        {"targets": ["10.0.0.8:1", "10.0.0.9:9100"], "labels": {"env": "live"}},
    ]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("a", b"no address", "no IP address"),
        ("a", b"\xff\xfe", "not text"),
        ("a", b"10.0.0.1\n10.0.0.2 evil", "no IP address"),
        ("a", b"fe80::1%x\n6.6.6.6 bank.test", "no IP address"),  # a zone may be anything
        ("a", b'{"address": "fe80::1%\\ud800"}', "no IP address"),
        ("a b", b"10.0.0.1", "no host name"),
        ("a\n6.6.6.6 bank.test", b"10.0.0.1", "no host name"),
        ("a" * 64, b"10.0.0.1", "no host name"),
        ("", b"10.0.0.1", "no host name"),
        ("#", b"10.0.0.1", "no host name"),
        ("a", b'{"address": 7}', "no IP address"),
        ("a", b'{"address": "10.0.0.1", "names": []}', "names"),
        ("a", b'{"address": "10.0.0.1", "names": ["x y"]}', "no host name"),
        ("a", b'{"address": "10.0.0.1", "alias": "x"}', "only address and names"),
        ("a", b'{"address": "10.0.0.1"', "begins as a JSON object"),
        ("a", b"{" * 100_000, "begins as a JSON object"),
    ],
)
def test_a_host_that_does_not_fit_is_left_out(name: str, value: bytes, reason: str) -> None:
    """One bad key costs no other; nothing of it reaches the file."""
    made = rendered([Entry(name, value), Entry("good", b"10.0.0.7")], source="hosts/")
    assert made.content.decode() == HEAD + "10.0.0.7\tgood\n"
    ((left_out, why),) = made.left_out
    assert (left_out, made.entries) == (name, 1)
    assert reason in why


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"host:99999", "no HOST:PORT"),
        (b"host:", "no HOST:PORT"),
        (b"host:" + b"1" * 5_000, "no HOST:PORT"),  # more digits than int takes
        (b'{"targets": ["[fe80::1%a b]:80"]}', "no host name"),
        (b'{"targets": ["[fe80::1%\\ud800]:80"]}', "no host name"),
        (b"a host:80", "no host name"),
        (b"host", "names no port"),
        (b"\xff", "not text"),
        (b'{"targets": "host:80"}', "targets"),
        (b'{"targets": []}', "targets"),
        (b'{"targets": [1]}', "no HOST:PORT"),
        (b'{"targets": ["host:80"], "labels": []}', "labels"),
        (b'{"targets": ["host:80"], "labels": {"a-b": "x"}}', "no name of a label"),
        (b'{"targets": ["host:80"], "labels": {"a": 1}}', "label a"),
        (b'{"targets": ["host:80"], "labels": {"a": "\\ud800"}}', "not Unicode"),
    ],
)
def test_a_target_that_does_not_fit_is_left_out(value: bytes, reason: str) -> None:
    """As for hosts: what Prometheus would refuse the whole file for is not in it."""
    entries = [Entry("bad", value), Entry("good", b"good:80")]
    made = rendered(entries, renderer="file_sd", source="targets/")
    assert json.loads(made.content) == [{"targets": ["good:80"], "labels": {}}]
    ((name, why),) = made.left_out
    assert name == "bad"
    assert reason in why


@given(st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=60)), max_size=8))
def test_any_keys_give_valid_files(entries: list[tuple[str, bytes]]) -> None:
    """Whatever stands in the keys, each line is an address and names, and the JSON is targets."""
    keys = [Entry(*entry) for entry in entries]
    made = rendered(keys, source="x/")
    lines = made.content.decode().splitlines()
    assert len(lines) == 1 + made.entries == 1 + len(entries) - len(made.left_out)
    assert all(len(line.split("\t")) == 2 for line in lines[1:])
    for group in groups(keys, source="x/", port=1):
        assert group["targets"]
