"""The durable state of a node: checkpoints, copies for a peer, and a peer's copy that moves in."""

from __future__ import annotations

import resource
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import apsw
import msgpack
import pytest
import trio

from cluster import kv, operations, state
from cluster.corruption import CorruptState
from cluster.datadir import DataDir
from cluster.machine import UNCOMMITTED_BYTES_MAX, UNCOMMITTED_ENTRIES_MAX, Applied
from cluster.raft.log import StorageFailed
from cluster.raft.snapshot import SnapshotSource
from cluster.storage import Storage
from tests.cluster.entries import dump, put

FOUNDERS = [["a", "uid-a", "a:1", "voter"], ["b", "uid-b", "b:1", "voter"]]
CHUNK = 1500


class Home:
    """A member's data directory with its storage, and what the storage reports."""

    def __init__(self, path: Path, name: str = "a", cluster_id: str = "cluster") -> None:
        self.directory = DataDir.open(path, name, lambda: f"uid-{name}")
        if self.directory.identity.cluster_id is None:
            self.directory.join(cluster_id, FOUNDERS)
        self.applied: list[Applied] = []
        self.installed = 0
        self.storage = self.open()

    def open(self, applied_index_min: int = 0) -> Storage:
        storage = Storage(self.directory, self.applied.append, applied_index_min=applied_index_min)
        storage.on_installed = self._count
        return storage

    def _count(self) -> None:
        self.installed += 1

    def write(self, *keys: str, value: bytes = b"v" * 100) -> list[object]:
        """One entry with a put for each key."""
        machine = self.storage.machine
        body = operations.seal([put(key, value) for key in keys], 1_000_000, 1000)
        return self.storage.apply(machine.applied_index + 1, 1, bytes([operations.REGULAR]) + body)

    def files(self) -> set[str]:
        return {path.name for path in self.directory.path.iterdir()}

    def crash(self, path: Path, *, lost: str = "") -> apsw.Connection:
        """The state that a new process finds on the disk as it is now, but for one file."""
        shutil.copytree(self.directory.path, path, ignore=shutil.ignore_patterns(lost))
        return state.open_state(path / "state.db")

    def close(self) -> None:
        self.storage.machine.connection.close()
        self.directory.close()


@pytest.fixture
def homes() -> Iterator[Callable[..., Home]]:
    opened: list[Home] = []

    def make(path: Path, *arguments: str) -> Home:
        opened.append(Home(path, *arguments))
        return opened[-1]

    yield make
    for home in opened:
        home.close()


@asynccontextmanager
async def running(home: Home) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        home.storage.run_in(nursery)
        yield


async def copied(home: Home) -> SnapshotSource | None:
    """A copy of its state, as the driver asks for it."""
    ready: list[SnapshotSource | None] = []
    async with running(home):
        home.storage.copy(ready.append)
        assert ready == []
    assert len(ready) == 1
    return ready[0]


def send(source: SnapshotSource, to: Home) -> None:
    """Chunk by chunk into the other's incoming file, then in its place."""
    sink = to.storage.receive()
    for offset in range(0, source.size, CHUNK):
        sink.write(source.read(offset, CHUNK))
    sink.seal()
    sink.adopt()


@contextmanager
def full_disk() -> Iterator[None]:
    """No file of this process may grow beyond a few pages."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_new_state_knows_its_cluster_and_founders(
    tmp_path: Path, homes: Callable[..., Home]
) -> None:
    """They come from the directory once; afterwards the log decides who the members are."""
    home = homes(tmp_path / "a")
    assert home.storage.machine.cluster_id == "cluster"
    assert home.storage.machine.members == FOUNDERS
    connection = home.storage.machine.connection
    connection.execute("UPDATE meta SET members = ?", (msgpack.packb(FOUNDERS[:1]),))
    connection.close()
    home.storage = home.open()
    assert home.storage.machine.members == FOUNDERS[:1]


def test_what_is_applied_is_reported_and_in_the_tail(
    tmp_path: Path, homes: Callable[..., Home]
) -> None:
    """Each entry once, with its events for readers at the head."""
    home = homes(tmp_path / "a")
    assert home.write("x", "y") == [1, 2]
    assert home.write("x") == [3]
    assert [(applied.index, applied.batch.count) for applied in home.applied if applied.batch] == [
        (2, 2),
        (3, 1),
    ]
    assert (home.storage.wall_ms, home.storage.elapsed_ms) == (1_000_000, 1000)
    events = home.storage.tail.read(1, 10, 1 << 20)
    assert events is not None
    assert [(event.revision, event.key) for event in events] == [(1, "x"), (2, "y"), (3, "x")]


async def test_a_checkpoint_says_how_far_the_log_may_be_cut(
    tmp_path: Path, homes: Callable[..., Home]
) -> None:
    """What it names survives although the write-ahead file is lost."""
    home = homes(tmp_path / "a")
    for number in range(20):
        home.write(f"key-{number}")
    durable = await home.storage.checkpoint()
    assert durable == home.storage.machine.applied_index == 21
    home.write("later")
    found = home.crash(tmp_path / "crashed", lost="state.db-wal")
    assert state.load(found).applied_index >= durable
    assert kv.get(found, "key-19") is not None
    found.close()


@pytest.mark.parametrize("value", [b"v", b"v" * (UNCOMMITTED_BYTES_MAX // 8)])
async def test_what_is_applied_is_written_a_bounded_amount_later(
    tmp_path: Path, homes: Callable[..., Home], value: bytes
) -> None:
    """Many small entries or few large ones; another connection sees either at once."""
    home = homes(tmp_path / "a")
    for number in range(2 * UNCOMMITTED_ENTRIES_MAX):
        home.write(f"key-{number}", value=value)
        home.storage.write()
        found = home.crash(tmp_path / f"crash-{number}")
        written = state.load(found)
        found.close()
        missing = home.storage.machine.applied_index - written.applied_index
        assert missing < UNCOMMITTED_ENTRIES_MAX
        assert missing * len(value) < UNCOMMITTED_BYTES_MAX
    assert written.applied_index > UNCOMMITTED_ENTRIES_MAX
    home.write("last")
    home.storage.machine.commit()
    reader = home.storage.open_reader()
    assert state.load(reader).applied_index == home.storage.machine.applied_index
    reader.close()


async def test_a_checkpoint_beside_a_writer_is_still_consistent(
    tmp_path: Path, homes: Callable[..., Home]
) -> None:
    """While the thread moves pages, entries go on being applied."""
    home = homes(tmp_path / "a")
    durable: list[int | None] = []

    async def checkpoint() -> None:
        durable.append(await home.storage.checkpoint())

    for round_ in range(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(checkpoint)
            for number in range(20):
                home.write(f"{round_}-{number}")
                await trio.lowlevel.checkpoint()
    assert [index for index in durable if index is not None]
    home.storage.machine.commit()
    found = home.crash(tmp_path / "crashed")
    assert dump(found) == dump(home.storage.machine.connection)
    found.close()


async def test_a_copy_becomes_the_state_of_a_peer(
    tmp_path: Path, homes: Callable[..., Home]
) -> None:
    """Every row, the position and the digest; and it goes on from there."""
    home, peer = homes(tmp_path / "a"), homes(tmp_path / "b", "b")
    for number in range(50):
        home.write(f"key-{number}")
    peer.write("older")
    source = await copied(home)
    assert source is not None
    assert (source.index, source.term) == (51, 1)
    assert source.members.encode() == FOUNDERS
    home.write("after the copy")
    send(source, peer)
    source.close()

    machine = peer.storage.machine
    assert peer.installed == 1
    assert machine.applied_index == 51
    assert kv.get(machine.connection, "older") is None
    assert kv.get(machine.connection, "after the copy") is None
    assert peer.storage.tail.first_revision is None
    peer.write("after the copy")
    assert dump(machine.connection) == dump(home.storage.machine.connection)
    assert machine.digest == home.storage.machine.digest


async def test_copies_leave_nothing_behind(tmp_path: Path, homes: Callable[..., Home]) -> None:
    """Not while they are read, nor when they are let go; what a crash left goes at the start."""
    home = homes(tmp_path / "a")
    before = home.files()
    source = await copied(home)
    assert source is not None
    assert home.files() == before
    source.close()
    (home.directory.path / "state.db.copy-7").write_bytes(b"half")
    home.storage.machine.connection.close()
    home.storage = home.open()
    assert home.files() == before


async def test_without_room_for_a_copy_the_node_goes_on(
    tmp_path: Path, homes: Callable[..., Home]
) -> None:
    """The peer has to wait; half a copy does not stay."""
    home = homes(tmp_path / "a")
    home.write(*(f"key-{number}" for number in range(200)))
    assert await home.storage.checkpoint() is not None
    before = home.files()
    with full_disk():
        assert await copied(home) is None
    assert home.files() == before
    source = await copied(home)
    assert source is not None
    source.close()
    home.write("more")


async def test_a_copy_that_is_thrown_away_changes_nothing(
    tmp_path: Path, homes: Callable[..., Home]
) -> None:
    """The state stays, and the file goes."""
    home, peer = homes(tmp_path / "a"), homes(tmp_path / "b", "b")
    peer.write("x")
    before = dump(peer.storage.machine.connection)
    source = await copied(home)
    assert source is not None
    sink = peer.storage.receive()
    sink.write(source.read(0, CHUNK))
    sink.discard()
    source.close()
    assert not peer.directory.incoming_path.exists()
    assert dump(peer.storage.machine.connection) == before
    assert peer.installed == 0


def test_a_disk_that_refuses_an_arriving_copy_stops_the_node(
    tmp_path: Path, homes: Callable[..., Home]
) -> None:
    """With the path of what could not be written."""
    home = homes(tmp_path / "a")
    sink = home.storage.receive()
    with full_disk(), pytest.raises(StorageFailed, match="incoming"):
        sink.write(bytes(1 << 20))
    sink.discard()
    home.directory.incoming_path.mkdir()
    with pytest.raises(StorageFailed, match="incoming"):
        home.storage.receive()


def test_a_state_that_the_log_has_left_behind_is_refused(
    tmp_path: Path, homes: Callable[..., Home]
) -> None:
    """The entries that it lacks are cut: it could never catch up."""
    home = homes(tmp_path / "a")
    home.write("x")
    home.storage.close()
    with pytest.raises(CorruptState, match="it ends at log index 2, and 3 was on disk"):
        home.open(3)
    home.storage = home.open(2)


def test_another_clusters_state_is_refused(tmp_path: Path, homes: Callable[..., Home]) -> None:
    """A file that was copied from elsewhere."""
    home, other = homes(tmp_path / "a"), homes(tmp_path / "z", "a", "other")
    other.storage.close()
    home.storage.machine.connection.close()
    shutil.copy(other.directory.state_path, home.directory.state_path)
    with pytest.raises(CorruptState, match="it belongs to cluster other"):
        home.open()


def test_a_flipped_byte_is_found_before_the_node_serves(
    tmp_path: Path, homes: Callable[..., Home]
) -> None:
    """Also on a page that no query would have read for weeks."""
    home = homes(tmp_path / "a")
    home.write(*(f"key-{number}" for number in range(200)))
    home.storage.close()
    path = home.directory.state_path
    data = bytearray(path.read_bytes())
    for page in range(1, len(data) // state.PAGE_BYTES, 3):
        position = page * state.PAGE_BYTES + 1000
        flipped = bytearray(data)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(CorruptState):
            home.open()
    path.write_bytes(data)
    home.storage = home.open()


def test_after_a_clean_stop_there_is_nothing_to_recover(
    tmp_path: Path, homes: Callable[..., Home]
) -> None:
    """One file, without its write-ahead file."""
    home = homes(tmp_path / "a")
    home.write("x")
    home.storage.close()
    assert "state.db-wal" not in home.files()
    home.storage = home.open()
    assert kv.get(home.storage.machine.connection, "x") is not None
