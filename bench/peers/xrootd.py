"""XRootD's own FUSE client on an XRootD server."""

from __future__ import annotations

import shutil

from bench.peers.base import Peer, mount_client, program_path
from bench.peers.ssh import listening

PORT = 10940
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
    programs = ("xrootd", "xrootdfs", "ss")
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
        argv = [program_path("xrootd"), "-R", "daemon", "-c", str(config), "-l", log, "-n", "bench"]
        self.site.head.start("xrootd", argv, lambda: listening(self.site.head, PORT))

    def mount(self) -> None:
        url = f"root://{self.site.address}:{PORT}//data"
        argv = [program_path("xrootdfs"), "-f", "-o", f"rdr={url}", "-o", "ro", str(self.site.mountpoint)]
        mount_client(self.site, argv)
