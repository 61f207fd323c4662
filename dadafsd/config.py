"""What a head is configured with: files, environment and flags, and what the parts are made of from them."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from dadafs.errors import ExitCode, UserError
from dadafs.settings import Kind, Schema, Setting, Settings, existing, load
from dadafs.wire.messages import BLOCK_SIZE, DEFAULT_FRAGMENT_SIZE, MAX_FRAGMENT_SIZE, Identities
from dadafsd.export import Export
from dadafsd.exported import ExportOptions
from dadafsd.policy.id_maps import parse_map
from dadafsd.policy.keeping import parse_rules
from dadafsd.store import TierSettings

DEFAULT_PORT = 7070
METRICS_PORT = 9107
CONFIG_FILE = Path("/etc/dadafs/dadafsd.toml")
MIB = 1 << 20

_EXPORT = [
    Setting("name", Kind.STR, None, "the name nodes mount"),
    Setting("directory", Kind.STR, None, "what is served under it"),
    Setting(
        "fragment_size",
        Kind.SIZE,
        DEFAULT_FRAGMENT_SIZE,
        "unit of caching, a power of two, 4MiB at most",
        minimum=BLOCK_SIZE,
    ),
    Setting(
        "nodes",
        Kind.LIST,
        [],
        "who may mount it: address ranges as 10.1.0.0/16, names in certificates as *.lab; empty: all",
        live=True,
    ),
    Setting("tiers", Kind.LIST, [], "names of the tiers that keep its fragments; empty: all", live=True),
    Setting(
        "admission",
        Kind.LIST,
        [],
        "after how many reads fragments are kept, by path: *.log=2, scratch/*=never; what matches none at once",
        live=True,
    ),
    Setting("freshness_min", Kind.DURATION, 0.0, "mounts that want fresher data get this", minimum=0, live=True),
    Setting("freshness_max", Kind.DURATION, 3600.0, "and those that ask for less fresh this", minimum=0, live=True),
    Setting("root_squash", Kind.BOOL, False, "root of a node is the anonymous user"),
    Setting("all_squash", Kind.BOOL, False, "everybody on a node is the anonymous user"),
    Setting("anonuid", Kind.INT, 65534, "the anonymous user", minimum=1),
    Setting("anongid", Kind.INT, 65534, "and his group", minimum=1),
    Setting("uid_map", Kind.LIST, [], "how owners appear on nodes: 1000=5000, 2000-2999=7000"),
    Setting("gid_map", Kind.LIST, [], "how groups appear on nodes"),
    Setting("acl", Kind.BOOL, True, "POSIX ACLs of the tree, if it has any, are enforced by the kernels of nodes"),
    Setting("append", Kind.LIST, [], "patterns of files that only grow"),
    Setting("watch", Kind.STR, "auto", "how changes are found", choices=("auto", "inotify", "poll")),
    Setting("watches", Kind.INT, 100_000, "objects watched with inotify at most", minimum=16),
    Setting("stats_per_second", Kind.INT, 2000, "looks at a polled origin at most", minimum=1),
    Setting("slots", Kind.INT, 16, "calls into the origin at a time", minimum=2),
    Setting("deadline", Kind.DURATION, 15.0, "a call into the origin that takes longer fails", minimum=0.1),
]
_TIER = [
    Setting("name", Kind.STR, None, "what it is called in statistics"),
    Setting("directory", Kind.STR, None, "where fragments are kept"),
    Setting("size", Kind.SIZE, 16 << 30, "how much it may hold", minimum=4 * MIB),
    Setting("high", Kind.FLOAT, 0.97, "eviction begins when this part of the size is used", minimum=0),
    Setting("low", Kind.FLOAT, 0.93, "and ends at this part", minimum=0),
    Setting("floor", Kind.SIZE, 0, "free space of the file system that is never touched"),
    Setting("kind", Kind.STR, "ssd", "ssd, or ram for a directory on a tmpfs, asked first", choices=("ssd", "ram")),
    Setting("sync", Kind.STR, "none", "whether data is forced to disk before it is named", choices=("none", "data")),
]
SCHEMA = Schema(
    [
        Setting("listen", Kind.STR, "127.0.0.1", f"where nodes connect, HOST:PORT (port {DEFAULT_PORT})"),
        Setting("cache_dir", Kind.STR, None, "one directory for fragments; for several write [[tier]]"),
        Setting("cache_size", Kind.SIZE, 16 << 30, "how much cache_dir may hold", minimum=4 * MIB),
        Setting("memory", Kind.SIZE, 64 * MIB, "recently read fragments kept in memory", minimum=0, live=True),
        Setting("write_queue", Kind.SIZE, 64 * MIB, "fragments waiting for the disk at most", minimum=0, live=True),
        Setting("key_file", Kind.STR, None, "the keys that nodes must know"),
        Setting("tls_certificate", Kind.STR, None, "this head's certificate (PEM)"),
        Setting("tls_key", Kind.STR, None, "its private key (PEM)"),
        Setting("tls_authority", Kind.STR, None, "who vouches for nodes (PEM)"),
        Setting("insecure_no_auth", Kind.BOOL, False, "let everybody in who can reach the port"),
        Setting("admin_socket", Kind.STR, None, "where dadafsctl connects"),
        Setting("metrics", Kind.STR, None, f"serve Prometheus metrics there, HOST:PORT (port {METRICS_PORT})"),
        Setting(
            "drain", Kind.DURATION, 10.0, "how long to finish what is under way when stopping", minimum=0, live=True
        ),
        Setting(
            "compression",
            Kind.STR,
            "auto",
            "LZ4 on the wire: auto (where the network to a node is slow enough for it to pay), off, on",
            choices=("auto", "off", "on"),
            live=True,
        ),
        Setting("touches", Kind.INT, 2, "small reads of a fragment until it is cached whole", minimum=1, live=True),
        Setting(
            "log_level",
            Kind.STR,
            "INFO",
            "how much to log",
            choices=("DEBUG", "INFO", "WARNING", "ERROR"),
            live=True,
        ),
    ],
    {"export": _EXPORT, "tier": _TIER},
)


@dataclass(frozen=True)
class ExportConfig:
    """One export: a name, a directory, and how it is served."""

    name: str
    directory: Path
    options: ExportOptions
    settings: Settings


@dataclass(frozen=True)
class HeadConfig:
    """Everything that a head is started with. `settings` holds the plain values, some of which may change."""

    settings: Settings
    exports: tuple[ExportConfig, ...]
    tiers: tuple[TierSettings, ...]
    host: str
    port: int
    metrics: tuple[str, int] | None
    name: str
    read_again: Callable[[], HeadConfig]  #: from where it came from, as it is then; raises UserError

    def path(self, name: str) -> Path | None:
        """The setting `name` as a path."""
        value = self.settings[name]
        return Path(value) if value else None

    def tier_source(self, tier: str, setting: str) -> str:
        """Where a setting of the tier of that name comes from."""
        for number, table in enumerate(self.settings.tables.get("tier", [])):
            if tier == (table["name"] or f"ssd{number}"):
                return table.source(setting)
        plain = {"directory": "cache_dir", "size": "cache_size"}.get(setting)
        return self.settings.source(plain) if plain else "default"


def read_config(
    files: Sequence[Path],
    flags: Mapping[str, object],
    exports: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> HeadConfig:
    """All layers merged; `exports` are NAME=DIR from the command line. Raises UserError."""
    settings = load(SCHEMA, files=files or existing(CONFIG_FILE), environ=environ, prefix="DADAFSD_", flags=flags)
    host, port = parse_listen(settings["listen"])
    metrics = settings["metrics"]
    return HeadConfig(
        settings,
        tuple(_exports(settings, exports)),
        tuple(_tiers(settings)),
        host,
        port,
        parse_listen(metrics, METRICS_PORT) if metrics else None,
        socket.gethostname(),
        partial(read_config, files, flags, exports, environ),
    )


def _exports(settings: Settings, flags: Sequence[str]) -> list[ExportConfig]:
    """Those of the file, and those of the command line, which override them by name."""
    found = {}
    for table in settings.tables.get("export", []):
        name, directory = table["name"], table["directory"]
        if not name or not directory:
            raise UserError("Every [[export]] needs a name and a directory.", ExitCode.USAGE)
        found[name] = ExportConfig(name, Path(directory), export_options(table), table)
    for text in flags:
        name, equals, directory = text.partition("=")
        if not equals or not name or not directory:
            raise UserError(f"--export {text}: write NAME=DIR.", ExitCode.USAGE)
        table = found[name].settings if name in found else Settings(SCHEMA.tables["export"], "export")
        table.put("name", name, "flag --export")
        table.put("directory", directory, "flag --export")
        found[name] = ExportConfig(name, Path(directory), export_options(table), table)
    for name in found:
        if "/" in name or not name.isprintable() or len(name) > 100:
            raise UserError(f"{name!r} cannot be the name of an export.", ExitCode.USAGE)
    return list(found.values())


def export_options(table: Settings) -> ExportOptions:
    """What the settings of one export say. Raises UserError where they contradict each other."""
    name, size = table["name"], table["fragment_size"]
    if size & (size - 1) or size > MAX_FRAGMENT_SIZE:
        raise UserError(f"fragment_size of export {name} must be a power of two, 4MiB at most.", ExitCode.USAGE)
    if table["freshness_min"] > table["freshness_max"]:
        raise UserError(f"freshness_min of export {name} is above its freshness_max.", ExitCode.USAGE)
    try:
        admission = parse_rules(table["admission"])
    except ValueError as error:
        raise UserError(f"The admission of export {name} is wrong: {error}.", ExitCode.USAGE) from None
    return ExportOptions(
        identities=_identities(table),
        acl=table["acl"],
        tiers=tuple(table["tiers"]),
        admission=admission,
        freshness=(table["freshness_min"], table["freshness_max"]),
        slots=table["slots"],
        deadline=table["deadline"],
        fragment_size=size,
        nodes=tuple(_network(text, table["name"]) for text in table["nodes"] if _is_address(text)),
        node_names=tuple(text for text in table["nodes"] if not _is_address(text)),
        append_patterns=tuple(table["append"]),
        watch=table["watch"],
        watches=table["watches"],
        stats_per_second=table["stats_per_second"],
    )


def _identities(table: Settings) -> Identities | None:
    """How users and groups appear on nodes; None where they are what they are. Raises UserError."""
    try:
        uids, gids = (parse_map(table[name]) for name in ("uid_map", "gid_map"))
    except ValueError as error:
        raise UserError(f"A map of export {table['name']} is wrong: {error}.", ExitCode.USAGE) from None
    root, everybody = table["root_squash"], table["all_squash"]
    if not (root or everybody or uids or gids):
        return None
    return Identities(root, everybody, table["anonuid"], table["anongid"], uids, gids)


def _is_address(text: str) -> bool:
    """Whether `text` in a node list is meant as an address or a range of them, not as a name in a certificate."""
    return "/" in text or ":" in text or not any(character.isalpha() or character == "*" for character in text)


def _network(text: str, export: str) -> IPv4Network | IPv6Network:
    try:
        return ipaddress.ip_network(text, strict=False)
    except ValueError:
        message = f"{text!r} in the node list of export {export} is no address range: write 10.1.0.0/16 or one address."
        raise UserError(message, ExitCode.USAGE) from None


def _tiers(settings: Settings) -> list[TierSettings]:
    tiers = []
    for number, table in enumerate(settings.tables.get("tier", [])):
        if not table["directory"]:
            raise UserError("Every [[tier]] needs a directory.", ExitCode.USAGE)
        tiers.append(
            TierSettings(
                Path(table["directory"]),
                table["size"],
                table["high"],
                table["low"],
                table["floor"],
                table["name"] or f"ssd{number}",
                table["sync"],
                table["kind"],
            )
        )
    if settings["cache_dir"]:
        tiers.append(TierSettings(Path(settings["cache_dir"]), settings["cache_size"]))
    return tiers


def parse_listen(text: str, default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """`HOST`, `HOST:PORT`, `[V6]:PORT` or `:PORT`. Raises UserError."""
    host, port = text, ""
    if text.startswith("["):
        host, _, rest = text[1:].partition("]")
        port = rest.removeprefix(":")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    number = int(port) if port.isascii() and port.isdigit() else default_port if not port else -1
    if not 0 <= number <= 65535:
        raise UserError(f"{text!r} is no address to listen on: write HOST:PORT.", ExitCode.USAGE)
    return host or "::", number


def open_exports(config: HeadConfig) -> list[tuple[Export, ExportOptions]]:
    """All exports, their directories open. Raises UserError where one is not there or not a directory."""
    if not config.exports:
        raise UserError("Nothing to serve: give --export NAME=DIR, or [[export]] in the file.", ExitCode.USAGE)
    opened = []
    for export in config.exports:
        try:
            found = Export(export.name, export.directory)
        except OSError as error:
            reason = os.strerror(error.errno or 0)
            raise UserError(
                f"Cannot serve export {export.name}: {export.directory}: {reason}.", ExitCode.USAGE
            ) from None
        _check_apart(config, export)
        opened.append((found, export.options))
    return opened


def _check_apart(config: HeadConfig, export: ExportConfig) -> None:
    """A cache inside the tree that it caches would be served, and would grow by being read."""
    tree = export.directory.resolve()
    for tier in config.tiers:
        cache = tier.directory.resolve()
        if cache == tree or tree in cache.parents:
            raise UserError(
                f"The cache directory {tier.directory} lies inside export {export.name} ({export.directory}): "
                "put it elsewhere.",
                ExitCode.USAGE,
            )
