"""What a head is configured with, and the checks that need no running head."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass, field
from pathlib import Path

from dadafs.errors import ExitCode, UserError
from dadafs.wire.auth import ServerAuth
from dadafs.wire.keys import load_key_file
from dadafs.wire.tls import server_context
from dadafsd.export import Export
from dadafsd.exported import ExportOptions

DEFAULT_PORT = 7070


@dataclass(frozen=True)
class ExportConfig:
    """One export: a name, a directory, and how it is served."""

    name: str
    directory: Path
    options: ExportOptions = field(default_factory=ExportOptions)


@dataclass(frozen=True)
class HeadConfig:
    """Everything that a head is started with. Sizes in bytes, times in seconds."""

    exports: tuple[ExportConfig, ...]
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    cache_dir: Path | None = None
    cache_size: int = 16 << 30
    memory: int = 64 << 20
    write_queue: int = 64 << 20
    key_file: Path | None = None
    tls: tuple[str, str, str] | None = None  # certificate, key, authority
    no_auth: bool = False
    admin_socket: Path | None = None
    metrics: tuple[str, int] | None = None
    drain: float = 10.0
    name: str = field(default_factory=socket.gethostname)


def parse_listen(text: str, default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """`HOST`, `HOST:PORT`, `[V6]:PORT` or `:PORT`. Raises UserError."""
    host, port = text, ""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    try:
        number = int(port) if port else default_port
    except ValueError:
        number = -1
    if not 0 <= number <= 65535:
        raise UserError(f"{text!r} is no address to listen on: write HOST:PORT.", ExitCode.USAGE)
    return host or "::", number


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def authentication(config: HeadConfig) -> ServerAuth:
    """What nodes must prove. Raises UserError, also for a head that would let strangers in without being told to."""
    keys = load_key_file(config.key_file) if config.key_file else None
    tls = server_context(*config.tls) if config.tls else None
    if keys or tls:
        return ServerAuth(keys, tls, allow_none=config.no_auth)
    if not is_loopback(config.host) and not config.no_auth:
        raise UserError(
            f"Refusing to listen on {config.host} without authentication: give --key-file FILE "
            "(make one with: openssl rand -hex 32 > FILE; chmod 600 FILE), "
            "or --insecure-no-auth if everybody who can reach this port may read everything.",
            ExitCode.USAGE,
        )
    return ServerAuth(allow_none=config.no_auth, allow_none_on_loopback=True)


def open_exports(config: HeadConfig) -> list[tuple[Export, ExportOptions]]:
    """All exports, their directories open. Raises UserError where one is not there or not a directory."""
    if not config.exports:
        raise UserError("Nothing to serve: give --export NAME=DIR or [export.NAME] in the file.", ExitCode.USAGE)
    opened = []
    for export in config.exports:
        try:
            found = Export(export.name, export.directory)
        except OSError as error:
            raise UserError(
                f"Cannot serve export {export.name}: {export.directory}: {os.strerror(error.errno or 0)}.",
                ExitCode.USAGE,
            ) from None
        _check_apart(config, export)
        opened.append((found, export.options))
    return opened


def _check_apart(config: HeadConfig, export: ExportConfig) -> None:
    """A cache inside the tree that it caches would be served, and would grow by being read."""
    if config.cache_dir is None:
        return
    cache, tree = config.cache_dir.resolve(), export.directory.resolve()
    if cache == tree or tree in cache.parents:
        raise UserError(
            f"The cache directory {config.cache_dir} lies inside export {export.name} ({export.directory}): "
            "put it elsewhere.",
            ExitCode.USAGE,
        )
