"""Certificates for tests, as PEM files."""

from __future__ import annotations

import os
from pathlib import Path

import trustme

from dadafs.wire.tls import TlsFiles


def issue(folder: Path, authority: trustme.CA, *names: str, common_name: str | None = None) -> TlsFiles:
    """A certificate with these names, its key and its authority in the new directory `folder`."""
    issued = authority.issue_cert(*names, common_name=common_name)
    folder.mkdir()
    files = TlsFiles(*(str(folder / name) for name in ("certificate", "key", "authority")))
    issued.private_key_pem.write_to_path(files.key)
    os.chmod(files.key, 0o600)
    for pem in issued.cert_chain_pems:
        pem.write_to_path(files.certificate, append=True)
    authority.cert_pem.write_to_path(files.authority)
    return files


def as_toml(files: TlsFiles) -> str:
    """The three settings that name `files`."""
    return "".join(f'tls_{what} = "{path}"\n' for what, path in files._asdict().items())
