"""The records of an import file: NDJSON or CSV, one key with its value each.

NDJSON: `{"key": "a", "value": "text"}` on each line. A value that is no text is kept as its compact
JSON; `value_base64` holds bytes; `ttl_ms` makes the key expire. CSV: a header line names the
columns; one is the key, one the value, or all others together are the value, as a JSON object.
"""

import base64
import binascii
import csv
import json
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Final, NamedTuple

from cluster.limits import KEY_BYTES_MAX, TTL_MS_MAX, VALUE_BYTES_MAX
from pubsub.topics import closest

# A value of VALUE_BYTES_MAX whose every byte is escaped as \\u00xx, and its key.
LINE_BYTES_MAX: Final = 8 * VALUE_BYTES_MAX
FIELDS: Final = ("key", "value", "value_base64", "ttl_ms")
# What `kv export` adds for people; it is not ours to set, so an import passes over it.
EXPORTED_FIELDS: Final = ("create_revision", "mod_revision", "version", "expires_ms")


class Record(NamedTuple):
    """One key to write."""

    line: int
    key: str
    value: bytes
    ttl_ms: int | None = None

    @property
    def size_bytes(self) -> int:
        return len(self.key.encode()) + len(self.value)


class BadRecord(Exception):
    """A line that holds no record; nothing of it or after it was written."""

    def __init__(self, line: int, detail: str) -> None:
        super().__init__(line, detail)
        self.line = line
        self.detail = detail

    def __str__(self) -> str:
        return f"line {self.line}: {self.detail}"


def read_ndjson(file: BinaryIO) -> Iterator[Record]:
    """Records of a stream of JSON objects; empty lines are passed over."""
    for number, line in enumerate(_lines(file), 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadRecord(number, f"is not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise BadRecord(number, 'is not an object like {"key": "a", "value": "b"}')
        for name in fields.keys() - set(FIELDS) - set(EXPORTED_FIELDS):
            nearest = closest(name, FIELDS)
            question = f'; did you mean "{nearest}"?' if nearest else f" ({', '.join(FIELDS)})"
            raise BadRecord(number, f'there is no field "{name}" in a record{question}')
        yield _checked(number, fields.get("key"), _value(number, fields), fields.get("ttl_ms"))


def read_csv(
    file: BinaryIO, key_column: str = "key", value_column: str | None = None
) -> Iterator[Record]:
    """Records of a CSV file with a header line.

    Without `value_column` a column named `value` is the value, or else all other columns are.
    """
    text = (_decoded(number, line) for number, line in enumerate(_lines(file), 1))
    csv.field_size_limit(LINE_BYTES_MAX)  # the module's own 128 KiB is less than a value may have
    rows = csv.reader(text, strict=True)
    columns = _next_row(rows) or []
    if key_column not in columns:
        raise BadRecord(1, _no_column(key_column, columns))
    if value_column is None and "value" in columns:
        value_column = "value"
    if value_column is not None and value_column not in columns:
        raise BadRecord(1, _no_column(value_column, columns))
    while (row := _next_row(rows)) is not None:
        if not row:
            continue
        if len(row) != len(columns):
            raise BadRecord(rows.line_num, f"has {len(row)} columns, the header has {len(columns)}")
        fields = dict(zip(columns, row, strict=True))
        key = fields.pop(key_column)
        value = fields[value_column] if value_column else json.dumps(fields, ensure_ascii=False)
        yield _checked(rows.line_num, key, value.encode(), None)


def _lines(file: BinaryIO) -> Iterator[bytes]:
    number = 0
    while line := file.readline(LINE_BYTES_MAX + 1):
        number += 1
        if len(line) > LINE_BYTES_MAX:
            raise BadRecord(number, f"is longer than {LINE_BYTES_MAX} bytes")
        yield line


def _decoded(number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")  # spreadsheets write a mark
    except UnicodeDecodeError as error:
        raise BadRecord(number, f"is not UTF-8 text (byte {error.start})") from None


def _next_row(rows: Any) -> Sequence[str] | None:
    try:
        return next(rows, None)
    except csv.Error as error:
        raise BadRecord(rows.line_num, f"is not CSV: {error}") from None


def _no_column(wanted: str, columns: Sequence[str]) -> str:
    return f'there is no column "{wanted}" (the header has {", ".join(columns) or "none"})'


def _value(number: int, fields: dict[str, object]) -> bytes:
    if ("value" in fields) == ("value_base64" in fields):
        raise BadRecord(number, 'needs either "value" or "value_base64"')
    if "value" in fields:
        value = fields["value"]
        if isinstance(value, str):
            return value.encode(errors="surrogatepass")
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    try:
        return base64.b64decode(str(fields["value_base64"]), validate=True)
    except binascii.Error as error:
        raise BadRecord(number, f"value_base64 is not base64: {error}") from None


def _checked(line: int, key: object, value: bytes, ttl_ms: object) -> Record:
    """The record, if a node would accept it: better to say so with a line number."""
    if not isinstance(key, str) or not key:
        raise BadRecord(line, f"the key must be a text that is not empty: {key!r}")
    try:
        key_bytes = len(key.encode())
    except UnicodeEncodeError:
        raise BadRecord(line, "the key holds half a character (a lone surrogate)") from None
    if key_bytes > KEY_BYTES_MAX:
        raise BadRecord(line, f"the key has {key_bytes} bytes, more than {KEY_BYTES_MAX}")
    if len(value) > VALUE_BYTES_MAX:
        raise BadRecord(line, f"the value has {len(value)} bytes, more than {VALUE_BYTES_MAX}")
    if ttl_ms is not None and not (type(ttl_ms) is int and 1 <= ttl_ms <= TTL_MS_MAX):
        raise BadRecord(line, f"ttl_ms must be a number from 1 to {TTL_MS_MAX}: {ttl_ms!r}")
    return Record(line, key, value, ttl_ms)
