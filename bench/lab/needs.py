"""What a measurement needs from the machine, and the true reason when it is not there."""

from __future__ import annotations

import os
import shutil
import subprocess

#: Where Debian keeps programs that are not on every user's PATH.
EXTRA_PATH = ("/usr/sbin", "/sbin", "/usr/lib/openssh")


def program(name: str) -> str | None:
    """The path of the program `name`, or None."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), *EXTRA_PATH])
    return shutil.which(name, path=path)


def reason_without_namespaces() -> str | None:
    """Why network namespaces cannot be made here, or None where they can."""
    if os.geteuid() != 0:
        return "network namespaces need root, and this is not root"
    for name in ("ip", "nsenter"):
        if program(name) is None:
            return f"the program {name} is not installed (Debian packages: iproute2, util-linux)"
    probe = f"dadabench-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"this root may not make network namespaces: {made.stderr.strip() or 'ip netns add failed'}"
    subprocess.run(["ip", "netns", "delete", probe], check=False)
    return None


def reason_without_fuse() -> str | None:
    """Why nothing can be mounted here, or None where it can."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse cannot be opened by this user"
    if program("fusermount3") is None:
        return "the program fusermount3 is not installed (Debian package: fuse3)"
    return None
