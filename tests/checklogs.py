"""A pytest plugin: a test in which something logs a WARNING or worse that the test did not announce has failed.

A test announces what it expects with the fixture: `expected_log.add("regular expression")`. Logs of child processes
are checked by the harness (`tests.harness.processes`) with the same patterns.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import pytest


class ExpectedLog:
    """Patterns of log lines that a test provokes on purpose."""

    def __init__(self) -> None:
        self._patterns: list[re.Pattern[str]] = []

    def add(self, pattern: str) -> None:
        """Lines in which `pattern` is found are expected from now on."""
        self._patterns.append(re.compile(pattern))

    def covers(self, line: str) -> bool:
        """Whether some announced pattern is found in `line`."""
        return any(pattern.search(line) for pattern in self._patterns)


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.name}: {record.getMessage()}")


@pytest.fixture(autouse=True)
def expected_log() -> Iterator[ExpectedLog]:
    """Fails the test for unannounced warnings; yields the object to announce them with."""
    expected = ExpectedLog()
    collector = _Collector()
    logging.getLogger().addHandler(collector)
    try:
        yield expected
    finally:
        logging.getLogger().removeHandler(collector)
    unexpected = [line for line in collector.lines if not expected.covers(line)]
    if unexpected:
        pytest.fail("unexpected log lines:\n" + "\n".join(unexpected))
