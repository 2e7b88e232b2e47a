"""Structured logs of a node: one line per event, with node and term, as text or as JSON.

One logger per node and no module state, so that many nodes live in one process. A message is a
fixed lower-case sentence or name and its facts are fields; secrets and values never are. Lines of a
node go to one stream in one `write` each, so lines of several nodes do not mix.
"""

import json
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO

LEVELS = ("debug", "info", "warning", "error")
FIELD_CHARACTERS_MAX = 2_000  # a log line is for reading; what is longer is cut and says so


class NodeLog:
    """The log of one node. `term` is kept current by the engine and stands on every line."""

    __slots__ = ("_as_json", "_node", "_stream", "_threshold", "_wall_ms", "term")

    def __init__(
        self, stream: TextIO, *, node: str, level: str, format: str, wall_ms: Callable[[], int]
    ) -> None:
        self._stream = stream
        self._node = node
        self._threshold = LEVELS.index(level)
        self._as_json = format == "json"
        self._wall_ms = wall_ms
        self.term = 0

    def debug(self, message: str, /, **fields: object) -> None:
        if self._threshold == 0:
            self._write("debug", message, fields)

    def info(self, message: str, /, **fields: object) -> None:
        if self._threshold <= 1:
            self._write("info", message, fields)

    def warning(self, message: str, /, **fields: object) -> None:
        if self._threshold <= 2:
            self._write("warning", message, fields)

    def error(self, message: str, error: BaseException | None = None, /, **fields: object) -> None:
        """What an operator must look at. `error` adds its traceback."""
        if error is not None:
            fields["error"] = "".join(traceback.format_exception(error)).rstrip()
        self._write("error", message, fields)

    def _write(self, level: str, message: str, fields: dict[str, object]) -> None:
        moment = datetime.fromtimestamp(self._wall_ms() / 1000, UTC)
        at = moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"
        if self._as_json:
            head = {"at": at, "level": level, "node": self._node, "term": self.term}
            facts = {name: _plain(value) for name, value in fields.items()}
            line = json.dumps({**head, "message": message, **facts}, ensure_ascii=False)
        else:
            facts_text = "".join(f" {name}={_text(value)}" for name, value in fields.items())
            line = f"{at} {level:<7} {self._node} t{self.term} {message}{facts_text}"
        self._stream.write(line + "\n")
        self._stream.flush()


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    return _cut(str(value))


def _text(value: object) -> str:
    text = _cut(str(value))
    # Quoted whenever a reader, or grep, could mistake where the value ends; one line stays one.
    if text and text.isprintable() and not any(character in text for character in ' "='):
        return text
    return json.dumps(text, ensure_ascii=False)


def _cut(text: str) -> str:
    if len(text) <= FIELD_CHARACTERS_MAX:
        return text
    # The end of a traceback is the part that says what happened.
    return f"({len(text) - FIELD_CHARACTERS_MAX} characters cut) {text[-FIELD_CHARACTERS_MAX:]}"
