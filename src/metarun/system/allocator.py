"""The C library's memory: large blocks are kept for the next step instead of given back to the system."""

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
    """Let malloc serve large tensors from memory it keeps; say whether it does from now on.

    By default glibc maps every large block anew and gives it back when it is freed, so a training step
    spends its time in page faults. Only glibc is told; elsewhere nothing changes. No result changes.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    # A thread's own arena gives its memory back whatever the threshold says, so all threads share the first.
    return all((mallopt(_M_MMAP_MAX, 0), mallopt(_M_TRIM_THRESHOLD, _NEVER), mallopt(_M_ARENA_MAX, 1)))


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether torch or Python could not allocate memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # On a CPU torch raises a plain RuntimeError, as for std::bad_alloc and where cuDNN finds none.
    signs = ("DefaultCPUAllocator", "bad_alloc", "can't allocate memory", "STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
