"""`raft.db-wal` after a kill -9 or a power loss: what had been synced is there, or is missed."""

from __future__ import annotations

import shutil
import struct
from pathlib import Path
from random import Random

import pytest

from cluster.raft.log import CorruptLog, Entry
from cluster.raft.sqlite_log import SqliteLog
from tests.raft.log_disks import Content, SqliteDisk, content, fill

HEADER, FRAME = 32, 24 + 4096
STRADDLING = 42
"""This frame, and each 64th after it, has its commit field in another sector than its salts."""

MIXED = [1, 1, 12, 1, 30, 2, 12, 12]
SINGLE = [100, *[1] * 15]  # the last two are frames 42 and 43
WIDE = [100, 1, 72, 4]  # frame 42 ends the last but one


def written(folder: Path, sizes: list[int], *, used_before: bool = False) -> tuple[Path, Content]:
    """A killed node's log: a transaction with each number of entries, of 700 bytes."""
    disk = SqliteDisk(folder)
    if used_before:  # there are frames of an earlier round in the file
        fill(disk.log, 2, 2000)
        disk.log.commit()
        disk.log._connection.wal_checkpoint()
    for size in sizes:
        last = disk.log.last.index
        for index in range(last + 1, last + 1 + size):
            disk.log.append(Entry(bytes([index % 251]) * 700, index, 1))
        disk.log.commit()
    killed = folder / "killed"
    shutil.copytree(disk.path.parent, killed)
    expected = content(disk.log)
    disk.close()
    return killed / "raft.db", expected


def transactions(wal: bytes) -> list[range]:
    """The frames of each, counted from 1, as long as the salts are those of the file."""
    found: list[range] = []
    begin = 1
    for number in range(1, (len(wal) - HEADER) // FRAME + 1):
        offset = HEADER + (number - 1) * FRAME
        if wal[offset + 8 : offset + 16] != wal[16:24]:
            break
        if wal[offset + 4 : offset + 8] != bytes(4):
            found.append(range(begin, number + 1))
            begin = number + 1
    return found


def reopened(path: Path, wal: bytes) -> Content | None:
    """What a node finds in a copy with this write-ahead file; None if it refuses the log, and then
    it does so again."""
    copy = path.parent.with_name("copy") / path.name
    copy.parent.mkdir()
    shutil.copy(path, copy)
    copy.with_name("raft.db-wal").write_bytes(wal)
    try:
        log = SqliteLog.open(copy)
    except CorruptLog:
        assert copy.with_name("raft.db-wal").read_bytes() == wal
        with pytest.raises(CorruptLog, match=r"raft\.db-wal does not hold what had been synced"):
            SqliteLog.open(copy)
        return None
    else:
        found = content(log)
        log.close()
        return found
    finally:
        shutil.rmtree(copy.parent)


def flipped(data: bytes, position: int, mask: int) -> bytes:
    return data[:position] + bytes([data[position] ^ mask]) + data[position + 1 :]


@pytest.mark.parametrize("used_before", [False, True])
@pytest.mark.parametrize("sizes", [MIXED, SINGLE, WIDE], ids=["mixed", "single", "wide"])
def test_a_flip_before_the_last_transaction_is_noticed(
    tmp_path: Path, sizes: list[int], used_before: bool
) -> None:
    """In any frame of it, in its header or its page: the log is refused, now and at the next start;
    a flip in the last transaction is harmless, noticed, or costs that transaction."""
    path, expected = written(tmp_path, sizes, used_before=used_before)
    wal = path.with_name("raft.db-wal").read_bytes()
    assert reopened(path, wal) == expected
    found = transactions(wal)
    assert len(found) == len(sizes)
    random = Random(1)
    in_page = [24, 24 + random.randrange(4096), 24 + 3700, FRAME - 1]
    for frames in found:
        # in the last two damage shows in the fewest places: every byte of the header
        header = range(24) if frames in found[-2:] else range(1, 24, 4)
        for number in frames:
            for place in [*header, *in_page]:
                position = HEADER + (number - 1) * FRAME + place
                # without its commit field a transaction seems to be the beginning of the next
                mask = wal[position] or random.randrange(1, 256)
                after = reopened(path, flipped(wal, position, mask))
                if frames is found[-1]:
                    assert after is None or after[2] == expected[2][: -sizes[-1]]
                else:
                    assert after is None, f"byte {place} of frame {number} with mask {mask}"


def test_a_flip_in_the_header_of_the_file_is_noticed(tmp_path: Path) -> None:
    """SQLite would forget all of the file, and also a single transaction was durable after it."""
    for sizes in ([3, 4, 5], [1]):
        folder = tmp_path / str(len(sizes))
        folder.mkdir()
        path, _ = written(folder, sizes)
        wal = path.with_name("raft.db-wal").read_bytes()
        for position in range(HEADER):
            for mask in (1, 0x80, 0xFF):
                assert reopened(path, flipped(wal, position, mask)) is None


@pytest.mark.parametrize("sizes", [SINGLE, WIDE], ids=["single", "wide"])
def test_the_straddling_frame_is_met(tmp_path: Path, sizes: list[int]) -> None:
    """The flips above reach the place where a sector ends in a frame's header, where little is
    known: in the last transaction but one."""
    assert (HEADER + (STRADDLING - 1) * FRAME + 8) % 512 == 0
    path, _ = written(tmp_path, sizes)
    found = transactions(path.with_name("raft.db-wal").read_bytes())
    assert found[-2][-1] == STRADDLING


def test_a_torn_last_transaction_is_accepted(tmp_path: Path) -> None:
    """Whatever sectors of it are missing, new file or used one: all before it is there. What was
    torn is gone for good, so that the next transaction can be torn as well."""
    for used_before in (False, True):
        folder = tmp_path / str(used_before)
        folder.mkdir()
        path, expected = written(folder, [20, 30, 150], used_before=used_before)
        wal = path.with_name("raft.db-wal").read_bytes()
        last = transactions(wal)[-1]
        assert STRADDLING in last
        begin, end = HEADER + (last[0] - 1) * FRAME, HEADER + last[-1] * FRAME
        before = bytearray(wal)
        for number in last:  # of an earlier round: other salts, and each one ends a transaction
            offset = HEADER + (number - 1) * FRAME
            rest = Random(number).randbytes(FRAME - 8)
            before[offset : offset + FRAME] = struct.pack(">II", number, 9) + rest
        for seed in range(150):
            random = Random(seed)
            share = random.choice([0.02, 0.5, 0.98])
            torn = bytearray(wal)
            for sector in range(begin // 512, end // 512 + 1):
                if random.random() < share or sector == begin // 512:
                    place = slice(max(begin, sector * 512), min(end, sector * 512 + 512))
                    torn[place] = before[place] if used_before else bytes(len(torn[place]))
            if random.random() < 0.3:
                del torn[random.randrange(begin, end) :]
            after = reopened(path, bytes(torn))
            assert after is not None
            assert after[2] == expected[2][:-150]


def test_nothing_of_a_torn_transaction_outlives_the_opening(tmp_path: Path) -> None:
    """Else a shorter one written in its place, torn in turn, would stand before the rest of it."""
    path, expected = written(tmp_path, [3, 60])
    wal = path.with_name("raft.db-wal")
    first = transactions(wal.read_bytes())[-1][0]
    wal.write_bytes(flipped(wal.read_bytes(), HEADER + (first - 1) * FRAME + 500, 1))
    log = SqliteLog.open(path)
    assert content(log)[2] == expected[2][:-60]
    fill(log, log.last.index + 1, log.last.index + 1)
    log.commit()
    left = wal.read_bytes()
    log.close()
    assert len(transactions(left)) == 1
    assert len(left) == HEADER + FRAME * len(transactions(left)[0])


@pytest.mark.parametrize("wal", [b"", b"\0" * 5, bytes(HEADER), bytes(3 * FRAME), b"torn"])
def test_a_file_without_a_frame_is_no_damage(tmp_path: Path, wal: bytes) -> None:
    """Its header had not been synced, and so nothing stands behind it."""
    SqliteLog.create(tmp_path / "0.db")
    path = tmp_path / "there" / "raft.db"
    path.parent.mkdir()
    shutil.copy(tmp_path / "0.db", path)
    assert reopened(path, wal) is not None
