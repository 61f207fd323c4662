"""What goes wrong with a request to the head, as exceptions."""

from __future__ import annotations

import errno
import os

from dadafs.wire.messages import Failed, Message


class HeadError(OSError):
    """The head answered `Failed`: `site` is its numbered error site (0: an ordinary answer such as ENOENT)."""

    site: int = 0


class SessionLost(Exception):
    """The session that a handle belonged to is over; the file has to be opened again."""


def failed(reply: Failed, path: bytes) -> HeadError:
    """What the head says about `path`, as an exception."""
    error = HeadError(reply.errno, reply.message or os.strerror(reply.errno), os.fsdecode(path))
    error.site = reply.site
    return error


def nonsense(reply: Message, path: bytes) -> OSError:
    """The head answered with something that is no answer."""
    return OSError(errno.EIO, f"the head answered with a {type(reply).__name__}, out of place", os.fsdecode(path))
