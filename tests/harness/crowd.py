"""Very many idle connections, from many addresses of this host."""

from __future__ import annotations

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager


@contextmanager
def crowd(port: int, number: int) -> Iterator[int]:
    """Open `number` connections to `port`, or as many as this process may; how many there are."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = min(number, _raise_limit(number + 500) - 500)
    try:
        with ExitStack() as stack:
            for count in range(number):
                source = f"127.{1 + count // 200 % 200}.0.{1 + count % 200}"
                stack.enter_context(
                    socket.create_connection(("127.0.0.1", port), source_address=(source, 0), timeout=60)
                )
            yield number
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def _raise_limit(wanted: int) -> int:
    """Allow this process `wanted` descriptors, or as many as it may; how many it has then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    return max(soft, wanted)
