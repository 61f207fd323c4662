"""The life of a mount process: check, connect, mount, serve, unmount; in the foreground or as a daemon."""

from __future__ import annotations

import errno
import faulthandler
import json
import logging
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import trio

from dadafs import fuse_adapter, kernel_tuning, status_socket
from dadafs.counters import Counters
from dadafs.errors import ExitCode, UserError
from dadafs.explain import Explainer
from dadafs.mount_options import MountOptions
from dadafs.mount_table import FSTYPE, mount_at
from dadafs.notify import notify, watchdog_interval
from dadafs.operations import Operations
from dadafs.pushes import Pushes
from dadafs.ram_cache import RamCache
from dadafs.reader import Reader
from dadafs.remote_file import RemoteFiles
from dadafs.report import RecentLog, Report
from dadafs.session import Session, SessionOptions
from dadafs.tree import Tree
from dadafs.unmount import detach, is_dead
from dadafs.virtual_files import VirtualFiles

log = logging.getLogger(__name__)

#: How long SIGTERM waits for users of the mount to leave before it is detached lazily.
_GRACE = 2.0


def mount(options: MountOptions) -> None:
    """Mount; returns when the file system answers (a daemon serves it), or with `foreground` when it has ended.

    Raises UserError.
    """
    check_mountpoint(options.mountpoint)
    if options.foreground:
        run(options, lambda: print(f"mounted on {options.mountpoint}", flush=True))
    else:
        _in_background(options)


def check_mountpoint(mountpoint: str) -> None:
    """Raise UserError unless one can mount there; a dead mount of ours is cleared away first."""
    there = mount_at(mountpoint)
    if there is not None and there.fstype == FSTYPE:
        if not is_dead(there):
            raise UserError(
                f"{mountpoint} is busy: a dadafs mount is there already; `dadafs umount {mountpoint}` takes it down.",
                ExitCode.MOUNTPOINT,
            )
        log.info("clearing away the dead mount on %s", mountpoint)
        detach(mountpoint, lazy=True)
    try:
        found = os.stat(mountpoint)
    except FileNotFoundError:
        raise UserError(
            f"The mountpoint {mountpoint} does not exist; create it with `mkdir -p {mountpoint}`.", ExitCode.MOUNTPOINT
        ) from None
    except OSError as problem:
        raise UserError(f"Cannot use the mountpoint {mountpoint}: {problem.strerror}.", ExitCode.MOUNTPOINT) from None
    if not stat.S_ISDIR(found.st_mode):
        raise UserError(f"The mountpoint {mountpoint} is not a directory.", ExitCode.MOUNTPOINT)


# --- in the background ------------------------------------------------------------------------------------------


def _in_background(options: MountOptions) -> None:
    """Start the daemon and wait until it serves, or says why not."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        os.setsid()
        if os.fork() != 0:
            os._exit(0)
        _daemon(options, send)
    os.close(send)
    os.waitpid(child, 0)
    with os.fdopen(receive, "rb") as pipe:
        answer = pipe.read()
    if not answer:
        raise UserError("The mount process ended without a word; try again with --foreground.", ExitCode.FAILED)
    result = json.loads(answer)
    if result["code"] != ExitCode.OK:
        raise UserError(result["message"], ExitCode(result["code"]))


def _daemon(options: MountOptions, send: int) -> None:
    """What the daemon does; never returns."""

    def answer(code: int, message: str = "") -> None:
        nonlocal send
        if send >= 0:
            os.write(send, json.dumps({"code": code, "message": message}).encode())
            os.close(send)
            send = -1

    code = int(ExitCode.OK)
    try:
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        run(options, lambda: answer(ExitCode.OK))
    except UserError as problem:
        code = int(problem.exit_code)
        answer(code, str(problem))
    except BaseException as problem:
        log.exception("the mount process ends")
        code = int(ExitCode.FAILED)
        answer(code, f"The mount process failed: {problem!r}.")
    finally:
        os._exit(code)


# --- the process ------------------------------------------------------------------------------------------------


def run(options: MountOptions, ready: Callable[[], None]) -> None:
    """Serve until unmounted or told to stop; call `ready` when the file system answers. Raises UserError."""
    recent = RecentLog()
    set_up_logging(options.settings["log_level"], recent, foreground=options.foreground)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    try:
        trio.run(MountProcess(options, recent, ready).run)
    except BaseExceptionGroup as group:
        raise _first(group) from None


def _first(group: BaseExceptionGroup) -> BaseException:
    """What to tell a person about several errors at once: the first that speaks to one, or all of them."""
    told, _ = group.split(UserError)
    problem: BaseException | None = told
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    return problem or group


def set_up_logging(level: str, recent: RecentLog, *, foreground: bool) -> None:
    """Log lines go to stderr in the foreground, to the system's log as a daemon, and to `.dadafs/log` always."""
    root = logging.getLogger()
    root.setLevel(level)
    root.addHandler(recent)
    if foreground:
        handler: logging.Handler = logging.StreamHandler(sys.stderr)
        under_systemd = "JOURNAL_STREAM" in os.environ
        text = "%(levelname)s %(name)s: %(message)s"
        handler.setFormatter(logging.Formatter(text if under_systemd else "%(asctime)s " + text))
        root.addHandler(handler)
    elif Path("/dev/log").exists():
        from logging.handlers import SysLogHandler

        with suppress(OSError):
            handler = SysLogHandler("/dev/log", SysLogHandler.LOG_DAEMON)
            handler.setFormatter(logging.Formatter("dadafs[%(process)d]: %(levelname)s %(name)s: %(message)s"))
            root.addHandler(handler)


class MountProcess:
    """One mount, from connecting to the end."""

    def __init__(self, options: MountOptions, recent: RecentLog, ready: Callable[[], None]) -> None:
        self._options = options
        self._recent = recent
        self._ready = ready
        self._counters = Counters()
        self._kernel: kernel_tuning.KernelSettings | None = None
        self._stopping = False
        self._acls = False

    async def run(self) -> None:
        """Serve until the end. Raises UserError where it cannot begin."""
        settings = self._options.settings
        async with trio.open_nursery() as nursery:
            session = Session(self._session_options(), self._counters)
            welcome = await session.start(nursery)
            self._acls = welcome.acls and settings["allow_other"]  # they switch on checks, which are for several users
            cache = RamCache(settings["ram_cache"], fragment_size=welcome.fragment_size, counters=self._counters)
            files = RemoteFiles(session, cache, self._counters)
            reader = Reader(session, cache, self._counters)
            notices = fuse_adapter.KernelNotices(self._options.mountpoint)
            tree = Tree(welcome.root, session.leases, cache, asked_at=session.now())
            operations = Operations(session, tree, files, reader, notices, self._counters)
            pushes = Pushes(tree, notices, session.now, lambda: session.generation)
            session.on_changes(pushes.received)
            files.on_change(operations.file_changed)
            report = self._report(session, operations, cache)
            adapter = self._adapter(operations, report)
            reader.start(nursery)
            operations.small_files.start(nursery)
            for task in (files.run, notices.run, operations.watch, self._watchdog):
                nursery.start_soon(task)
            with self._metrics(report):
                await self._serve(nursery, adapter, report)
            await session.stop()
            nursery.cancel_scope.cancel()

    def _session_options(self) -> SessionOptions:
        settings, target = self._options.settings, self._options.target
        return SessionOptions(
            host=target.host,
            port=target.port,
            export=target.export,
            key_file=self._options.key_file,
            tls=self._options.tls,
            freshness=settings["freshness"],
            lease=settings["lease"],
            retry=settings["retry"],
            hard=settings["hard"],
            stale_if_offline=settings["stale_if_offline"],
            data_channels=settings["connections"],
        )

    def _adapter(self, operations: Operations, report: Report) -> fuse_adapter.FuseAdapter:
        target = self._options.target
        virtual = VirtualFiles(
            {
                b"stats": report.as_text,
                b"stats.json": report.as_json,
                b"config": self._config,
                b"log": self._recent.content,
            }
        )
        explainer = Explainer(operations, head=target.address, export=target.export)
        return fuse_adapter.FuseAdapter(operations, virtual, explainer, self._counters, self._options.patience)

    def _config(self) -> bytes:
        rows = self._options.settings.explain()
        return "".join(f"{row.name:<18} {row.value or '-':<20} # {row.source}\n" for row in rows).encode()

    def _report(self, session: Session, operations: Operations, cache: RamCache) -> Report:
        report = Report(
            {
                "source": str(self._options.target),
                "mountpoint": self._options.mountpoint,
                "export": self._options.target.export,
                "head": self._options.target.address,
            }
        )
        report.add("session", lambda: {"connected": session.connected, "generation": session.generation})
        report.add("open", operations.statistics)
        report.add("ram_cache", lambda: {"budget_bytes": cache.budget, "used_bytes": cache.used})
        report.add("kernel", self._kernel_report)
        report.add("counters", self._counters.snapshot)
        return report

    @contextmanager
    def _metrics(self, report: Report) -> Iterator[None]:
        """Serve metrics meanwhile, where somebody wants them."""
        address = self._options.settings["metrics"]
        if not address:
            yield
            return
        from dadafs.metrics import MetricsServer  # ten megabytes that most mounts can do without

        server = MetricsServer(address, report.as_dict)
        log.info("metrics at port %d", server.port)
        try:
            yield
        finally:
            server.close()

    def _kernel_report(self) -> dict[str, Any]:
        kernel = self._kernel
        if kernel is None:
            return {}
        return {
            "read_ahead_kb": kernel.read_ahead_kb,
            "max_background": kernel.max_background,
            "congestion_threshold": kernel.congestion_threshold,
            "parallel_lookups": bool(fuse_adapter.negotiated().get("parallel_dirops", False)),
            "refused": list(kernel.refused),
        }

    async def _serve(self, nursery: trio.Nursery, adapter: fuse_adapter.FuseAdapter, report: Report) -> None:
        """Mount, say so, and answer requests until the end."""
        mountpoint = self._options.mountpoint
        try:
            fuse_adapter.mount(adapter, mountpoint, self._options.fuse_options(), acls=self._acls)
        except RuntimeError:
            raise UserError(
                f"The kernel refuses to mount on {mountpoint}; the line above says why (`allow_other` for ordinary "
                "users needs `user_allow_other` in /etc/fuse.conf).",
                ExitCode.MOUNTPOINT,
            ) from None
        unmount = False
        try:
            async with trio.open_nursery() as inner:
                inner.start_soon(self._handle_signals, inner)
                inner.start_soon(self._announce, inner, report)
                await fuse_adapter.serve()
                unmount = True  # ended in order: unmounted already, or to be unmounted now
                notify("STOPPING=1")
                inner.cancel_scope.cancel()
        finally:
            # After a crash the path must give errors; an empty directory would look as if the data were gone.
            fuse_adapter.close(unmount=unmount)

    async def _announce(self, inner: trio.Nursery, report: Report) -> None:
        """Wait until the file system answers, tune the kernel, open the status socket, and tell whoever waits."""
        mountpoint = self._options.mountpoint
        found = await trio.to_thread.run_sync(os.stat, mountpoint, abandon_on_cancel=True)
        self._kernel = await trio.to_thread.run_sync(self._tune, found.st_dev, abandon_on_cancel=True)
        device = f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}"
        await inner.start(status_socket.serve, status_socket.socket_path(device), report.as_dict)
        log.info("%s is mounted on %s", self._options.target, mountpoint)
        notify("READY=1", f"STATUS={self._options.target} on {mountpoint}")
        self._ready()

    def _tune(self, device: int) -> kernel_tuning.KernelSettings:
        return kernel_tuning.tune(device, read_ahead_kb=self._options.settings["read_ahead"] // 1024)

    async def _watchdog(self) -> None:
        interval = watchdog_interval()
        while interval is not None:
            notify("WATCHDOG=1")
            await trio.sleep(interval)

    async def _handle_signals(self, inner: trio.Nursery) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                if number == signal.SIGHUP:
                    log.info("SIGHUP: the options of a mount are fixed; unmount and mount again to change them")
                elif not self._stopping:
                    self._stopping = True
                    inner.start_soon(self._take_down)

    async def _take_down(self) -> None:
        """Unmount cleanly; where somebody stays, detach lazily after the grace time."""
        mountpoint = self._options.mountpoint
        end = trio.current_time() + _GRACE
        while True:
            try:
                await trio.to_thread.run_sync(lambda: detach(mountpoint, lazy=False), abandon_on_cancel=True)
                return  # `serve` returns by itself
            except OSError as problem:
                if problem.errno != errno.EBUSY or trio.current_time() > end:
                    break
            await trio.sleep(0.1)
        log.info("%s is in use; it is detached, and whoever uses it gets errors from now on", mountpoint)
        fuse_adapter.stop()
