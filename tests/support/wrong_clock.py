"""A machine whose clock is wrong: every process that is started with ``variables`` sees the time moved."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_CODE = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
int clock_gettime(clockid_t clock, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int status = real(clock, at);
    if (!status && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) at->tv_sec += SECONDS;
    return status;
}
time_t time(time_t *into) {
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    if (into) *into = at.tv_sec;
    return at.tv_sec;
}
int gettimeofday(struct timeval *into, void *zone) {
    (void)zone;
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    if (into) { into->tv_sec = at.tv_sec; into->tv_usec = at.tv_nsec / 1000; }
    return 0;
}
"""


def variables(folder: Path, seconds: int) -> dict[str, str]:
    """Environment in which it is ``seconds`` later than it is; skips the test where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    source, library = folder / "clock.c", folder / f"clock{seconds}.so"
    source.write_text(_CODE)
    command = [compiler, "-shared", "-fPIC", f"-DSECONDS=({seconds})", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return {"LD_PRELOAD": str(library)}
