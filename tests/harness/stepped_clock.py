"""A wall clock that tests can set for chosen processes: time namespaces do not cover it, and the machine's is not ours.

A few lines of C, compiled when needed and preloaded, add the number of seconds in a file to every answer about
CLOCK_REALTIME. The kernel's own timestamps and the monotonic clocks stay as they are.
"""

from __future__ import annotations

from pathlib import Path

from tests.harness.preloaded import Preloaded

_SOURCE = r"""
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long long *step;

__attribute__((constructor)) static void map_step(void)
{
    const char *path = getenv("STEPPED_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    void *mapped = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof *step, PROT_READ, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    if (mapped != MAP_FAILED)
        step = mapped;
}

static long long seconds(void) { return step ? *step : 0; }

int clock_gettime(clockid_t id, struct timespec *now)
{
    int result = syscall(SYS_clock_gettime, id, now);
    if (!result && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE))
        now->tv_sec += seconds();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    int result = syscall(SYS_gettimeofday, now, zone);
    if (!result && now)
        now->tv_sec += seconds();
    return result;
}

time_t time(time_t *now)
{
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (now)
        *now = found.tv_sec;
    return found.tv_sec;
}
"""


class SteppedClock(Preloaded):
    """The clock of all processes started with `env`; `set` sets it for all of them at once."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, _SOURCE, "STEPPED_CLOCK")

    def set(self, seconds: int) -> None:
        """The clock is ahead of the real one by so much (negative: behind)."""
        self.number = seconds
