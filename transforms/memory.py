"""Memory of the process: what a pass of a network frees stays for the next one."""

import ctypes
import os
import sys

SETTINGS = {
    "MALLOC_MMAP_MAX_": (-4, 0),
    "MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1),
    "MALLOC_TOP_PAD_": (-2, 2**28),
    "MALLOC_ARENA_MAX": (-8, 1),
}
"""Of glibc: the variable that it reads when a process begins, the number in malloc.h; a value, in bytes or pieces."""


def keep_memory() -> None:
    """Makes glibc keep what is freed, in this process and in those that it starts; with another C library, nothing.

    A pass frees and takes tens of megabytes many times. By default glibc returns blocks of that size to the system, and
    every page of the next one is cleared anew, which is a quarter of the time of a pass (docs/performance.md). Threads
    that ran before, and those that follow them, may go on with memory of their own kind, so this is best called first.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        for variable, (number, value) in SETTINGS.items():
            mallopt(number, value)
            os.environ.setdefault(variable, str(value))
