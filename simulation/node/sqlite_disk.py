"""Disks with crash semantics under SQLite: `raft.db` and `state.db` of a simulated node.

One VFS lies between SQLite and the operating system. The real files show what the operating system
would show: every write, at once. Beside each of them a book keeps what is *durable*: the bytes as
of the last sync, and in order the writes since. `lose_power` makes the real files what a disk could
hold then: the durable bytes and any of the later writes, the last one torn between two sectors.

Files are in the book from when SQLite opens them in a folder that was added. What the product does
to such a file behind SQLite's back (a rename over it, an unlink) is noticed at the next opening and
at a power loss, by size, time and inode, and is taken to be durable: the product syncs what it
renames, and the folder after it. Files that SQLite never opened are never lost. A folder is synced
with the first sync of a file that is new in it; until then a deleted file may come back, and a
created one may be missing.

May not: sync anything for real, or change a byte outside of the added folders. Several threads may
use a disk, but then no seed repeats a run.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import ClassVar, Final, Literal, NamedTuple

import apsw

from cluster.state import CHECKSUMS, register_checksums

NAME: Final = "simulated"
SECTOR_BYTES: Final = 512
_WAL_INDEX: Final = "-shm"

Failing = Literal["never", "once", "always"]


class Write(NamedTuple):
    """Bytes at a place, which no sync has followed."""

    offset: int
    data: bytes

    def reach(self, image: bytearray) -> None:
        if len(image) < self.offset:
            image.extend(bytes(self.offset - len(image)))
        image[self.offset : self.offset + len(self.data)] = self.data

    def torn(self, random: Random) -> Write:
        """Its beginning, up to a boundary of sectors: perhaps nothing, never all of it."""
        begin, end = self.offset // SECTOR_BYTES, -(-(self.offset + len(self.data)) // SECTOR_BYTES)
        cut = random.randrange(begin, end) * SECTOR_BYTES
        return Write(self.offset, self.data[: max(0, cut - self.offset)])


class Truncate(NamedTuple):
    """A new size, which no sync has followed."""

    size: int

    def reach(self, image: bytearray) -> None:
        del image[self.size :]
        image.extend(bytes(self.size - len(image)))


class Killed(apsw.IOError):
    """Every call of a process that was killed ends so."""


class SimulatedDisks(apsw.VFS):
    """All disks of the process. Files in no added folder go straight to the operating system."""

    _only: ClassVar[SimulatedDisks | None] = None  # SQLite keeps pointers to it

    def __init__(self) -> None:
        self._base = apsw.vfs_names()[0]
        self._disks: dict[str, NodeDisk] = {}
        self._random = Random(0)
        super().__init__(NAME, "", maxpathname=0)

    @classmethod
    @contextmanager
    def installed(cls) -> Iterator[SimulatedDisks]:
        """The one of this process, as SQLite's default for the time of the block. The checksum VFS
        of `state.db` stands on what was the default when it was registered, so that it is set up
        anew at both ends: no connection may be open then."""
        if cls._only is None:
            cls._only = cls()
        disks = cls._only
        _drop_checksums()
        apsw.set_default_vfs(NAME)
        register_checksums()
        tell = sys.unraisablehook

        def tell_of_the_living(problem: sys.UnraisableHookArgs) -> None:
            if not isinstance(problem.exc_value, Killed):
                tell(problem)

        sys.unraisablehook = tell_of_the_living
        try:
            yield disks
        finally:
            sys.unraisablehook = tell
            for disk in disks._disks.values():
                disk.revive()
            disks._disks.clear()
            _drop_checksums()
            apsw.set_default_vfs(disks._base)

    def add(self, folder: Path, random: Random) -> NodeDisk:
        """A disk for what SQLite keeps in `folder`, which exists, and below it."""
        root = os.path.realpath(folder)
        assert root not in self._disks, f"{root} has a disk"
        disk = self._disks[root] = NodeDisk(root, random, self._base)
        return disk

    def seed(self, random: Random) -> None:
        """Let SQLite draw anew, and from `random`: its salts are in the bytes that it writes."""
        self._random = random
        apsw.randomness(0)

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        disk = None if path is None else self._disk_of(path)
        if path is None or disk is None:
            return apsw.VFSFile(self._base, name, flags)
        return disk.open(path, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        disk = self._disk_of(filename)
        if disk is None:
            super().xDelete(filename, syncdir)
            return
        with disk.call("delete"):
            super().xDelete(filename, False)
            disk.deleted(filename, syncdir)

    def xRandomness(self, numbytes: int) -> bytes:
        return self._random.randbytes(numbytes)

    def _disk_of(self, path: str) -> NodeDisk | None:
        folder = os.path.dirname(path)
        while folder not in self._disks and folder != "/" and folder:
            folder = os.path.dirname(folder)
        return self._disks.get(folder)


def _drop_checksums() -> None:
    if CHECKSUMS in apsw.vfs_names():
        apsw.unregister_vfs(CHECKSUMS)


class NodeDisk:
    """The disk of one node. Its attributes are the faults, to be set at any time."""

    def __init__(self, root: str, random: Random, base: str) -> None:
        self.root = root
        self.full = False  # writes that make a file longer are refused
        self.sync_fails: Failing = "never"  # what was to be synced waits for the next sync
        self.sync_s = (0.0, 0.0)  # how long a sync takes: at least, and at random more
        self.sync_takes: Callable[[float], None] = lambda seconds: None
        # Told "before write", "after write" and so on for sync, truncate and delete. What it raises
        # comes out of the SQLite call and kills: nothing is written after it.
        self.on_call: Callable[[str], None] = lambda kind: None
        self.dead = False
        self.life = 0  # counts the processes; a file of an earlier one is dead for good
        self._random = random
        self._base = base
        self._files: dict[str, _Book] = {}
        self._ghosts: dict[str, _Book] = {}  # deleted, and the folder not synced since
        self._handles = 0  # open ones of this life
        # Between a change of a real file and that of its book nobody may compare the two.
        self._lock = threading.RLock()

    def kill(self) -> None:
        """As kill -9 does: what was written stays, and every later call of this process fails.

        The files get new inodes, so that a new process does not meet the locks of the old one.
        """
        with self._lock:
            if self.dead:
                return
            self.dead = True
            self.life += 1
            self._handles = 0
            self._notice()
            for path, book in sorted(self._files.items()):
                book.stamp = _replace(path, Path(path).read_bytes())
            self._drop_wal_indexes()

    def revive(self) -> None:
        """A new process may use the disk. Connections that the old one left open are closed."""
        for connection in apsw.connections():
            if connection.filename.startswith(self.root + "/"):
                try:
                    connection.close(True)
                except Killed:
                    pass  # it had something to write yet
        self.dead = False

    def lose_power(self) -> None:
        """Keep what is durable, and of the rest what chance will have. Nobody may be using it."""
        assert not self._handles, "a power loss strikes processes first: kill, or close all"
        self._notice()
        books, ghosts, self._files, self._ghosts = self._files, self._ghosts, {}, {}
        for path in sorted({*books, *ghosts}):
            book, ghost = books.get(path), ghosts.get(path)
            # without the folder's sync the old file may stand there, the new one or none
            if ghost is not None and self._random.random() < 0.5:
                book = ghost
            elif book is not None and not book.listed and self._random.random() < 0.5:
                book = None
            if book is None:
                Path(path).unlink(missing_ok=True)
                continue
            image = book.survivor(self._random)
            self._files[path] = _Book(_replace(path, image), image)
        self._drop_wal_indexes()

    def flip(self, random: Random, spared: str = "-none") -> tuple[Path, int] | None:
        """Change one byte of a file, on the platter too, but of none whose name ends in `spared`;
        says which, or None without any."""
        with self._lock:
            return self._flip(random, spared)

    def _flip(self, random: Random, spared: str) -> tuple[Path, int] | None:
        self._notice()
        paths = [
            path
            for path, book in sorted(self._files.items())
            if book.stamp[0] and not path.endswith(spared)
        ]
        if not paths:
            return None
        path = random.choice(paths)
        book = self._files[path]
        offset = random.randrange(book.stamp[0])
        mask = random.randrange(1, 256)
        with open(path, "r+b", buffering=0) as file:
            byte = os.pread(file.fileno(), 1, offset)[0] ^ mask
            os.pwrite(file.fileno(), bytes([byte]), offset)
        if offset < len(book.durable):
            book.durable[offset] ^= mask
        book.stamp = _stamp(path) or book.stamp
        return Path(path), offset

    # --- for the files and the VFS of this module ---

    def open(
        self, path: str, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> SimulatedFile:
        with self._lock:
            self.refuse_if_dead(self.life)
            self._notice()
            found = _stamp(path)
            file = SimulatedFile(self, self._base, path, name, flags)
            if path not in self._files:
                stamp = found or _stamp(path)
                assert stamp is not None, "it was opened"
                content = Path(path).read_bytes() if found else b""
                self._files[path] = _Book(stamp, content, listed=found is not None)
            file.book = self._files[path]
            self._handles += 1
            return file

    def closed(self, life: int) -> None:
        with self._lock:
            if life == self.life:
                self._handles -= 1

    def deleted(self, path: str, folder_synced: bool) -> None:
        book = self._files.pop(path, None)
        if folder_synced:
            self._ghosts.clear()
        elif book is not None and book.listed:
            self._ghosts[path] = book

    @contextmanager
    def call(self, kind: str, life: int | None = None) -> Iterator[None]:
        """Around what changes the disk: a process may die before it and after it."""
        life = self.life if life is None else life
        self.refuse_if_dead(life)
        self._tell(f"before {kind}", life)
        with self._lock:
            self.refuse_if_dead(life)
            yield
        self._tell(f"after {kind}", life)

    def _tell(self, kind: str, life: int) -> None:
        try:
            self.on_call(kind)
        except BaseException:
            self.kill()
            raise
        self.refuse_if_dead(life)

    def sync(self, book: _Book) -> None:
        low, spread = self.sync_s
        self.sync_takes(low + self._random.random() * spread)
        if self.sync_fails != "never":
            if self.sync_fails == "once":
                self.sync_fails = "never"
            raise apsw.exception_for(apsw.SQLITE_IOERR_FSYNC)
        book.sync()
        if not book.listed:
            self._ghosts.clear()
            for other in self._files.values():
                other.listed = True

    def refuse_if_dead(self, life: int) -> None:
        if self.dead or life != self.life:
            raise Killed("the process that opened it was killed")

    def _notice(self) -> None:
        """What the product did to the files itself."""
        for path, book in list(self._files.items()):
            stamp = _stamp(path)
            if stamp == book.stamp:
                continue
            self._ghosts.clear()
            if stamp is None:
                del self._files[path]
            else:
                book.adopt(stamp, Path(path).read_bytes())

    def _drop_wal_indexes(self) -> None:
        for path in self._files:
            Path(path + _WAL_INDEX).unlink(missing_ok=True)


class SimulatedFile(apsw.VFSFile):
    """An open file of one life of a node. The shared memory of a WAL index passes it natively."""

    book: _Book

    def __init__(
        self,
        disk: NodeDisk,
        base: str,
        path: str,
        name: str | apsw.URIFilename | None,
        flags: list[int],
    ) -> None:
        self._disk = disk
        self._path = path
        self._life = disk.life
        self._closed = False
        super().__init__(base, name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:
        self._disk.refuse_if_dead(self._life)
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:
        with self._disk.call("write", self._life):
            written = bytes(data)  # the buffer is SQLite's own, and gone after the call
            if self._disk.full and offset + len(written) > self.book.stamp[0]:
                raise apsw.FullError("the simulated disk is full")
            super().xWrite(written, offset)
            self.book.changed(Write(offset, written), self._path)

    def xTruncate(self, newsize: int) -> None:
        with self._disk.call("truncate", self._life):
            super().xTruncate(newsize)
            self.book.changed(Truncate(newsize), self._path)

    def xSync(self, flags: int) -> None:
        with self._disk.call("sync", self._life):
            self._disk.sync(self.book)

    def xFileSize(self) -> int:
        self._disk.refuse_if_dead(self._life)
        return super().xFileSize()

    def xLock(self, level: int) -> None:
        self._disk.refuse_if_dead(self._life)
        super().xLock(level)

    def xClose(self) -> None:
        if not self._closed:
            self._closed = True
            self._disk.closed(self._life)
        super().xClose()


class _Book:
    """What is durable of one file, and what was done to it since.

    `listed`: the folder's own durable content names the file.
    """

    def __init__(self, stamp: Stamp, durable: bytes, *, listed: bool = True) -> None:
        self.stamp = stamp
        self.durable = bytearray(durable)
        self.listed = listed
        self._unsynced: list[Write | Truncate] = []

    def adopt(self, stamp: Stamp, content: bytes) -> None:
        self.stamp = stamp
        self.durable = bytearray(content)
        self.listed = True
        self._unsynced = []

    def changed(self, change: Write | Truncate, path: str) -> None:
        self._unsynced.append(change)
        stamp = _stamp(path)
        if stamp is not None and stamp[2] == self.stamp[2]:
            self.stamp = stamp  # else it was renamed over, which the next opening notices

    def sync(self) -> None:
        for change in self._unsynced:
            change.reach(self.durable)
        self._unsynced = []

    def survivor(self, random: Random) -> bytes:
        """One of the contents that a power loss may leave."""
        if random.random() < 0.5:  # the order was kept
            chosen = self._unsynced[: random.randint(0, len(self._unsynced))]
        else:
            share = random.random()
            chosen = [change for change in self._unsynced if random.random() < share]
        image = bytearray(self.durable)
        for number, change in enumerate(chosen, 1):
            is_torn = number == len(chosen) and random.random() < 0.5
            if is_torn and isinstance(change, Write) and change.data:
                change = change.torn(random)
            change.reach(image)
        return bytes(image)


Stamp = tuple[int, int, int]
"""Size, time of change and inode: another one is another content."""


def _stamp(path: str) -> Stamp | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ino


def _replace(path: str, content: bytes) -> Stamp:
    """A new file in place of the old one, which whoever has it open goes on to see."""
    fresh = Path(path + ".fresh")
    fresh.write_bytes(content)
    os.replace(fresh, path)
    stamp = _stamp(path)
    assert stamp is not None, "it was written just now"
    return stamp
