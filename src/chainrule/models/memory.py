"""Memory that was freed and that the C library keeps."""

import ctypes
import sys


def give_back() -> None:
    """Return freed memory to the system, where the C library (glibc) does not do so by itself.

    It keeps freed arrays of less than 32 MB for later. What comes next is a compiler, whose threads have heaps of their own
    and cannot use it, so it would only add to the peak.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries lack it
        if trim is not None:
            trim(0)
