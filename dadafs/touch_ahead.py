"""A small process that has the kernel read ahead on a mount: run as a script, it does what comes in on its stdin.

It is a process of its own because a file system must never wait for itself: a thread that hangs in a call on its own
mount could not even be killed. It imports nothing of dadafs and takes some ten megabytes.
"""

from __future__ import annotations

import os
import select
import signal
import stat
import struct
import sys

#: First byte, one past the last byte (0: close the file), bytes of the path that follows (relative to the mountpoint).
REQUEST = struct.Struct("<QQI")
PIECE = 128 * 1024
STDIN = 0
#: Files held open at a time.
MOST_FILES = 16
#: Seconds without a word after which all are closed, should the word to close one be lost.
IDLE = 1.0


def open_regular(mountpoint: str, path: bytes) -> int:
    """A regular file of the mount, open for reading. Raises OSError for anything else."""
    root = os.open(mountpoint, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # What is there is looked at before it is opened: opening a device has effects of its own.
        place = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=root)
        try:
            found = os.fstat(place)
            if not stat.S_ISREG(found.st_mode) or found.st_dev != os.fstat(root).st_dev:
                raise OSError("no regular file of this mount")
            return os.open(f"/proc/self/fd/{place}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(place)
    finally:
        os.close(root)


def touch(file: int, start: int, end: int) -> None:
    """Have the kernel read these bytes; returns when that has begun."""
    for offset in range(start, end, PIECE):  # it takes no more than its own window at a time
        os.posix_fadvise(file, offset, min(PIECE, end - offset), os.POSIX_FADV_WILLNEED)


def main(mountpoint: str) -> None:
    """Until stdin ends. A file is held open for as long as a reader has it, and the mountpoint is not."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the mount process, whose end ends us
    os.chdir("/")
    files: dict[bytes, int] = {}
    while True:
        if files and not select.select([STDIN], [], [], IDLE)[0]:
            while files:
                os.close(files.popitem()[1])
        head = os.read(STDIN, REQUEST.size)  # a request is written whole, and so it is read
        if len(head) < REQUEST.size:
            return
        start, end, length = REQUEST.unpack(head)
        path = os.read(STDIN, length)
        if end == 0:
            if path in files:
                os.close(files.pop(path))
            continue
        try:
            if path not in files:
                while len(files) >= MOST_FILES:
                    os.close(files.pop(next(iter(files))))
                files[path] = open_regular(mountpoint, path)
            touch(files[path], start, end)
        except OSError:
            pass  # whoever reads the file will meet the error, and be told


if __name__ == "__main__":
    main(sys.argv[1])
