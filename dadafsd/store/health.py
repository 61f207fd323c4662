"""Whether a tier may be used: normal, unstable, down, and back again (sans-IO; `now` is monotonic seconds).

Three input/output errors within a minute make a tier unstable: then only one operation in a while is let through to
try it. Errors in that state take it down: nothing is let through but probes, further apart each time. Successes bring
it back one state at a time. Reading and writing are judged apart, so that a read-only disk still serves.
"""

from __future__ import annotations

import enum
from collections import deque

ERRORS_TO_UNSTABLE = 3
ERROR_WINDOW = 60.0
ERRORS_TO_DOWN = 3
SUCCESSES_TO_NORMAL = 10
TRIAL_INTERVAL = 0.2
PROBE_INTERVAL = 1.0
LONGEST_PROBE_INTERVAL = 30.0


class State(enum.IntEnum):
    """In the order of badness."""

    NORMAL = 0
    UNSTABLE = 1
    DOWN = 2


class Health:
    """The judgement about one direction (reading or writing) of one tier."""

    def __init__(self) -> None:
        self.state = State.NORMAL
        self._errors: deque[float] = deque(maxlen=ERRORS_TO_UNSTABLE)
        self._streak = 0  # errors in a row (unstable: towards down), negative: successes in a row
        self._next_trial = 0.0
        self._probe_interval = PROBE_INTERVAL
        self._next_probe = 0.0

    def allowed(self, now: float) -> bool:
        """Whether an operation may be tried now."""
        if self.state is State.NORMAL:
            return True
        if self.state is State.DOWN or now < self._next_trial:
            return False
        self._next_trial = now + TRIAL_INTERVAL
        return True

    def succeeded(self) -> None:
        """An operation or a probe went well."""
        if self.state is State.NORMAL:
            return
        self._streak = min(0, self._streak) - 1
        if self.state is State.DOWN:
            self._enter(State.UNSTABLE)
        elif self._streak <= -SUCCESSES_TO_NORMAL:
            self._enter(State.NORMAL)
            self._errors.clear()
            self._probe_interval = PROBE_INTERVAL

    def failed(self, now: float) -> None:
        """An operation or a probe met an input/output error."""
        if self.state is State.NORMAL:
            self._errors.append(now)
            if len(self._errors) == ERRORS_TO_UNSTABLE and now - self._errors[0] <= ERROR_WINDOW:
                self._enter(State.UNSTABLE)
        elif self.state is State.UNSTABLE:
            self._streak = max(0, self._streak) + 1
            if self._streak >= ERRORS_TO_DOWN:
                self.take_down(now)
        else:
            self._postpone(now)

    def take_down(self, now: float) -> None:
        """Nothing more until a probe succeeds (the disk hangs, or its directory is gone)."""
        self._enter(State.DOWN)
        self._postpone(now)

    def probe_due(self, now: float) -> bool:
        """Whether the shell should write and read its probe file now."""
        if self.state is State.NORMAL:
            return False
        return self.state is State.UNSTABLE or now >= self._next_probe

    def _enter(self, state: State) -> None:
        self.state = state
        self._streak = 0

    def _postpone(self, now: float) -> None:
        self._next_probe = now + self._probe_interval
        self._probe_interval = min(2 * self._probe_interval, LONGEST_PROBE_INTERVAL)
