"""GlusterFS without its management daemon: one brick and one client, each from a volume file written here."""

from __future__ import annotations

from bench.peers.base import Peer, mount_client, program_path
from bench.peers.ssh import listening

PORT = 24100

SERVER = """
volume brick
  type storage/posix
  option directory {tree}
end-volume
volume locks
  type features/locks
  subvolumes brick
end-volume
volume threads
  type performance/io-threads
  option thread-count 16
  subvolumes locks
end-volume
volume server
  type protocol/server
  option transport-type tcp
  option transport.socket.listen-port {port}
  option transport.socket.bind-address {address}
  option auth.addr.threads.allow *
  subvolumes threads
end-volume
"""

CLIENT = """
volume remote
  type protocol/client
  option transport-type tcp
  option remote-host {address}
  option remote-port {port}
  option remote-subvolume threads
end-volume
volume read-ahead
  type performance/read-ahead
  option page-count 16
  subvolumes remote
end-volume
volume readdir-ahead
  type performance/readdir-ahead
  subvolumes read-ahead
end-volume
volume quick-read
  type performance/quick-read
  subvolumes readdir-ahead
end-volume
volume md-cache
  type performance/md-cache
  subvolumes quick-read
end-volume
"""


class Gluster(Peer):
    """GlusterFS, native FUSE client."""

    name = "glusterfs"
    about = "GlusterFS, FUSE client, one brick"
    programs = ("glusterfsd", "glusterfs", "ss")
    packages = "glusterfs-server glusterfs-client"

    def serve(self) -> None:
        volume = self.site.state / "server.vol"
        volume.write_text(SERVER.format(tree=self.site.tree, port=PORT, address=self.site.address))
        log = str(self.site.state / "glusterfsd.log")
        argv = [program_path("glusterfsd"), "-N", "-f", str(volume), "-l", log]
        self.site.head.start("glusterfsd", argv, lambda: listening(self.site.head, PORT))

    def mount(self) -> None:
        volume = self.site.state / "client.vol"
        volume.write_text(CLIENT.format(port=PORT, address=self.site.address))
        log = str(self.site.state / "glusterfs.log")
        argv = [program_path("glusterfs"), "-N", "--read-only", "-f", str(volume), "-l", log]
        mount_client(self.site, [*argv, str(self.site.mountpoint)])
