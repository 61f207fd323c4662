"""Whether LZ4 pays on one connection: what its network takes a second, and what a fragment shrinks to."""

from __future__ import annotations

from collections import deque

#: Bytes a second that go through both compressing on the head and decompressing on the node, on one core each.
PACKING_RATE = 500e6
#: Measurements that are looked at, and how many there must be.
REMEMBERED = 15
ENOUGH = 5
#: Bytes that are sent between two measurements: asking the kernel costs a small reply a tenth of what it costs at all.
MEASURED_EACH = 256 * 1024
#: After so many seconds without packing it is tried again.
TRIED_AGAIN = 10.0
#: Where it is to be used whatever the network, a fragment must shrink to this part at most.
WORTH_IT = 0.9


class Link:
    """What the network to one node takes: the median of what TCP measured during the last replies.

    Single measurements are wild in both directions: a busy machine delivers late what the network took at once, and a
    burst fits into some buffer on the way. One during which this side had nothing more to send (`idle`) is a lower
    bound only, and counts where it is above the others.
    """

    def __init__(self) -> None:
        self.rate: float | None = None  #: bytes a second; None: not known, so not known to be slow
        self._rates: deque[float] = deque(maxlen=REMEMBERED)
        self._sent = MEASURED_EACH

    def due(self, size: int) -> bool:
        """Whether to measure again before `size` bytes are sent."""
        self._sent += size
        if self._sent < MEASURED_EACH:
            return False
        self._sent = 0
        return True

    def measured(self, rate: float, *, idle: bool) -> None:
        """TCP delivered `rate` bytes a second of late."""
        if idle and (self.rate is None or rate <= self.rate):
            return
        self._rates.append(rate)
        if len(self._rates) >= ENOUGH:
            self.rate = sorted(self._rates)[len(self._rates) // 2]


class Speed:
    """How fast packing was of late, from the request to the result: on a busy head it takes its time."""

    def __init__(self) -> None:
        self._latest: deque[tuple[float, float]] = deque(maxlen=REMEMBERED)

    def at(self, now: float) -> float:
        """Bytes a second; what a free core does where too little was packed lately, so that it is tried again."""
        while self._latest and self._latest[0][0] < now - TRIED_AGAIN:
            self._latest.popleft()
        if len(self._latest) < ENOUGH:
            return PACKING_RATE
        return min(PACKING_RATE, sorted(speed for _, speed in self._latest)[len(self._latest) // 2])

    def packed(self, size: int, seconds: float, now: float) -> None:
        """It took so long to pack `size` bytes."""
        self._latest.append((now, size / max(seconds, 1e-6)))


def most(rate: float | None, speed: float = PACKING_RATE, *, always: bool = False) -> float:
    """The part of its size to which a fragment must shrink, at most, for LZ4 to pay; 0: it cannot.

    Packing and sending s bytes takes s / speed + part * s / rate seconds, sending them raw s / rate.
    """
    if always:
        return WORTH_IT
    if rate is None:
        return 0.0
    return max(0.0, min(WORTH_IT, 1 - rate / speed))
