"""XRootD's own FUSE client on an XRootD server.

The client asks the server where a directory is, and the server answers with the address of its own host name. Where
that name is 127.0.0.1, as on many Debian machines, the client goes there, finds nobody, and waits for two minutes
before it tries again: a mount that does not answer. So the server gets a host name that means its own address.
"""

from __future__ import annotations

import shutil

from bench.peers.base import Peer, mount_client, program_path
from bench.peers.ssh import listening

PORT = 10940
HOST = "dadabench-head"
#: Runs a command under the host name `HOST` with the names in the file $1; only that command sees either.
NAMED = f'mount --bind "$1" /etc/hosts && hostname {HOST} && shift && exec "$@"'
CONFIG = """
all.export /data
oss.localroot {root}
xrd.port {port}
xrd.protocol xrootd *
xrootd.async off
all.adminpath {admin}
all.pidpath {admin}
"""


class Xrootdfs(Peer):
    """xrootdfs; its server refuses to run as root, so it runs as `daemon`, which must be able to read the tree."""

    name = "xrootdfs"
    about = "xrootdfs on an XRootD server"
    programs = ("xrootd", "xrootdfs", "ss", "unshare", "hostname")
    packages = "xrootd-server xrootd-fuse"

    def serve(self) -> None:
        admin = self.site.state / "xrootd"
        admin.mkdir(exist_ok=True)
        root = admin / "root"
        root.mkdir(exist_ok=True)
        (root / "data").unlink(missing_ok=True)
        (root / "data").symlink_to(self.site.tree)
        config = admin / "xrootd.cf"
        config.write_text(CONFIG.format(root=root, port=PORT, admin=admin))
        for path in (admin, root):
            shutil.chown(path, "daemon")
        log = str(admin / "xrootd.log")
        hosts = self.site.state / "hosts"
        hosts.write_text(f"127.0.0.1 localhost\n{self.site.address} {HOST}\n")
        argv = [program_path("unshare"), "--mount", "--uts", "sh", "-c", NAMED, "sh", str(hosts)]
        argv += [program_path("xrootd"), "-R", "daemon", "-c", str(config), "-l", log, "-n", "bench"]
        self.site.head.start("xrootd", argv, lambda: listening(self.site.head, PORT))

    def mount(self) -> None:
        url = f"root://{self.site.address}:{PORT}//data"
        argv = [program_path("xrootdfs"), "-f", "-o", f"rdr={url}", "-o", "ro", str(self.site.mountpoint)]
        mount_client(self.site, argv)
