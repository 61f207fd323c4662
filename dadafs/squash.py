"""Root as the anonymous user: what the kernel lets root do in any case is checked here, as `root_squash` wants it."""

from __future__ import annotations

import errno
import os

from dadafs.explain import Explainer
from dadafs.identities import ACCESS_ACL, SEARCH, Mapping, may
from dadafs.operations import Operations


class Squash:
    """Decides for root, by the attributes and ACLs of an object and of all directories above it."""

    def __init__(self, operations: Operations, explainer: Explainer) -> None:
        self._operations = operations
        self._explainer = explainer

    def concerns(self, user: int, thread: int) -> bool:
        """Whether a call of this user's thread has to be checked; those of this very process are not."""
        mapping = self._operations.session.mapping
        if mapping is None or user != 0 or not mapping.squashes_root:
            return False
        return not os.path.exists(f"/proc/self/task/{thread}")

    async def check(self, node_id: int, want: int) -> None:
        """Raise OSError(EACCES) unless the anonymous user has the rights `want` on the object and may reach it."""
        tree, mapping = self._operations.tree, self._operations.session.mapping
        if mapping is None:
            return
        await self._check_one(mapping, node_id, want)
        while (place := tree.place_of(node_id)) is not None:
            node_id = place[0].id
            await self._check_one(mapping, node_id, SEARCH)

    async def _check_one(self, mapping: Mapping, node_id: int, want: int) -> None:
        attr = await self._operations.attributes_of(node_id)
        user, group = mapping.anonymous
        acl = None
        if self._operations.session.welcome.acls:
            acl = await self._explainer.origin_value(node_id, ACCESS_ACL)
        if not may(attr, acl, user, {group}, want):
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
