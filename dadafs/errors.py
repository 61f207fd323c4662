"""Errors that speak to a person, and the exit codes of every command (shared by node and head)."""

from __future__ import annotations

import enum


class ExitCode(enum.IntEnum):
    """Exit codes of `dadafs`, `dadafsd`, `dadafsctl` and `dada`; documented in docs/administration.md."""

    OK = 0
    FAILED = 1  # anything not listed below
    USAGE = 2  # the command line or the configuration is wrong
    UNREACHABLE = 3  # no head at that address, or it did not answer in time
    REFUSED = 4  # wrong key, unknown export, not allowed
    MOUNTPOINT = 5  # the mountpoint does not exist, is busy, or is not a mount of ours
    CACHE = 6  # a cache directory is not writable, or full
    DATA = 7  # a file is not what it should be: no HDF5, a missing data file, a shape that does not fit
    INTERRUPTED = 130  # Ctrl-C; what was finished is kept


class UserError(Exception):
    """Something a person can put right: one sentence that says what happened and what to do."""

    def __init__(self, message: str, exit_code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code
