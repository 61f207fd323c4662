"""Small decisions of the head: slots, admission, settled versions, recent fragments, polled leases."""

from __future__ import annotations

import pytest

from dadafs.wire.messages import Attr
from dadafsd.policy.admission import Admission, Take
from dadafsd.policy.poll_book import PollBook
from dadafsd.policy.recent import Recent
from dadafsd.policy.settle import NANOSECONDS, ForeignClock, LocalClock
from dadafsd.policy.slots import Slots

NOW = 1_700_000_000 * NANOSECONDS
MS = 1_000_000


# --- slots ------------------------------------------------------------------------------------------------------


def test_demand_goes_first_and_prefetch_never_takes_more_than_its_share() -> None:
    slots: Slots[str] = Slots(4, 2)
    for number in range(4):
        slots.submit(f"prefetch{number}", prefetch=True)
    slots.submit("demand", prefetch=False)
    assert slots.next() == ("demand", False)
    assert slots.next() == ("prefetch0", True)
    assert slots.next() == ("prefetch1", True)
    assert slots.next() is None, "one slot is free, but not for prefetch"
    slots.submit("demand2", prefetch=False)
    assert slots.next() == ("demand2", False)
    slots.submit("demand3", prefetch=False)
    assert slots.next() is None
    slots.finished(prefetch=True)
    assert slots.next() == ("demand3", False)
    assert slots.waiting == 2


def test_giving_up_before_and_after_a_slot() -> None:
    slots: Slots[str] = Slots(1, 1)
    slots.submit("one", prefetch=False)
    slots.submit("two", prefetch=True)
    assert slots.next() == ("one", False)
    assert not slots.withdraw("one")
    assert slots.withdraw("two")
    slots.finished(prefetch=False)
    assert slots.next() is None
    assert slots.busy == 0


# --- admission --------------------------------------------------------------------------------------------------


def test_small_reads_take_their_blocks_until_the_fragment_proves_wanted() -> None:
    admission = Admission(touches=3)
    decide = [admission.decide("key", 1, 16, prefetch=False) for _ in range(4)]
    assert decide == [Take.PART, Take.PART, Take.PART_THEN_FILL, Take.PART]
    assert admission.decide("key", 4, 16, prefetch=False) is Take.WHOLE
    assert admission.decide("key", 1, 16, prefetch=True) is Take.WHOLE
    assert admission.decide("key", 1, 4, prefetch=False) is Take.WHOLE


def test_admission_remembers_a_bounded_number() -> None:
    admission = Admission(touches=2, remembered=10)
    for number in range(20):
        admission.decide(number, 1, 16, prefetch=False)
    assert admission.decide(0, 1, 16, prefetch=False) is Take.PART
    assert admission.decide(19, 1, 16, prefetch=False) is Take.PART_THEN_FILL


# --- settled ----------------------------------------------------------------------------------------------------


def test_a_local_version_is_proven_after_the_margin() -> None:
    clock = LocalClock(20 * MS)
    assert not clock.settled(NOW, NOW, NOW + 19 * MS)
    assert clock.settled(NOW, NOW, NOW + 20 * MS)
    assert not clock.settled(NOW - NANOSECONDS, NOW, NOW + MS), "its times were set, but the change time tells"
    assert clock.settled(NOW + 10**12 * MS, NOW - NANOSECONDS, NOW), "a time in the future was set by hand"
    assert not clock.settled(NOW, NOW + NANOSECONDS, NOW), "our clock went back"


def test_a_server_whose_clock_is_behind_does_not_fool_us() -> None:
    clock = ForeignClock(2 * NANOSECONDS, 60 * NANOSECONDS)
    behind = 10 * NANOSECONDS
    written = NOW - behind  # written just now, by the server's clock
    assert not clock.settled(written, written, NOW)
    assert not clock.settled(written, written, NOW + NANOSECONDS)
    assert clock.settled(written, written, NOW + 3 * NANOSECONDS)
    assert clock.settled(NOW - 100 * NANOSECONDS, NOW - 100 * NANOSECONDS, NOW), "older than any skew"


def test_a_server_whose_clock_is_ahead_only_costs_time() -> None:
    clock = ForeignClock(2 * NANOSECONDS, 60 * NANOSECONDS)
    written = NOW + 5 * NANOSECONDS
    assert not clock.settled(written, written, NOW)
    assert not clock.settled(written, written, NOW + 6 * NANOSECONDS)
    assert clock.settled(written, written, NOW + 8 * NANOSECONDS)


# --- recent -----------------------------------------------------------------------------------------------------


def test_recent_keeps_within_bytes_and_forgets_the_least_recent() -> None:
    recent: Recent[str] = Recent(100)
    for name in "abcd":
        recent.put(name, name, 25)
    assert recent.get("a", 0.0) == "a"
    recent.put("e", "e", 25)
    assert recent.get("b", 0.0) is None
    assert recent.get("a", 0.0) == "a"
    recent.put("huge", "huge", 26)
    assert recent.get("huge", 0.0) is None
    assert recent.weight == 100
    recent.limit = 50
    recent.shrink()
    assert recent.weight == 50
    assert len(recent) == 2


def test_recent_forgets_what_expires_and_replaces_in_place() -> None:
    recent: Recent[str] = Recent(100)
    recent.put("a", "old", 20, expires=5.0)
    assert recent.get("a", 4.9) == "old"
    assert recent.get("a", 5.0) is None
    assert recent.weight == 0
    recent.put("a", "one", 20)
    recent.put("a", "two", 10)
    assert recent.weight == 10
    assert recent.get("a", 1e9) == "two"
    recent.discard_where(lambda key: key == "a")
    assert recent.weight == 0


# --- polled leases ----------------------------------------------------------------------------------------------


def attr(size: int, atime: int = 0) -> Attr:
    return Attr(1, 2, 0o100644, 1, 0, 0, 0, size, 0, 4096, atime, 5, 5)


def test_everybody_but_the_one_who_found_out_is_told() -> None:
    book: PollBook[str] = PollBook(10)
    book.lease("one", b"file")
    book.lease("two", b"file")
    assert book.saw(b"file", attr(1), by="one") == [], "nobody was told anything before"
    assert book.saw(b"file", attr(1, atime=9)) == [], "reading is no change"
    assert book.saw(b"file", attr(2), by="one") == ["two"]
    assert book.saw(b"file", attr(3)) == ["one", "two"]
    assert book.saw(b"file", None) == ["one", "two"]
    assert book.saw(b"file", None) == []


def test_what_is_beyond_the_capacity_is_given_back_oldest_first() -> None:
    book: PollBook[str] = PollBook(2)
    assert book.lease("node", b"a") == []
    assert book.lease("node", b"b") == []
    assert book.lease("node", b"a") == []
    assert book.lease("node", b"c") == [(b"b", ["node"])]
    assert not book.held("node", b"b")
    book.capacity = 1
    assert book.make_room() == [(b"a", ["node"])]


@pytest.mark.parametrize(("given", "left"), [(b"d", [b"dd"]), (b"d/x", [b"d", b"dd"]), (b"", [])])
def test_giving_back_takes_what_is_below(given: bytes, left: list[bytes]) -> None:
    book: PollBook[str] = PollBook(10)
    for path in (b"d", b"d/x", b"dd"):
        book.lease("node", path)
    book.give_back("node", given)
    assert book.paths() == left
