"""File systems whose clients are programs of their own: no mount, so only the sequential load can be measured.

The kernel has the mounting clients of NFS and SMB as modules; Debian's user-space clients need none. The clock runs
around the whole client program, which throws the bytes away; that they are right is checked in a second, untimed run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from abc import abstractmethod

from bench import loads
from bench.lab.data import MIB, Tree, block_sums
from bench.lab.side import peak_of
from bench.peers.base import Peer, Site, program_path
from bench.peers.ssh import listening

NFS_PORT = 20490
SMB_PORT = 4450


class WithoutMount(Peer):
    """A server, and a program on the node that writes one file of it to a given place or to standard output."""

    loads = ("sequential",)
    keeps = False

    @classmethod
    def missing(cls) -> str | None:
        return cls.lacking()

    @abstractmethod
    def client(self, name: str, to_stdout: bool) -> list[str]:
        """The command that reads the file `name` of the tree and drops it, or writes it to standard output."""

    def mount(self) -> None:
        """Nothing: every call of the client connects anew."""

    def unmount(self) -> None:
        """Nothing."""

    def run(self, name: str, tree: Tree, bound: loads.Bound, cut_off: float) -> dict[str, float]:
        before = self.site.head.cpu_seconds()
        seconds, cpu, peak = self._timed(self.site.node.command(self.client(tree.BIG, False)), cut_off)
        served = self.site.head.cpu_seconds() - before
        self._check(tree)
        size = tree.sizes.big_bytes
        figures = {"MB/s": size / seconds / 1e6, "seconds": seconds, "bytes": float(size)}
        return {**figures, "node cpu s": cpu, "head cpu s": served, "node MiB": peak / 2**20}

    def _timed(self, command: list[str], cut_off: float) -> tuple[float, float, int]:
        """Seconds, CPU seconds and peak of the resident memory of `command`."""
        begin = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        # Not ru_maxrss: that begins with the memory of whoever forked.
        peak, ended = [0], threading.Event()

        def watch() -> None:
            while not ended.is_set():
                peak[0] = max(peak[0], peak_of(process.pid))
                if time.perf_counter() - begin > cut_off:
                    process.kill()
                ended.wait(0.005)

        watcher = threading.Thread(target=watch)
        watcher.start()
        assert process.stderr is not None
        with process.stderr as words:
            said = words.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - begin
        ended.set()
        watcher.join()
        if process.returncode == -signal.SIGKILL:
            raise loads.CutOff(f"cut off after {cut_off:.0f} s")
        if process.returncode != 0:
            raise RuntimeError(f"{command[-1]} ended with {process.returncode}: {said.decode(errors='replace')[-300:]}")
        return seconds, usage.ru_utime + usage.ru_stime, peak[0]

    def _check(self, tree: Tree) -> None:
        """Once more, through a pipe: every byte has to be right."""
        sums: list[int] = []
        command = self.site.node.command(self.client(tree.BIG, True))
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            while piece := process.stdout.read(MIB):
                sums += block_sums(piece)
        if sums != tree.sums[tree.BIG]:
            raise loads.WrongBytes(f"{self.name} does not give the bytes that were written")


GANESHA = """
NFS_CORE_PARAM {{
    NFS_Port = {port}; Bind_addr = {address}; Protocols = 4; Enable_NLM = false; Enable_RQUOTA = false;
}}
NFSV4 {{ Graceless = true; RecoveryBackend = fs; RecoveryRoot = {state}; }}
NFS_KRB5 {{ Active_krb5 = false; }}
EXPORT {{
    Export_Id = 1; Path = {tree}; Pseudo = /data; Access_Type = RO; Squash = None; SecType = sys;
    Protocols = 4; Transports = TCP; FSAL {{ Name = VFS; }}
}}
"""


class Ganesha(WithoutMount):
    """NFS-Ganesha (NFS 4) read with libnfs."""

    name = "nfs-ganesha"
    about = "NFS-Ganesha and nfs-cat of libnfs, no mount"
    programs = ("ganesha.nfsd", "nfs-cat", "ss")
    packages = "nfs-ganesha nfs-ganesha-vfs libnfs-utils"

    def serve(self) -> None:
        state = self.site.state
        config = state / "ganesha.conf"
        address = self.site.address
        config.write_text(GANESHA.format(port=NFS_PORT, address=address, state=state, tree=self.site.tree))
        argv = [program_path("ganesha.nfsd"), "-F", "-f", str(config)]
        argv += ["-L", str(state / "ganesha.txt"), "-p", str(state / "ganesha.pid")]
        self.site.head.start("ganesha", argv, lambda: listening(self.site.head, NFS_PORT))

    def client(self, name: str, to_stdout: bool) -> list[str]:
        return [program_path("nfs-cat"), f"nfs://{self.site.address}/data/{name}?version=4&nfsport={NFS_PORT}"]


SAMBA = """
[global]
server role = standalone
map to guest = bad user
guest account = root
smb ports = {port}
interfaces = {address}
bind interfaces only = yes
disable netbios = yes
load printers = no
use sendfile = yes
lock directory = {state}
state directory = {state}
cache directory = {state}
private dir = {state}
pid directory = {state}
ncalrpc dir = {state}/ncalrpc
log file = {state}/log
[data]
path = {tree}
guest ok = yes
read only = yes
force user = root
"""


def start_smbd(site: Site, port: int) -> None:
    """A private smbd on the head's side that exports the tree to guests as `data`."""
    state = site.state / "smb"
    state.mkdir(parents=True, exist_ok=True)
    config = site.state / "smb.conf"
    config.write_text(SAMBA.format(port=port, address=site.address, state=state, tree=site.tree))
    # At its end it sends SIGTERM to its whole process group: it must have one of its own.
    argv = [program_path("setsid"), program_path("smbd"), "-F", "--no-process-group", "-s", str(config)]
    site.head.start("smbd", argv, lambda: listening(site.head, port))


class Samba(WithoutMount):
    """Samba read with smbclient."""

    name = "samba"
    about = "Samba and smbclient, no mount"
    programs = ("smbd", "smbclient", "ss", "setsid")
    packages = "samba smbclient"

    def serve(self) -> None:
        start_smbd(self.site, SMB_PORT)

    def client(self, name: str, to_stdout: bool) -> list[str]:
        argv = [program_path("smbclient"), "-N", "-s", "/dev/null", "-p", str(SMB_PORT), f"//{self.site.address}/data"]
        return [*argv, "-c", f"get {name} {'-' if to_stdout else '/dev/null'}"]
