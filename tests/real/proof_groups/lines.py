"""The lines of Debian's package index as events: the key is the package that a line belongs to.

A package's lines stand in one file, and one task publishes a file from its beginning to its end:
the log must hold the lines of each key exactly once and in the order of the index.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple
from zlib import crc32

from tests.real.proof.packages import NoIndex

TOPIC: Final = "debian.line"
_NAME: Final = "Package:"


class Chain(NamedTuple):
    """All lines of one key so far: how many, and a digest that depends on each and their order."""

    length: int = 0
    digest: bytes = b""

    def then(self, line: bytes) -> Chain:
        """With one more line."""
        return Chain(self.length + 1, blake2b(self.digest + line, digest_size=12).digest())


@dataclass(slots=True, kw_only=True)
class Written:
    """What is to be published."""

    files: list[Path]
    chains: dict[str, Chain] = field(default_factory=dict)
    lines: int = 0
    size_bytes: int = 0


def keyed_lines(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Each line that is not empty, with the package whose stanza it stands in."""
    key = ""
    for line in lines:
        text = line.rstrip("\n")
        if text.startswith(_NAME):
            key = text[len(_NAME) :].strip()
        if text.strip() and key:
            yield key, text


def write_lines(lines: Iterable[str], folder: Path, files: int, lines_max: int | None) -> Written:
    """Divide the lines among files by their key; a line there is the key, a tab and the text."""
    paths = [folder / f"lines-{number}.tsv" for number in range(files)]
    written = Written(files=paths)
    with ExitStack() as stack:
        streams = [stack.enter_context(path.open("wb")) for path in paths]
        for key, text in islice(keyed_lines(lines), lines_max):
            line = text.encode()
            streams[crc32(key.encode()) % files].write(b"%s\t%s\n" % (key.encode(), line))
            written.chains[key] = written.chains.get(key, Chain()).then(line)
            written.lines += 1
            written.size_bytes += len(line)
    if not written.lines:
        raise NoIndex("the index holds no line")
    return written
