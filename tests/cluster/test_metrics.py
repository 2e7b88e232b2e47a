"""The registry of a node and the page that describes it."""

import re
from pathlib import Path

import pytest

from cluster.metrics import SAMPLED, NodeMetrics

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "metrics.md"


def test_every_metric_is_documented_and_nothing_else() -> None:
    """docs/metrics.md has one row for each metric that a node can show, with its labels."""
    counted = {family.name for family in NodeMetrics().registry.collect()}
    # prometheus_client strips `_total` from the names of its own counters.
    text = DOCUMENT.read_text()
    rows = dict(re.findall(r"^\| `(tremula_\w+)` \| ([^|]*) \|", text, re.MULTILINE))
    expected = set(SAMPLED) | {
        f"{name}_total" if f"{name}_total" in text else name for name in counted
    }
    assert expected == set(rows)
    for name, sampled in SAMPLED.items():
        assert ", ".join(sampled.labels) == rows[name].replace("`", "").strip()


def test_sampled_values_are_asked_for_at_each_scrape() -> None:
    """A metric kept by its owner shows the owner's number of that moment."""
    metrics = NodeMetrics()
    terms = iter([3, 4])
    metrics.sample("tremula_raft_term", lambda: {(): next(terms)})
    assert b"\ntremula_raft_term 3.0\n" in metrics.render()
    assert b"\ntremula_raft_term 4.0\n" in metrics.render()


def test_labels_and_counters_are_rendered() -> None:
    """Label values appear in the order of the table, and counters keep their `_total`."""
    metrics = NodeMetrics()
    metrics.sample("tremula_operations_total", lambda: {("put", "done"): 5, ("put", "rejected"): 1})
    metrics.strangers.labels("peer", "no_certificate").inc()
    text = metrics.render().decode()
    assert 'tremula_operations_total{operation="put",outcome="done"} 5.0' in text
    assert 'tremula_strangers_total{port="peer",reason="no_certificate"} 1.0' in text


def test_two_nodes_in_one_process_count_apart() -> None:
    """A registry belongs to its node."""
    one, other = NodeMetrics(), NodeMetrics()
    one.strangers.labels("peer", "x").inc()
    assert b'reason="x"' in one.render()
    assert b'reason="x"' not in other.render()


def test_strangers_that_a_port_counts_itself_are_added_once() -> None:
    """What the owner of a port counted appears beside what is counted here, at each scrape."""
    metrics = NodeMetrics()
    counts = {"silent": 2}
    metrics.strangers_from("client", lambda: counts)
    line = b'tremula_strangers_total{port="client",reason="silent"} '
    assert line + b"2.0" in metrics.render()
    counts["silent"] = 5
    assert line + b"5.0" in metrics.render()


def test_every_metric_has_a_source() -> None:
    """A metric in the table that no part of the node ever tells would always be missing."""
    code = "".join(
        path.read_text()
        for folder in ("cluster", "hooks")
        for path in (ROOT / folder).rglob("*.py")
        if path.name != "metrics.py"
    )
    silent = [name for name in SAMPLED if f'"{name}"' not in code]
    own = ("raft_fsync_seconds", "raft_tick_seconds", "apply_seconds", "entry_operations")
    silent += [name for name in (*own, "strangers_from") if f".{name}" not in code]
    assert silent == []


def test_unknown_metric_is_refused() -> None:
    """A metric that is not in the table cannot be shown, so nothing stays undocumented."""
    with pytest.raises(KeyError, match="tremula_made_up"):
        NodeMetrics().sample("tremula_made_up", dict)
