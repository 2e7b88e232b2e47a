"""What a seed draws before a run: sizes, speeds and the mix of faults (swarm testing).

Printed first, so that a failing run says what it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

FAULTS = (
    "crash",
    "power",
    "majority",
    "disconnect",
    "isolate",
    "split",
    "one_way",
    "flap",
    "slow_disk",
    "freeze",
    "clock",
    "transfer",
    "ambush",
    "late_answers",
    "hasty_changes",
    "rivals",
    "hurried_requests",
    "deaf_leader",
)


@dataclass(frozen=True, slots=True)
class Options:
    """Seconds are virtual. A rate is events per virtual second over the whole cluster."""

    nodes: int
    safety_s: float
    latency_s: tuple[float, float]
    fsync_s: tuple[float, float]
    clients: int
    think_s: float
    keys: int
    write_share: float
    fault_rate: float
    faults: dict[str, float]  # name -> weight
    clock_skew_ms: int  # of the one node whose clock is wrong
    compact_entries: int
    membership_rate: float

    @classmethod
    def draw(cls, random: Random, nodes: int) -> Options:
        chosen = random.sample(FAULTS, random.choice([1, 2, 2, 4, 8]))
        if "ambush" not in chosen and random.random() < 0.4:
            chosen.append("ambush")
        return cls(
            nodes=nodes,
            safety_s=random.uniform(5.0, 15.0),
            latency_s=(random.choice([0.0001, 0.001, 0.02]), random.choice([0.0005, 0.01, 0.05])),
            fsync_s=(random.choice([0.0001, 0.002]), random.choice([0.001, 0.01, 0.1])),
            clients=random.randint(2, 8),
            think_s=random.choice([0.002, 0.02, 0.1]),
            keys=random.randint(1, 5),
            write_share=random.choice([0.3, 0.5, 0.8]),
            fault_rate=random.choice([0.5, 2.0, 5.0]),
            faults={kind: random.uniform(0.2, 1.0) for kind in chosen},
            clock_skew_ms=random.choice([0, 1_000, 3_600_000, -3_600_000]),
            compact_entries=random.choice([20, 100, 1000]),
            membership_rate=random.choice([0.0, 0.0, 0.3, 3.0]),
        )

    def lines(self) -> list[str]:
        """One line each, the drawn faults last and one by one."""
        plain = [name for name in self.__slots__ if name != "faults"]
        lines = [f"  {name:<16}{getattr(self, name)}" for name in plain]
        faults = (f"{kind} {weight:.2f}" for kind, weight in self.faults.items())
        return [*lines, f"  {'faults':<16}{', '.join(faults)}"]
