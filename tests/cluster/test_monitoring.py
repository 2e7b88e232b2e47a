"""configs/monitoring: what it asks Prometheus for is what a node shows, by labels that it has."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml

from cluster.metrics import SAMPLED
from tests.cluster.cli_node import running_node

FOLDER = Path(__file__).parents[2] / "configs" / "monitoring"
ALERTS: dict[str, Any] = yaml.safe_load((FOLDER / "alerts.yml").read_text())
DASHBOARD: dict[str, Any] = json.loads((FOLDER / "dashboard.json").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [
    *((rule["alert"], rule["expr"]) for rule in RULES),
    *((panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]),
    *(
        (variable["name"], variable["query"]["query"])
        for variable in DASHBOARD["templating"]["list"]
        if variable["type"] == "query"
    ),
]
SCRAPED_LABELS = {"instance", "job"}  # Prometheus adds them
NOT_OURS = {"up"}
FUNCTIONS = {
    "avg", "by", "count", "histogram_quantile", "increase", "label_values", "max", "min", "rate",
    "sum", "without",
}  # fmt: skip


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """The metrics of a node that runs, by name, with their kinds."""
    folder = tmp_path_factory.mktemp("node")
    with running_node(folder):
        http = tomllib.loads((folder / "node.toml").read_text())["listen"]["http"]
        with urlopen(f"http://{http}/metrics", timeout=20) as response:
            text = response.read().decode()
    return dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))


def _metrics(expression: str) -> list[tuple[str, str]]:
    """The metrics that an expression names, each with its selector."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', expression)
    found = re.findall(r"\b([a-z_]\w*)\b(?!\s*(?:\(|=~|!~|!=|=(?!=)))(\{[^}]*\})?", bare)
    grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", bare))))
    labels = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=(?!=))", bare))
    argument = set(re.findall(r"label_values\([^,]+, (\w+)\)", bare))
    return [
        (name, selector)
        for name, selector in found
        if name not in FUNCTIONS | grouped | labels | argument and not re.fullmatch("[smhd]", name)
    ]


def _base(name: str, exposed: Mapping[str, str]) -> str | None:
    """The metric that a series belongs to: a histogram has three of them."""
    if name in exposed and exposed[name] != "histogram":
        return name
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    return base if base != name and exposed.get(base) == "histogram" else None


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS)
def test_every_metric_that_is_asked_for_is_shown_by_a_node(
    where: str, expression: str, exposed: Mapping[str, str]
) -> None:
    """A renamed metric would leave an alert silent for ever; a counter is not read as a gauge."""
    named = _metrics(expression)
    assert named, where
    for name, _ in named:
        if name in NOT_OURS:
            continue
        base = _base(name, exposed)
        assert base is not None, f"{where}: no node shows {name}"
        if exposed[base] == "gauge":
            assert not re.search(rf"(rate|increase)\({name}\b", expression), where


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS)
def test_every_label_that_is_asked_for_is_there(where: str, expression: str) -> None:
    """In a selector or in `by`, a label that the metric does not have matches nothing."""
    known = set(SCRAPED_LABELS)
    for name, _ in _metrics(expression):
        known |= set(SAMPLED[name].labels) if name in SAMPLED else set()
        known |= {"le", "handler"} if name.endswith("_bucket") else set()
    asked = set(re.findall(r"[{,]\s*(\w+)\s*(?:=~|!~|!=|=)", expression))
    for names in re.findall(r"by \(([^)]*)\)", expression):
        asked |= set(re.findall(r"\w+", names))
    asked |= set(re.findall(r"label_values\([^,]+, (\w+)\)", expression))
    assert asked <= known, where


def test_an_alert_says_what_to_do() -> None:
    """Each has a name of its own, a severity that is one, and sentences for the person on call."""
    assert set(ALERTS) == {"groups"}
    names = [rule["alert"] for rule in RULES]
    assert len(names) == len(set(names)) > 10
    for rule in RULES:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert set(rule["annotations"]) == {"summary", "description"}
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m")), rule["alert"]
        kept = re.findall(r"by \(([^)]*)\)", rule["expr"])
        shown = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
        if kept:
            assert shown <= set(re.findall(r"\w+", kept[-1])), rule["alert"]


def test_the_commands_that_alerts_name_exist() -> None:
    """Whoever is woken up types what the alert says."""
    document = (FOLDER.parents[1] / "docs" / "cli.md").read_text()
    named = re.findall(r"`(cluster(?: [a-z-]+)+)", json.dumps(ALERTS))
    assert len(named) > 5
    assert [command for command in named if f"`{command}" not in document] == []


def test_the_dashboard_is_one() -> None:
    """Panels have ids of their own, do not lie over each other, and ask the chosen source."""
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in PANELS:
        assert panel["datasource"]["uid"] == "${datasource}"
        references = [target["refId"] for target in panel["targets"]]
        assert references == sorted(set(references))
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(PANELS)))
    assert used <= variables
