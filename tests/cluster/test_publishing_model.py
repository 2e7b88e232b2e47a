"""Publishing with options, against a model that keeps lists and looks through all of them."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster import operations
from pubsub.limits import MESSAGE_ID_WINDOW_MS
from pubsub.rejection import Rejection
from tests.cluster.entries import Driver

REFUSED = "refused"


class Model:
    """Every event as (topic, message id, elapsed_ms)."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str | None, int]] = []
        self.elapsed_ms = 0

    def publish(self, topic: str, options: dict[str, Any]) -> Any:
        """The revision, and whether it is an old one; or refused."""
        message_id = options.get("message_id")
        for revision, (of_topic, known, elapsed_ms) in enumerate(self.events, 1):
            is_young = self.elapsed_ms - elapsed_ms < MESSAGE_ID_WINDOW_MS
            if message_id is not None and (of_topic, known) == (topic, message_id) and is_young:
                return revision, True
        expected = options.get("expected_last_revision")
        if expected is not None and self.last(topic) > expected:
            return REFUSED, False
        self.events.append((topic, message_id, self.elapsed_ms))
        return len(self.events), False

    def last(self, topic: str) -> int:
        """The newest revision of a topic."""
        found = [revision for revision, event in enumerate(self.events, 1) if event[0] == topic]
        return max(found, default=0)

    def all_or_none(self, items: list[Any]) -> list[Any]:
        """The results of several, or nothing at all."""
        before = list(self.events)
        results = [self.publish(item[0], item[5] or {}) for item in items]
        if any(result[0] == REFUSED for result in results):
            self.events = before
            return []
        return results


options = st.fixed_dictionaries(
    {},
    optional={
        "message_id": st.sampled_from("abc"),
        "expected_last_revision": st.integers(0, 12),
        "schema_version": st.just("1"),
    },
)
events = st.tuples(
    st.sampled_from(["t", "u"]),
    st.none(),
    st.just(b""),
    st.none(),
    st.none(),
    st.none() | options,
).map(list)
commands = st.one_of(
    st.tuples(st.just("publish"), events),
    st.tuples(st.just("publish_batch"), st.lists(events, min_size=1, max_size=5)),
    st.tuples(st.just("txn"), st.lists(events, min_size=1, max_size=4)),
)
scripts = st.lists(
    st.tuples(
        st.sampled_from([0, 1, MESSAGE_ID_WINDOW_MS // 2, MESSAGE_ID_WINDOW_MS - 1]),
        st.lists(commands, max_size=4),
        st.booleans(),
    ),
    max_size=8,
)


def expected_of(model: Model, name: str, argument: Any) -> Any:
    """What the model answers to a command, in the form of the protocol."""
    if name == "publish":
        return model.publish(argument[0], argument[5] or {})[0]
    first = len(model.events) + 1
    results = model.all_or_none(argument)
    if not results:
        return REFUSED
    if name == "txn":
        return [True, [revision for revision, _ in results]]
    old = [[position, revision] for position, (revision, is_old) in enumerate(results) if is_old]
    answer = [first, len(model.events) + 1 - first]
    return [*answer, old] if old else answer


@settings(max_examples=300, deadline=None)
@given(scripts)
def test_options_do_what_the_model_does(script: list[tuple[int, list[Any], bool]]) -> None:
    """Batches with duplicates, expectations inside and outside of transactions, ids that fall
    out of the window, forgotten or not."""
    driver, model = Driver(commits_each=False), Model()
    for passed_ms, batch, forgets in script:
        driver.elapsed_ms += passed_ms
        model.elapsed_ms = driver.elapsed_ms
        payloads, expected = [], []
        for name, argument in batch:
            if name == "txn":
                args = [[], [["publish", *item] for item in argument]]
            else:
                args = argument if name == "publish" else [argument]
            payloads.append(operations.pack(0, 0, name, args))
            expected.append(expected_of(model, name, argument))
        results = driver.entry(*payloads).results
        assert [REFUSED if isinstance(r, Rejection) else r for r in results] == expected
        if forgets:
            driver.do("message.forget", driver.elapsed_ms)
            driver.machine.commit()
        assert driver.machine.revision == len(model.events)
        known = {topic: model.last(topic) for topic in ("t", "u") if model.last(topic)}
        assert driver.machine.topics("", 9) == (sorted(known.items()), False)
    driver.connection.close()
