"""The end of `raft.db-wal`: torn, as a power loss may leave it, or damaged?

SQLite reads its write-ahead file up to the first frame that does not fit, and says nothing about
what stands behind. That may be one transaction, the last: its fsync never returned, so that any of
its sectors may be missing. It can be no more than one, since a transaction is written only after
the fsync of the one before returned, and the header is synced before the first frame
(`sqlite3WalFrames`, with `synchronous=FULL`). Where more stands there, something that was durable,
and perhaps acknowledged, has changed since. What nobody can tell is whether the *last* transaction
is torn or damaged: it counts as torn, and `raft.mark` is all that may know better.

Holds for any one changed byte; of larger damage for what it leaves readable. Rests on two rules:
sectors are written whole, and SqliteLog.open syncs and empties the file: a new process neither
writes behind what a killed one had not synced, nor over a part of what it left unfinished.

The format: https://sqlite.org/fileformat2.html#walformat. Frames count from 1, as in SQLite.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import NamedTuple

from cluster.raft.log import CorruptLog

HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24
SALTS = slice(16, 24)  # in the header of the file
SECTOR_BYTES = 512  # the smallest that disks write whole; larger ones are multiples
_ORDERS = {0x377F0682: "<", 0x377F0683: ">"}  # of the words that are summed, by the magic number
_ONE_BYTE = [byte << shift for shift in (0, 8, 16, 24) for byte in range(1, 256)]

Checksum = tuple[int, int]


def check_tail(database: Path, recovered: int) -> None:
    """Look at what stands behind the `recovered` frames. Raises CorruptLog if it cannot be the rest
    of a torn write, OSError."""
    try:
        file = os.open(database.with_name(f"{database.name}-wal"), os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        _judge(file, str(database), recovered)
    finally:
        os.close(file)


def _judge(file: int, database: str, recovered: int) -> None:
    damaged = f"{database}-wal does not hold what had been synced: "
    size = os.fstat(file).st_size
    header = os.pread(file, HEADER_BYTES, 0)
    order = _order(header)
    if order is None:
        if os.pread(file, size, HEADER_BYTES).strip(b"\0"):
            raise CorruptLog(database, f"{damaged}its header does not fit, and data follow")
        return
    wal = _Wal(file, header, order, size)
    ended = 0
    for number in range(max(recovered, 0) + 1, wal.frames + 1):
        salts = wal.frame(number).salts
        if salts != wal.salts:  # of an earlier round through the file, or never written
            # Eight aligned bytes lie in one sector: they are all old or all new.
            if sum(old != new for old, new in zip(salts, wal.salts, strict=True)) == 1:
                raise CorruptLog(database, f"{damaged}a byte of frame {number} has changed")
            continue
        if ended:
            raise CorruptLog(
                database,
                f"{damaged}{max(recovered, 0)} frames can be read, and behind them a transaction "
                f"ends with frame {ended} and another one has frame {number}",
            )
        if wal.ends_transaction(number):
            ended = number


class _Frame(NamedTuple):
    start: bytes  # page number and size of the database, the part that is summed
    salts: bytes
    checksum: Checksum

    @property
    def commits(self) -> bool:
        """It ends a transaction: the size of the database stands in no other frame."""
        return self.start[4:] != bytes(4)


class _Wal:
    """Frames of a file whose header is sound."""

    def __init__(self, file: int, header: bytes, order: str, size: int) -> None:
        self._file = file
        self._order = order
        self._page_bytes: int = struct.unpack_from(">I", header, 8)[0]
        self._seed: Checksum = struct.unpack_from(">2I", header, 24)
        self.salts = header[SALTS]
        # the page of the last one may be cut
        self.frames = (size - HEADER_BYTES + self._page_bytes) // self._frame_bytes

    @property
    def _frame_bytes(self) -> int:
        return FRAME_HEADER_BYTES + self._page_bytes

    def _offset(self, number: int) -> int:
        return HEADER_BYTES + (number - 1) * self._frame_bytes

    def frame(self, number: int) -> _Frame:
        header = os.pread(self._file, FRAME_HEADER_BYTES, self._offset(number))
        return _Frame(header[:8], header[8:16], struct.unpack_from(">2I", header, 16))

    def ends_transaction(self, number: int) -> bool:
        """Whether a frame with the salts of this file was written as the last of a transaction."""
        frame = self.frame(number)
        if not frame.commits:
            return self._lost_its_commit(number)
        if (self._offset(number) + len(frame.start)) % SECTOR_BYTES:
            return True  # the field stands in the sector of the salts, and is as old as they are
        return self._starts_as_written(number)

    def _lost_its_commit(self, number: int) -> bool:
        """Whether the frame fits once a single byte of its empty commit field is another one."""
        found = self._sum(number, self._stored(number - 1))
        missing = [
            (stored - sum) % (1 << 32)
            for stored, sum in zip(self._stored(number), found, strict=True)
        ]
        if not any(missing):
            return False  # it fits as it is
        # the checksum is linear: how much one more in the field changes it
        weights = _checksum(self._order, bytes(self._page_bytes), (0, 1))
        return any([value * weight % (1 << 32) for weight in weights] == missing
                   for value in _ONE_BYTE)  # fmt: skip

    def _starts_as_written(self, number: int) -> bool:
        """For a frame whose first eight bytes end a sector: whether that sector is as new as the
        rest of the frame. A checksum over it must fit, either the frame's own or, for the rest of
        the sector, that of the frame before; one changed byte leaves at least one of them."""
        before = self._sum(number - 1, self._stored(number - 2))
        stored = self._stored(number)
        return (
            self._sum(number, self._stored(number - 1)) == stored
            or self._sum(number, before) == stored
            or (before == self._stored(number - 1) and self.frame(number - 1).salts == self.salts)
        )

    def _stored(self, number: int) -> Checksum:
        return self.frame(number).checksum if number else self._seed

    def _sum(self, number: int, seed: Checksum) -> Checksum:
        page = os.pread(
            self._file, self._page_bytes, self._offset(number) + FRAME_HEADER_BYTES
        ).ljust(self._page_bytes, b"\0")
        return _checksum(self._order, self.frame(number).start + page, seed)


def _order(header: bytes) -> str | None:
    """How the words of this file are summed; None without a sound header, which SQLite ignores
    with all that follows."""
    if len(header) < HEADER_BYTES:
        return None
    order = _ORDERS.get(struct.unpack_from(">I", header)[0])
    if order is None or _checksum(order, header[:24], (0, 0)) != struct.unpack_from(
        ">2I", header, 24
    ):
        return None
    return order


def _checksum(order: str, data: bytes, seed: Checksum) -> Checksum:
    first, second = seed
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
