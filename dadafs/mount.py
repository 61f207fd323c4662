"""The life of a mount process: check, connect, mount, serve, unmount; in the foreground, or under `supervisor.py`."""

from __future__ import annotations

import errno
import faulthandler
import gc
import logging
import os
import signal
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import trio

from dadafs import __version__, fuse_adapter, kernel_tuning, status_socket
from dadafs.control import Control
from dadafs.counters import Counters
from dadafs.errors import ExitCode, UserError
from dadafs.explain import Explainer
from dadafs.held import Held
from dadafs.interpreter import share_the_interpreter
from dadafs.kernel_readahead import KernelReadahead, keepable
from dadafs.lifeline import Lifeline
from dadafs.logs import set_up_logging
from dadafs.mount_options import MountOptions
from dadafs.mount_table import FSTYPE, mount_at, mounts
from dadafs.notify import notify, watchdog_interval
from dadafs.operations import Operations
from dadafs.pushes import Pushes
from dadafs.ram_cache import RamCache
from dadafs.reader import Reader
from dadafs.remote_file import RemoteFiles
from dadafs.report import RecentLog, Report
from dadafs.session import Session, SessionOptions
from dadafs.stack_dump import on_usr1
from dadafs.supervisor import mount_in_background
from dadafs.tree import Tree
from dadafs.unmount import DeadMount, detach, is_dead, replace
from dadafs.virtual_files import VirtualFiles

log = logging.getLogger(__name__)

#: How long SIGTERM waits for users of the mount to leave before it is detached lazily.
_GRACE = 2.0
_NOTHING = DeadMount()


def mount(options: MountOptions) -> None:
    """Mount; returns when the file system answers (a daemon serves it), or with `foreground` when it has ended.

    Raises UserError.
    """
    left_behind = check_mountpoint(options.mountpoint)
    if options.foreground:
        run(options, lambda _: print(f"mounted on {options.mountpoint}", flush=True), replacing=left_behind)
    else:
        mount_in_background(options, _serve_supervised, left_behind)


def _serve_supervised(options: MountOptions, lifeline: Lifeline, replacing: DeadMount) -> None:
    run(options, lifeline.serving, lifeline=lifeline, replacing=replacing)


def check_mountpoint(mountpoint: str) -> DeadMount:
    """Raise UserError unless one can mount there; the dead mount of ours that is to be replaced, if any."""
    there = mount_at(mountpoint)
    if there is not None and there.fstype == FSTYPE:
        if not is_dead(there):
            raise UserError(
                f"{mountpoint} is busy: a dadafs mount is there already; `dadafs umount {mountpoint}` takes it down.",
                ExitCode.MOUNTPOINT,
            )
        return DeadMount(there.device)
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
    return _NOTHING


# --- the process ------------------------------------------------------------------------------------------------


def run(
    options: MountOptions,
    ready: Callable[[str], None],
    *,
    lifeline: Lifeline | None = None,
    replacing: DeadMount = _NOTHING,
) -> None:
    """Serve until unmounted or told to stop. Raises UserError.

    `ready` is called with the device of the mount ("major:minor") when the file system answers; `lifeline` hears
    that the loop runs; `replacing` is a dead mount of ours whose place this one takes.
    """
    recent = RecentLog()
    logging.getLogger().addHandler(recent)
    set_up_logging(
        "dadafs",
        options.settings["log_level"],
        standing={"source": str(options.target), "export": options.target.export, "mountpoint": options.mountpoint},
        foreground=options.foreground,
        times=True,
    )
    faulthandler.enable()  # SIGABRT is what systemd's watchdog sends
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})  # of threads, too: see `dadafs.stack_dump`
    try:
        share_the_interpreter()
        trio.run(MountProcess(options, recent, ready, lifeline or Lifeline(), replacing).run)
    except BaseExceptionGroup as group:
        raise _first(group) from None


def _first(group: BaseExceptionGroup) -> BaseException:
    """What to tell a person about several errors at once: the first that speaks to one, or all of them."""
    told, _ = group.split(UserError)
    problem: BaseException | None = told
    while isinstance(problem, BaseExceptionGroup):
        problem = problem.exceptions[0]
    return problem or group


def _quieten_collector() -> None:
    """What is there once a mount stands stays; and a request leaves no cycles behind that would have to be found."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


class MountProcess:
    """One mount, from connecting to the end."""

    def __init__(
        self,
        options: MountOptions,
        recent: RecentLog,
        ready: Callable[[str], None],
        lifeline: Lifeline,
        replacing: DeadMount,
    ) -> None:
        self._options = options
        self._recent = recent
        self._ready = ready
        self._lifeline = lifeline
        self._replacing = replacing
        self._device = ""
        self._counters = Counters()
        self._kernel: kernel_tuning.KernelSettings | None = None
        self._readahead: KernelReadahead | None = None
        self._stopping = False
        self._acls = False

    async def run(self) -> None:
        """Serve until the end. Raises UserError where it cannot begin."""
        with on_usr1():
            await self._run()

    async def _run(self) -> None:
        settings = self._options.settings
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._prove_life)  # at once: the head may keep us waiting
            session = Session(self._session_options(), self._counters)
            welcome = await session.start(nursery)
            self._acls = welcome.acls and settings["allow_other"]  # they switch on checks, which are for several users
            cache = RamCache(settings["ram_cache"], fragment_size=welcome.fragment_size, counters=self._counters)
            files = RemoteFiles(session, cache, self._counters)
            reader = Reader(session, cache, self._counters)
            notices = fuse_adapter.KernelNotices(self._options.mountpoint)
            tree = Tree(welcome.root, session.leases, cache, asked_at=session.now())
            operations = Operations(session, tree, files, reader, notices, self._counters)
            pushes = Pushes(tree, notices, session.now, lambda: session.generation, operations.open_files)
            session.on_changes(pushes.received)
            files.on_change(operations.file_changed)
            session.report_more = operations.activity.report
            report = self._report(session, operations, cache)
            adapter = self._adapter(operations, report)
            self._readahead = KernelReadahead(self._options.mountpoint, keepable(operations))
            reader.start(nursery)
            operations.hot.start(nursery)
            operations.small_files.start(nursery)
            operations.directories.ahead.start(nursery)
            adapter.in_place.start(nursery)
            for task in (cache.prepare, files.run, notices.run, operations.watch):
                nursery.start_soon(task)
            with self._metrics(report):
                await self._serve(nursery, adapter, report, self._control(operations, cache, nursery).answer)
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

    def _control(self, operations: Operations, cache: RamCache, nursery: trio.Nursery) -> Control:
        """What may be asked and changed while the mount serves."""

        def read_ahead(size: int) -> None:
            if self._kernel is not None:
                major, minor = map(int, self._device.split(":"))
                self._kernel = kernel_tuning.tune(os.makedev(major, minor), read_ahead_kb=size // 1024)

        return Control(
            operations.activity,
            self._options.settings,
            self._recent.content,
            {
                "log_level": logging.getLogger().setLevel,
                "ram_cache": cache.resize,
                "read_ahead": read_ahead,
            },
            Held(cache, operations.files, operations.tree).below,
            nursery,
        )

    def _report(self, session: Session, operations: Operations, cache: RamCache) -> Report:
        report = Report(
            {
                "version": __version__,
                "source": str(self._options.target),
                "mountpoint": self._options.mountpoint,
                "export": self._options.target.export,
                "head": self._options.target.address,
            }
        )
        report.add(
            "session",
            lambda: {
                "connected": session.connected,
                "trouble": session.trouble or None,
                "clock_ahead_s": None if session.clock_ahead is None else round(session.clock_ahead, 3),
                "generation": session.generation,
                "origin_late": [trouble.text for trouble in session.origin if trouble.late],
                "origin_slow": [trouble.text for trouble in session.origin if not trouble.late],
                "freshness_s": session.leases.freshness,
                "retry_s": session.options.retry,
            },
        )
        report.add("open", operations.statistics)
        report.add("ram_cache", cache.statistics)
        report.add("kernel", self._kernel_report)
        report.add("counters", operations.counted)
        report.add("fetch_seconds", self._counters.waited)
        return report

    @contextmanager
    def _metrics(self, report: Report) -> Iterator[None]:
        """Serve metrics meanwhile, where somebody wants them."""
        address = self._options.settings["metrics"]
        if not address:
            yield
            return
        from dadafs.metrics import MetricsServer  # ten megabytes that most mounts can do without

        server = MetricsServer(address, lambda: [report.as_dict()])
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
            "answered_in_place": fuse_adapter.answered_in_place(),
            "parallel_lookups": bool(fuse_adapter.negotiated().get("parallel_dirops", False)),
            "refused": list(kernel.refused),
            "readahead_helper": self._readahead.report() if self._readahead is not None else None,
        }

    async def _serve(
        self, nursery: trio.Nursery, adapter: fuse_adapter.FuseAdapter, report: Report, more: status_socket.More
    ) -> None:
        """Mount, say so, and answer requests until the end."""
        mountpoint = self._options.mountpoint
        if not await trio.to_thread.run_sync(replace, mountpoint, self._replacing):
            log.info("the dead mount on %s is not there any more; nothing is to be replaced", mountpoint)
            return
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
                inner.start_soon(self._announce, inner, adapter, report, more)
                await fuse_adapter.serve(adapter.guard.interrupts.handling)
                self._refuse_to_vanish()
                unmount = True  # ended in order: unmounted already, or to be unmounted now
                notify("STOPPING=1")
                inner.cancel_scope.cancel()
        finally:
            # After a crash the path must give errors; an empty directory would look as if the data were gone.
            fuse_adapter.close(unmount=unmount)
            if self._readahead is not None:
                self._readahead.stop()

    def _refuse_to_vanish(self) -> None:
        """A mount that nobody took down was aborted. Raises UserError."""
        if not self._stopping and any(each.device == self._device for each in mounts()):
            raise UserError(
                f"The kernel's connection of {self._options.mountpoint} was aborted; mount it again.", ExitCode.FAILED
            )

    async def _announce(
        self, inner: trio.Nursery, adapter: fuse_adapter.FuseAdapter, report: Report, more: status_socket.More
    ) -> None:
        """Wait until the file system answers, tune the kernel, open the status socket, and tell whoever waits."""
        mountpoint = self._options.mountpoint
        found = await trio.to_thread.run_sync(os.stat, mountpoint, abandon_on_cancel=True)
        self._kernel = await trio.to_thread.run_sync(self._tune, found.st_dev, abandon_on_cancel=True)
        self._help_reading_ahead(adapter)
        self._device = f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}"
        await inner.start(status_socket.serve, status_socket.socket_path(self._device), report.as_dict, more)
        _quieten_collector()
        log.info("%s is mounted on %s", self._options.target, mountpoint)
        notify("READY=1", f"STATUS={self._options.target} on {mountpoint}")
        self._ready(self._device)

    def _tune(self, device: int) -> kernel_tuning.KernelSettings:
        return kernel_tuning.tune(device, read_ahead_kb=self._options.settings["read_ahead"] // 1024)

    def _help_reading_ahead(self, adapter: fuse_adapter.FuseAdapter) -> None:
        """Start the helper where the kernel reads less far ahead than it was wished."""
        allowed = self._kernel.read_ahead_kb if self._kernel is not None else None
        if self._readahead is None or allowed is None or allowed * 1024 >= self._options.settings["read_ahead"]:
            return
        try:
            self._readahead.start()
        except OSError as problem:
            log.info("no helper for readahead (%s); the kernel reads %d KiB ahead", problem.strerror, allowed)
        else:
            adapter.readahead = adapter.in_place.readahead = self._readahead

    async def _prove_life(self) -> None:
        """Tell systemd and the supervisor, as often as they want, that the loop runs."""
        intervals = [each for each in (watchdog_interval(), self._lifeline.interval) if each is not None]
        while intervals:
            notify("WATCHDOG=1")
            self._lifeline.alive()
            await trio.sleep(min(intervals))

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
