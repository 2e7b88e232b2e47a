"""The memory of processes, seen from outside: what Linux says about each, all the time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

from tests.real.processes import RealCluster
from tests.real.proof_groups.programs import Program

SAMPLE_S: Final = 0.25
KIB: Final = 1024
MIB: Final = 1024 * KIB
# The peak that the kernel keeps itself: nothing between two samples is missed.
PEAK: Final = "VmHWM:"
NOW: Final = "VmRSS:"
FILE: Final = "memory.tsv"


class Memory:
    """The highest resident memory of each node and program, over all its lives, in bytes; and a
    file in `folder` with all samples: seconds, name, MiB at that moment."""

    def __init__(self, folder: Path) -> None:
        self.peaks: dict[str, int] = {}
        self.samples = 0
        self._file = folder / FILE

    async def watch(self, cluster: RealCluster, programs: Callable[[], list[Program]]) -> None:
        """Sample until cancelled."""
        began = trio.current_time()
        with self._file.open("w") as file:
            while True:
                running = [
                    *(
                        (f"node {each.label}", each.pid)
                        for each in cluster.nodes.values()
                        if each.running
                    ),
                    *((each.name, each.pid) for each in programs() if each.running),
                ]
                for name, pid in running:
                    now = self._sample(name, pid)
                    file.write(f"{trio.current_time() - began:.2f}\t{name}\t{now / MIB:.1f}\n")
                self.samples += len(running)
                await trio.sleep(SAMPLE_S)

    def of(self, prefix: str) -> dict[str, int]:
        """The peaks of those whose name begins so."""
        return {name: peak for name, peak in self.peaks.items() if name.startswith(prefix)}

    def _sample(self, name: str, pid: int) -> int:
        try:
            text = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return 0  # it has just ended
        found = dict(line.split(maxsplit=1) for line in text.splitlines() if line[:2] == "Vm")
        if PEAK not in found:
            return 0
        self.peaks[name] = max(int(found[PEAK].split()[0]) * KIB, self.peaks.get(name, 0))
        return int(found[NOW].split()[0]) * KIB
