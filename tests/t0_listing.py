"""A packed listing says what the items said, finds every name and nothing else, and costs about 100 bytes a name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dadafs.kernel_cache import Told
from dadafs.listing import PAGE_LIMIT, Listing, ListingBuilder, Page
from dadafs.native import fuse_session
from dadafs.wire.messages import Attr, Item

WORD = st.integers(0, 2**64 - 1)
HALF = st.integers(0, 2**32 - 1)
TIME = st.integers(-(2**62), 2**62)
ATTRS = st.builds(Attr, WORD, WORD, HALF, HALF, HALF, HALF, WORD, TIME, TIME, HALF, TIME, TIME, TIME)
NAMES = st.binary(min_size=1, max_size=255).filter(lambda name: b"/" not in name and b"\0" not in name)
ITEMS = st.lists(
    st.builds(Item, NAMES, ATTRS, st.none() | st.binary(min_size=1)), max_size=60, unique_by=lambda item: item.name
)


def attr(ino: int = 2, **changes: int) -> Attr:
    fields = dict(
        dev=1, ino=ino, mode=0o100644, nlink=1, uid=0, gid=0, rdev=0, size=0, blocks=0, blksize=4096,
        atime_ns=0, mtime_ns=0, ctime_ns=0,
    )  # fmt: skip
    return Attr(**{**fields, **changes})


@given(ITEMS)
def test_a_page_says_what_the_items_said(items: list[Item]) -> None:
    page = Page(items)
    assert page.count == len(items)
    for index, item in enumerate(items):
        assert page.find(item.name) == index
        assert page.name(index) == item.name
        assert page.attr(index) == item.attr
        assert page.target(index) == item.target
        assert Attr(*page.fields(index)) == item.attr


@given(ITEMS, NAMES)
def test_a_page_does_not_find_what_is_not_there(items: list[Item], name: bytes) -> None:
    index = Page(items).find(name)
    assert (index >= 0) == (name in {item.name for item in items})


def test_a_page_has_a_limit() -> None:
    with pytest.raises(ValueError, match="names"):
        Page([Item(b"%d" % number, attr()) for number in range(PAGE_LIMIT + 1)])


def test_a_builder_begins_anew_when_the_snapshot_expired() -> None:
    builder = ListingBuilder()
    builder.take(0, [Item(b"a", attr())])
    builder.take(1, [Item(b"b", attr())])
    builder.take(0, [Item(b"c", attr())])
    listing = Listing(attr(), builder.pages, asked_at=0, generation=1, leased=False)
    assert [page.name(index) for page, index in listing] == [b"c"]
    assert listing.find(b"a") is None


def test_a_listing_finds_names_on_every_page() -> None:
    builder = ListingBuilder()
    for page in range(3):
        builder.take(page, [Item(b"%d-%d" % (page, number), attr(2 + number)) for number in range(100)])
    listing = Listing(attr(), builder.pages, asked_at=0, generation=1, leased=False)
    assert listing.count == 300
    found = listing.find(b"2-99")
    assert found is not None
    assert found[0].attr(found[1]).ino == 101


def test_a_name_costs_about_a_hundred_bytes() -> None:
    items = [Item(b"scan_%06d_data.h5" % number, attr(number)) for number in range(4096)]
    assert Page(items).size / len(items) < 120


needs_packing = pytest.mark.skipif(not hasattr(fuse_session, "entries"), reason="the compiled part was not built")


@needs_packing
@given(ITEMS, st.integers(0, 60), st.integers(0, 20_000))
def test_names_packed_at_once_are_the_same_bytes_as_one_after_the_other(
    items: list[Item], first: int, room: int
) -> None:
    assert fuse_session is not None
    page = Page(items)
    first = min(first, len(items))
    packed, count = fuse_session.entries(*page.packed(), first, len(items), 100, room, 1.5, 0.25)
    one_by_one = []
    left = room
    for index in range(first, len(items)):
        fields = page.fields(index)
        timeout = 0.25 if fields[2] & 0o170000 == 0o040000 or fields[3] > 1 else 1.5
        part = fuse_session.entry(page.name(index), Told(fields[1], fields, timeout), 100 + index - first)
        if len(part) > left:
            break
        left -= len(part)
        one_by_one.append(part)
    assert packed == b"".join(one_by_one)
    assert count == len(one_by_one)


@needs_packing
def test_what_is_not_a_page_is_not_packed() -> None:
    assert fuse_session is not None
    names, starts, records = Page([Item(b"name", attr(), None)]).packed()
    good = (names, starts, records, 0, 1, 3, 4096, 1.0, 1.0)
    assert fuse_session.entries(*good)[1] == 1
    for place, wrong in [
        (0, b"nam"), (1, starts[:1]), (1, type(starts)("I", [4, 0])), (1, type(starts)("I", [0, 2**32 - 1])),
        (2, records[:-1]), (3, -1), (3, 2), (4, 2), (4, 2**62), (6, -1), (6, 2**40),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match="page"):
            fuse_session.entries(*good[:place], wrong, *good[place + 1 :])
    with pytest.raises(ValueError, match="Told"):
        fuse_session.entry(b"x" * 256, Told(5, None, 0.0), 1)
    with pytest.raises(ValueError, match="Told"):
        fuse_session.entry(b"x", (5, (1, 2), 0.0), 1)
