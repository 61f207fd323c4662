"""What the commands on the admin socket do; docs/admin-socket.md describes them to their users."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from dadafs import __version__
from dadafs.errors import UserError
from dadafs.stack_dump import dump_tasks, dump_threads
from dadafs.wire.paths import BadPath, check
from dadafsd import origin_mount
from dadafsd.comparing import Comparer
from dadafsd.exported import Exported
from dadafsd.jobs import Job, Jobs
from dadafsd.live import LiveSettings
from dadafsd.sessions import Session
from dadafsd.store_access import StoreAccess
from dadafsd.tier_counts import tier_rows
from dadafsd.warming import Warmer, files_below

if TYPE_CHECKING:
    from dadafsd.head import Head

Request = dict[str, Any]
Reply = dict[str, Any]
DEFAULT_PIN = 7 * 86400.0
#: Names of files that are told of each session: those opened last.
LATEST = 5
#: How long `evict` waits for a store that is still looking through its tiers, in seconds.
SCAN_PATIENCE = 20.0


class Admin:
    """Commands on one head."""

    def __init__(self, head: Head, jobs: Jobs, live: LiveSettings) -> None:
        self._head = head
        self._jobs = jobs
        self._live = live
        self._commands: dict[str, Callable[[Request], Awaitable[Reply]]] = {
            "status": self.status,
            "counters": self.counters,
            "sessions": self.sessions,
            "recent": self.recent,
            "get": self.get,
            "set": self.set,
            "reset": self.reset,
            "cached": self.cached,
            "evict": self.evict,
            "warm": self.warm,
            "pin": self.pin,
            "unpin": self.unpin,
            "pins": self.pins,
            "verify": self.verify,
            "jobs": self.jobs,
            "cancel": self.cancel,
            "drain": self.drain,
            "bundle": self.bundle,
        }

    async def answer(self, request: Request) -> Reply:
        """The reply to one request. Raises UserError, OSError, ValueError, KeyError with a sentence for a person."""
        command = self._commands.get(str(request.get("command")))
        if command is None:
            raise UserError(f"There is no command {request.get('command')!r}; there are: {', '.join(self._commands)}.")
        return await command(request)

    # --- looking --------------------------------------------------------------------------------------------

    async def status(self, request: Request) -> Reply:
        """One screen about everything."""
        head = self._head
        writes = None if head.store is None else head.store.writes
        return {
            "name": head.config.name,
            "version": __version__,
            "pid": os.getpid(),
            "address": head.address,
            "started_at": head.started_at,
            "draining": head.draining,
            "sessions": len(head.sessions),
            "connections": head.connections,
            "strangers": head.door.strangers,
            "turned_away": head.door.turned_away,
            "exports": [_export_status(exported, head.sessions.all()) for exported in head.exports.values()],
            "memory": {"limit": head.memory.limit, "used": head.memory.weight, "fragments": len(head.memory)},
            "tiers": await self._tiers(),
            "write_queue": None if writes is None else {"limit": writes.limit, "used": writes.queued},
        }

    async def _tiers(self) -> list[Reply]:
        store = self._head.store
        if store is None:
            return []
        tiers = []
        for tier in await store.call(store.store.status):
            counts = asdict(tier.counts)
            del counts["by_export"]  # `counters` tells these, with what the loop counted
            tiers.append({**asdict(tier), "directory": str(tier.directory), "counts": counts})
        return tiers

    async def counters(self, request: Request) -> Reply:
        """Every counter; they only grow, so a rate is the difference of two answers."""
        errors = {f"{site.value} {site.name.lower()}": n for site, n in self._head.service.errors.counts.items()}
        rows = tier_rows(self._head.counters, self._head.store, list(self._head.exports))
        return {"at": time.time(), **self._head.counters.as_dict(), "tiers": rows, "errors": errors}

    async def sessions(self, request: Request) -> Reply:
        """Who is connected, what they hold and what they report of themselves."""
        return {"sessions": [_session_status(session) for session in self._head.sessions.all()]}

    async def recent(self, request: Request) -> Reply:
        """The latest reads that had to wait: `export`, `path`, `limit` choose."""
        export = request.get("export")
        path = _path(request) if "path" in request else None
        reads = self._head.service.recent.select(export, path, int(request.get("limit", 100)))
        return {"reads": [read.as_dict() for read in reads]}

    async def jobs(self, request: Request) -> Reply:
        """All jobs, or the one of number `job`."""
        if "job" in request:
            return {"job": self._jobs.get(int(request["job"])).as_dict()}
        return {"jobs": [job.as_dict() for job in self._jobs.all()]}

    async def bundle(self, request: Request) -> Reply:
        """Everything for a bug report."""
        return {
            "machine": {"system": list(os.uname()), "python": sys.version, "cpus": os.cpu_count()},
            "log": self._head.recent_log.content().decode(errors="replace").splitlines(),
            "pins": (await self.pins({}))["pins"],
            "status": await self.status({}),
            "counters": await self.counters({}),
            "sessions": (await self.sessions({}))["sessions"],
            "settings": (await self.get({}))["settings"],
            "jobs": (await self.jobs({}))["jobs"],
            "recent": (await self.recent({"limit": 500}))["reads"],
            "tasks": dump_tasks(),
            "threads": dump_threads(),
        }

    # --- settings -------------------------------------------------------------------------------------------

    async def get(self, request: Request) -> Reply:
        """The setting `name`, or all."""
        return {"settings": self._live.rows(request.get("name"))}

    async def set(self, request: Request) -> Reply:
        """Change `name` to `value` now; with `seconds`, for so long."""
        seconds = request.get("seconds")
        row = self._live.change(str(request["name"]), request["value"], None if seconds is None else float(seconds))
        return {"setting": row}

    async def reset(self, request: Request) -> Reply:
        """Take back what `set` did to `name`."""
        return {"setting": self._live.reset(str(request["name"]))}

    # --- the cache ------------------------------------------------------------------------------------------

    async def cached(self, request: Request) -> Reply:
        """How much of the files at or below `path` each tier holds, in bytes."""
        exported, path = self._exported(request), _path(request)
        await _must_exist(exported, path)
        store = self._head.store
        files = size = memory = 0
        held: dict[str, int] = {}
        in_memory = self._in_memory(exported.name)
        async for file in files_below(exported, path):
            attr, _ = await exported.pool.run(exported.export.lstat, file)
            files, size = files + 1, size + attr.size
            memory += in_memory.get((attr.dev, attr.ino), 0)
            if store is not None:
                for tier, count in (await store.call(store.store.cached, exported.name, (attr.dev, attr.ino))).items():
                    held[tier] = held.get(tier, 0) + count
        complete = store is None or store.scanned
        return {"files": files, "size": size, "memory": memory, "tiers": held, "complete": complete}

    def _in_memory(self, export: str) -> dict[tuple[int, int], int]:
        found: dict[tuple[int, int], int] = {}
        for key, weight in self._head.memory.weights():
            if key.export == export:
                found[key.version.identity] = found.get(key.version.identity, 0) + weight
        return found

    async def evict(self, request: Request) -> Reply:
        """Forget the cached fragments of `path` (and below), of an `export`, or all."""
        store = self._head.store
        export, identities = None, None
        if "export" in request or "path" in request:
            exported = self._exported(request)
            export = exported.name
            if _path(request):
                identities = await _identities(exported, _path(request))
        self._head.memory.discard_where(
            lambda key: (
                (export is None or key.export == export) and (identities is None or key.version.identity in identities)
            )
        )
        if store is None:
            return {"evicted": 0, "complete": True}
        store.forget_hot()
        if identities is None:  # goes by what lies on the disk
            return {"evicted": await store.call(store.store.evict, export, deadline=600.0), "complete": True}
        complete = await store.wait_scanned(SCAN_PATIENCE)
        counts = [await store.call(store.store.evict, export, identity, deadline=600.0) for identity in identities]
        return {"evicted": sum(counts), "complete": complete}

    async def warm(self, request: Request) -> Reply:
        """Read `path` (and below, and what HDF5 files refer to) into the cache: a job."""
        exported, path = self._exported(request), _path(request)
        await _must_exist(exported, path)
        follow, links = float(request.get("follow", 0)), bool(request.get("links", True))

        async def work(job: Job) -> None:
            await Warmer(exported, self._head.store, job, links=links).warm(path, follow=follow)

        return {"job": self._jobs.start("warm", _target(exported, path), work).as_dict()}

    async def pin(self, request: Request) -> Reply:
        """Keep what is cached of `path` from being evicted for `seconds`; warms it first unless `warm` is false."""
        exported, path, store = self._exported(request), _path(request), self._need_store()
        await _must_exist(exported, path)
        until = time.time() + float(request.get("seconds", DEFAULT_PIN))
        files = await _identities(exported, path)
        await store.pin(exported.name, path, until, files)

        async def work(job: Job) -> None:
            warmer = Warmer(exported, store, job)
            await warmer.warm(path)
            await store.pin(exported.name, path, until, warmer.files)

        job = self._jobs.start("pin", _target(exported, path), work) if request.get("warm", True) else None
        return {"until": until, "files": len(files), "job": job.as_dict() if job else None}

    async def unpin(self, request: Request) -> Reply:
        """Take a pin away."""
        exported, store = self._exported(request), self._need_store()
        if not await store.call(store.store.unpin, exported.name, _path(request)):
            raise UserError(f"{_target(exported, _path(request))} is not pinned.")
        return {}

    async def pins(self, request: Request) -> Reply:
        """All pins."""
        store = self._head.store
        pins = [] if store is None else await store.call(store.store.pins)
        return {
            "pins": [
                {"export": pin.export, "path": os.fsdecode(pin.path), "until": pin.until, "files": len(pin.files)}
                for pin in pins
            ]
        }

    async def verify(self, request: Request) -> Reply:
        """Check a `sample` (0 to 1) of what is cached: a job; what is wrong is deleted.

        By checksums, or with `against_origin` by reading the files at or below `path` of an export, or of all.
        """
        store = self._need_store()
        sample = float(request.get("sample", 1.0))
        if not 0 < sample <= 1:
            raise UserError("A sample is above 0 and at most 1.")
        if not request.get("against_origin"):
            if "path" in request or "export" in request:
                raise UserError("Checksums are verified for the whole cache; a path goes with --against-origin.")
            work = partial(store.verify, sample)
            return {"job": self._jobs.start("verify", f"{sample:.1%}", work).as_dict()}
        path = _path(request)
        named = "export" in request or path
        exports = [self._exported(request)] if named else list(self._head.exports.values())

        async def compare(job: Job) -> None:
            for exported in exports:
                await Comparer(exported, store, job, sample).compare(path)

        target = f"{_target(exports[0], path) if named else 'all exports'} ({sample:.1%}) against the origin"
        return {"job": self._jobs.start("verify", target, compare).as_dict()}

    async def cancel(self, request: Request) -> Reply:
        """Stop job `job`."""
        job = self._jobs.get(int(request["job"]))
        job.scope.cancel()
        return {"job": job.as_dict()}

    async def drain(self, request: Request) -> Reply:
        """Stop this head: nodes are told, what is under way is finished."""
        self._head.stop()
        return {}

    # --- inside ---------------------------------------------------------------------------------------------

    def _exported(self, request: Request) -> Exported:
        name = request.get("export")
        exports = self._head.exports
        if name is None and len(exports) == 1:
            return next(iter(exports.values()))
        if name not in exports:
            raise UserError(f"There is no export {name!r}; there are: {', '.join(sorted(exports))}.")
        return exports[str(name)]

    def _need_store(self) -> StoreAccess:
        if self._head.store is None:
            raise UserError("This head has no cache directory.")
        return self._head.store


async def _must_exist(exported: Exported, path: bytes) -> None:
    """Raises UserError where nothing is there."""
    try:
        await exported.pool.run(exported.export.lstat, path)
    except FileNotFoundError:
        raise UserError(f"{_target(exported, path)} does not exist.") from None


async def _identities(exported: Exported, path: bytes) -> set[tuple[int, int]]:
    """Device and inode of every file at or below `path`."""
    found = set()
    async for file in files_below(exported, path):
        attr, _ = await exported.pool.run(exported.export.lstat, file)
        found.add((attr.dev, attr.ino))
    return found


def _path(request: Request) -> bytes:
    """The request's path, with or without slashes at its ends. Raises UserError."""
    path = os.fsencode(str(request.get("path", ""))).strip(b"/")
    try:
        return check(path)
    except BadPath as error:
        raise UserError(f"Not a path inside an export: {error}.") from None


def _target(exported: Exported, path: bytes) -> str:
    return f"{exported.name}:/{os.fsdecode(path)}"


def _export_status(exported: Exported, sessions: list[Session]) -> Reply:
    pool = exported.pool
    return {
        "name": exported.name,
        "directory": str(exported.export.directory),
        "remote": exported.export.remote,
        "fragment_size": exported.options.fragment_size,
        "tiers": [] if exported.store is None else list(exported.store.store.used_by(exported.name)),
        "admission": [f"{rule.pattern}={rule.reads or 'never'}" for rule in exported.options.admission],
        "freshness": list(exported.options.freshness),
        "mounted": [complaint.text for complaint in origin_mount.complaints(exported, _freshest(exported, sessions))],
        "sessions": sum(session.exported is exported for session in sessions),
        "open_files": len(exported.files),
        "descriptors": exported.files.descriptors,
        "closed_early": exported.files.closed_early,
        "origin": {
            "busy": pool.busy,
            "waiting": pool.waiting,
            "stuck": pool.stuck,
            "slots": exported.options.slots,
            "timeouts": pool.timeouts,
        },
        "leases": exported.leases.status(),
    }


def _freshest(exported: Exported, sessions: list[Session]) -> float | None:
    """The shortest freshness that a session of this export has; None where it has none."""
    return min((session.freshness for session in sessions if session.exported is exported), default=None)


def _session_status(session: Session) -> Reply:
    return {
        "node": session.node,
        "peer": session.peer,
        "key": session.key_id,
        "export": session.exported.name,
        "opened_at": session.opened_at,
        "handles": len(session.handles),
        "reading": [os.fsdecode(file.path) for file in islice(reversed(session.handles.values()), LATEST)],
        "freshness": session.freshness,
        "lease": session.lease,
        "report": session.report,
    }
