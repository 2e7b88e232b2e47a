"""A disk that becomes full on demand, for one node's data directory.

A small tmpfs where this user may mount one, filled up by a ballast file. Elsewhere a bound on the
size of the files that the node's process may write, which its database also sees as a disk that
refuses.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.real.processes import RealNode

DISK_BYTES: Final = 96 << 20
LEFT_BYTES: Final = 256 << 10


class SmallDisk:
    """Give `path` to a node as its data directory before it starts."""

    def __init__(self, path: Path, mounted: bool) -> None:
        self.path = path / "data"
        self._ballast = path / "ballast"
        self._mounted = mounted

    def fill(self, node: RealNode) -> None:
        """From now on only some 100 KiB more can be written."""
        if not self._mounted:
            log = node.data_dir / "raft.db-wal"
            size = log.stat().st_size + LEFT_BYTES
            _, hard = resource.prlimit(node.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (size, hard))
            return
        facts = os.statvfs(self._ballast.parent)
        with self._ballast.open("wb") as ballast:
            ballast.write(b"\0" * (facts.f_bavail * facts.f_bsize - LEFT_BYTES))

    def clear(self) -> None:
        """There is room again. (The other kind of bound ended with the process.)"""
        self._ballast.unlink(missing_ok=True)


@contextmanager
def small_disk(path: Path) -> Iterator[SmallDisk]:
    """A small disk at `path`, an empty folder that is made here."""
    path.mkdir()
    size = f"size={DISK_BYTES}"
    mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(path)]
    allowed = os.geteuid() == 0 and shutil.which("mount") is not None
    mounted = allowed and subprocess.run(mount, capture_output=True).returncode == 0
    try:
        yield SmallDisk(path, mounted)
    finally:
        if mounted:
            # lazily: a host process of the node that was just killed may still leave it
            subprocess.run(["umount", "--lazy", str(path)], check=True)
