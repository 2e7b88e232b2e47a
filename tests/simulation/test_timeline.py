"""The page of a run, read as a browser reads it: elements, attributes, and the data in it."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from typing import Any, get_args

import pytest

from simulation.timeline import MARKS, page
from simulation.trace import Kind, Moment

NODES = ["n1", "n2"]
HOSTILE = "</script><script>alert(1)</script> <!-- & &lt; \"'\\ {x} \u2028 é \x00 \ud800"
DRAWN = ["seed 7, 2 nodes", "  faults          crash 0.50, <split> 0.20"]


class _Page(HTMLParser):
    """What stands in the page, by element."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        tag = self.open[-1] if self.open else ""
        if tag == "script":
            self.scripts[-1] += data
        self.texts.setdefault(tag, []).append(data)

    @property
    def run(self) -> Any:
        return json.loads(self.scripts[0])


def _moments() -> list[Moment]:
    """One of each kind, and a text that wants to get out of where it stands."""
    return [
        Moment(0.0, "n1", "node", "start"),
        Moment(0.5, "n1", "election", "leads term 1"),
        Moment(0.6, "n1", "message", "append_entries", "n2", 0.7),
        Moment(0.65, "n2", "message", "append_reply", "n1", math.inf),
        Moment(0.7, "n1", "commit", "apply 2 term 1"),
        Moment(0.8, "client-10", "client", "write k1 v-1"),
        Moment(0.9, "client-9", "client", "write k1 v-2"),
        Moment(1.0, "client-10", "client", "write k1 v-1 ok"),
        Moment(1.1, "links", "fault", "n1 | n2", None, math.inf),
        Moment(1.2, "n2", "log", HOSTILE),
        Moment(1.3, "world", "world", "the faults are over"),
    ]


def _page(failure: str | None = None, moments: list[Moment] | None = None, **other: Any) -> _Page:
    text = page(
        title="core <7>",
        drawn=DRAWN,
        nodes=NODES,
        moments=_moments() if moments is None else moments,
        failure=failure,
        replay="python -m simulation --seed 7 & more",
        **other,
    )
    return _Page(text)


def test_hostile_texts_stay_texts() -> None:
    """They come out of the data as they went in, and make no element of their own."""
    shown = _page(failure=HOSTILE.replace("\ud800", ""))
    tame = _page(failure="tame", moments=[m for m in _moments() if m.what != HOSTILE])
    assert HOSTILE in [row[3] for row in shown.run["moments"]]
    assert shown.run["failure"] == HOSTILE.replace("\ud800", "")
    assert [tag for tag, _ in shown.elements] == [tag for tag, _ in tame.elements]
    assert len(shown.scripts) == 2
    assert shown.texts["pre"] == [HOSTILE.replace("\ud800", "")]


def test_title_options_and_replay_are_on_top() -> None:
    """Whoever opens the page sees what run it is and how to see it again."""
    shown = _page()
    assert shown.texts["h1"] == shown.texts["title"] == ["core <7>"]
    assert shown.texts["code"] == ["python -m simulation --seed 7 & more"]
    assert shown.texts["li"] == ["seed 7, 2 nodes", "faults crash 0.50, <split> 0.20"]


def test_each_kind_can_be_filtered() -> None:
    """There is a checkbox and a mark for each kind, and each kind is in this test's run."""
    shown = _page()
    boxes = [a["data-kind"] for tag, a in shown.elements if tag == "input" and "data-kind" in a]
    kinds = set(get_args(Kind))
    assert set(boxes) == set(MARKS) == kinds
    assert len(boxes) == len(kinds)
    assert {row[2] for row in shown.run["moments"]} == kinds


def test_the_data_has_lanes_moments_and_what_lasted() -> None:
    """In order of time and of numbers; what never ends, ends with the run, or never arrives."""
    run = _page().run
    assert run["nodes"] == NODES
    assert run["clients"] == ["client-9", "client-10"]
    assert [row[0] for row in run["moments"]] == sorted(row[0] for row in run["moments"])
    assert [0.6, "n1", "message", "append_entries", "n2", 0.7] in run["moments"]
    assert [0.65, "n2", "message", "append_reply", "n1", None] in run["moments"]
    assert ["client-10", "ok", 0.8, 1.0, "write k1 v-1 ok"] in run["spans"]
    assert ["links", "fault", 1.1, 1.3, "n1 | n2"] in run["spans"]
    assert ["n1", "leads", 0.5, 1.3, "leads term 1"] in run["spans"]


@pytest.mark.parametrize(("ended_s", "end_s"), [(None, 1.3), (1.0, 1.3), (21.3, 21.3)])
def test_the_failure_is_where_the_run_ended(ended_s: float | None, end_s: float) -> None:
    """That may be long after the last thing happened."""
    run = _page(failure="Violation: not live", ended_s=ended_s).run
    assert (run["begin"], run["end"]) == (0.0, end_s)
    assert run["failure"] == "Violation: not live"


def test_a_run_without_moments_has_a_page() -> None:
    """It may fail before anything happens."""
    run = _page(failure="AssertionError", moments=[]).run
    assert (run["moments"], run["spans"], run["begin"], run["end"]) == ([], [], 0.0, 0.0)


def test_the_page_needs_nothing_from_outside() -> None:
    """No address, no source, no import; and the page itself forbids its browser to load any."""
    shown = _page()
    for _, attributes in shown.elements:
        assert not attributes.keys() & {"src", "href", "srcset", "action", "data"}
    policy = next(a["content"] for tag, a in shown.elements if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    everything = "".join(shown.scripts) + "".join(shown.texts["style"])
    assert not re.search(r"https?:|//\w+\.|url\(|@import|\bimport\b|fetch\(|XMLHttp", everything)


def test_the_program_finds_what_it_looks_for() -> None:
    """Each id that it asks for is in the page once, each colour is defined in light and dark."""
    shown = _page()
    ids = [attributes["id"] for _, attributes in shown.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'byId\("(\w+)"\)', shown.scripts[1])) <= set(ids)
    light, dark = "".join(shown.texts["style"]).split("prefers-color-scheme: dark")
    defined = set(re.findall(r"--(\w+):", light))
    assert defined == set(re.findall(r"--(\w+):", dark)) == set(shown.run["colours"])
    assert {*get_args(Kind), "dead", "leads", "ok", "failed", "unknown"} <= defined
