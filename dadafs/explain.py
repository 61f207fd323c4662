"""Extended attributes: those of the tree, and `user.dadafs.*`, which explain a file to whoever wonders about it.

Foreign names are answered here, without the head: `ls -l` asks for one or two on every file. They answer "no such
attribute", never "not implemented", which would switch off all attributes of the mount for good.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable

import trio

from dadafs.identities import ACCESS_ACL, DEFAULT_ACL
from dadafs.listing import Listing
from dadafs.node import ChildXattrs, Directory, Node, Xattrs, state_of
from dadafs.operations import Operations
from dadafs.remote_file import RemoteFile
from dadafs.wire.messages import Attr

_OURS = b"user.dadafs."
#: `ls -l` asks for this on every file of a mount, unless the first one answers "not supported".
_SELINUX = b"security.selinux"
_ACLS = {ACCESS_ACL, DEFAULT_ACL}
#: A file that was written within this many seconds is said to be growing.
_GROWING = 60
#: What an origin without extended attributes answers.
_WITHOUT = {errno.ENOTSUP, errno.ENOSYS}
#: From the how-manyth question about children of one directory on they are asked for together, and for how many
#: questions that is not tried again where there were too many.
_TOGETHER = 3
_MANY = 100_000
_NO_DATA = os.strerror(errno.ENODATA)
_NONE: dict[bytes, bytes] = {}


class Explainer:
    """The attributes of the objects of one mount. `head` and `export` say where they come from."""

    def __init__(self, operations: Operations, *, head: str, export: str) -> None:
        self._operations = operations
        self._head = head
        self._fetching = trio.Lock()
        self._export = export
        self._explained: dict[bytes, Callable[[Attr, RemoteFile | None], str]] = {
            b"version": _version,
            b"tiers": self._tiers,
            b"growing": _growing,
            b"epoch": lambda attr, file: str(0 if file is None else file.epoch),
            b"export": lambda attr, file: self._export,
            b"head": lambda attr, file: self._head,
        }

    async def getxattr(self, node_id: int, name: bytes) -> bytes:
        """One attribute. Raises OSError(ENODATA) where there is none."""
        if name.startswith(_OURS):
            return await self._explain(node_id, name.removeprefix(_OURS))
        if name.startswith(b"user.") or name in _ACLS:
            value = await self.origin_value(node_id, name)
            if value is not None:
                return self._mapped(name, value)
        raise OSError(errno.ENODATA, _NO_DATA)

    async def origin_value(self, node_id: int, name: bytes) -> bytes | None:
        """An attribute as it is in the tree, users and groups in its numbers; None where there is none."""
        return (await self._values(node_id)).get(name)

    def _mapped(self, name: bytes, value: bytes) -> bytes:
        mapping = self._operations.session.mapping
        return value if mapping is None or name not in _ACLS else mapping.acl(value)

    def getxattr_known(self, node_id: int, name: bytes) -> bytes | None:
        """`getxattr`, where nothing has to be asked; None where it has. Raises OSError(ENODATA)."""
        if name.startswith(_OURS):
            return None
        if name == _SELINUX:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        if not (name.startswith(b"user.") or name in _ACLS):
            raise OSError(errno.ENODATA, _NO_DATA)
        place = self._operations.tree.place_of(node_id)
        siblings = None if place is None else self._siblings(*place)
        if place is not None and siblings is not None:
            values: dict[bytes, bytes] | None = siblings.values.get(place[1], _NONE)
        else:
            values = self._own_known(node_id)
        if values is None:
            return None
        value = values.get(name)
        if value is None:
            raise OSError(errno.ENODATA, _NO_DATA)
        return self._mapped(name, value)

    async def listxattr(self, node_id: int) -> list[bytes]:
        """The names of the tree's attributes; ours are not listed, or every copy would carry them along."""
        return sorted(await self._values(node_id))

    async def _explain(self, node_id: int, what: bytes) -> bytes:
        explain = self._explained.get(what)
        if explain is None:
            raise OSError(errno.ENODATA, _NO_DATA)
        attr = await self._operations.attributes_of(node_id)
        return explain(attr, self._operations.files.find((attr.dev, attr.ino))).encode()

    async def _values(self, node_id: int) -> dict[bytes, bytes]:
        """All attributes of the tree: those remembered hold while the change time stays the same."""
        operations = self._operations
        attr = await operations.attributes_of(node_id)
        if not (stat.S_ISREG(attr.mode) or stat.S_ISDIR(attr.mode)):
            return _NONE
        place = operations.tree.place_of(node_id)
        if place is not None:
            values = await self._among_siblings(*place)
            if values is not None:
                return values
        node = operations.tree.node(node_id)
        known = node.xattrs
        if known is not None and known.state == state_of(attr):
            return known.values
        return await self._fetch(node, attr)

    def _own_known(self, node_id: int) -> dict[bytes, bytes] | None:
        """The attributes of one object, where they were asked for in the state that it is believed to be in."""
        node = self._operations.tree.find(node_id)
        if node is None or node.xattrs is None:
            return None
        attr = self._operations.believed_attr(node_id)
        return node.xattrs.values if attr is not None and node.xattrs.state == state_of(attr) else None

    async def _among_siblings(self, directory: Directory, name: bytes) -> dict[bytes, bytes] | None:
        """The attributes of a child of a listed directory, asked for together with its siblings' from the third on."""
        known = self._siblings(directory, name)
        if known is None:
            listing = self._operations.beliefs.believed_listing(directory, self._operations.session.now())
            if listing is None:
                return None
            directory.xattrs_asked += 1
            if directory.xattrs_asked < _TOGETHER or _fetched(directory, listing):
                return None
            await self._fetch_children(directory, listing)
            known = self._siblings(directory, name)
        return None if known is None else known.values.get(name, _NONE)

    def _siblings(self, directory: Directory, name: bytes) -> ChildXattrs | None:
        """The attributes of the children of `directory`, if what is known holds for `name`."""
        known = directory.child_xattrs
        if known is None:
            return None
        listing = self._operations.beliefs.believed_listing(directory, self._operations.session.now())
        if listing is not known.listing:
            return None
        changed = directory.names.get(name)
        return None if changed is not None and changed.asked_at > known.asked_at else known

    async def _fetch_children(self, directory: Directory, listing: Listing) -> None:
        """Ask for the attributes of everything in a directory, once for all that wait."""
        async with self._fetching:
            if _fetched(directory, listing):
                return
            asked_at = self._operations.session.now()
            try:
                values = await self._operations.session.child_xattrs(self._operations.tree.path(directory))
            except OSError as problem:
                if problem.errno != errno.E2BIG:
                    raise
                directory.xattrs_asked = -_MANY
                return
            directory.child_xattrs = ChildXattrs(listing, values, asked_at)

    async def _fetch(self, node: Node, attr: Attr) -> dict[bytes, bytes]:
        operations = self._operations
        try:
            values = await operations.session.xattrs(operations.tree.path_of(node.id))
        except OSError as problem:
            if problem.errno not in _WITHOUT:
                raise
            values = _NONE
        node.xattrs = Xattrs(values or _NONE, state_of(attr))
        return values

    def _tiers(self, attr: Attr, file: RemoteFile | None) -> str:
        cached = self._operations.files.cache.find((attr.dev, attr.ino))  # also of a file closed long ago
        held = cached.readable if cached is not None and cached.version == attr.version else 0
        return f"node-ram={held}/{attr.size}"


def _fetched(directory: Directory, listing: Listing) -> bool:
    """Whether the attributes of what is in `listing` were asked for."""
    return directory.child_xattrs is not None and directory.child_xattrs.listing is listing


def _version(attr: Attr, file: RemoteFile | None) -> str:
    """The version token: device:inode:size:mtime_ns:ctime_ns."""
    return f"{attr.dev}:{attr.ino}:{attr.size}:{attr.mtime_ns}:{attr.ctime_ns}"


def _growing(attr: Attr, file: RemoteFile | None) -> str:
    age = time.time() - attr.mtime_ns / 1e9
    return "yes" if age < _GROWING else "no"
