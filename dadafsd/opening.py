"""Opening files and, where they are small, reading them in the same call. Everything here blocks unless told not to.

Many at a time are opened and read by the compiled part (`native/opening.c`), where it was built and the kernel has
openat2; what that leaves out is looked at one by one, as everything is without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from dadafs.wire.messages import INLINE_LIMIT, Attr, Version
from dadafsd.confine import Descriptor
from dadafsd.export import Export
from dadafsd.origin_read import Clock, Piece, read_all, read_piece

#: A file that was opened, its attributes, and its content where that was read.
Found = tuple[Descriptor, Attr, Piece | None]


def open_and_read(
    export: Export,
    path: bytes,
    limit: int,
    clock: Clock,
    in_memory: Callable[[Version], bool],
    *,
    wait: bool = True,
) -> Found:
    """Open a file and, where it has at most `limit` bytes that memory does not hold, read it in the same call.

    Blocking, unless told not to `wait` (then it may raise `BlockingIOError`). `in_memory` is called from this thread
    and only looks.
    """
    opened, attr = export.open_file(path, wait=wait)
    if not 0 < attr.size <= limit or in_memory(attr.version):
        return opened, attr, None
    piece = read_piece(opened, attr.version, 0, attr.size, clock, wait=wait)
    if isinstance(piece, Attr):
        return opened, piece, None
    return opened, attr, piece


def open_all(
    export: Export, paths: Sequence[bytes], limit: int, clock: Clock, in_memory: Callable[[Version], bool]
) -> list[Found | None]:
    """`open_and_read` for each path; None for what is no small file, or does not fit into `limit` bytes in all.

    Blocking. What fails is left out: whoever wants it asks for it by itself and is told why.
    """
    opened = export.open_small(paths, INLINE_LIMIT, limit)
    if opened is None:
        return _one_by_one(export, paths, limit, clock, in_memory)
    found: list[Found | None] = [None if one is None else (one.held, one.attr, None) for one in opened]
    unread = [i for i, one in enumerate(found) if one is not None and one[1].size and not in_memory(one[1].version)]
    small = [one for i in unread if (one := opened[i]) is not None]
    for index, one, piece in zip(unread, small, read_all(small, clock), strict=True):
        found[index] = None if piece is None else (one.held, one.attr, piece)
    return found


def _one_by_one(
    export: Export, paths: Sequence[bytes], limit: int, clock: Clock, in_memory: Callable[[Version], bool]
) -> list[Found | None]:
    found: list[Found | None] = [None] * len(paths)
    for index, path in enumerate(paths):
        with suppress(OSError):
            one = open_and_read(export, path, INLINE_LIMIT, clock, in_memory)
            size = one[1].size
            if size > limit:
                break
            if size <= INLINE_LIMIT:
                found[index] = one
                limit -= size
    return found
