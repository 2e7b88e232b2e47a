"""Faults that wait for their moment: the crash right after an acknowledgement, the cut right after
a read began, the power that goes between the first messages of a tick and its fsync.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

MOMENTS: dict[str, tuple[str, ...]] = {
    "acknowledgement": ("append_reply",),
    "commit": ("commit",),
    "vote": ("request_vote", "response_vote", "pre_vote_reply"),
    "read": ("read", "read_index", "read_index_reply"),
    "forward": ("forward", "forward_reply"),
    "entries": ("append_entries",),
    "snapshot": ("snapshot_chunk", "snapshot_reply"),
    "transfer": ("timeout_now",),
    "installation": ("install",),
    "answer": ("answer",),
}
"""What a node does: mostly a message between nodes by its type. `answer` goes to a client."""

ACTIONS: dict[str, tuple[str, ...]] = {
    "acknowledgement": ("kill_sender", "power_sender", "break_link", "isolate_receiver"),
    "commit": ("kill_sender", "power_sender"),
    "vote": ("kill_sender", "kill_sender", "break_link", "freeze_sender"),
    "read": ("isolate_sender", "freeze_sender", "kill_sender", "break_link"),
    "forward": ("kill_sender", "kill_receiver", "break_link", "isolate_receiver"),
    "entries": ("kill_sender", "power_sender", "break_link", "isolate_sender"),
    "snapshot": ("kill_sender", "kill_receiver", "power_receiver", "break_link"),
    "transfer": ("kill_sender", "kill_receiver", "isolate_sender", "freeze_sender"),
    "installation": ("kill_sender", "power_sender"),
    "answer": ("kill_sender", "power_sender", "power_majority", "isolate_sender"),
}
QUICKLY = (0.002, 0.01, 0.05)


@dataclass(eq=False)
class Ambush:
    """Waits for the `skip`-th such moment, of one node or of any."""

    whats: tuple[str, ...]
    action: str
    name: str | None
    skip: int
    restart_s: tuple[float, ...]
    seconds: float

    @classmethod
    def draw(cls, random: Random, victim: str) -> Ambush:
        moment = random.choice(list(MOMENTS))
        return cls(
            whats=MOMENTS[moment],
            action=random.choice(ACTIONS[moment]),
            name=random.choice([None, victim]),
            skip=random.choice([0, 0, 1, 5]),
            restart_s=random.choice([QUICKLY, (0.5, 2.0)]),
            seconds=random.choice([0.3, 1.0, 2.0]),
        )

    def waits_for(self, name: str, what: str) -> bool:
        """Whether this is the moment."""
        if what not in self.whats or self.name not in (None, name):
            return False
        self.skip -= 1
        return self.skip < 0
