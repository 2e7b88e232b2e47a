"""A run as one HTML page that a person can look at: lanes, arrows, bars, zoom.

The page needs nothing but itself: style (timeline.css), program (timeline.js) and data are in it,
and it opens from disk. The program only draws, filters and lists; what lasted is found out in
trace.py.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from simulation.trace import Kind, Moment, spans

LED_TO_IT_S = 2.0
"""How much of a failed run is in view at first: what led to the failure."""

MARKS: dict[Kind, str] = {
    "message": "→", "fault": "▼", "election": "◆", "commit": "|", "client": "■", "node": "▲",
    "log": "●", "world": "○",
}  # fmt: skip
"""Shapes, because colours alone do not tell everybody."""


def page(
    *,
    title: str,
    drawn: Sequence[str],
    nodes: Sequence[str],
    moments: Sequence[Moment],
    failure: str | None,
    replay: str,
    ended_s: float | None = None,
) -> str:
    """The whole document. The failure is where the run ended: `ended_s`, or the last moment."""
    moments = sorted(moments, key=lambda moment: moment.now_s)
    begin_s = moments[0].now_s if moments else 0.0
    end_s = max(moments[-1].now_s if moments else 0.0, ended_s or 0.0)
    run = {
        "nodes": list(nodes),
        "clients": _clients(moments, nodes),
        "begin": begin_s,
        "end": end_s,
        "view": LED_TO_IT_S,
        "failure": failure,
        "marks": MARKS,
        "colours": sorted(set(re.findall(r"--(\w+):", _STYLE))),
        "moments": [[*moment[:5], _end(moment, end_s)] for moment in moments],
        "spans": spans(moments, nodes, end_s),
    }
    return _PAGE.format(
        title=escape(title),
        style=_STYLE,
        state="<p>The run is clean.</p>" if failure is None else _failure(failure),
        replay=escape(replay),
        drawn="\n".join(f"<li>{escape(' '.join(line.split()))}</li>" for line in drawn),
        kinds="\n".join(_checkbox(kind, mark) for kind, mark in MARKS.items()),
        # Inside <script> nothing is unescaped, and nothing but "<" can end it.
        run=json.dumps(run, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        program=_PROGRAM,
    )


def _clients(moments: Sequence[Moment], nodes: Sequence[str]) -> list[str]:
    """Whoever has operations, sends or receives, and is no node: client-9 before client-10."""
    names = {m.who for m in moments if m.kind in ("client", "message")}
    names |= {m.to for m in moments if m.to is not None}
    return sorted(names.difference(nodes), key=lambda name: (len(name), name))


def _end(moment: Moment, end_s: float) -> float | None:
    """A message may arrive after the run; infinity is its end, or never for a message."""
    if moment.until_s is None or (moment.kind == "message" and moment.until_s == math.inf):
        return None
    return moment.until_s if moment.kind == "message" else min(moment.until_s, end_s)


def _failure(text: str) -> str:
    return f'<pre class="failure">{escape(text)}</pre>'


def _checkbox(kind: Kind, mark: str) -> str:
    return (
        f'<label><input type="checkbox" data-kind="{kind}" checked>'
        f'<i style="color: var(--{kind})">{mark}</i>{kind} <small></small></label>'
    )


_STYLE = Path(__file__).with_suffix(".css").read_text()
_PROGRAM = Path(__file__).with_suffix(".js").read_text()

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{state}
<p>Replay: <code>{replay}</code></p>
<details open><summary>Drawn from the seed</summary><ul class="drawn">
{drawn}
</ul></details>
<fieldset class="controls"><legend>Show</legend>
{kinds}
</fieldset>
<fieldset class="controls" id="types"><legend>Messages</legend></fieldset>
<div class="controls">
<label>Text <input type="search" id="text" placeholder="only what contains this"></label>
<button data-key="Home">Whole run</button>
<button data-key="End">End of the run</button>
<button data-key="+">Zoom in</button>
<button data-key="-">Zoom out</button>
<span class="hint">Wheel: zoom. Drag: move. On the picture: ← → move, + - zoom, ↑ ↓ step from
moment to moment, Home the whole run, End its end, Esc choose nothing.</span>
</div>
<canvas id="chart" tabindex="0" role="img" aria-describedby="chosen note"
  aria-label="The run: a lane per node, time to the right. The list below has the same moments.">
</canvas>
<p id="note" class="hint"></p>
<p id="chosen" role="status"></p>
<p id="listed" class="hint"></p>
<div id="list" tabindex="0" role="region" aria-label="Moments in view"><table>
<thead><tr><th>time, s</th><th>who</th><th>kind</th><th>what</th></tr></thead>
<tbody></tbody></table></div>
<div id="tip" hidden></div>
<script type="application/json" id="run">{run}</script>
<script>{program}</script>
</body>
</html>
"""
