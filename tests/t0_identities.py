"""Users and groups on their way from a tree to a node: maps, the anonymous user, and ACLs as acl(5) says."""

from __future__ import annotations

import stat
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dadafs.errors import UserError
from dadafs.identities import IdMap, Mapping, may
from dadafs.settings import Settings
from dadafs.wire.messages import Attr, Identities
from dadafsd.config import SCHEMA, export_options
from dadafsd.policy.id_maps import parse_map

OWNER, MEMBER, NAMED, STRANGER = 1000, 1001, 1002, 1003
GROUP, OTHER_GROUP = 100, 200


def attr(mode: int) -> Attr:
    return Attr(1, 2, stat.S_IFREG | mode, 1, OWNER, GROUP, 0, 0, 0, 4096, 0, 0, 0)


def acl(*entries: tuple[int, int, int]) -> bytes:
    """(tag, rights, id) as the kernel writes them."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


# --- maps ---------------------------------------------------------------------------------------------------------


def test_ranges_move_together_and_others_stay() -> None:
    users = IdMap(parse_map(["1000=5000", " 2000-2999 = 7000 "]))
    assert [users(one) for one in (0, 999, 1000, 1001, 2000, 2999, 3000)] == [0, 999, 5000, 1001, 7000, 7999, 3000]
    assert not IdMap([])
    assert IdMap([])(7) == 7


@pytest.mark.parametrize(
    "text", ["", "1000", "1000=", "=5", "a=b", "5-3=1", "1=2=3", "-1=5", "4294967295=1", "0-4294967290=9", "\u0661=2"]
)
def test_nonsense_is_no_map(text: str) -> None:
    with pytest.raises(ValueError, match=r"no entry|no range"):
        parse_map([text])


def test_nothing_is_mapped_twice() -> None:
    with pytest.raises(ValueError, match="1500 is mapped twice"):
        parse_map(["1000-1999=5000", "1500=1"])


def test_a_wrong_map_is_a_sentence() -> None:
    table = Settings(SCHEMA.tables["export"], "export")
    table.put("name", "data", "test")
    table.put("uid_map", "me=you", "test")
    with pytest.raises(UserError, match="A map of export data is wrong: 'me=you' is no entry"):
        export_options(table)


def test_named_entries_of_an_acl_are_mapped_and_nothing_else() -> None:
    mapping = Mapping(Identities(uids=[(NAMED, NAMED, 5)], gids=[(OTHER_GROUP, OTHER_GROUP, 6)]))
    before = acl((1, 6, 2**32 - 1), (2, 4, NAMED), (4, 4, 2**32 - 1), (8, 4, OTHER_GROUP), (16, 4, 0), (32, 0, 0))
    after = acl((1, 6, 2**32 - 1), (2, 4, 5), (4, 4, 2**32 - 1), (8, 4, 6), (16, 4, 0), (32, 0, 0))
    assert mapping.acl(before) == after
    for odd in (b"", b"\2\0\0\0", b"\1\0\0\0" + before[4:], before[:-1]):
        assert mapping.acl(odd) == odd


def test_where_everybody_is_one_user_the_mode_says_what_he_may_do() -> None:
    def mode(of: int, user: int, group: int) -> int:
        mapping = Mapping(Identities(all_squash=True, anonuid=user, anongid=group))
        return mapping.owner(stat.S_IFREG | of, OWNER, GROUP)[0]

    assert mode(0o640, OWNER, OTHER_GROUP) == stat.S_IFREG | 0o666
    assert mode(0o640, STRANGER, GROUP) == stat.S_IFREG | 0o444
    assert mode(0o640, STRANGER, OTHER_GROUP) == stat.S_IFREG
    assert mode(0o4755, STRANGER, OTHER_GROUP) == stat.S_IFREG | 0o4555


# --- who may ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "groups", "allowed"),
    [(OWNER, {GROUP}, 6), (OWNER, set(), 6), (MEMBER, {GROUP}, 4), (STRANGER, {OTHER_GROUP}, 0)],
)
def test_mode_bits(user: int, groups: set[int], allowed: int) -> None:
    assert [want for want in (1, 2, 4, 6, 7) if may(attr(0o640), None, user, groups, want)] == [
        want for want in (1, 2, 4, 6, 7) if allowed & want == want
    ]


FULL = acl((1, 7, 0), (2, 6, NAMED), (4, 4, 0), (8, 5, OTHER_GROUP), (16, 5, 0), (32, 1, 0))


@pytest.mark.parametrize(
    ("user", "groups", "allowed"),
    [
        (OWNER, set(), 7),  # the mask does not concern the owner
        (NAMED, {GROUP}, 4),  # rw, and the mask takes w
        (MEMBER, {GROUP}, 4),
        (MEMBER, {OTHER_GROUP}, 5),
        (MEMBER, {GROUP, OTHER_GROUP}, 5),
        (STRANGER, {STRANGER}, 1),
    ],
)
def test_acls(user: int, groups: set[int], allowed: int) -> None:
    for want in range(8):
        assert may(attr(0o751), FULL, user, groups, want) == (allowed & want == want)


def test_a_named_user_without_rights_gets_none_where_others_have_them() -> None:
    shut = acl((1, 6, 0), (2, 0, NAMED), (4, 4, 0), (16, 4, 0), (32, 4, 0))
    assert not may(attr(0o644), shut, NAMED, {GROUP}, 4)
    assert may(attr(0o644), shut, STRANGER, set(), 4)


@given(st.binary(max_size=60), st.integers(0, 0o777))
def test_whatever_an_acl_says_it_is_read(value: bytes, mode: int) -> None:
    assert may(attr(mode), value, STRANGER, {OTHER_GROUP}, 4) in (True, False)
    Mapping(Identities(uids=[(0, 9, 9)])).acl(b"\2\0\0\0" + value)
