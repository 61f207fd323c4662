"""Which replies were overtaken by a push (sans-IO).

A push that is newer than a reply arrives after it, but the task that waits for the reply may run only after
the push was handled. Whoever asks takes a mark before the request and looks, in the very step in which the
answer is used, whether a push about the same path came since: then the answer may be older than what the push
said.
"""

from __future__ import annotations

from collections import deque

#: Pushes remembered; a request that takes longer than so many is taken to be overtaken.
MEMORY = 4096


class Overtaken:
    """Remembers the paths of recent pushes in their order."""

    def __init__(self) -> None:
        self._order = 0
        self._recent: deque[tuple[int, bytes, bool]] = deque(maxlen=MEMORY)

    def mark(self) -> int:
        """A moment to compare with later."""
        return self._order

    def pushed(self, path: bytes, *, subtree: bool) -> None:
        """A push about `path` (and all below, with `subtree`) was handled."""
        self._order += 1
        self._recent.append((self._order, path, subtree))

    def everything(self) -> None:
        """A new session began: nothing asked before says anything about leases now."""
        self._recent.clear()

    def since(self, mark: int, path: bytes, *, children: bool = False) -> bool:
        """Whether a push since `mark` bears on `path` (with `children`: or on a name directly in it)."""
        if self._order == mark:
            return False
        if self._recent and self._recent[0][0] > mark + 1:
            return True
        return any(
            order > mark and bears_on(pushed, subtree, path, children)
            for order, pushed, subtree in reversed(self._recent)
        )


def bears_on(pushed: bytes, subtree: bool, path: bytes, children: bool) -> bool:
    """Whether a push about `pushed` says something about `path`, or about a name directly in it."""
    if pushed == path:
        return True
    if subtree and (not pushed or path.startswith(pushed + b"/")):
        return True
    return children and bool(pushed) and pushed.rpartition(b"/")[0] == path
