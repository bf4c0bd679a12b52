"""Locks of files, by which processes that make the same thing wait for one another."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from jupyter_sc2.models import checksums

# Seconds between two calls of `waiting`.
POLL_INTERVAL_S = 0.5
# How file systems refuse locks: some NFS without its lock daemon, some network drives, some FUSE.
NO_LOCKS = {
    getattr(errno, name)
    for name in ("ENOLCK", "ENOSYS", "EOPNOTSUPP", "ENOTSUP")
    if hasattr(errno, name)
}


@contextmanager
def locked(file: Path, waiting: Callable[[], None] | None = None) -> Iterator[bool]:
    """Holds the lock `file`, whose folder is made if need be; yields False where the file system has no locks.

    While another process holds it, `waiting` is called now and then, and may end the wait by an exception; without it
    filelock.Timeout is raised at once. Raises OSError if the file cannot be written.
    """
    import filelock

    file.parent.mkdir(parents=True, exist_ok=True)
    if file.is_dir():
        checksums.quarantine(file)
    lock = filelock.FileLock(file)
    held = False
    try:
        while not held:
            try:
                lock.acquire(timeout=POLL_INTERVAL_S if waiting is not None else 0)
                held = True
            except filelock.Timeout:
                if waiting is None:
                    raise
                waiting()
            except NotImplementedError:  # earlier versions of filelock for ENOSYS
                break
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                break
        yield held
    finally:
        lock.release()
