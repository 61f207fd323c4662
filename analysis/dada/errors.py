"""Errors that speak to a person, and the exit codes of the `dada` command."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """Exit codes of `dada`; the same numbers as those of `dadafs`, documented in docs/administration.md."""

    OK = 0
    FAILED = 1  # anything not listed below
    USAGE = 2  # the command line is wrong
    DATA = 7  # a file is not what it should be: no HDF5, a missing data file, a shape that does not fit
    INTERRUPTED = 130  # Ctrl-C; what was finished is kept


class UserError(Exception):
    """Something a person can put right: one sentence that says what happened and what to do."""

    exit_code = ExitCode.FAILED


class UsageError(UserError):
    """A parameter that makes no sense."""

    exit_code = ExitCode.USAGE


class DataError(UserError):
    """A file is not what it should be."""

    exit_code = ExitCode.DATA


class DataChanged(DataError):
    """A data file grew or was rewritten while it was read."""


class Interrupted(UserError):
    """Ctrl-C; `done` of `total` frames are finished and in the store."""

    exit_code = ExitCode.INTERRUPTED

    def __init__(self, done: int, total: int, kept: bool) -> None:
        what = "they are in the store: give the same command again to go on" if kept else "nothing was kept"
        super().__init__(f"interrupted after {done} of {total} frames; {what}")
        self.done = done
        self.total = total
        self.kept = kept
