"""Every peer by name, in the order of the tables."""

from __future__ import annotations

from bench.peers.base import Peer
from bench.peers.dadafs import Dadafs
from bench.peers.gluster import Gluster
from bench.peers.local import Bindfs, DictFs, Local, PythonPassThrough
from bench.peers.rclone import RcloneHttp, RcloneSftp, RcloneWebdav
from bench.peers.smbnetfs import Smbnetfs
from bench.peers.ssh import Sshfs, SshfsPlain
from bench.peers.without_mount import Ganesha, Samba
from bench.peers.xrootd import Xrootdfs

PEERS: dict[str, type[Peer]] = {
    peer.name: peer
    for peer in (
        Local,
        Bindfs,
        PythonPassThrough,
        DictFs,
        Dadafs,
        Sshfs,
        SshfsPlain,
        RcloneWebdav,
        RcloneHttp,
        RcloneSftp,
        Gluster,
        Xrootdfs,
        Smbnetfs,
        Ganesha,
        Samba,
    )
}
