"""The book of leases: which claims hold, who is told of what, as pure decisions."""

from __future__ import annotations

import pytest

from dadafsd.policy.lease_book import MANY_NAMES, LeaseBook, Watched

NODE, OTHER = "node", "other"


def book_with(*paths: bytes) -> LeaseBook[str]:
    """A book in which these are watched, parents first."""
    book: LeaseBook[str] = LeaseBook()
    for number, path in enumerate((b"", *paths)):
        assert book.watch(path, number, book.clock)
    return book


def node_of(book: LeaseBook[str], path: bytes) -> Watched[str]:
    node = book.find(path)
    assert node is not None
    return node


def test_what_is_missing_from_the_top_down() -> None:
    book: LeaseBook[str] = LeaseBook()
    assert book.missing(b"a/b/c", own=False) == [b"", b"a", b"a/b"]
    assert book.missing(b"a/b/c", own=True) == [b"", b"a", b"a/b", b"a/b/c"]
    assert book.missing(b"", own=False) == [b""]
    book = book_with(b"a")
    assert book.missing(b"a/b/c", own=False) == [b"a/b"]
    assert book.missing(b"a/b", own=False) == []


def test_a_claim_holds_until_its_name_sees_an_event() -> None:
    book = book_with(b"a")
    claim = book.claim(NODE, b"a/file")
    other = book.claim(NODE, b"a/other")
    book.changed(node_of(book, b"a"), b"file")
    assert not book.holds(claim)
    assert book.holds(other)
    assert book.take_dirty() == [(b"a/file", False)]
    assert book.holders(b"a/file") == [NODE]
    assert book.holds(book.claim(NODE, b"a/file"))


@pytest.mark.parametrize("name", [b"a", b"file"])
def test_a_renamed_directory_above_ends_a_claim(name: bytes) -> None:
    book = book_with(b"a", b"a/b")
    claim = book.claim(NODE, b"a/b/file")
    book.entry(node_of(book, b""), name, directory=True)
    assert book.holds(claim) == (name != b"a")


def test_a_renamed_directory_takes_the_watches_below_with_it() -> None:
    book = book_with(b"a", b"a/b", b"a/c")
    book.claim(NODE, b"a/b/file")
    book.entry(node_of(book, b""), b"a", directory=True)
    assert book.find(b"a/b") is None
    assert {node.path for node in book.take_dropped()} == {b"a", b"a/b", b"a/c"}
    assert dict(book.take_dirty())[b"a"] is True
    assert len(book) == 1


def test_a_watch_placed_by_name_is_refused_when_the_name_moved_meanwhile() -> None:
    book = book_with()
    book.claim(NODE, b"a/file")
    start = book.clock
    book.entry(node_of(book, b""), b"a", directory=True)
    assert not book.watch(b"a", 1, start)
    assert book.watch(b"a", 1, book.clock)


def test_doubtful_events_end_claims_on_what_was_just_watched() -> None:
    book = book_with(b"a")
    claim = book.claim(NODE, b"a", own=True)
    book.doubt(b"a")
    assert not book.holds(claim)


def test_nothing_there_is_covered_by_the_directory_above_it() -> None:
    book = book_with()
    claim = book.claim(NODE, b"no/such/path")
    assert book.holds(claim)
    book.entry(node_of(book, b""), b"no", directory=True)
    assert not book.holds(claim)
    assert dict(book.take_dirty())[b"no"] is True


def test_a_directory_is_covered_by_a_watch_on_itself_only() -> None:
    book = book_with()
    assert not book.holds(book.claim(NODE, b"a", own=True))
    book = book_with(b"a")
    claim = book.claim(NODE, b"a", own=True)
    assert book.holds(claim)
    book.entry(node_of(book, b"a"), b"new", directory=False)
    assert not book.holds(claim)
    assert (b"a", False) in book.take_dirty()


def test_a_listing_ends_with_any_event_in_it_or_in_what_is_watched_below() -> None:
    book = book_with(b"a", b"a/sub")
    claim = book.claim(NODE, b"a", own=True, whole=True)
    assert book.holds(claim)
    book.own(node_of(book, b"a/sub"))
    assert not book.holds(claim)
    claim = book.claim(NODE, b"a", own=True, whole=True)
    book.changed(node_of(book, b"a"), b"anything")
    assert not book.holds(claim)
    assert book.holders(b"a/whatever") == [NODE]


def test_a_watch_lost_above_ends_claims_begun_before() -> None:
    book = book_with(b"a", b"a/b")
    claim = book.claim(NODE, b"a/b/file")
    assert book.lose(b"a/b") == [NODE]
    assert not book.holds(claim)
    assert book.missing(b"a/b/file", own=False) == [b"a/b"]


def test_overflow_ends_everything() -> None:
    book = book_with(b"a")
    claim = book.claim(NODE, b"a/file")
    book.claim(OTHER, b"a/file")
    assert set(book.overflow()) == {NODE, OTHER}
    assert not book.holds(claim)
    book.changed(node_of(book, b"a"), b"file")
    assert book.take_dirty() == []
    assert book.holds(book.claim(NODE, b"a/file"))


def test_given_back_means_not_told() -> None:
    book = book_with(b"a", b"a/b")
    book.claim(NODE, b"a/b/file")
    book.claim(OTHER, b"a/b/file")
    book.give_back(NODE, b"a/b/file")
    assert book.holders(b"a/b/file") == [OTHER]
    book.give_back(OTHER, b"a")
    book.changed(node_of(book, b"a/b"), b"file")
    assert book.take_dirty() == []


def test_a_claim_does_not_hold_for_one_who_gave_it_back() -> None:
    book = book_with(b"a")
    claim = book.claim(NODE, b"a/file")
    book.forget(NODE)
    assert not book.holds(claim)


def test_many_names_of_one_directory_become_all_of_it() -> None:
    book = book_with(b"a")
    for number in range(MANY_NAMES + 1):
        book.claim(NODE, b"a/%d" % number)
    assert node_of(book, b"a").names[NODE] is None
    assert book.holders(b"a/unheard-of") == [NODE]


def test_the_oldest_watch_that_nothing_needs() -> None:
    book = book_with(b"a", b"b", b"a/x")
    book.claim(NODE, b"b/file")
    book.claim(NODE, b"a/x/file")
    oldest = book.oldest()
    assert oldest is not None
    assert oldest.path == b"b"
    book.lose(b"b")
    oldest = book.oldest()
    assert oldest is not None
    assert oldest.path == b"a/x"


def test_events_beyond_memory_end_old_claims_but_not_new_ones() -> None:
    book = book_with(b"a")
    claim = book.claim(NODE, b"a/file")
    node = node_of(book, b"a")
    for number in range(5000):
        book.changed(node, b"%d" % number)
    assert not book.holds(claim)
    assert len(node.last) < 5000
    assert book.holds(book.claim(NODE, b"a/file"))
