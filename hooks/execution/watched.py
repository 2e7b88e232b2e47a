"""The files that the hooks of a node are made from: whether they have changed.

Reads files, so it runs where that holds up nobody.
"""

import os
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final, NamedTuple

_ENDINGS: Final = (".py", ".toml")
_FILES_MAX: Final = 2_000  # of a directory; it has far fewer, or none of it is loaded


class Stamp(NamedTuple):
    """What a look at a file tells without reading it; all 0: it is not there."""

    inode: int = 0
    size_bytes: int = 0
    changed_ns: int = 0


def stamps(files: Iterable[str], directory: str | None) -> dict[str, Stamp]:
    """A look at each of the files, and at those of a directory, by path."""
    paths = dict.fromkeys(files)
    if directory is not None:
        paths |= dict.fromkeys(_listed(directory))
    return {path: _stamp(path) for path in sorted(paths)}


def contents(paths: Iterable[str]) -> Mapping[str, bytes | None]:
    """What stands in the files, as a digest of each; None: it cannot be read."""
    return {path: _digest(path) for path in paths}


def _listed(directory: str) -> list[str]:
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    wanted = [name for name in names if name.endswith(_ENDINGS) and not name.startswith(".")]
    return [os.path.join(directory, name) for name in wanted[:_FILES_MAX]]


def _stamp(path: str) -> Stamp:
    try:
        found = os.stat(path)
    except OSError:
        return Stamp()
    return Stamp(found.st_ino, found.st_size, found.st_mtime_ns)


def _digest(path: str) -> bytes | None:
    try:
        return sha256(Path(path).read_bytes()).digest()
    except OSError:
        return None
