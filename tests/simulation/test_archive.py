"""The archive of a run: every event once, as it was first applied, and when."""

from __future__ import annotations

import msgpack

from pubsub.log import Batch
from simulation.node.archive import Archive


def test_what_is_applied_again_is_passed_over() -> None:
    """Each node of a run applies each entry, and a node that crashed some of them twice."""
    now_s = 1.0
    archive = Archive(lambda: now_s)
    first = [msgpack.packb(["news", None, [b"one"], None])]
    second = [msgpack.packb(["news", key, [b"two"], None]) for key in ("x", "y")]
    archive.note(Batch.joined(1, 5, 1_000, first))
    now_s = 2.0
    archive.note(Batch.joined(1, 5, 1_000, first))
    archive.note(Batch.joined(2, 6, 2_000, second))
    archive.note(Batch.joined(2, 6, 2_000, second))
    found = [(e.revision, e.key, e.data, e.log_index, e.wall_ms) for e in archive.events]
    assert found == [
        (1, None, (b"one",), 5, 1_000),
        (2, "x", (b"two",), 6, 2_000),
        (3, "y", (b"two",), 6, 2_000),
    ]
    assert archive.seen_s == [1.0, 2.0, 2.0]
