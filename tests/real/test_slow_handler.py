"""A slow handler on three real nodes; `proof_slow_handler.py` says how."""

from __future__ import annotations

from pathlib import Path

from tests.real.proof_slow_handler import prove
from tests.real.test_every_event import in_order

SECONDS = 8.0
SLOWER_MAX = 3  # times: other programs on the machine count for more than the handler


async def test_a_slow_handler_lags_and_nobody_else_suffers(tmp_path: Path) -> None:
    """Writes are acknowledged as fast as before, the lag is shown as it grows and is worked off,
    and every event is handled, once, in order per key."""
    found = await prove(tmp_path, SECONDS)
    assert found.during_per_s * SLOWER_MAX > found.before_per_s
    lags = found.lags
    assert lags == sorted(lags)
    assert lags[-1] > len(found.published) * 3 // 4
    revisions = [revision for revision, _ in found.handled]
    assert sorted(revisions) == sorted(found.published)
    assert dict(found.handled) == found.published
    assert in_order(revisions, found.published)
