"""The C library's allocator: large blocks are kept for the next step instead of returned to the system."""

from __future__ import annotations

import ctypes
import functools
import sys

import torch

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
_NEVER = 2**31 - 1


@functools.cache
def keep_large_blocks() -> bool:
    """Let malloc reuse the memory of large tensors; return whether the setting was accepted.

    By default glibc maps every large block anew and unmaps it when it is freed, so a training step spends
    its time in page faults. Only glibc has the setting; elsewhere nothing changes. No result changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    # A thread's own arena returns its memory despite the threshold, so all threads share the first arena.
    return all((mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, _NEVER), mallopt(_M_ARENA_MAX, 1)))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether torch or Python could not allocate memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # On a CPU torch raises a plain RuntimeError, as it does for std::bad_alloc and for cuDNN.
    phrases = ("DefaultCPUAllocator", "bad_alloc", "can't allocate memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in phrases)
