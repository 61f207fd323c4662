"""Threads and the loop take turns."""

from __future__ import annotations

import sys

from dadafs.interpreter import SWITCH_INTERVAL, share_the_interpreter


def test_whoever_waits_for_the_interpreter_gets_it_soon() -> None:
    before = sys.getswitchinterval()
    try:
        share_the_interpreter()
        assert abs(sys.getswitchinterval() - SWITCH_INTERVAL) < 1e-6
        assert before / 10 > SWITCH_INTERVAL
    finally:
        sys.setswitchinterval(before)
