"""One export with everything that serves it: its threads, its open files, its fragments, its watches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_address

import trio

from dadafs.errors import ExitCode, UserError
from dadafs.wire.messages import Attr, Identities
from dadafsd.counters import Counters
from dadafsd.export import Export
from dadafsd.fragments import Fragments
from dadafsd.hot_reads import HotReads
from dadafsd.leases import Leases
from dadafsd.open_files import OpenFiles
from dadafsd.origin_pool import OriginPool
from dadafsd.origin_read import Clock, Piece
from dadafsd.policy.keeping import Keeping, Rule
from dadafsd.policy.recent import Recent
from dadafsd.policy.settle import ForeignClock, LocalClock
from dadafsd.poll_watch import PollWatch
from dadafsd.store_access import StoreAccess
from dadafsd.thread_user import become_user, can_become
from dadafsd.watch import LocalWatch

#: Data whose version is not proven is kept this long at most, in seconds: enough for readers at the same
#: moment.
UNSETTLED_SECONDS = 0.02
#: A node that comes while the origin hangs is let in after so many seconds: the cache may have what it wants.
ROOT_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What the configuration says about one export."""

    slots: int = 16
    deadline: float = 15.0
    fragment_size: int = 1 << 20
    nodes: tuple[IPv4Network | IPv6Network, ...] = ()
    node_names: tuple[str, ...] = ()  # patterns for names in certificates
    identities: Identities | None = None  # how users and groups appear on nodes
    acl: bool = True
    tiers: tuple[str, ...] = ()  # names; none: all
    admission: tuple[Rule, ...] = ()
    freshness: tuple[float, float] = (0.0, 3600.0)  # what a mount may have, in seconds
    append_patterns: tuple[str, ...] = ()
    watch: str = "auto"  # or inotify, poll
    watches: int = 100_000  # objects watched with inotify at most
    stats_per_second: int = 2000  # looks at a polled origin at most


@dataclass
class Exported:
    """The parts of one export, wired together by `assemble`."""

    export: Export
    options: ExportOptions
    pool: OriginPool
    files: OpenFiles
    fragments: Fragments
    leases: Leases
    clock: Clock
    counters: Counters = field(repr=False)
    store: StoreAccess | None = field(default=None, repr=False)
    last_root: Attr | None = None

    async def root(self) -> Attr:
        """The root's attributes; those last seen where the origin does not answer at once."""
        try:
            found, _ = await self.pool.run(self.export.lstat, b"", deadline=ROOT_SECONDS)
        except OSError:
            if self.last_root is None:
                raise
            return self.last_root
        self.last_root = found
        return found

    @property
    def name(self) -> str:
        return self.export.name

    def apply(self, options: ExportOptions) -> None:
        """Serve by these options from now on. Raises UserError for tiers that do not exist."""
        if self.store is not None:
            self.store.store.use(self.name, options.tiers)
        elif options.tiers:
            raise UserError(f"Export {self.name} names tiers, and this head has none.", ExitCode.USAGE)
        self.fragments.keeping = Keeping(options.admission)
        self.options = options

    @property
    def acls(self) -> bool:
        """Whether nodes should ask for POSIX ACLs. Where everybody is one user, they name people who are not there."""
        squashed = self.options.identities is not None and self.options.identities.all_squash
        return self.options.acl and self.export.has_acls and not squashed

    def freshness(self, wish: float) -> float:
        """The freshness in seconds that a mount gets which asks for `wish`."""
        least, most = self.options.freshness
        return min(max(wish, least), most)

    def admits(self, address: str, names: Sequence[str] = ()) -> bool:
        """Whether a node at this address, or with one of these names in its certificate, may use the export."""
        if not self.options.nodes and not self.options.node_names:
            return True
        if any(fnmatchcase(name.lower(), pattern.lower()) for name in names for pattern in self.options.node_names):
            return True
        peer = ip_address(address.partition("%")[0])
        mapped = getattr(peer, "ipv4_mapped", None)
        return any((mapped or peer) in network for network in self.options.nodes)


def assemble(
    export: Export,
    options: ExportOptions,
    memory: Recent[Piece],
    store: StoreAccess | None,
    counters: Counters,
    nursery: trio.Nursery,
    descriptors: int = 4096,
    hot_reads: HotReads | None = None,
) -> Exported:
    """Everything that serves `export`; its background tasks run in `nursery`."""
    become = _become(export, options)
    export.threads_only = become is not None
    pool = OriginPool(f"export {export.name}", options.slots, options.deadline, become=become)
    nursery.start_soon(pool.enforce_deadlines)
    files = OpenFiles(export, pool, descriptors)
    clock: Clock = ForeignClock() if export.remote else LocalClock()
    spawn: Callable[..., object] = nursery.start_soon
    fragments = Fragments(
        files,
        pool,
        memory,
        store,
        clock,
        counters,
        export=export.name,
        fragment_size=options.fragment_size,
        unsettled_seconds=UNSETTLED_SECONDS,
        spawn=spawn,
        hot_reads=hot_reads,
    )
    leases = _leases(export, options, pool, files, counters, fragments)
    nursery.start_soon(leases.run)
    exported = Exported(export, options, pool, files, fragments, leases, clock, counters, store)
    exported.apply(options)
    return exported


def _become(export: Export, options: ExportOptions) -> Callable[[], None] | None:
    """Where everybody is the anonymous user, so is this head as far as the tree is concerned. Raises UserError."""
    identities = options.identities
    if identities is None or not identities.all_squash:
        return None
    become = partial(become_user, identities.anonuid, identities.anongid)
    if not can_become(become):
        raise UserError(
            f"Export {export.name} has all_squash, and this head may not become user {identities.anonuid}: "
            "run it as root, or with CAP_SETUID and CAP_SETGID.",
            ExitCode.USAGE,
        )
    return become


def _leases(
    export: Export,
    options: ExportOptions,
    pool: OriginPool,
    files: OpenFiles,
    counters: Counters,
    fragments: Fragments,
) -> Leases:
    """inotify where the origin is local, unless the configuration says otherwise."""
    if options.watch == "poll" or (options.watch == "auto" and export.remote):
        return PollWatch(export, pool, counters, stats_per_second=options.stats_per_second)
    local = LocalWatch(export, pool, files, counters, limit=options.watches)
    files.on_open = local.opened
    local.on_overtaken = fragments.forget
    return local
