"""When a belief may be used: freshness, leases and the keepalive horizon (sans-IO).

A belief is something the head said about a path: it was asked for at `asked_at` on the node's monotonic
clock, in session number `generation`, and the head either watches it (`leased`) or does not. Every metadata
request, reply and push travels on one ordered channel, so a `Pass` that answers the `Keepalive` sent at time
t proves that every change the head knew of at t has arrived: t is the *horizon*, and a leased belief is as
fresh as the horizon.
"""

from __future__ import annotations

#: `asked_at` of something that must not be believed at all (it was overtaken by a push).
NEVER = float("-inf")


class LeaseClock:
    """Decides whether a belief is valid; fed by keepalives and by the session's changes of state.

    All times are monotonic seconds of one clock of the caller's choice.
    """

    def __init__(self, freshness: float, *, stale_if_offline: bool = False) -> None:
        if freshness < 0:
            raise ValueError("freshness must not be negative")
        self.freshness = freshness
        self.stale_if_offline = stale_if_offline
        self.generation = 0
        self.horizon = NEVER
        self.connected = False

    def connected_again(self, generation: int) -> None:
        """A new session began: leases of earlier generations are void, the horizon is unknown until the first
        Pass.
        """
        if generation <= self.generation:
            raise ValueError(f"generation {generation} does not follow {self.generation}")
        self.generation = generation
        self.horizon = NEVER
        self.connected = True

    def disconnected(self) -> None:
        """The control channel is gone; no push can arrive until `connected_again`."""
        self.connected = False

    def passed(self, sent_at: float) -> None:
        """A `Pass` for the keepalive sent at `sent_at` arrived; a late one never moves the horizon back."""
        self.horizon = max(self.horizon, sent_at)

    def live(self, asked_at: float, generation: int, leased: bool, now: float) -> bool:
        """Whether what was asked for at `asked_at` in session `generation` may be used at `now`."""
        if now - asked_at < self.freshness:
            return True
        if asked_at == NEVER:
            return False
        if leased and generation == self.generation and now - self.horizon < self.freshness:
            return True
        return self.stale_if_offline and not self.connected

    def until(self, asked_at: float, generation: int, leased: bool) -> float:
        """The moment until which `live` will say yes as things are; what is stale while offline does not count."""
        newest = max(asked_at, self.horizon) if leased and generation == self.generation else asked_at
        return asked_at if asked_at == NEVER else newest + self.freshness

    def keepalive_interval(self) -> float:
        """Seconds between two keepalives: a quarter of `freshness`, but neither a flood nor useless."""
        return min(max(self.freshness / 4, 0.02), 5.0)
