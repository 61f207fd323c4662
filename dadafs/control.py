"""What a mount answers on its socket beside its statistics: who reads, what is cached, settings, log lines.

Statistics are for all. Names of files that others read are told to those others, to root and to the owner of the mount;
only these two may change a setting.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

import trio

from dadafs.activity import Activity
from dadafs.errors import ExitCode, UserError
from dadafs.settings import Settings

log = logging.getLogger(__name__)
Request = dict[str, Any]
#: Reads that are told at a time.
MOST_READS = 1000


class Control:
    """The commands of one mount; `apply` has a function for each setting that may change.

    `held` tells how much of what is below a path is cached. Settings fall back by themselves in tasks of `nursery`.
    """

    def __init__(
        self,
        activity: Activity,
        settings: Settings,
        log_lines: Callable[[], bytes],
        apply: dict[str, Callable[[Any], object]],
        held: Callable[[bytes], dict[str, Any]],
        nursery: trio.Nursery,
    ) -> None:
        self._held = held
        self._nursery = nursery
        self._timers: dict[str, trio.CancelScope] = {}
        self._activity = activity
        self._settings = settings
        self._log_lines = log_lines
        self._apply = apply
        self._commands: dict[str, Callable[[Request, int], dict[str, Any]]] = {
            "activity": self.activity,
            "cached": self.cached,
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

    def cached(self, request: Request, user: int) -> dict[str, Any]:
        """How much of the files at or below `path` is in memory here; whoever may read a file can ask it itself."""
        _owner_only(user)
        return self._held(os.fsencode(str(request.get("path", ""))).strip(b"/"))

    def get(self, request: Request, user: int) -> dict[str, Any]:
        """The setting `name`, or all."""
        name = request.get("name")
        if name is not None:
            name = self._settings.schema.find(str(name), "get").name
        rows = [
            {
                "name": row.name,
                "value": row.value,
                "source": row.source,
                "live": row.name in self._apply,
                "left": self._left(row.name),
            }
            for row in self._settings.explain()
        ]
        return {"settings": [row for row in rows if name in (None, row["name"])]}

    def set(self, request: Request, user: int) -> dict[str, Any]:
        """Change `name` to `value`; with `seconds`, for so long."""
        _owner_only(user)
        seconds = None if request.get("seconds") is None else float(request["seconds"])
        if seconds is not None and not seconds > 0:
            raise UserError("How long must be more than 0 seconds.", ExitCode.USAGE)
        name = self._settings.schema.find(str(request.get("name")), "set").name
        self._apply_value(name, self._settings.change(name, request.get("value")))
        self._stop_timer(name)
        if seconds is not None:
            scope = self._timers[name] = trio.CancelScope(deadline=trio.current_time() + seconds)
            self._nursery.start_soon(self._fall_back, name, scope)
        log.info("%s is now %s%s", name, request.get("value"), f" for {seconds:g} s" if seconds else "")
        return {"setting": self.get({"name": name}, user)["settings"][0]}

    def reset(self, request: Request, user: int) -> dict[str, Any]:
        """Back to what the mount was started with."""
        _owner_only(user)
        name = self._settings.schema.find(str(request.get("name")), "reset").name
        self._stop_timer(name)
        if name in self._apply:
            self._apply_value(name, self._settings.reset(name))
        return {"setting": self.get({"name": name}, user)["settings"][0]}

    def _left(self, name: str) -> float | None:
        """For how many seconds a setting is yet what it was set to; None where it does not fall back."""
        timer = self._timers.get(name)
        return None if timer is None else max(timer.deadline - trio.current_time(), 0.0)

    def _stop_timer(self, name: str) -> None:
        timer = self._timers.pop(name, None)
        if timer is not None:
            timer.cancel()

    async def _fall_back(self, name: str, scope: trio.CancelScope) -> None:
        """Reset `name` at the deadline of `scope`, unless it was set or reset before."""
        with scope:
            await trio.sleep_forever()
        if self._timers.get(name) is scope:
            del self._timers[name]
            self._apply_value(name, self._settings.reset(name))
            log.info("%s is what it was again", name)

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
