"""What tells of a lack that may be over a moment later: of memory, threads, descriptors, or room on a disk."""

from __future__ import annotations

import errno

ERRNOS = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EFBIG)
# In lower case, of Python, ONNX Runtime, torch, the loader of shared libraries, C++ and llama.cpp.
WORDS = (
    "memoryerror",
    "can't start new thread",
    "bad_alloc",
    "bad allocation",
    "can't allocate",
    "allocate memory",
    "failed to map segment",
    "cannot map zero-fill pages",
    "too many open files",
    "resource temporarily unavailable",
    "failed to allocate",
    "insufficient memory",
    "unable to allocate",
    "no space left on device",
    "file too large",
)


def tells_of_scarcity(text: str) -> bool:
    lower = text.lower()
    return any(words in lower for words in WORDS)
