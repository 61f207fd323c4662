"""SMBNetFS: Samba through FUSE and libsmbclient, the one mount of an SMB share that needs no kernel module."""

from __future__ import annotations

from pathlib import Path

from bench.peers.base import Peer, mount_client, program_path
from bench.peers.without_mount import start_smbd

#: libsmbclient knows no other; the namespace has it for itself.
PORT = 445
CONFIG = """
smb_query_browsers false
use_libsecret false
auth "guest" ""
host {address} visible=true
"""


class Smbnetfs(Peer):
    """The mount shows hosts, and in them shares: the tree is two levels down."""

    name = "smbnetfs"
    about = "SMBNetFS on a Samba server"
    programs = ("smbd", "smbnetfs", "ss", "setsid")
    packages = "samba smbnetfs"

    @property
    def root(self) -> Path:
        return self.site.mountpoint / self.site.address / "data"

    def serve(self) -> None:
        start_smbd(self.site, PORT)

    def mount(self) -> None:
        home = self.site.state / ".smb"
        home.mkdir(exist_ok=True)
        (home / "smb.conf").write_text("[global]\nclient min protocol = SMB3\n")
        config = home / "smbnetfs.conf"
        config.write_text(CONFIG.format(address=self.site.address))
        config.chmod(0o600)
        argv = [program_path("smbnetfs"), "-f", "-o", f"ro,kernel_cache,config={config}", str(self.site.mountpoint)]
        mount_client(self.site, argv, HOME=str(self.site.state))
