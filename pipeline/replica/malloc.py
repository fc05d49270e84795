"""The C allocator of a process that decodes and codes audio on a CPU."""

import ctypes

# Parameters of glibc's mallopt(3).
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, ARENA_MAX = -1, -2, -3, -8
LARGEST_KEPT, KEPT_AT_THE_TOP, PAD = 2**30, 2**31 - 1, 2**26  # bytes


def keep_freed_memory() -> bool:
    """Lets this process keep what it frees instead of handing it back to the system.

    The codec's tensors have tens of megabytes, and glibc asks the system for each of them anew,
    page by page: a third of the codec's time. All threads share one heap, since others are too
    small for that. The process keeps the most that it ever held, until its end.

    Returns:
        Whether the C library is glibc, and so could be told.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return False
    settings = {
        ARENA_MAX: 1,
        MMAP_THRESHOLD: LARGEST_KEPT,
        TRIM_THRESHOLD: KEPT_AT_THE_TOP,
        TOP_PAD: PAD,
    }
    refused = [name for name, value in settings.items() if not mallopt(name, value)]
    return not refused
