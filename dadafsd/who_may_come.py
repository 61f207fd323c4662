"""What nodes must prove before they are let in, from the configuration."""

from __future__ import annotations

import ipaddress
import logging

from dadafs.errors import ExitCode, UserError
from dadafs.wire.auth import ServerAuth
from dadafs.wire.keys import load_key_file
from dadafs.wire.tls import server_context, tls_files
from dadafsd.config import HeadConfig

log = logging.getLogger(__name__)


def authentication(config: HeadConfig) -> ServerAuth:
    """What nodes must prove. Raises UserError, also for a head that would let strangers in without being told to."""
    settings = config.settings
    key_file = config.path("key_file")
    keys = load_key_file(key_file) if key_file else None
    files = tls_files(settings)
    tls = server_context(*files) if files else None
    everybody = bool(settings["insecure_no_auth"])
    if not (keys or tls or everybody or is_loopback(config.host)):
        raise UserError(
            f"Refusing to listen on {config.host} without authentication: give --key-file FILE "
            "(make one with: openssl rand -hex 32 > FILE; chmod 600 FILE), "
            "or --insecure-no-auth if everybody who can reach this port may read everything.",
            ExitCode.USAGE,
        )
    return ServerAuth(keys, tls, allow_none=everybody, allow_none_on_loopback=not (keys or tls))


def say_who_cannot_come(config: HeadConfig) -> None:
    """Names in a node list are those of certificates: without certificates nobody has one."""
    if tls_files(config.settings):
        return
    for export in config.exports:
        if export.options.node_names:
            log.warning(
                "export %s admits nodes by the names %s, which can never match without certificates: "
                "set tls_certificate, tls_key and tls_authority, or write addresses.",
                export.name,
                ", ".join(export.options.node_names),
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
