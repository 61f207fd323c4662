"""What a mount answers on its socket beside its statistics: who reads, settings, log lines.

Statistics are for all. Names of files that others read are told to those others, to root and to the owner of the mount;
only these two may change a setting.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from dadafs.activity import Activity
from dadafs.errors import ExitCode, UserError
from dadafs.settings import Settings

log = logging.getLogger(__name__)
Request = dict[str, Any]
#: Reads that are told at a time.
MOST_READS = 1000


class Control:
    """The commands of one mount; `apply` has a function for each setting that may change."""

    def __init__(
        self,
        activity: Activity,
        settings: Settings,
        log_lines: Callable[[], bytes],
        apply: dict[str, Callable[[Any], object]],
    ) -> None:
        self._activity = activity
        self._settings = settings
        self._log_lines = log_lines
        self._apply = apply
        self._commands: dict[str, Callable[[Request, int], dict[str, Any]]] = {
            "activity": self.activity,
            "get": self.get,
            "set": self.set,
            "reset": self.reset,
            "log": self.log,
        }

    def answer(self, request: Request, user: int) -> dict[str, Any]:
        """The reply to a request of `user`. Raises UserError."""
        command = self._commands.get(str(request.get("command")))
        if command is None:
            raise UserError("unknown command")
        return command(request, user)

    def activity(self, request: Request, user: int) -> dict[str, Any]:
        """All processes, and the latest reads that had to wait: below `path`, `limit` of them."""
        path = request.get("path")
        below = os.fsencode(str(path)).strip(b"/") if path is not None else None
        limit = min(int(request.get("limit", 100)), MOST_READS)
        reads = self._activity.reads(below, None if _may_all(user) else user, limit)
        return {"processes": self._activity.processes(), "reads": reads}

    def get(self, request: Request, user: int) -> dict[str, Any]:
        """The setting `name`, or all."""
        name = request.get("name")
        if name is not None:
            name = self._settings.schema.find(str(name), "get").name
        rows = [
            {"name": row.name, "value": row.value, "source": row.source, "live": row.name in self._apply}
            for row in self._settings.explain()
        ]
        return {"settings": [row for row in rows if name in (None, row["name"])]}

    def set(self, request: Request, user: int) -> dict[str, Any]:
        """Change `name` to `value`."""
        _owner_only(user)
        name = self._settings.schema.find(str(request.get("name")), "set").name
        self._apply_value(name, self._settings.change(name, request.get("value")))
        log.info("%s is now %s", name, request.get("value"))
        return {"setting": self.get({"name": name}, user)["settings"][0]}

    def reset(self, request: Request, user: int) -> dict[str, Any]:
        """Back to what the mount was started with."""
        _owner_only(user)
        name = self._settings.schema.find(str(request.get("name")), "reset").name
        if name in self._apply:
            self._apply_value(name, self._settings.reset(name))
        return {"setting": self.get({"name": name}, user)["settings"][0]}

    def log(self, request: Request, user: int) -> dict[str, Any]:
        """The latest log lines, which everybody can read in `.dadafs/log`."""
        return {"lines": self._log_lines().decode(errors="replace").splitlines()}

    def _apply_value(self, name: str, value: object) -> None:
        self._apply[name](value)


def _may_all(user: int) -> bool:
    return user in (0, os.geteuid())


def _owner_only(user: int) -> None:
    if not _may_all(user):
        raise UserError("Only root and the owner of a mount may do this; try sudo.", ExitCode.REFUSED)
