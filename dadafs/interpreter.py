"""What the loop and the threads of a process agree on: who has the interpreter for how long."""

from __future__ import annotations

import sys

#: Seconds after which whoever runs Python gives the interpreter up to a thread that waits for it. With CPython's 5 ms a
#: thread that lists a directory, a call of the system for each name, waits that long after each while the loop is busy,
#: and the loop behind a thread that computes.
SWITCH_INTERVAL = 0.0002


def share_the_interpreter() -> None:
    """Let threads and the loop take turns often. For a process that runs the loop."""
    sys.setswitchinterval(SWITCH_INTERVAL)
