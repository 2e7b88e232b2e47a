"""The circuit breaker of a handler on one node: leaving alone for a while what fails every time.

    CLOSED      counts failures in a row                  -> OPEN at so many
    OPEN        starts nothing                            -> HALF_OPEN when its time has passed
    HALF_OPEN   starts one attempt, the probe             -> CLOSED if it succeeds, else OPEN

Attempts that began before the breaker changed have no say any more when they end: whoever starts
one keeps the epoch, and brings it back with the outcome.
"""

from enum import Enum


class BreakerState(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Breaker:
    """Knows whether a handler may start an attempt here."""

    def __init__(self) -> None:
        self.state = BreakerState.CLOSED
        self.until_ms = 0  # OPEN: when it will be half open
        self.epoch = 0  # rises with every change
        self.failures = 0  # CLOSED: in a row
        self._probing = False

    def admits(self, now_ms: int) -> bool:
        """Whether an attempt may start."""
        if self.state is BreakerState.OPEN and now_ms >= self.until_ms:
            self._become(BreakerState.HALF_OPEN)
        if self.state is BreakerState.HALF_OPEN:
            return not self._probing
        return self.state is BreakerState.CLOSED

    def start(self) -> int:
        """An attempt starts, which `admits` allowed; returns the epoch that it began in."""
        self._probing = self.state is BreakerState.HALF_OPEN
        return self.epoch

    def end(self, epoch: int, failed: bool, now_ms: int, failures_max: int, open_ms: int) -> bool:
        """An attempt of `epoch` ended; True when that has opened the breaker."""
        if epoch != self.epoch:
            return False
        if not failed:
            self.failures = 0
            if self.state is BreakerState.HALF_OPEN:
                self._become(BreakerState.CLOSED)
            return False
        self.failures += 1
        if self.state is BreakerState.CLOSED and self.failures < failures_max:
            return False
        self._become(BreakerState.OPEN)
        self.until_ms = now_ms + open_ms
        return True

    def cancel(self, epoch: int) -> None:
        """An attempt of `epoch` was stopped and says nothing; if it was the probe, another is."""
        if epoch == self.epoch:
            self._probing = False

    def _become(self, state: BreakerState) -> None:
        self.state = state
        self.epoch += 1
        self.failures = 0
        self._probing = False
