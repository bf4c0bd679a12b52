"""Notes of the servers that run here (`jupyter sc2 serve`), by which this user's kernels find them.

Each is a small file in Jupyter's runtime folder that only its owner can read, for it holds the server's token.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec
from jupyter_core.paths import jupyter_runtime_dir, secure_write

from jupyter_sc2.errors import SC2Error
from jupyter_sc2.models import checksums
from jupyter_sc2.runtime.bounded_read import parse_json, read_limited
from jupyter_sc2.runtime.child_process import Identity, here
from jupyter_sc2.runtime.clock import now

logger = logging.getLogger(__name__)

PATTERN = "sc2-server-*.json"
MAX_FILE_BYTES = 1 << 16  # bytes of a note
DAMAGED_S = 24 * 3600  # a note that is no JSON is removed after so long


@dataclass(frozen=True, kw_only=True)
class RunningServer:
    """A server: its address, its token, what it serves, and the process that it is.

    `created` is when the process began, in units of the system's, which tells it from a later one of the same number;
    `machine` is there for runtime folders that several machines or containers share.
    """

    url: str
    token: str = field(repr=False)
    model: str
    pid: int
    created: float
    machine: str

    def lives(self) -> bool:
        return Identity(self.pid, self.created, self.machine).lives()


@contextlib.contextmanager
def announced(*, url: str, token: str, model: str) -> Iterator[RunningServer]:
    """Notes that this process serves; the note goes when the block ends. Raises SC2Error if it cannot be written."""
    me = Identity.of(os.getpid())
    server = RunningServer(
        url=url, token=token, model=model, pid=me.pid, created=me.began, machine=me.where
    )
    folder = Path(jupyter_runtime_dir())
    file = folder / f"sc2-server-{server.pid}.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        running_servers()
        if file.is_dir():
            checksums.quarantine(file)
        unfinished = file.with_suffix(".part")
        with secure_write(str(unfinished)) as stream:
            json.dump(asdict(server), stream)
        os.replace(unfinished, file)
    except OSError as error:
        raise SC2Error(
            f"{file}, by which your kernels find this server, cannot be written: {error.strerror or error}. "
            "Set JUPYTER_RUNTIME_DIR to a folder that can be written to."
        ) from error
    try:
        yield server
    finally:
        with contextlib.suppress(OSError):
            file.unlink(missing_ok=True)


def running_servers() -> list[RunningServer]:
    """This user's servers on this machine, the newest first. Notes that others have left behind here are removed."""
    servers: list[RunningServer] = []
    for file in Path(jupyter_runtime_dir()).glob(PATTERN):
        # What cannot be read is being taken away just now, or is no note of this version.
        with contextlib.suppress(OSError, msgspec.ValidationError):
            try:
                note = parse_json(read_limited(file, MAX_FILE_BYTES))
            except ValueError:
                if now() - file.stat().st_mtime > DAMAGED_S:
                    file.unlink()
                continue
            server = msgspec.convert(note, RunningServer)
            if server.lives():
                servers.append(server)
            elif server.machine == here():  # it was killed
                file.unlink()
    return sorted(servers, key=lambda server: server.created, reverse=True)
