"""Users and groups as an export sees them: maps, squashing, and who may do what by mode bits and POSIX ACLs (sans-IO).

The head says in its `Welcome` how owners of the tree appear on a node. The node's kernel then decides with the mapped
owners; what a kernel never refuses, the squashed root, is decided here.
"""

from __future__ import annotations

import stat
import struct
from bisect import bisect_right
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

from dadafs.wire.messages import Attr, Identities

READ, SEARCH = 4, 1
#: Names of the attributes that hold POSIX ACLs.
ACCESS_ACL, DEFAULT_ACL = b"system.posix_acl_access", b"system.posix_acl_default"
_ACL_VERSION = struct.pack("<I", 2)
_ACL_ENTRY = struct.Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20


class IdMap:
    """Ranges of ids of the tree and the ids that nodes see instead; others stay what they are."""

    def __init__(self, ranges: Sequence[tuple[int, int, int]]) -> None:
        self._ranges = sorted(ranges)
        self._firsts = [first for first, _, _ in self._ranges]

    def __bool__(self) -> bool:
        return bool(self._ranges)

    def __call__(self, number: int) -> int:
        """The id on a node of `number` in the tree."""
        place = bisect_right(self._firsts, number) - 1
        if place < 0:
            return number
        first, last, target = self._ranges[place]
        return target + number - first if number <= last else number


class Mapping:
    """How one export's owners, modes and ACLs appear on a node."""

    def __init__(self, identities: Identities) -> None:
        self.uid = IdMap(identities.uids)
        self.gid = IdMap(identities.gids)
        self.squashes_root = identities.root_squash and not identities.all_squash
        self.squashes_all = identities.all_squash
        self.anonymous = identities.anonuid, identities.anongid

    def owner(self, mode: int, uid: int, gid: int) -> tuple[int, int, int]:
        """Mode, owner and group as a node's kernel is told them.

        Where everybody is the anonymous user, everybody has his rights: all three classes of the mode show them.
        """
        if self.squashes_all:
            rights = rights_by_mode(mode, uid, gid, self.anonymous[0], {self.anonymous[1]})
            mode = mode & ~0o777 | rights << 6 | rights << 3 | rights
        return mode, self.uid(uid), self.gid(gid)

    def acl(self, value: bytes) -> bytes:
        """An ACL attribute with users and groups mapped; one that cannot be understood as it is."""
        if not (self.uid or self.gid):
            return value
        maps: dict[int, Callable[[int], int]] = {_USER: self.uid, _GROUP: self.gid}
        entries = list(acl_entries(value))
        if not entries:
            return value
        packed = [_ACL_ENTRY.pack(e.tag, e.rights, maps[e.tag](e.id) if e.tag in maps else e.id) for e in entries]
        return b"".join([_ACL_VERSION, *packed])


@dataclass(frozen=True, slots=True)
class AclEntry:
    """One line of an ACL: for whom (`id` counts for named users and groups only), and rwx as 4, 2, 1."""

    tag: int
    rights: int
    id: int


def acl_entries(value: bytes) -> Iterator[AclEntry]:
    """The entries of the attribute system.posix_acl_access as the kernel writes it; none where it is no such value."""
    if value[:4] != _ACL_VERSION or (len(value) - 4) % _ACL_ENTRY.size:
        return
    for tag, rights, number in _ACL_ENTRY.iter_unpack(value[4:]):
        yield AclEntry(tag, rights, number)


def rights_by_mode(mode: int, uid: int, gid: int, user: int, groups: Collection[int]) -> int:
    """What `user` in `groups` may do with an object of `uid` and `gid`, by its mode bits: rwx as 4, 2, 1."""
    if user == uid:
        return mode >> 6 & 7
    return (mode >> 3 if gid in groups else mode) & 7


def may(attr: Attr, acl: bytes | None, user: int, groups: Collection[int], want: int) -> bool:
    """Whether `user`, who is not root, has all rights of `want`, by mode bits and ACL as acl(5) says."""
    entries = list(acl_entries(acl or b""))
    if not entries or user == attr.uid or stat.S_ISLNK(attr.mode):
        return rights_by_mode(attr.mode, attr.uid, attr.gid, user, groups) & want == want
    mask = next((entry.rights for entry in entries if entry.tag == _MASK), 7)
    named = [entry.rights for entry in entries if entry.tag == _USER and entry.id == user]
    if named:
        return named[0] & mask & want == want
    of_groups = [
        entry.rights
        for entry in entries
        if (entry.tag == _GROUP_OBJ and attr.gid in groups) or (entry.tag == _GROUP and entry.id in groups)
    ]
    if of_groups:
        return any(rights & mask & want == want for rights in of_groups)
    other = next((entry.rights for entry in entries if entry.tag == _OTHER), 0)
    return other & want == want
