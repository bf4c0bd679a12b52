"""A library that refuses file locks as some NFS does (ENOLCK), for the processes that load it before others."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/file.h>

int flock(int file, int operation) { errno = ENOLCK; return -1; }

#define FCNTL(name)                                                                                \
    int name(int file, int command, ...) {                                                         \
        va_list rest;                                                                              \
        va_start(rest, command);                                                                   \
        void *argument = va_arg(rest, void *);                                                     \
        va_end(rest);                                                                              \
        if (command == F_SETLK || command == F_SETLKW) { errno = ENOLCK; return -1; }              \
        return ((int (*)(int, int, ...))dlsym(RTLD_NEXT, #name))(file, command, argument);         \
    }
FCNTL(fcntl)
FCNTL(fcntl64)
"""


def library(folder: Path) -> Path:
    """The compiled library, for LD_PRELOAD. Skips the test where there is no C compiler, or no such variable."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler on Linux")
    source, made = folder / "without_locks.c", folder / "without_locks.so"
    source.write_text(SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, source, "-ldl"], check=True)
    return made
