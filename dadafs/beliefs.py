"""What is believed of names and directories, and until when.

Beliefs are what the head said. They may be dropped at any time and are, oldest directory first, when metadata takes
more than its share of the RAM budget. Everything here is synchronous.
"""

from __future__ import annotations

import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from dadafs.listing import Listing, Page
from dadafs.node import Belief, Directory
from dadafs.policy.lease import NEVER, LeaseClock
from dadafs.wire.messages import Attr

#: Names changed by pushes since the listing, beyond which the directory is listed again rather than patched.
_MAX_PATCHES = 4096
_BELIEF_SIZE = 700
#: So many files that were seen with several names are remembered.
_MOST_LINKED = 4096


class Found(NamedTuple):
    """A live belief: what is at a name (attr None: nothing), valid until `until` (same clock as `now`)."""

    attr: Attr | None
    target: bytes | None
    until: float
    asked_at: float
    generation: int
    leased: bool


class MetadataBudget(Protocol):
    """The account that metadata is charged to (`dadafs.ram_cache.RamCache`)."""

    def charge_metadata(self, delta: int) -> None:
        """`delta` bytes more (or fewer) are remembered."""

    @property
    def metadata_room(self) -> int:
        """Bytes that may still be remembered."""


class Beliefs:
    """All beliefs of one mount. `moved(id, directory, name)` is called when a directory is no longer at a name."""

    def __init__(
        self,
        leases: LeaseClock,
        budget: MetadataBudget,
        moved: Callable[[int, Directory, bytes], None],
    ) -> None:
        self.leases = leases
        self._budget = budget
        self._moved = moved
        self._recent: dict[Directory, None] = {}
        self._linked: OrderedDict[tuple[int, int], float] = OrderedDict()  # files seen with several names, and when

    def until(self, asked_at: float, generation: int, leased: bool, now: float) -> float:
        """The moment until which something is believed (`LeaseClock.live` holds exactly before it)."""
        if asked_at == NEVER:
            return NEVER
        leases = self.leases
        end = asked_at
        if leased and generation == leases.generation and leases.horizon > end:
            end = leases.horizon
        if end <= now - leases.freshness and leases.stale_if_offline and leases.live(asked_at, generation, leased, now):
            return now + leases.freshness
        return end + leases.freshness

    def believed(self, directory: Directory, name: bytes, now: float) -> Found | None:
        """What is at `name`, if that is known and may be believed at `now`."""
        belief = directory.names.get(name)
        listing = directory.listing
        found = None
        if belief is not None and (listing is None or not listing.wanted or belief.asked_at > listing.asked_at):
            found = self._found(belief, now)
        if found is None and listing is not None and (belief is None or belief.asked_at <= listing.asked_at):
            found = self._found_in(directory, listing, name, now)
        if found is None or found.attr is None:
            return found
        if self._linked and found.attr.nlink == 1 and self._was_linked(found.attr, found.asked_at):
            return None
        if not stat.S_ISDIR(found.attr.mode):
            return found
        child = directory.subdirs.get(name)
        return found if child is None else self.believed_directory(child, now)

    def _found(self, belief: Belief, now: float) -> Found | None:
        until = self.until(belief.asked_at, belief.generation, belief.leased, now)
        if until <= now:
            return None
        return Found(belief.attr, belief.target, until, belief.asked_at, belief.generation, belief.leased)

    def _found_in(self, directory: Directory, listing: Listing, name: bytes, now: float) -> Found | None:
        leased = listing.leased
        until = self.until(listing.asked_at, listing.generation, leased, now)
        if until <= now:
            return None
        self._use(directory)
        place = listing.find(name)
        if place is None:
            if not listing.wanted:
                return None
            return Found(None, None, until, listing.asked_at, listing.generation, leased)
        page, index = place
        attr = page.attr(index)
        if leased and not lease_covers(attr):
            leased = False
            until = self.until(listing.asked_at, listing.generation, leased, now)
            if until <= now:
                return None
        return Found(attr, page.target(index), until, listing.asked_at, listing.generation, leased)

    def believed_directory(self, directory: Directory, now: float) -> Found | None:
        """The attributes of `directory` itself, if they may be believed."""
        own = directory.own
        return None if own is None or own.asked_at < directory.void_at else self._found(own, now)

    def believed_listing(self, directory: Directory, now: float) -> Listing | None:
        """The complete listing of `directory` that a program asked for, if there is one that may be believed."""
        listing = directory.listing
        if listing is None or not listing.wanted or not self.has_listing(directory, now):
            return None
        self._use(directory)
        return listing

    def has_listing(self, directory: Directory, now: float) -> bool:
        """Whether there is a listing of `directory` that may be believed, whoever it was for."""
        listing = directory.listing
        return listing is not None and self.until(listing.asked_at, listing.generation, listing.leased, now) > now

    def remembered(self, directory: Directory, name: bytes) -> tuple[bool, Attr | None]:
        """What was last known to be at `name`, however old: whether anything was, and its attributes."""
        belief = directory.names.get(name)
        listing = directory.listing
        if belief is not None and (listing is None or not listing.wanted or belief.asked_at > listing.asked_at):
            return True, belief.attr
        if listing is None:
            return False, None
        place = listing.find(name)
        if place is None and not listing.wanted:
            return False, None
        return True, None if place is None else place[0].attr(place[1])

    def note_links(self, attr: Attr, asked_at: float) -> None:
        """A file has several names: nobody says under which it was known with one only, and who watched that name."""
        if attr.nlink > 1 and not stat.S_ISDIR(attr.mode):
            self._linked[attr.dev, attr.ino] = asked_at
            self._linked.move_to_end((attr.dev, attr.ino))
            if len(self._linked) > _MOST_LINKED:
                self._linked.popitem(last=False)

    @property
    def links_remembered(self) -> int:
        """Of how many files it is remembered that they had several names."""
        return len(self._linked)

    def _was_linked(self, attr: Attr, asked_at: float) -> bool:
        """Whether a file that is believed to have one name was seen with several since."""
        return self._linked.get((attr.dev, attr.ino), asked_at) > asked_at

    def learn_own(self, directory: Directory, belief: Belief) -> None:
        """Remember the attributes of `directory` itself, unless something newer is remembered."""
        if directory.own is None or belief.asked_at >= directory.own.asked_at:
            directory.own = belief

    def learn(self, directory: Directory, name: bytes, belief: Belief) -> None:
        """Remember what is at `name`, unless something newer is remembered."""
        attr = belief.attr
        if attr is not None:
            self.note_links(attr, belief.asked_at)
        child = directory.subdirs.get(name)
        if child is not None:
            if attr is None or (attr.dev, attr.ino) != (child.dev, child.ino):
                self._moved(child.id, directory, name)
            else:
                self.learn_own(child, belief)
        old = directory.names.get(name)
        if old is not None and old.asked_at > belief.asked_at:
            return
        directory.names[name] = belief
        if old is None:
            self._charge(directory, _BELIEF_SIZE)

    def learn_listing(self, directory: Directory, listing: Listing) -> None:
        """Remember a complete listing.

        Beliefs about single names stay where they are newer, or hold for longer than a listing that nobody wanted.
        """
        self._drop_listing(directory)
        directory.listing = listing
        for page in listing.pages:
            self.hold(page)
        older = [
            name
            for name, belief in directory.names.items()
            if belief.asked_at <= listing.asked_at and (listing.wanted or not belief.leased)
        ]
        for name in older:
            del directory.names[name]
        self._charge(directory, -_BELIEF_SIZE * len(older))
        self.learn_own(directory, Belief(listing.attr, None, listing.asked_at, listing.generation, False))
        self._use(directory)
        self._make_room(directory)

    def _drop_listing(self, directory: Directory) -> None:
        listing, directory.listing = directory.listing, None
        directory.child_xattrs = None
        if listing is not None:
            for page in listing.pages:
                self.let_go(page)

    def disbelieve(self, directory: Directory) -> None:
        """Drop everything believed about the names in `directory`."""
        self._drop_listing(directory)
        directory.names.clear()
        self._charge(directory, -directory.charged)
        self._recent.pop(directory, None)

    def disbelieve_below(self, directory: Directory) -> None:
        """Drop everything believed about the names in `directory` and in all directories below."""
        for each in self.below(directory):
            self.disbelieve(each)
            each.own = None

    def below(self, directory: Directory) -> Iterator[Directory]:
        """`directory` and all directory nodes below it."""
        waiting = [directory]
        seen = {directory.id}
        while waiting:
            each = waiting.pop()
            yield each
            for child in each.subdirs.values():
                if child.id not in seen:
                    seen.add(child.id)
                    waiting.append(child)

    def drop_patches(self, directory: Directory) -> None:
        """Forget a listing that was patched so often that asking again is cheaper."""
        if directory.listing is not None and len(directory.names) > _MAX_PATCHES:
            self.disbelieve(directory)

    def _charge(self, directory: Directory, delta: int) -> None:
        directory.charged += delta
        self._budget.charge_metadata(delta)
        if delta > 0:
            self._use(directory)
            self._make_room(directory)

    def _use(self, directory: Directory) -> None:
        """`directory` was used now: others are forgotten before it."""
        self._recent.pop(directory, None)
        self._recent[directory] = None

    def _make_room(self, keep: Directory) -> None:
        while self._budget.metadata_room < 0:
            oldest = next(iter(self._recent), None)
            if oldest is None or oldest is keep:
                return
            self.disbelieve(oldest)

    def hold(self, page: Page) -> None:
        """A listing or a place uses `page`; its memory is charged once."""
        page.refs += 1
        if page.refs == 1:
            self._budget.charge_metadata(page.size)

    def let_go(self, page: Page) -> None:
        """The opposite of `hold`."""
        page.refs -= 1
        if page.refs == 0:
            self._budget.charge_metadata(-page.size)

    def statistics(self) -> dict[str, int]:
        """How much is believed."""
        listings = [node.listing for node in self._recent if node.listing is not None]
        return {
            "believed_directories": len(self._recent),
            "believed_listings": len(listings),
            "believed_names": sum(len(node.names) for node in self._recent) + sum(x.count for x in listings),
        }


def lease_covers(attr: Attr) -> bool:
    """Whether watching a directory shows every change of an object in it.

    Not of a subdirectory (its times change with what happens inside) and not of a file with other names elsewhere
    (a write through another name is reported there).
    """
    return not stat.S_ISDIR(attr.mode) and attr.nlink <= 1
