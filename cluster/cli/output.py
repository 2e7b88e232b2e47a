"""What the commands print: tables and sentences for people, JSON for programs.

Results go to standard output, everything else to standard error. With `--json` a result is one JSON
value, a stream one value on each line. A table that does not go to a terminal is tab-separated and
nothing in it is cut: a pipe gets whole keys, values and errors.
"""

import base64
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import IO, Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

BRIEF_CHARACTERS_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class Brief:
    """A text or a value of which a table shows only the beginning to people at a terminal."""

    value: str | bytes | None
    characters_max: int = BRIEF_CHARACTERS_MAX


class Output:
    """Where one command prints."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.people = sys.stdout.isatty() and not as_json
        self._errors = Console(stderr=True, highlight=False, soft_wrap=True)

    def show(self, value: object, human: Callable[[], None]) -> None:
        """The result: `value` as JSON, or whatever `human` prints."""
        if self.as_json:
            self.json_line(value)
        else:
            human()

    def say(self, sentence: object, value: object) -> None:
        """A result that is one sentence for people."""
        self.show(value, lambda: self.line(str(sentence)))

    def line(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def json_line(self, value: object) -> None:
        self.line(json.dumps(value, ensure_ascii=False, default=_plain))

    def raw(self, data: bytes) -> None:
        stream: IO[bytes] = sys.stdout.buffer
        stream.write(data)
        stream.flush()

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        texts = [[cell(value, whole=not self.people) for value in row] for row in rows]
        if not self.people:
            for row in (list(columns), *texts):
                self.line("\t".join(text.replace("\t", " ") for text in row))
            return
        table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
        for number, column in enumerate(columns):
            numeric = all(row[number].replace(".", "").isdigit() for row in texts) and texts
            table.add_column(
                column, justify="right" if numeric else "left", overflow="fold", no_wrap=False
            )
        for row in texts:
            table.add_row(*(Text(text) for text in row))  # Text: markup in a key is only a key
        Console(highlight=False).print(table)

    def coloured(self, head: str, style: str, rest: str) -> None:
        """A line whose first word has a colour on a terminal."""
        line = Text.assemble((head, style), rest)  # Text: brackets in a message are only brackets
        Console(highlight=False, soft_wrap=True).print(line)

    def facts(self, pairs: Iterable[tuple[str, object]]) -> None:
        """Names and values, one pair on each line."""
        known = [(name, cell(value, whole=not self.people)) for name, value in pairs]
        width = max(len(name) for name, _ in known)
        for name, text in known:
            self.line(f"{name:<{width}}  {text}")

    def note(self, text: str, style: str = "dim") -> None:
        """Something beside the result, for people at a terminal and in logs of scripts."""
        self._errors.print(Text(text, style=style))

    def json_note(self, value: object) -> None:
        """The same for programs: one JSON value on standard error."""
        sys.stderr.write(json.dumps(value, ensure_ascii=False, default=_plain) + "\n")
        sys.stderr.flush()


def cell(value: object, *, whole: bool = False) -> str:
    """A value as it stands in a table, on one line; `whole`: also where people get a part of it."""
    if isinstance(value, Brief):
        return cell(value.value, whole=True) if whole else _beginning(value)
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    if isinstance(value, bytes):
        return readable(value, sys.maxsize) if whole else readable(value)
    if isinstance(value, list | tuple):
        return ", ".join(cell(each, whole=whole) for each in value) or "-"
    if isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False, default=_plain)
    text = str(value)
    return text if text.isprintable() else json.dumps(text, ensure_ascii=False)[1:-1]


def readable(data: bytes, characters_max: int = 200) -> str:
    """Bytes as text where they are text, cut to what fits a line."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return f"({len(data)} bytes)"
    if not text.isprintable():
        text = json.dumps(text, ensure_ascii=False)[1:-1]
    return text if len(text) <= characters_max else f"{text[:characters_max]}… ({len(data)} bytes)"


def _beginning(brief: Brief) -> str:
    if isinstance(brief.value, bytes):
        return readable(brief.value, brief.characters_max)
    if brief.value is None:
        return cell(None)
    line, more, _ = brief.value.partition("\n")
    is_cut = bool(more) or len(line) > brief.characters_max
    return cell(line[: brief.characters_max]) + ("…" if is_cut else "")


def value_fields(value: bytes) -> dict[str, str]:
    """A value in JSON: `value` when it is text, else `value_base64`; `kv import` reads both."""
    try:
        return {"value": value.decode()}
    except UnicodeDecodeError:
        return {"value_base64": base64.b64encode(value).decode()}


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return readable(value, characters_max=sys.maxsize)
    return str(value)
