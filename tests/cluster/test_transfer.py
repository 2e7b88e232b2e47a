"""Import: reading files, batching, order of keys, and resuming without writing anything twice."""

import io
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from cluster.limits import KEY_BYTES_MAX
from cluster.transfer import progress as state
from cluster.transfer.importer import BATCH_BYTES_MAX, Importer, batches
from cluster.transfer.records import BadRecord, Record, read_csv, read_ndjson


class Store:
    """A cluster of one dictionary that remembers every write, and dies on demand."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.values: dict[str, bytes] = {}
        self.writes: list[str] = []
        self.in_flight = 0
        self.in_flight_max = 0
        self.dies_after = dies_after

    async def write(self, records: Sequence[Record]) -> None:
        self.in_flight += 1
        self.in_flight_max = max(self.in_flight, self.in_flight_max)
        await trio.sleep(len(records[0].key) % 3)  # batches overtake each other
        for record in records:
            self.values[record.key] = record.value
            self.writes.append(record.key)
        self.in_flight -= 1
        if self.dies_after is not None and len(self.writes) >= self.dies_after:
            raise ConnectionError

    async def read(self, keys: Sequence[str]) -> list[bytes | None]:
        await trio.lowlevel.checkpoint()
        return [self.values.get(key) for key in keys]


def _records(count: int) -> list[Record]:
    return [Record(n + 1, f"k{'x' * (n % 3)}/{n}", b"%d" % n) for n in range(count)]


def _ndjson(*lines: object) -> io.BytesIO:
    return io.BytesIO("\n".join(json.dumps(line) for line in lines).encode())


def test_ndjson_values_are_text_json_or_bytes() -> None:
    """A text is kept as it is, other JSON compactly, base64 as bytes; an empty line is none."""
    file = _ndjson(
        {"key": "a", "value": "é"},
        {"key": "b", "value": {"x": [1, None]}},
        {"key": "c", "value_base64": "/w==", "ttl_ms": 5},
        {"key": "d", "value": "", "mod_revision": 7},
    )
    records = list(read_ndjson(io.BytesIO(b"\n" + file.read())))
    assert records == [
        Record(2, "a", "é".encode()),
        Record(3, "b", b'{"x":[1,null]}'),
        Record(4, "c", b"\xff", 5),
        Record(5, "d", b""),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "line 1: is not JSON"),
        (b"[1]", "is not an object like"),
        (b'{"key": "a"}', 'either "value" or "value_base64"'),
        (b'{"key": "a", "valeu": 1}', 'no field "valeu" in a record; did you mean "value"'),
        (b'{"key": 5, "value": 1}', "the key must be a text"),
        (b'{"key": "\\ud800", "value": 1}', "half a character"),
        (b'{"key": "a", "value_base64": "?"}', "is not base64"),
        (b'{"key": "a", "value": 1, "ttl_ms": 0}', "ttl_ms must be a number"),
        (b'{"key": "%s", "value": 1}' % (b"k" * (KEY_BYTES_MAX + 1)), "the key has 1025 bytes"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_bad_lines_are_named_with_reason(line: bytes, reason: str) -> None:
    """A line that is no record stops the import with its number and what is wrong."""
    with pytest.raises(BadRecord) as bad:
        list(read_ndjson(io.BytesIO(line)))
    assert reason in str(bad.value)


def test_csv_takes_a_value_column_or_all_others() -> None:
    """The column `value` is the value; without one the other columns are, as a JSON object."""
    assert list(read_csv(io.BytesIO(b'\xef\xbb\xbfkey,value\na,"x\ny"\nb,z\n'))) == [
        Record(3, "a", b"x\ny"),
        Record(4, "b", b"z"),
    ]
    (record,) = read_csv(io.BytesIO(b"id,name,age\n7,Eve,30\n"), key_column="id")
    assert (record.key, json.loads(record.value)) == ("7", {"name": "Eve", "age": "30"})


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", 'no column "key" (the header has none)'),
        (b"id,value\n", 'no column "key" (the header has id, value)'),
        (b"key,value\na\n", "line 2: has 1 columns"),
        (b'key,value\n"a" b,c\n', "is not CSV"),
        (b"key,value\n\xff,c\n", "is not UTF-8"),
    ],
)
def test_bad_csv_is_named_with_reason(data: bytes, reason: str) -> None:
    """A CSV file without the columns, or with a broken row, says where and why."""
    with pytest.raises(BadRecord) as bad:
        list(read_csv(io.BytesIO(data)))
    assert reason in str(bad.value)


def test_batches_are_bounded_in_records_and_bytes() -> None:
    """A batch ends at whichever bound comes first; one large record is a batch of its own."""
    large = Record(9, "large", b"x" * (BATCH_BYTES_MAX + 1))
    cut = list(batches([*_records(5), large, *_records(2)], FRESH, 3))
    assert [(batch.first, len(batch.records)) for batch in cut] == [(0, 3), (3, 2), (5, 1), (6, 2)]


def _bad_after(count: int) -> Iterator[Record]:
    yield from _records(count)
    raise BadRecord(count + 1, "broken")


async def test_what_stands_before_a_bad_line_is_written(autojump_clock: object) -> None:
    """A bad line stops the import after everything before it is in; mended, it goes on there."""
    store, saved = Store(), list[state.Progress]()
    with pytest.raises(BadRecord, match="line 11"):
        await _importer(store, FRESH, saved).run(_bad_after(10))
    assert (saved[-1].written, saved[-1].complete) == (10, False)
    result = await _importer(store, saved[-1], saved).run(_records(13))
    assert (result.written, saved[-1].written, saved[-1].complete) == (3, 13, True)


async def test_file_whose_beginning_changed_is_refused(autojump_clock: object) -> None:
    """What was written must still stand in the file, in the same order."""
    saved = list[state.Progress]()
    await _importer(Store(), FRESH, saved).run(_records(10))
    kept = replace(saved[-1], complete=False)
    for changed in ([*_records(9), Record(10, "other", b"")], _records(9), _records(12)[1:]):
        with pytest.raises(state.ProgressMismatch, match="the first 10 records"):
            await _importer(Store(), kept, []).run(changed)


def _importer(store: Store, progress: state.Progress, saved: list[state.Progress]) -> Importer:
    return Importer(store, progress, save=saved.append, records_max=4, in_flight_max=3)


FRESH = state.Progress(cluster_id="c", size_bytes=1, modified_ns=1)


async def test_everything_is_written_once_several_in_flight(autojump_clock: object) -> None:
    """All records arrive, several batches at a time, and the last saved state is complete."""
    store, saved = Store(), list[state.Progress]()
    result = await _importer(store, FRESH, saved).run(_records(50))
    assert (result.records, result.written, result.unchanged) == (50, 50, 0)
    assert Counter(store.writes) == Counter(record.key for record in _records(50))
    assert store.in_flight_max == 3
    assert (saved[-1].complete, saved[-1].written) == (True, 50)


async def test_last_record_of_a_key_wins(autojump_clock: object) -> None:
    """Batches with a key in common are never in flight together."""
    records = [Record(n, "same" if n % 4 == 0 else f"o{n}", b"%d" % n) for n in range(40)]
    store = Store()
    await _importer(store, FRESH, []).run(records)
    assert store.values["same"] == b"36"


@given(dies_after=st.integers(1, 60))
def test_resuming_writes_nothing_twice(dies_after: int) -> None:
    """Wherever a run is killed, the next one writes exactly what is missing."""
    store, saved = Store(dies_after), [FRESH]

    async def run(progress: state.Progress) -> None:
        await _importer(store, progress, saved).run(_records(60))

    async def killed() -> None:
        try:
            await run(FRESH)
        except* ConnectionError:
            saved.pop()  # a kill leaves no time for the last save

    trio.run(killed, clock=trio.testing.MockClock(autojump_threshold=0))
    store.dies_after = None
    trio.run(run, saved[-1], clock=trio.testing.MockClock(autojump_threshold=0))
    assert Counter(store.writes) == Counter(record.key for record in _records(60))


def test_state_file_round_trip(tmp_path: Path) -> None:
    """What was saved is resumed from; a complete import of a file that changed is none."""
    file = tmp_path / "in.ndjson"
    file.write_text("{}")
    fresh = state.resume(file, "c1")
    assert (fresh.written, fresh.complete) == (0, False)
    kept = replace(fresh, written=5, sent=9)
    state.save(file, kept)
    assert state.resume(file, "c1") == kept
    state.save(file, replace(kept, complete=True))
    assert state.resume(file, "c1").complete
    os.utime(file, ns=(1, 1))
    assert not state.resume(file, "c1").complete


def test_state_of_another_import_is_refused(tmp_path: Path) -> None:
    """A state file of another cluster, another file or another program is not resumed from."""
    file = tmp_path / "in.ndjson"
    file.write_text("{}")
    state.save(file, state.start(file, "c1"))
    with pytest.raises(state.ProgressMismatch, match="into cluster c1"):
        state.resume(file, "c2")
    state.progress_path(file).write_text("[]")
    with pytest.raises(state.ProgressMismatch, match="is not the state of an import"):
        state.resume(file, "c1")
