"""A machine as it is before dadafs is installed: a chroot where we are root, else at least no checkout on any path.

The chroot has the system's programs and libraries and nothing of ours: no checkout, no environment, no home. Ordinary
users get an empty environment and another working directory instead.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

#: What a minimal installation has in /etc that programs need to start.
_ETC = ("passwd", "group", "nsswitch.conf", "ld.so.cache", "hosts", "fuse.conf", "mtab", "alternatives", "localtime")


class CleanMachine:
    """`folder` is seen as /work inside; `run` runs a shell script there and returns what it printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.isolated = os.geteuid() == 0 and shutil.which("unshare") is not None and _may_unshare()
        self.work = Path("/work") if self.isolated else folder

    def python(self) -> str:
        """The interpreter that environments are made with, not that of the tests' own environment."""
        return str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())

    def run(self, script: str, timeout: float) -> str:
        """The output of a script for sh; raises AssertionError with all output where it fails."""
        (self.folder / "script").write_text("set -eu\n" + script)
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.work)}
        if self.isolated:
            (self.folder / "enter").write_text(self._enter())
            command = ["unshare", "--mount", "--propagation", "private", "sh", "-eu", str(self.folder / "enter")]
        else:
            command = ["sh", str(self.folder / "script")]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def _enter(self) -> str:
        """Make the chroot of bind mounts, which go away with the mount namespace, and run the script in it."""
        root = self.folder / "root"
        lines = [f"mkdir -p {root}", f"mount -t tmpfs tmpfs {root}"]
        for name in ("dev", "proc", "sys", "usr"):
            lines += [f"mkdir {root}/{name}", f"mount --rbind /{name} {root}/{name}"]
        for name in ("bin", "sbin", "lib", "lib64"):
            link = Path("/", name)
            if link.is_symlink():
                lines.append(f"ln -s {os.readlink(link)} {root}/{name}")
            elif link.exists():
                lines += [f"mkdir {root}/{name}", f"mount --bind {link} {root}/{name}"]
        lines += [f"mkdir -p {root}/etc {root}/run {root}/work", f"mkdir -m 1777 {root}/tmp"]
        lines += [f"cp -a /etc/{name} {root}/etc/" for name in _ETC if os.path.lexists(f"/etc/{name}")]
        prefix = Path(sys.base_prefix).resolve()
        if not prefix.is_relative_to("/usr"):  # an interpreter that is not the system's
            lines += [f"mkdir -p {root}{prefix}", f"mount --rbind {prefix} {root}{prefix}"]
        lines += [f"mount --bind {self.folder} {root}/work", f"exec chroot {root} sh -c 'cd /work && exec sh script'"]
        return "\n".join(lines) + "\n"


def _may_unshare() -> bool:
    command = ["unshare", "--mount", "--propagation", "private", "true"]
    return subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0
