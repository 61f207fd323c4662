"""When to stop asking a store that does not answer: a plain state machine, told the time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Breaker:
    """Opens after `failures` failures in a row; then one call is let through every `pause_s` seconds, to see.

    Times are monotonic seconds. Not locked: a race costs one call too many.
    """

    failures: int = 3
    pause_s: float = 5.0
    in_a_row: int = 0
    closed_again_at: float = 0.0

    def allows(self, now: float) -> bool:
        """Whether a call may be made now."""
        if self.in_a_row < self.failures:
            return True
        if now < self.closed_again_at:
            return False
        self.closed_again_at = now + self.pause_s  # this one is the probe; others wait for what comes of it
        return True

    def succeeded(self) -> None:
        """A call was answered."""
        self.in_a_row = 0

    def failed(self, now: float) -> None:
        """A call was not answered, or with an error of the server."""
        self.in_a_row += 1
        if self.in_a_row >= self.failures:
            self.closed_again_at = now + self.pause_s
