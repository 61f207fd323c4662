"""What a mount is told: `HOST[:PORT]:/EXPORT`, a mountpoint, and settings from files, environment, `-o` and flags."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dadafs.errors import ExitCode, UserError
from dadafs.settings import Kind, Schema, Setting, Settings, existing, load
from dadafs.wire.tls import TlsFiles, tls_files

DEFAULT_PORT = 7070
CONFIG_FILE = Path("/etc/dadafs/dadafs.toml")
KEY_FILE = Path("/etc/dadafs/key")

SCHEMA = Schema(
    [
        Setting("freshness", Kind.DURATION, 1.0, "a change in the tree is visible after this time", minimum=0),
        Setting("retry", Kind.DURATION, 30.0, "an outage shorter than this is waited out", minimum=0),
        Setting("hard", Kind.BOOL, False, "wait for the head for ever, instead of giving errors after `retry`"),
        Setting("lease", Kind.DURATION, 30.0, "how long files stay open at the head after their last use", minimum=0),
        Setting("stale_if_offline", Kind.BOOL, False, "while the head is away, go on serving what is remembered"),
        Setting("allow_other", Kind.BOOL, False, "let other users in; the kernel then checks permissions"),
        Setting("ram_cache", Kind.SIZE, 128 << 20, "memory for data and metadata", minimum=16 << 20, live=True),
        Setting("key_file", Kind.STR, None, f"the key shared with the head (default {KEY_FILE}, if there is one)"),
        Setting("tls_certificate", Kind.STR, None, "this node's certificate (PEM), instead of a key file"),
        Setting("tls_key", Kind.STR, None, "its private key (PEM)"),
        Setting("tls_authority", Kind.STR, None, "who vouches for heads (PEM)"),
        Setting("connections", Kind.INT, 3, "connections for data", minimum=1),
        Setting("metrics", Kind.STR, None, "serve Prometheus metrics at HOST:PORT"),
        Setting("read_ahead", Kind.SIZE, 1 << 20, "the kernel's readahead for this mount", minimum=0, live=True),
        Setting("watchdog", Kind.DURATION, 60.0, "replace a mount process that is stuck for so long", minimum=0),
        Setting(
            "log_level", Kind.STR, "INFO", "how much to log", choices=("DEBUG", "INFO", "WARNING", "ERROR"), live=True
        ),
    ]
)

#: Options of mount(8) and fstab that mean nothing to us, or that hold anyway.
_GENERIC = {
    "ro", "rw", "defaults", "auto", "noauto", "nofail", "user", "nouser", "users", "group", "owner", "_netdev",
    "dev", "nodev", "suid", "nosuid", "exec", "noexec", "atime", "noatime", "relatime", "diratime", "nodiratime",
    "async", "sync", "dirsync", "default_permissions", "nomand", "norelatime", "strictatime", "lazytime",
}  # fmt: skip


@dataclass(frozen=True)
class Target:
    """Which export of which head."""

    host: str
    port: int
    export: str

    @property
    def address(self) -> str:
        """HOST:PORT, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.address}:/{self.export}"


def parse_target(text: str) -> Target:
    """`HOST:/EXPORT`, `HOST:PORT:/EXPORT`, `[IPV6]:PORT:/EXPORT`. Raises UserError."""
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.%\w]+\]|[^:/\[\]]+)(?::([0-9]+))?:/([^/]+)/?", text)
    if match is None:
        raise UserError(f"{text!r} is no export of a head; write HOST:/EXPORT or HOST:PORT:/EXPORT.", ExitCode.USAGE)
    port = int(match[2]) if match[2] else DEFAULT_PORT
    if not 0 < port < 65536:
        raise UserError(f"{port} in {text!r} is no port; ports are 1 to 65535.", ExitCode.USAGE)
    return Target(match[1].strip("[]"), port, match[3])


def parse_dash_o(texts: tuple[str, ...] | list[str]) -> dict[str, object]:
    """The settings in `-o a,b=c` texts; what only concerns mount(8) is left out. `soft` is the opposite of `hard`."""
    options: dict[str, object] = {}
    for text in texts:
        for part in filter(None, (each.strip() for each in text.split(","))):
            name, equals, value = part.partition("=")
            if name in _GENERIC or name.startswith(("x-", "comment")):
                continue
            if name == "soft" and not equals:
                options["hard"] = False
            else:
                options[name] = value if equals else True
    return options


@dataclass(frozen=True)
class MountOptions:
    """Everything a mount process needs to know. Paths are absolute."""

    target: Target
    mountpoint: str
    settings: Settings
    key_file: Path | None
    foreground: bool = False
    tls: TlsFiles | None = None

    @property
    def patience(self) -> float:
        """Seconds that one call may take before it fails with EIO: the retry time and a margin; inf with `hard`."""
        return float("inf") if self.settings["hard"] else float(self.settings["retry"]) + 10.0

    def fuse_options(self) -> list[str]:
        """The options of the kernel mount."""
        options = ["ro", "nosuid", "nodev", "noatime", "subtype=dadafs", f"fsname={_escape(str(self.target))}"]
        if self.settings["allow_other"]:
            options += ["allow_other", "default_permissions"]
        return options


def _escape(text: str) -> str:
    """As libfuse wants option values: commas and backslashes escaped."""
    return text.replace("\\", "\\\\").replace(",", "\\,")


def resolve(
    target: str,
    mountpoint: str,
    *,
    dash_o: tuple[str, ...] = (),
    flags: Mapping[str, object] | None = None,
    config: str | None = None,
    foreground: bool = False,
) -> MountOptions:
    """Merge all layers. Raises UserError."""
    files = [Path(config)] if config else existing(CONFIG_FILE)
    settings = load(SCHEMA, files=files, prefix="DADAFS_", flags=flags, options=parse_dash_o(dash_o))
    key_file = settings["key_file"]
    if key_file is None and os.access(KEY_FILE, os.R_OK):
        key_file = str(KEY_FILE)
    return MountOptions(
        target=parse_target(target),
        mountpoint=os.path.realpath(mountpoint),
        settings=settings,
        key_file=Path(key_file).absolute() if key_file else None,
        foreground=foreground,
        tls=tls_files(settings),
    )
