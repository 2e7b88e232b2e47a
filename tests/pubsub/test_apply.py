"""What an entry says of its events: whether they are alike."""

from __future__ import annotations

from functools import partial
from typing import Any

import apsw
from hypothesis import given
from hypothesis import strategies as st

from pubsub.apply import Apply
from pubsub.rejection import Rejection

metas = st.sampled_from([None, ["ann"], ["bob"]])
events = st.tuples(st.sampled_from(["t", 7]), st.sampled_from([None, "k"]), st.binary(max_size=1))
steps = st.tuples(st.lists(events, min_size=1, max_size=3), metas, st.booleans(), st.booleans())


@given(st.lists(steps, max_size=4))
def test_events_are_told_to_be_alike_only_if_they_are(every: list[Any]) -> None:
    """Also when some of them were taken back."""
    apply = Apply(apsw.Connection(":memory:"))
    made: list[tuple[Any, ...]] = []
    refused = False

    def make(some: list[Any], meta: Any, at_once: bool) -> Rejection:
        if at_once:
            apply.emit_all([(topic, key, data, meta) for topic, key, data in some])
        else:
            for topic, key, data in some:
                apply.emit(topic, key, data, meta)
        return Rejection("no", "")

    for some, meta, at_once, refuses in every:
        if refuses:
            refused = True
            apply.atomically(partial(make, some, meta, at_once))
        else:
            make(some, meta, at_once)
            made += [(topic, key, meta) for topic, key, _ in some]
    if apply.alike is not None and made:
        assert all(terms == apply.alike for terms in made)
    if made and not refused and all(terms == made[0] for terms in made):
        assert apply.alike == made[0]
    apply.begin(1, 0, 0, 0)
    assert apply.alike is None
