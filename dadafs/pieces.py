"""The bytes of one read: in one piece, or in several that lie in different fragments.

Several are handed to the kernel as they are: to join them would copy each byte once more.
"""

from __future__ import annotations

Pieces = tuple[memoryview, ...]
Data = bytes | memoryview | Pieces


def length_of(data: Data) -> int:
    """How many bytes."""
    return sum(map(len, data)) if isinstance(data, tuple) else len(data)


def joined(data: Data) -> bytes | memoryview:
    """In one piece."""
    return b"".join(data) if isinstance(data, tuple) else data
