"""Numbered error sites of the head: every EIO a node can get names one, so a log line finds its code."""

from __future__ import annotations

import enum
import errno
import logging
import os
from collections import Counter
from collections.abc import Callable

from dadafs.journal import fields

log = logging.getLogger(__name__)


class Site(enum.IntEnum):
    """Where a request failed. The numbers are stable; docs/error-sites.md lists them."""

    NONE = 0
    ORIGIN_DEADLINE = 101  # the origin did not answer within its deadline
    ORIGIN_BUSY = 102  # no slot to ask the origin came free within the deadline
    ORIGIN_ERROR = 103  # the origin answered with an error
    ORIGIN_STALE = 104  # a file held open is gone from the origin (NFS ESTALE)
    ORIGIN_SHORT = 105  # the origin gave fewer bytes than the file's size says, and its version did not change
    HANDLE_UNKNOWN = 111  # a handle of another session or of an earlier start of the head
    HANDLE_OTHER_FILE = 112  # the name now belongs to another file than the node has open
    HANDLE_WRONG_VERSION = 113  # a version of another file was asked for under this handle
    LISTING_EXPIRED = 121  # a page of a directory listing that is no longer kept
    REQUEST_INVALID = 131  # a request out of its bounds
    DESCRIPTORS = 141  # the head is out of file descriptors
    INTERNAL = 199  # a bug: the traceback is in the log


class Failure(OSError):
    """A request that fails with an errno and a site, and no traceback."""

    def __init__(self, code: int, site: Site, message: str = "") -> None:
        super().__init__(code, message or os.strerror(code))
        self.site = site


def at_site(error: OSError) -> Failure:
    """An error of the origin as what the node is told; ordinary answers (ENOENT ...) carry no site."""
    if isinstance(error, Failure):
        return error
    code = error.errno or errno.EIO
    if code == errno.ESTALE:
        return Failure(code, Site.ORIGIN_STALE)
    if code in (errno.EMFILE, errno.ENFILE):
        return Failure(errno.EIO, Site.DESCRIPTORS, "the head is out of file descriptors: raise LimitNOFILE")
    ordinary = {
        errno.ENOENT,
        errno.EACCES,
        errno.EPERM,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENXIO,
    }
    ordinary |= {errno.ENAMETOOLONG, errno.EXDEV, errno.E2BIG, errno.ENODATA}
    return Failure(code, Site.NONE if code in ordinary else Site.ORIGIN_ERROR, error.strerror or "")


class ErrorLog:
    """Counts failures by site and logs each site at most once per `interval` seconds, with cause and file."""

    def __init__(self, clock: Callable[[], float], interval: float = 30.0) -> None:
        self.counts: Counter[Site] = Counter()
        self._clock = clock
        self._interval = interval
        self._last: dict[Site, tuple[float, int]] = {}

    def failed(self, site: Site, export: str, path: bytes, cause: BaseException | str) -> None:
        """A request for `path` failed at `site`; `cause` goes into the log line."""
        self.counts[site] += 1
        now = self._clock()
        logged_at, count_then = self._last.get(site, (-self._interval, 0))
        if now - logged_at < self._interval:
            return
        unlogged = self.counts[site] - count_then - 1
        self._last[site] = (now, self.counts[site])
        more = f" ({unlogged} more of these since the last line)" if unlogged else ""
        where = f"{export}:/{os.fsdecode(path)}"
        about = fields(site=int(site), export=export, path=path)
        log.warning("site %d (%s): %r: %s%s", site, site.name.lower(), where, cause, more, extra=about)
