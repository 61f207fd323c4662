"""`dadafs doctor`: looks for the usual mistakes around a mount and says how to put each right.

Nothing here touches the mount itself, so that it works when the mount does not.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import trio

from dadafs.counters import Counters
from dadafs.errors import ExitCode, UserError
from dadafs.mount_options import MountOptions, Target, parse_target, resolve
from dadafs.mount_table import FSTYPE, Mount, mount_at
from dadafs.quantity import format_duration
from dadafs.session import Session, SessionOptions
from dadafs.status_socket import ask
from dadafs.wire.messages import OriginTrouble

FUSE_CONF = Path("/etc/fuse.conf")
#: The oldest kernel whose FUSE allows requests of 1 MiB.
OLDEST_KERNEL = (4, 20)
FSTAB = Path("/etc/fstab")
_CONNECT_WITHIN = 5.0
#: How long a session that is opened to see whether it can be may take to say what time it is there.
_SESSION_WITHIN = 10.0
#: Clocks that differ by more are wrong, whatever the way between them took.
_CLOCKS_AGREE = 30.0
_SMALL_MTU = 1400


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `advice` says what to do where it is not well."""

    what: str
    state: Literal["ok", "note", "bad"]
    advice: str = ""


def examine(mountpoint: str, fstab: Path = FSTAB) -> list[Finding]:
    """Everything worth looking at for the mount at `mountpoint`, or for one that is to be made there."""
    there = mount_at(mountpoint)
    findings = [kernel(platform.release()), device(), *unprivileged(os.geteuid(), FUSE_CONF)]
    if there is None or there.fstype != FSTYPE:
        return [*findings, *to_be_mounted(mountpoint, fstab)]
    findings += process(there, mountpoint)
    return findings


def to_be_mounted(mountpoint: str, fstab: Path) -> Iterator[Finding]:
    """What stands in fstab for `mountpoint`, tried without mounting: whether the head admits us, and its clock."""
    line = _line_of(fstab, mountpoint)
    if line is None:
        yield Finding(f"{mountpoint} is not mounted", "note", f"dadafs mount HOST:/EXPORT {mountpoint}")
        return
    yield Finding(f"{mountpoint} is not mounted, but in {fstab}", "note", f"mount {mountpoint}")
    try:
        options = resolve(line[0], mountpoint, dash_o=(line[1],))
        tried = trio.run(_try_session, options)
    except UserError as problem:
        yield Finding(str(problem), "bad", "the mount would fail in the same way")
        if problem.exit_code == ExitCode.UNREACHABLE:
            yield from head(options.target)
        return
    yield Finding(f"{options.target} admits this node", "ok")
    yield from clock(tried.clock_ahead)
    yield from origin(tried.origin)


def _line_of(fstab: Path, mountpoint: str) -> tuple[str, str] | None:
    """Source and options of a mount of ours in fstab."""
    if fstab.exists():
        for line in fstab.read_text(errors="surrogateescape").splitlines():
            fields = line.split()
            if len(fields) >= 4 and fields[1].rstrip("/") == mountpoint and fields[2] in {"dadafs", FSTYPE}:
                return fields[0], fields[3]
    return None


async def _try_session(options: MountOptions) -> Session:
    """Open a session as the mount would, and end it; what the head said is in it. Raises UserError."""
    target = options.target
    session = Session(
        SessionOptions(
            target.host,
            target.port,
            target.export,
            freshness=options.settings["freshness"],
            key_file=options.key_file,
            tls=options.tls,
            data_channels=1,
        ),
        Counters(),
    )
    problem = None
    async with trio.open_nursery() as nursery:
        try:
            await session.start(nursery)
        except UserError as error:
            problem = error
        else:
            with trio.move_on_after(_SESSION_WITHIN):
                await session.clock_told.wait()
            await session.stop()
        nursery.cancel_scope.cancel()
    if problem is not None:
        raise problem
    return session


def clock(ahead: float | None) -> Iterator[Finding]:
    """Whether this machine and the head agree on the time."""
    if ahead is None:
        return
    if abs(ahead) <= _CLOCKS_AGREE:
        yield Finding("the clocks of this machine and the head agree", "ok")
        return
    way = "ahead of" if ahead > 0 else "behind"
    yield Finding(
        f"this machine's clock is {format_duration(abs(round(ahead)))} {way} the head's",
        "bad",
        "let NTP set both (`timedatectl set-ntp true`, or chrony); promises hold meanwhile, but times of files and "
        "logs mislead, and certificates may look expired",
    )


def origin(found: Iterable[OriginTrouble]) -> Iterator[Finding]:
    """What the head says of the mount that the export lies on: NFS options that break promises, or cost speed."""
    for trouble in found:
        said = f"the head says: {trouble.text}"
        yield Finding(said, "bad" if trouble.late else "note", "that is for whoever runs the head")


def kernel(release: str) -> Finding:
    """Whether the kernel is new enough."""
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    if numbers < OLDEST_KERNEL:
        return Finding(
            f"kernel {release}", "bad", "before 4.20 requests are at most 128 KiB, which costs throughput; update it"
        )
    return Finding(f"kernel {release}", "ok")


def device() -> Finding:
    """Whether /dev/fuse can be opened."""
    if os.access("/dev/fuse", os.R_OK | os.W_OK):
        return Finding("/dev/fuse is usable", "ok")
    there = os.path.exists("/dev/fuse")
    advice = (
        "ask for membership in its group" if there else "modprobe fuse, or pass --device /dev/fuse to the container"
    )
    return Finding("/dev/fuse is not usable", "bad", advice)


def unprivileged(uid: int, conf: Path) -> Iterator[Finding]:
    """What an ordinary user needs: fusermount3, and `user_allow_other` for `allow_other`."""
    if uid == 0:
        return
    if shutil.which("fusermount3") is None:
        yield Finding("fusermount3 is missing", "bad", "install the package fuse3")
    lines = conf.read_text().splitlines() if conf.exists() else []
    if not any(line.strip() == "user_allow_other" for line in lines):
        yield Finding(
            f"user_allow_other is not set in {conf}", "note", "needed for the option allow_other; root adds that line"
        )


def process(there: Mount, mountpoint: str) -> Iterator[Finding]:
    """The mount process, asked over its own socket, and what its answer says."""
    try:
        report = ask(there.device)
    except UserError as problem:
        yield Finding(str(problem), "bad", f"dadafs umount --lazy {mountpoint}, then mount again")
        yield from head(parse_target(there.source))
        return
    yield Finding(f"the mount process answers (pid {report['pid']})", "ok")
    for check in (session, readahead, errors, memory):
        yield from check(report)
    yield from head(parse_target(there.source))


def session(report: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether the mount has its head."""
    if report["session"]["connected"]:
        yield Finding(f"connected with {report['head']}", "ok")
    else:
        why = report["session"]["trouble"]
        yield Finding(
            f"no session with {report['head']}", "bad", f"{why or 'see the next lines,'} `.dadafs/log` has the rest"
        )
    yield from clock(report["session"]["clock_ahead_s"])
    late, slow = (report["session"][name] for name in ("origin_late", "origin_slow"))
    yield from origin([*(OriginTrouble(text, True) for text in late), *(OriginTrouble(text, False) for text in slow)])


def readahead(report: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether the kernel's settings could be raised."""
    refused = report["kernel"].get("refused") or []
    if refused:
        helped = " (a helper process makes up for a part of it)" if report["kernel"].get("readahead_helper") else ""
        bdi = f"/sys/class/bdi/$(mountpoint -d {report['mountpoint']})"
        yield Finding(
            f"the kernel's settings could not be raised ({'; '.join(refused)}){helped}",
            "bad",
            f"mount as root, or let root write 1024 to {bdi}/read_ahead_kb after mounting",
        )
    else:
        yield Finding(f"readahead is {report['kernel'].get('read_ahead_kb')} KiB", "ok")


def errors(report: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether calls failed."""
    counters = report["counters"]
    if counters["eio_sites"]:
        sites = ", ".join(f"{site}: {count}" for site, count in counters["eio_sites"].items())
        yield Finding(f"calls were answered with EIO ({sites})", "note", "docs/error-sites.md explains the sites")
    if counters["checksum_errors"]:
        yield Finding(
            f"{counters['checksum_errors']} blocks arrived damaged and were fetched again",
            "bad",
            "look for bad memory or network hardware here and at the head; dadafsctl verify checks its cache",
        )


def memory(report: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether prefetch had room."""
    counters = report["counters"]
    refused, done = counters["prefetch_refused"], counters["prefetched"]
    if refused > 100 and refused > done:
        yield Finding("most prefetches found no room in the RAM cache", "note", "give the mount a larger --ram-cache")


def head(target: Target, connect: Callable[..., socket.socket] = socket.create_connection) -> Iterator[Finding]:
    """Whether the head can be reached, how far away it is, and over what."""
    begun = time.monotonic()
    try:
        with connect((target.host, target.port), timeout=_CONNECT_WITHIN) as peer:
            took = time.monotonic() - begun
            mtu = _mtu(peer)
    except socket.gaierror:
        yield Finding(f"the name {target.host} is unknown", "bad", "check the spelling, DNS and /etc/hosts")
    except ConnectionRefusedError:
        yield Finding(f"nothing listens at {target.address}", "bad", "start dadafsd there, or correct the port")
    except OSError as problem:
        yield Finding(
            f"{target.address} cannot be reached ({problem.strerror or problem})", "bad", "check network and firewall"
        )
    else:
        yield Finding(f"{target.address} accepts connections after {took * 1000:.1f} ms", "ok")
        if mtu is not None and mtu < _SMALL_MTU:
            yield Finding(f"the path to the head has an MTU of {mtu}", "note", "small packets cost CPU on both sides")


def _mtu(peer: socket.socket) -> int | None:
    """The path MTU that the kernel knows for a connection (IP_MTU, IPV6_MTU)."""
    level, option = (socket.IPPROTO_IPV6, 24) if peer.family == socket.AF_INET6 else (socket.IPPROTO_IP, 14)
    try:
        return peer.getsockopt(level, option)
    except OSError:
        return None
