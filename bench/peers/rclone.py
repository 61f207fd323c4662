"""rclone mount over WebDAV, HTTP and SFTP, each served by rclone itself on the head."""

from __future__ import annotations

import subprocess
from typing import ClassVar

from bench.peers.base import Peer, mount_client, program_path
from bench.peers.ssh import listening

PORT = 8080
#: Name and password where a protocol insists on them; the server lives in a namespace that nobody else reaches.
USER = "bench"
#: Reads one after the other (`--async-read=false`): out of order, as the kernel's read-ahead sends them, each one opens
#: the file anew, and a sequential reader gets a tenth.
ORDER = ("--read-only", "--async-read=false")
MOUNT_OPTIONS = (*ORDER, "--vfs-cache-mode", "off", "--buffer-size", "16M", "--vfs-read-ahead", "16M")


def _obscured(password: str) -> str:
    """`password` in the form in which rclone wants it in a remote's name."""
    command = [program_path("rclone"), "obscure", password]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


class _Rclone(Peer):
    programs = ("rclone", "ss", "fusermount3")
    packages = "rclone"
    protocol: ClassVar[str]

    def serve(self) -> None:
        where = ["--addr", f"{self.site.address}:{PORT}", "--read-only", "--config", "/dev/null"]
        argv = [program_path("rclone"), "serve", self.protocol, str(self.site.tree), *where, *self.access]
        self.site.head.start("rclone-serve", argv, lambda: listening(self.site.head, PORT))

    #: How the server is told who may come, and how the client names itself.
    access: ClassVar[tuple[str, ...]] = ()
    remote_name: ClassVar[str]

    def mount(self) -> None:
        url = f"http://{self.site.address}:{PORT}"
        source = self.remote_name.format(url=url, host=self.site.address, port=PORT, password=_obscured(USER))
        argv = [program_path("rclone"), "mount", source, str(self.site.mountpoint), "--config", "/dev/null"]
        mount_client(self.site, [*argv, *MOUNT_OPTIONS])


class RcloneWebdav(_Rclone):
    """rclone mount of `rclone serve webdav`."""

    name = "rclone-webdav"
    about = "rclone mount, rclone serve webdav"
    protocol = "webdav"
    remote_name = ":webdav,url='{url}',vendor=other:"


class RcloneHttp(_Rclone):
    """rclone mount of `rclone serve http`."""

    name = "rclone-http"
    about = "rclone mount, rclone serve http"
    protocol = "http"
    remote_name = ":http,url='{url}':"


class RcloneSftp(_Rclone):
    """rclone mount of `rclone serve sftp`."""

    name = "rclone-sftp"
    about = "rclone mount, rclone serve sftp (encrypted)"
    protocol = "sftp"
    access = ("--user", USER, "--pass", USER)
    remote_name = ":sftp,host={host},port={port},user=bench,pass={password},disable_hashcheck=true:/"
