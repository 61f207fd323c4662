"""A measurement that is told to stop cleans up first."""

from __future__ import annotations

import signal
import sys
from types import FrameType


def clean_up_on_sigterm() -> None:
    """From now on SIGTERM raises SystemExit, so that every `with` and `finally` is run."""

    def stop(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, stop)
