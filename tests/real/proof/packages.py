"""Debian's package index as records: what `apt-cache dumpavail` prints, as NDJSON for an import.

One record per stanza: the key is `packages/<name>/<version>`, the value the stanza's fields as a
JSON object.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Final

PREFIX: Final = "packages/"
COMMAND: Final = ("apt-cache", "dumpavail")


# What became of each key, in order: the digest of a value written, or None for a delete.
History = dict[str, list[bytes | None]]


class NoIndex(Exception):
    """There is no package index on this machine."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"{why}. The proof imports the package index of Debian or Ubuntu. There, as root:\n"
            "  apt-get update\n"
            "and run the proof again. Elsewhere: docker run -it debian, or --index FILE with what "
            "`apt-cache dumpavail` printed on another machine."
        )


@dataclass(slots=True, kw_only=True)
class Written:
    """What stands in an import file."""

    values: History = field(default_factory=dict)
    records: int = 0
    size_bytes: int = 0
    nameless: int = 0  # stanzas without a package name or a version, which have no key

    @property
    def doubled(self) -> int:
        """Records whose key an earlier record has, too."""
        return self.records - len(self.values)


def index_lines(file: Path | None) -> Iterator[str]:
    """The index of this machine, or one that was printed into a file. Raises NoIndex."""
    if file is not None:
        with file.open(encoding="utf-8", errors="replace") as lines:
            yield from lines
        return
    try:
        process = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        raise NoIndex(f"there is no {COMMAND[0]}") from None
    with process:
        assert process.stdout is not None
        first = process.stdout.readline()
        if not first:
            raise NoIndex(f"`{' '.join(COMMAND)}` printed nothing")
        yield first.decode(errors="replace")
        for line in process.stdout:
            yield line.decode(errors="replace")
        # Whoever has read enough closes the generator, and the pipe ends the program.


def stanzas(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """The fields of each stanza; a field that goes on over lines keeps its line breaks."""
    fields: dict[str, str] = {}
    name = ""
    for line in lines:
        text = line.rstrip("\n")
        if not text.strip():
            if fields:
                yield fields
            fields, name = {}, ""
        elif text[0] in " \t":
            if name:
                fields[name] += "\n" + text.strip()
        else:
            name, _, value = text.partition(":")
            fields[name] = value.strip()
    if fields:
        yield fields


def write_records(lines: Iterable[str], file: Path, records_max: int | None) -> Written:
    """Write the import file, and remember a digest of every value."""
    written = Written()
    with file.open("w", encoding="utf-8") as stream:
        for fields in islice(stanzas(lines), records_max):
            if not (fields.get("Package") and fields.get("Version")):
                written.nameless += 1
                continue
            key = f"{PREFIX}{fields['Package']}/{fields['Version']}"
            value = json.dumps(fields, ensure_ascii=False, separators=(",", ":"))
            line = f'{{"key":{json.dumps(key)},"value":{value}}}\n'
            stream.write(line)
            written.values.setdefault(key, []).append(digest(value.encode()))
            written.records += 1
            written.size_bytes += len(line.encode())
    if not written.records:
        raise NoIndex("the index holds no package")
    return written


def digest(value: bytes) -> bytes:
    """Enough of a value to recognise it: the proof holds one per record."""
    return blake2b(value, digest_size=12).digest()
