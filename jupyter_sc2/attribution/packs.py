"""A pack: fingerprints of many files, sorted, in a folder that is written once and then only read.

The arrays are memory-mapped, so opening a pack reads next to nothing. A fingerprint takes eight bytes: its hash, and
the number of the lexeme at which it begins, counted across all files of the pack.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_sc2.models import checksums
from jupyter_sc2.runtime.bounded_read import parse_json, read_limited

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Numbers32 = npt.NDArray[np.uint32]

_ARRAYS = (
    *("hashes", "places", "directory", "starts", "owners", "sizes", "stamps"),
    *("ends", "names", "marks", "mark_ends"),
)
_SOURCES, _CHECKSUMS = "sources.json", "checksums.json"
MAX_SOURCES_BYTES = 64 << 20
# The first bits of a hash: the directory has for each value of them where the hashes with it begin.
_BITS = 16
# The most fingerprints with one hash that are looked at: text that is everywhere is no evidence.
MAX_SAME_HASH = 64


@dataclass
class Draft:
    """A pack in memory, before it is written. `sources` are the keys of the sources that its files belong to."""

    sources: list[str] = field(default_factory=list)
    hashes: list[Any] = field(default_factory=list)
    places: list[Any] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    marks: list[Any] = field(default_factory=list)
    lexemes: int = 0

    def add(
        self,
        source: str,
        path: str,
        *,
        size: int,
        stamp: int,
        lexemes: int,
        found: tuple[Any, Any],
        marks: Any,
    ) -> None:
        """Adds a file with its fingerprints, and its marks: pairs of a byte and the number of lexemes before it."""
        import numpy as np

        if source not in self.sources[-1:]:
            self.sources.append(source)
        hashes, places = found
        self.hashes.append(hashes)
        self.places.append(places + np.uint32(self.lexemes))
        self.starts.append(self.lexemes)
        self.owners.append(len(self.sources) - 1)
        self.sizes.append(size)
        self.stamps.append(stamp)
        self.paths.append(path)
        self.marks.append(np.array(marks, np.uint32).reshape(-1, 2))
        self.lexemes += lexemes

    def write(self, folder: Path) -> None:
        """Writes the pack as a new folder, all of it or nothing. Raises OSError."""
        import numpy as np

        hashes = np.concatenate(self.hashes) if self.hashes else np.empty(0, np.uint32)
        places = np.concatenate(self.places) if self.places else np.empty(0, np.uint32)
        keys = hashes.astype(np.uint64) << np.uint64(32) | places
        keys.sort()
        hashes = (keys >> np.uint64(32)).astype(np.uint32)
        places = keys.astype(np.uint32)
        names = [path.encode("utf-8", "surrogateescape") for path in self.paths]
        buckets = np.arange(1, 1 << _BITS, dtype=np.uint32) << np.uint32(32 - _BITS)
        directory = np.concatenate(([0], np.searchsorted(hashes, buckets), [len(hashes)]))
        arrays = {
            "hashes": hashes,
            "places": places,
            "directory": directory.astype(np.uint32),
            "starts": np.array([*self.starts, self.lexemes], np.uint32),
            "owners": np.array(self.owners, np.uint32),
            "sizes": np.array(self.sizes, np.uint64),
            "stamps": np.array(self.stamps, np.uint64),
            "ends": np.cumsum([0, *map(len, names)]).astype(np.uint64),
            "names": np.frombuffer(b"".join(names), np.uint8),
            "marks": np.concatenate([np.empty((0, 2), np.uint32), *self.marks]),
            "mark_ends": np.cumsum([0, *map(len, self.marks)]).astype(np.uint64),
        }
        unfinished = folder.with_name(folder.name + ".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            for name, array in arrays.items():
                with open(unfinished / f"{name}.npy", "wb") as file:
                    np.save(file, array)
                    file.flush()
                    os.fsync(file.fileno())
            (unfinished / _SOURCES).write_text(json.dumps(self.sources), "utf-8")
            records = {file.name: checksums.record(file) for file in unfinished.iterdir()}
            checksums.write_record(unfinished / _CHECKSUMS, records)
            os.replace(unfinished, folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise


class Pack:
    """A pack on disk. Opening it raises OSError if it cannot be read, and ValueError if it is damaged.

    `dead` are the numbers of files that are no longer valid.
    """

    def __init__(self, folder: Path, dead: Sequence[int] = ()) -> None:
        self.folder, self.dead = folder, tuple(dead)
        try:
            self._open()
        except (OSError, MemoryError):
            raise
        except Exception as error:  # NumPy raises almost anything for a file that is not its own
            raise ValueError(f"{folder.name} is damaged") from error

    def _open(self) -> None:
        import numpy as np

        folder = self.folder
        for name in _ARRAYS:
            if not (folder / f"{name}.npy").is_file():  # opening a pipe would block
                raise ValueError(f"there is no file {name}.npy")
        arrays = {
            # Unlike np.load it opens no other format, such as pickle.
            name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="r").view(np.ndarray)
            for name in _ARRAYS
        }
        self.hashes, self.places = arrays["hashes"], arrays["places"]
        self.directory = np.array(arrays["directory"])
        self.starts = np.array(arrays["starts"])
        self.owners, self.sizes, self.stamps = (arrays[n] for n in ("owners", "sizes", "stamps"))
        self._ends, self._names = arrays["ends"], arrays["names"]
        self._marks, self._mark_ends = arrays["marks"], arrays["mark_ends"]
        sources = parse_json(read_limited(folder / _SOURCES, MAX_SOURCES_BYTES))
        if not isinstance(sources, list) or not all(isinstance(one, str) for one in sources):
            raise ValueError("sources.json is not a list of strings")
        self.sources: list[str] = sources
        for name, array in arrays.items():
            if array.dtype.kind != "u" or array.ndim != 1 + (name == "marks"):
                raise ValueError(f"{name} has another type or number of dimensions")
        self._check_sizes()
        self.alive = np.ones(self.files, bool)
        for file in self.dead:
            self.alive[file] = False

    def _check_sizes(self) -> None:
        """Raises ValueError unless the arrays fit one another; the largest ones are not read for this."""
        import numpy as np

        count, files = len(self.hashes), self.files
        fit = (
            len(self.places) == count
            and len(self.directory) == (1 << _BITS) + 1
            and files == len(self.owners) == len(self.sizes) == len(self.stamps)
            and files + 1 == len(self._ends) == len(self._mark_ends)
            and (np.diff(self.directory.astype(np.int64)) >= 0).all()
            and (np.diff(self.starts.astype(np.int64)) >= 0).all()
            and int(self.directory[-1]) == count
            and int(self._ends[-1]) == len(self._names)
            and int(self._mark_ends[-1]) == len(self._marks)
            and (not files or int(self.owners.max()) < len(self.sources))
        )
        if not fit:
            raise ValueError("its arrays do not fit one another")

    @property
    def is_whole(self) -> bool:
        """Whether all files match their checksums, for which they are read in full.

        A pack of an older version has no checksums and counts as whole.
        """
        records = checksums.read_record(self.folder / _CHECKSUMS)
        if records is None:
            return not os.path.lexists(self.folder / _CHECKSUMS)
        names = [_SOURCES, *(f"{name}.npy" for name in _ARRAYS)]
        return all(checksums.is_whole(self.folder / name, records.get(name)) for name in names)

    @property
    def files(self) -> int:
        return len(self.starts) - 1

    @property
    def lexemes(self) -> int:
        return int(self.starts[-1])

    @property
    def disk_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.folder.iterdir())

    def path(self, file: int) -> str:
        start, end = int(self._ends[file]), int(self._ends[file + 1])
        return bytes(self._names[start:end].tobytes()).decode("utf-8", "surrogateescape")

    def marks(self, file: int) -> npt.NDArray[np.uint32]:
        """The bytes of a file at which reading can start, and the number of lexemes before each: shape (n, 2)."""
        found: npt.NDArray[np.uint32] = self._marks[
            int(self._mark_ends[file]) : int(self._mark_ends[file + 1])
        ]
        return found

    def source(self, file: int) -> str:
        return self.sources[int(self.owners[file])]

    def counts(self) -> dict[str, tuple[int, int]]:
        """The number of valid files of each source, and of their lexemes."""
        import numpy as np

        lexemes = np.diff(self.starts.astype(np.int64))[self.alive]
        owners = np.asarray(self.owners)[self.alive]
        files = np.bincount(owners, minlength=len(self.sources))
        sums = np.bincount(owners, lexemes, minlength=len(self.sources))
        counts: dict[str, tuple[int, int]] = {}
        for name, count, total in zip(self.sources, files.tolist(), sums.tolist(), strict=True):
            before = counts.get(name, (0, 0))
            counts[name] = before[0] + count, before[1] + int(total)
        return counts

    def files_of(self, source: str) -> list[int]:
        """The numbers of the valid files of a source."""
        import numpy as np

        numbers = [n for n, name in enumerate(self.sources) if name == source]
        found: list[int] = np.flatnonzero(self.alive & np.isin(self.owners, numbers)).tolist()
        return found

    def look_up(self, hashes: Numbers32, places: Numbers32) -> list[tuple[int, int, int]]:
        """The hits of these fingerprints in valid files: the given place, the file, and the place in the file."""
        hits: list[tuple[int, int, int]] = []
        directory, known = self.directory, self.hashes
        for hash, place in zip(hashes.tolist(), places.tolist(), strict=True):
            bucket = hash >> (32 - _BITS)
            start, end = int(directory[bucket]), int(directory[bucket + 1])
            if start == end:
                continue
            here = known[start:end]
            first = int(here.searchsorted(here.dtype.type(hash), "left"))
            last = int(here.searchsorted(here.dtype.type(hash), "right"))
            if first == last:
                continue
            last = min(last, first + MAX_SAME_HASH)
            found = self.places[start + first : start + last]
            found = found[found < self.starts[-1]]  # any other is damage
            files = self.starts.searchsorted(found, "right") - 1
            alive = self.alive[files]
            within = found - self.starts[files]
            hits += [
                (place, file, at)
                for file, at in zip(files[alive].tolist(), within[alive].tolist(), strict=True)
            ]
        return hits


def merged(packs: Sequence[Pack]) -> Draft:
    """One pack with the valid files of several."""
    import numpy as np

    draft = Draft()
    for pack in packs:
        files = pack.starts.searchsorted(pack.places, "right") - 1
        order = np.argsort(files, kind="stable")
        hashes, places = pack.hashes[order], pack.places[order]
        bounds = np.searchsorted(files[order], np.arange(pack.files + 1))
        for file in np.flatnonzero(pack.alive).tolist():
            part = slice(int(bounds[file]), int(bounds[file + 1]))
            start, end = int(pack.starts[file]), int(pack.starts[file + 1])
            draft.add(
                pack.source(file),
                pack.path(file),
                size=int(pack.sizes[file]),
                stamp=int(pack.stamps[file]),
                lexemes=end - start,
                found=(hashes[part], places[part] - np.uint32(start)),
                marks=pack.marks(file),
            )
    return draft
