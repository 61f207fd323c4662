"""A mount whose replies to look-ups come too late: the kernel has dropped the request and takes no reference.

It does so on its own only when a connection is aborted, after which nobody can look. So a few lines of C, compiled
when needed and preloaded into the mount process, do what it does then: the caller is sent an error in place of the
reply, and whoever wrote the reply is told `ENOENT`.
"""

from __future__ import annotations

from pathlib import Path

from tests.harness.preloaded import Preloaded

_SOURCE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static volatile long long *left;

__attribute__((constructor)) static void map_left(void)
{
    int fd = open(getenv("LOST_REPLIES"), O_RDWR | O_CLOEXEC);
    void *mapped = mmap(NULL, sizeof *left, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (mapped != MAP_FAILED)
        left = mapped;
    close(fd);
}

ssize_t writev(int fd, const struct iovec *iov, int count)
{
    if (left && *left > 0 && count == 2 && iov[0].iov_len == sizeof(struct fuse_out_header) &&
        iov[1].iov_len == sizeof(struct fuse_entry_out) && ((struct fuse_entry_out *)iov[1].iov_base)->nodeid) {
        struct fuse_out_header header = *(struct fuse_out_header *)iov[0].iov_base;
        header.len = sizeof header;
        header.error = -EINTR;
        --*left;
        if (write(fd, &header, sizeof header) == sizeof header) {
            errno = ENOENT;
            return -1;
        }
    }
    return syscall(SYS_writev, fd, iov, count);
}
"""


class LostReplies(Preloaded):
    """What a mount process started with `env` makes of its next replies to look-ups that found something."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, _SOURCE, "LOST_REPLIES")

    def lose(self, count: int) -> None:
        """The next `count` are lost."""
        self.number = count

    @property
    def left(self) -> int:
        """How many are still to be lost."""
        return self.number
