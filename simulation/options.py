"""What a seed draws before a run: sizes, speeds and the mix of faults (swarm testing).

Printed first, so that a failing run says what it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Options:
    """Seconds are virtual. A rate is events per virtual second over the whole cluster."""

    nodes: int
    safety_s: float
    latency_s: tuple[float, float]  # at least, and at random more
    fsync_s: tuple[float, float]
    clients: int
    think_s: float
    keys: int
    write_share: float
    fault_rate: float
    faults: dict[str, float]  # name -> weight
    clock_skew_ms: int  # of the one node whose clock is wrong
    compact_entries: int  # kept in a log before it is cut; 0: what the product keeps
    membership_rate: float
    workloads: tuple[str, ...] = ()  # beside the registers, at the node level
    member_ttl_ms: int = 10_000  # of a node in the groups of its handlers

    @classmethod
    def draw_core(cls, random: Random, nodes: int, kinds: Sequence[str]) -> Options:
        """For the core level, where a virtual second costs next to nothing."""
        return cls(
            nodes=nodes,
            faults=_mix(random, kinds),
            safety_s=random.uniform(5.0, 15.0),
            latency_s=(random.choice([0.0001, 0.001, 0.02]), random.choice([0.0005, 0.01, 0.05])),
            fsync_s=(random.choice([0.0001, 0.002]), random.choice([0.001, 0.01, 0.1])),
            clients=random.randint(2, 8),
            think_s=random.choice([0.002, 0.02, 0.1]),
            keys=random.randint(1, 5),
            write_share=random.choice([0.3, 0.5, 0.8]),
            fault_rate=random.choice([0.5, 2.0, 5.0]),
            clock_skew_ms=random.choice([0, 1_000, 3_600_000, -3_600_000]),
            compact_entries=random.choice([20, 100, 1000]),
            membership_rate=random.choice([0.0, 0.0, 0.3, 3.0]),
        )

    @classmethod
    def draw_node(
        cls, random: Random, nodes: int, kinds: Sequence[str], workloads: Sequence[str]
    ) -> Options:
        """For the node level, where every operation passes through the whole product."""
        return cls(
            nodes=nodes,
            faults=_mix(random, kinds),
            safety_s=random.uniform(6.0, 14.0),
            latency_s=(random.choice([0.0001, 0.0005, 0.005]), random.choice([0.001, 0.005, 0.02])),
            fsync_s=random.choice([(0.0, 0.0), (0.0002, 0.001), (0.002, 0.02)]),
            clients=random.randint(2, 4),
            think_s=random.choice([0.05, 0.2, 0.4]),
            keys=random.randint(1, 5),
            write_share=random.choice([0.3, 0.6, 0.8]),
            fault_rate=random.choice([0.4, 1.0, 2.0]),
            clock_skew_ms=random.choice([0, 0, 1_000, 3_600_000, -3_600_000]),
            compact_entries=random.choice([0, 20, 100]),
            membership_rate=random.choice([0.0, 0.0, 0.2, 0.5]),
            workloads=tuple(random.sample(workloads, random.randint(1, min(3, len(workloads))))),
            member_ttl_ms=random.choice([2_000, 2_000, 10_000]),
        )

    def lines(self) -> list[str]:
        """One line each, the drawn faults last and one by one."""
        plain = [name for name in self.__slots__ if name != "faults"]
        lines = [f"  {name:<16}{getattr(self, name)}" for name in plain]
        faults = (f"{kind} {weight:.2f}" for kind, weight in self.faults.items())
        return [*lines, f"  {'faults':<16}{', '.join(faults)}"]


def _mix(random: Random, kinds: Sequence[str]) -> dict[str, float]:
    chosen = random.sample(kinds, random.choice([1, 2, 4, 8, 12]))
    if "ambush" not in chosen and random.random() < 0.4:
        chosen.append("ambush")
    return {kind: random.uniform(0.2, 1.0) for kind in chosen}
