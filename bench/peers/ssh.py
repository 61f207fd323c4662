"""sshfs: over ssh as everybody uses it, and with the SFTP server straight on a socket (no encryption)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from bench.lab.side import Side
from bench.peers.base import Peer, Site, mount_client, program_path

SSH_PORT = 2222
SFTP_PORT = 2223
SFTP_SERVER = "/usr/lib/openssh/sftp-server"
OPTIONS = "ro,kernel_cache,dir_cache=yes"


def listening(side: Side, port: int) -> bool:
    """Whether something on this side listens at TCP `port`."""
    command = side.command(["ss", "-Hltn", f"sport = :{port}"])
    return bool(subprocess.run(command, capture_output=True, check=False).stdout.strip())


def _key(path: Path) -> Path:
    if not path.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path


def start_sshd(site: Site) -> Path:
    """A private sshd on the head's side; the user's key that it accepts."""
    host, user = _key(site.state / "host_key"), _key(site.state / "user_key")
    os.makedirs("/run/sshd", exist_ok=True)
    config = site.state / "sshd_config"
    config.write_text(
        f"Port {SSH_PORT}\nHostKey {host}\nAuthorizedKeysFile {user}.pub\nStrictModes no\nUsePAM no\n"
        f"PermitRootLogin yes\nPasswordAuthentication no\nPidFile none\nSubsystem sftp {SFTP_SERVER}\n"
    )
    argv = [program_path("sshd"), "-D", "-e", "-f", str(config)]
    site.head.start("sshd", argv, lambda: listening(site.head, SSH_PORT))
    return user


class Sshfs(Peer):
    """sshfs over ssh."""

    name = "sshfs"
    about = "sshfs over ssh (default cipher)"
    programs = ("sshfs", "sshd", "ssh-keygen", "ss")
    packages = "sshfs openssh-server"

    def serve(self) -> None:
        self._user_key = start_sshd(self.site)

    def mount(self) -> None:
        options = f"{OPTIONS},port={SSH_PORT},IdentityFile={self._user_key},IdentitiesOnly=yes"
        options += ",StrictHostKeyChecking=no,UserKnownHostsFile=/dev/null,LogLevel=ERROR"
        source = f"root@{self.site.address}:{self.site.tree}"
        mount_client(self.site, [program_path("sshfs"), "-f", "-o", options, source, str(self.site.mountpoint)])


class SshfsPlain(Peer):
    """sshfs that speaks SFTP over a bare socket to sftp-server: what it can do without encryption."""

    name = "sshfs-plain"
    about = "sshfs without encryption (directport, sftp-server on a socket)"
    programs = ("sshfs", "socat", "sftp-server", "ss")
    packages = "sshfs socat openssh-sftp-server"

    def serve(self) -> None:
        listen = f"TCP-LISTEN:{SFTP_PORT},bind={self.site.address},reuseaddr,fork,nodelay"
        argv = [program_path("socat"), listen, f"EXEC:{program_path('sftp-server')},nofork"]
        self.site.head.start("socat", argv, lambda: listening(self.site.head, SFTP_PORT))

    def mount(self) -> None:
        options = f"{OPTIONS},directport={SFTP_PORT}"
        source = f"{self.site.address}:{self.site.tree}"
        mount_client(self.site, [program_path("sshfs"), "-f", "-o", options, source, str(self.site.mountpoint)])
