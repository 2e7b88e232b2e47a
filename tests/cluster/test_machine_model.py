"""The machine against a dumb model of it: a dictionary, a list of events, no SQL, no cleverness."""

from __future__ import annotations

import copy
from collections.abc import Callable
from operator import eq, ge, gt, le, lt, ne
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import kv, operations
from pubsub.rejection import Rejection
from tests.cluster.entries import Driver

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": eq,
    "!=": ne,
    "<": lt,
    ">": gt,
    "<=": le,
    ">=": ge,
}


class Model:
    """What the documentation says, written down as directly as possible."""

    def __init__(self) -> None:
        self.keys: dict[str, kv.Row] = {}
        self.events: list[tuple[str, str | None, tuple[Any, ...]]] = []
        self.wall_ms = 0

    def run(self, name: str, args: list[Any]) -> Any:
        """The result of one operation; "refused" stands for any rejection."""
        before = copy.copy(self.keys), len(self.events)
        result = getattr(self, name.replace(".", "_"))(*args)
        if result == "refused":
            self.keys, count = before
            del self.events[count:]
        return result

    def put(
        self, key: str, value: bytes, ttl_ms: int | None = None, expected: int | None = None
    ) -> Any:
        old = self.keys.get(key)
        if expected is not None and expected != (old.mod_revision if old else 0):
            return "refused"
        revision = len(self.events) + 1
        row = kv.Row(
            key,
            value,
            old.create_revision if old else revision,
            revision,
            old.version + 1 if old else 1,
            None if ttl_ms is None else self.wall_ms + ttl_ms,
        )
        self.keys[key] = row
        previous = old.mod_revision if old else 0
        return self._emit(
            "hooks.kv.write_committed",
            key,
            value, row.create_revision, row.version, previous, row.expires_ms,
        )  # fmt: skip

    def delete(self, key: str, expected: int | None = None) -> Any:
        old = self.keys.get(key)
        if expected is not None and expected != (old.mod_revision if old else 0):
            return "refused"
        if old is None:
            return 0
        del self.keys[key]
        return self._emit("hooks.kv.delete_committed", key, old.mod_revision, old.version)

    def batch(self, items: list[Any]) -> Any:
        first = len(self.events) + 1
        results = [getattr(self, name)(*args) for name, *args in items]
        return "refused" if "refused" in results else [first, len(self.events) + 1 - first]

    def txn(self, compares: list[Any], thens: list[Any], elses: list[Any]) -> Any:
        if any(item[0] == "publish" and item[1].startswith("hooks.") for item in thens + elses):
            return "refused"  # of either branch: what can never be right is refused at once
        succeeded = all(self._holds(*compare) for compare in compares)
        results = [getattr(self, name)(*args) for name, *args in (thens if succeeded else elses)]
        return "refused" if "refused" in results else [succeeded, results]

    def get(self, key: str) -> Any:
        row = self.keys.get(key)
        return None if row is None else list(row)

    def range(self, start: str, end: str | None, limit: int) -> Any:
        found = [
            list(self.keys[key])
            for key in sorted(self.keys)
            if (key == start if end is None else start <= key and (end == "" or key < end))
        ]
        return [found[:limit], len(found) > limit]

    def publish(self, topic: str, key: str | None, payload: bytes) -> Any:
        if topic.startswith("hooks."):
            return "refused"
        return self._emit(topic, key, payload, None, None)

    def publish_batch(self, items: list[Any]) -> Any:
        first = len(self.events) + 1
        results = [self.publish(*item) for item in items]
        return "refused" if "refused" in results else [first, len(items)]

    def kv_expire(self, up_to_ms: int, limit: int) -> Any:
        due = [
            (row.expires_ms, row)
            for row in self.keys.values()
            if row.expires_ms is not None and row.expires_ms <= min(up_to_ms, self.wall_ms)
        ]
        for _, row in sorted(due, key=lambda pair: (pair[0], self._age(pair[1])))[:limit]:
            del self.keys[row.key]
            data = row.mod_revision, row.version, row.expires_ms
            self._emit("hooks.kv.ttl_expired", row.key, *data)
        return min(len(due), limit)

    def _age(self, row: kv.Row) -> int:
        return row.create_revision

    def _holds(self, key: str, field: str, operator: str, operand: Any) -> bool:
        row = self.keys.get(key)
        if field == "exists":
            found: Any = row is not None
        elif field == "value" and row is None:
            return False
        else:
            found = getattr(row, field) if row else 0
        return OPERATORS[operator](found, operand)

    def _emit(self, topic: str, key: str | None, *data: Any) -> int:
        self.events.append((topic, key, data))
        return len(self.events)


keys = st.sampled_from(["a", "a/1", "a/2", "b", "\N{SNOWMAN}"])
values = st.binary(max_size=4)
revisions = st.none() | st.integers(0, 12)
ttls = st.none() | st.integers(1, 50)
puts = st.tuples(st.just("put"), keys, values, ttls, revisions).map(list)
deletes = st.tuples(st.just("delete"), keys, revisions).map(list)
topics = st.sampled_from(["orders.created", "orders.paid", "hooks.kv.write_committed"])
publishes = st.tuples(st.just("publish"), topics, st.none() | keys, values).map(list)
gets = st.tuples(st.just("get"), keys).map(list)
ranges = st.tuples(st.just("range"), keys, st.none() | st.just("") | keys, st.integers(1, 3)).map(
    list
)
compares = st.one_of(
    st.tuples(keys, st.just("value"), st.sampled_from(["=", "!=", "<", ">="]), values),
    st.tuples(
        keys,
        st.sampled_from(["version", "create_revision", "mod_revision"]),
        st.sampled_from(["=", "!=", "<", ">", "<=", ">="]),
        st.integers(0, 12),
    ),
    st.tuples(keys, st.just("exists"), st.sampled_from(["=", "!="]), st.booleans()),
).map(list)
items = st.lists(st.one_of(puts, deletes, publishes, gets, ranges), max_size=4)
singles = st.one_of(puts, deletes, publishes).map(lambda item: (item[0], item[1:]))
commands = st.one_of(
    singles,
    singles,
    st.tuples(
        st.just("batch"), st.tuples(st.lists(puts | deletes, min_size=1, max_size=5)).map(list)
    ),
    st.tuples(st.just("txn"), st.tuples(st.lists(compares, max_size=2), items, items).map(list)),
    st.tuples(
        st.just("publish_batch"),
        st.tuples(st.lists(publishes.map(lambda item: item[1:]), min_size=1, max_size=3)).map(list),
    ),
    st.tuples(st.just("kv.expire"), st.tuples(st.integers(0, 400), st.integers(1, 3)).map(list)),
)
entries = st.lists(st.tuples(st.integers(0, 40), st.lists(commands, max_size=5)), max_size=12)


@settings(max_examples=200, deadline=None)
@given(entries)
def test_the_machine_does_what_the_model_does(script: list[tuple[int, list[Any]]]) -> None:
    """The same results, keys, revisions and events, operation by operation."""
    driver, model = Driver(), Model()
    driver.wall_ms = 0
    for passed_ms, batch in script:
        driver.wall_ms += passed_ms
        model.wall_ms = driver.wall_ms
        expected = [model.run(name, args) for name, args in batch]
        applied = driver.entry(*[operations.pack(0, 0, name, args) for name, args in batch])
        answers = [
            "refused" if isinstance(result, Rejection) else result for result in applied.results
        ]
        assert answers == expected
        rows, more = kv.range_(driver.connection, "", "")
        assert not more
        assert rows == [model.keys[key] for key in sorted(model.keys)]
        assert driver.machine.revision == len(model.events)
    found = [(event.topic, event.key, event.data) for event in driver.events()]
    assert found == model.events
    driver.connection.close()
