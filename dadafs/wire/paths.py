"""Which byte strings are paths on the wire: relative to the export, canonical, and unable to leave it."""

from __future__ import annotations

MAX_PATH = 4096
MAX_COMPONENT = 255


class BadPath(ValueError):
    """The bytes are no canonical relative path."""


def check_name(name: bytes) -> bytes:
    """`name`, if it can be one component of a path: 1 to 255 bytes, not `.` or `..`, no slash, no NUL.

    Raises BadPath. Newlines and invalid UTF-8 are allowed: the kernel allows them too.
    """
    if not name or name == b"." or name == b".." or len(name) > MAX_COMPONENT or b"/" in name or b"\0" in name:
        raise BadPath(f"no name: {name[:300]!r}")
    return name


def check(path: bytes) -> bytes:
    """`path`, if it is canonical: `b""` (the root) or components as in `check_name`, joined by slashes.

    Raises BadPath for everything else: a leading or trailing slash, an empty component, `.`, `..`, NUL, a
    component longer than 255 bytes, more than 4096 bytes in all.
    """
    if not path:
        return path
    if len(path) > MAX_PATH or b"\0" in path:
        raise BadPath(f"no path: {path[:300]!r}")
    for component in path.split(b"/"):
        if not component or len(component) > MAX_COMPONENT or component == b"." or component == b"..":
            raise BadPath(f"no path: {path[:300]!r}")
    return path


def join(parent: bytes, name: bytes) -> bytes:
    """The path of `name` in the directory `parent`, canonical where that is. Raises BadPath where `name` is no name, or
    the path too long.
    """
    check_name(name)
    path = parent + b"/" + name if parent else name
    if len(path) > MAX_PATH:
        raise BadPath(f"no path: {path[:300]!r}")
    return path


def split(path: bytes) -> tuple[bytes, bytes]:
    """`(parent, name)` of a path that is not the root."""
    parent, _, name = path.rpartition(b"/")
    return parent, name
