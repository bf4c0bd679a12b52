"""Reading untrusted data: limited in bytes, and JSON limited in nesting."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import sys
from pathlib import Path
from typing import IO, Any

from jupyter_sc2.runtime.hardware import format_bytes

# Levels of nesting, each of which takes some hundred bytes of the parser's stack. It stops by itself at Python's limit
# of recursion, which is 1000; but the user may have raised that beyond what the stack of a thread holds.
MAX_NESTING = 1000
# Bytes of a file that is given on the command line; a notebook this large is mostly pictures.
MAX_INPUT_BYTES = 100 << 20
CHUNK_BYTES = 1 << 20
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_BRACKET = re.compile(rb"[][{}]")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def read_limited(file: Path, most: int) -> bytes:
    """All of a file. Raises OSError if it cannot be read, has more than `most` bytes, or is no regular file."""
    if not stat.S_ISREG(os.stat(file).st_mode):  # a pipe would be waited for
        raise OSError(errno.EINVAL, "it is no file")
    with open(file, "rb") as opened:
        return up_to(most, opened)


def up_to(most: int, opened: IO[bytes]) -> bytes:
    """All of a stream. Raises OSError if it has more than so many bytes."""
    data = bytearray()
    # Not at once: memory for all that it may have would be taken for it.
    while piece := opened.read(min(CHUNK_BYTES, most + 1 - len(data))):
        data += piece
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it is larger than {format_bytes(most)}")
    return bytes(data)


def parse_json(data: bytes) -> Any:
    """The value of a JSON text. Raises ValueError, also for deep nesting and for halves of surrogate pairs."""
    try:
        if sys.getrecursionlimit() > MAX_NESTING and _is_deep(data):
            raise RecursionError
        value = json.loads(data)
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8") from error
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if _SURROGATE.search(data):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except (UnicodeEncodeError, RecursionError) as error:
            raise ValueError("it has half of a surrogate pair") from error
    return value


def _is_deep(data: bytes) -> bool:
    if data.count(b"[") + data.count(b"{") <= MAX_NESTING:
        return False
    depth = 0
    for bracket in _BRACKET.findall(_STRING.sub(b"", data)):
        depth += 1 if bracket in b"[{" else -1
        if depth > MAX_NESTING:
            return True
    return False
