"""The index of code on this machine: its content, its updates and its lookups.

A folder holds packs (see packs.py) and `index.json`, which lists the valid ones. A new pack is written next to the
others and becomes valid when `index.json` is replaced, in one step. So an interruption or a full disk leaves the index
as it was, and the next run continues after the last finished pack. Lookups leave a damaged pack out; the next run
renames it and reads its sources again.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from jupyter_sc2.attribution.contents import Contents, PackEntry, SourceEntry, read_contents
from jupyter_sc2.attribution.lexemes import Lexemes, family_of_file, lex
from jupyter_sc2.attribution.packs import Draft, Pack, merged
from jupyter_sc2.attribution.sources import Item, Source, code_of, installed
from jupyter_sc2.attribution.winnow import RUN_LEXEMES, fingerprints
from jupyter_sc2.errors import RequestError
from jupyter_sc2.models import checksums
from jupyter_sc2.models.file_lock import locked
from jupyter_sc2.runtime.atomic_write import atomic_write
from jupyter_sc2.runtime.characters import is_plain_name
from jupyter_sc2.runtime.clock import monotonic

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

logger = logging.getLogger(__name__)

# A pack is written after so many lexemes: the most that an interrupted run loses.
PACK_LEXEMES = 4_000_000
# A suggestion is looked up in each pack, so there should be few.
MAX_PACKS = 6
# The most lexemes of a merged pack, as it is put together in memory.
MAX_MERGED_LEXEMES = 400_000_000
# The most sources that a message names.
MAX_NAMED = 5
# Errors that come from a limit of the process or the machine: the pack is not damaged, and is tried again.
_TEMPORARY_ERRORS = {errno.ENOMEM, errno.EMFILE, errno.ENFILE}


@dataclass(frozen=True)
class Hit:
    """A fingerprint that the text being looked up shares with an indexed file.

    It begins at lexeme `at` of the text, and at lexeme `place` of the file with the number `file` in `pack`.
    """

    at: int
    pack: Pack
    file: int
    place: int


@dataclass
class UpdateResult:
    """The counts of an update: files that were read (`files`), unchanged, gone, or left out, by reason.

    `lexemes` and `bytes` are those of the files that were read, `seconds` is the time of the update.
    """

    files: int = 0
    unchanged: int = 0
    gone: int = 0
    lexemes: int = 0
    bytes: int = 0
    seconds: float = 0.0
    left_out: Counter[str] = field(default_factory=Counter)


def default_folder() -> Path:
    from jupyter_core.paths import jupyter_data_dir

    return Path(jupyter_data_dir()) / "jupyter_sc2" / "attribution"


class Index:
    """The index in a folder, for lookups. `refresh` picks up what other processes have changed.

    With `verified`, each pack is read in full and compared with its checksums. Otherwise only damage that keeps a pack
    from being opened is noticed.
    """

    def __init__(self, folder: Path | None = None, *, verified: bool = False) -> None:
        self.folder = folder or default_folder()
        self._verified = verified
        self._file = self.folder / "index.json"
        self._stamp: tuple[int, int] | None = None
        self.contents = Contents()
        self.packs: list[Pack] = []
        self.damaged: list[str] = []  # the names of packs that are left out

    @property
    def exists(self) -> bool:
        return self._file.exists()

    @property
    def problem(self) -> str:
        """A sentence for the user about the packs that are left out; "" if there are none."""
        if not self.damaged:
            return ""
        listed = len(self.contents.packs)
        return (
            f"{len(self.damaged)} of {listed} parts of the index in {self.folder} cannot be read, so code in them is "
            "not found. Run `jupyter sc2 attribution index` to index it again."
        )

    @property
    def lexemes(self) -> int:
        return sum(source.lexemes for source in self.contents.sources.values())

    def refresh(self) -> bool:
        """Reads the index if it has changed since the last call; returns whether there is code to look up."""
        try:
            stat = self._file.stat()
            stamp = (stat.st_mtime_ns, stat.st_ino)
            if stamp != self._stamp:
                self._stamp = stamp
                self.load()
        except FileNotFoundError:
            self._stamp, self.contents, self.packs = None, Contents(), []
            self.damaged = []
        except (OSError, ValueError, msgspec.DecodeError):
            logger.debug("The index cannot be read", exc_info=True)
        return bool(self.packs)

    def load(self) -> None:
        """Reads the index, even if it has not changed. Raises OSError, or ValueError if this version cannot read it."""
        contents = read_contents(self._file)
        known = {pack.folder.name: pack for pack in self.packs}
        packs, damaged = [], []
        for entry in contents.packs:
            same = known.get(entry.name)
            if same is not None and same.dead == tuple(entry.dead):
                packs.append(same)
                continue
            try:
                packs.append(self._open(entry))
            except (OSError, ValueError) as error:
                logger.debug("A pack cannot be read", exc_info=True)
                damaged.append(entry.name)
                if isinstance(error, OSError) and error.errno in _TEMPORARY_ERRORS:
                    self._stamp = None  # so that it is tried again
                    if self._verified:
                        raise
        self.contents, self.packs, self.damaged = contents, packs, damaged

    def _open(self, entry: PackEntry) -> Pack:
        if not is_plain_name(entry.name):
            raise ValueError("the name of a pack is not a plain file name")
        pack = Pack(self.folder / entry.name, entry.dead)
        if self._verified and not pack.is_whole:
            raise ValueError("a pack does not match its checksums")
        return pack

    def look_up(self, hashes: npt.NDArray[np.uint32], places: npt.NDArray[np.uint32]) -> list[Hit]:
        """The hits of fingerprints that begin at these lexemes of a text."""
        return [
            Hit(at, pack, file, place)
            for pack in self.packs
            for at, file, place in pack.look_up(hashes, places)
        ]

    def source_of(self, hit: Hit) -> SourceEntry | None:
        return self.contents.sources.get(hit.pack.source(hit.file))


class Writer:
    """Changes the index in a folder. Made by `writing`, which lets only one process at a time change it."""

    def __init__(self, folder: Path, report: Callable[[str], None]) -> None:
        self.index = Index(folder, verified=True)
        self.notice = ""  # sentences for the user: what was damaged, and what was done about it
        self._report = report
        self._load(folder / "index.json")
        self.contents = self.index.contents
        self._draft, self._dead = Draft(), set[tuple[str, int]]()
        self._lost = self._rename_damaged()
        self._sweep()

    def _load(self, file: Path) -> None:
        """Reads index.json, or renames it if it is damaged. Raises OSError, or RequestError for another version's."""
        if not os.path.lexists(file):
            return
        try:
            if file.is_file():
                self.index.load()
                return
        except msgspec.DecodeError:
            pass
        except ValueError:
            raise RequestError(
                f"The index in {file.parent} was made by another version. Delete that folder to start a new index."
            ) from None
        checksums.quarantine(file)
        self.notice = (
            f"The list of what is indexed was damaged. It was renamed to {file.name}{checksums.REPLACED_SUFFIX} "
            f"in {file.parent}, and a new index was started. Sources that this run does not read have to be indexed "
            "again."
        )

    def _rename_damaged(self) -> set[str]:
        """Renames damaged packs and corrects the counts; returns the keys of the sources that have lost files."""
        damaged = set(self.index.damaged)
        for name in damaged:
            if is_plain_name(name) and os.path.lexists(self.index.folder / name):
                checksums.quarantine(self.index.folder / name)
        self.contents.packs = [one for one in self.contents.packs if one.name not in damaged]
        counts: Counter[str] = Counter()
        lexemes: Counter[str] = Counter()
        for pack in self.index.packs:
            for key, (files, total) in pack.counts().items():
                counts[key] += files
                lexemes[key] += total
        lost = set()
        for key, entry in self.contents.sources.items():
            if damaged and (entry.files, entry.lexemes) != (counts[key], lexemes[key]):
                lost.add(key)
            # Earlier versions counted twice the files that they had read again.
            entry.files, entry.lexemes = counts[key], lexemes[key]
        if damaged:
            several = len(damaged) > 1
            self.notice = (
                f"{len(damaged)} part{'s' * several} of the index {'were' if several else 'was'} damaged, and "
                f"renamed to *{checksums.REPLACED_SUFFIX} in {self.index.folder}."
            )
        return lost

    def update(self, sources: Sequence[Source]) -> UpdateResult:
        """Adds the new and changed files of these sources, and removes deleted ones. Raises OSError, RequestError.

        Files that were finished before an interruption or a failure stay in the index, and the next run does not read
        them again.
        """
        result, began = UpdateResult(), monotonic()
        lost = self._lost_sources({source.key for source in sources})
        try:
            for number, source in enumerate([*sources, *lost], 1):
                count = len(sources) + len(lost)
                self._report(f"{number} of {count}: {source.name} {source.version}".rstrip())
                try:
                    self._update(source, result)
                except RequestError:
                    if source not in lost:  # the user has not named those
                        raise
                    continue
                self._lost.discard(source.key)
        finally:
            self._finish()
        self._merge()
        self._note_lost()
        result.seconds = monotonic() - began
        return result

    def remove(self, keys: Sequence[str]) -> None:
        """Removes these sources from the index. Raises OSError."""
        for key in keys:
            for pack, file in self._known(key).values():
                self._dead.add((pack.folder.name, file))
            self.contents.sources.pop(key, None)
            self._lost.discard(key)
        self._finish()
        self._merge()

    def _lost_sources(self, chosen: set[str]) -> list[Source]:
        """The sources that lost files with a damaged pack and still exist, except for the chosen ones."""
        lost = self._lost - chosen
        packages = {one.key: one for one in installed()} if lost else {}
        found = [packages.get(key) for key in sorted(lost)]
        return [source for source in found if source is not None] + [
            entry.source()
            for key, entry in sorted(self.contents.sources.items())
            if key in lost and entry.kind != "package" and os.path.exists(entry.root)
        ]

    def _note_lost(self) -> None:
        """Adds the sources that could not be read again to `notice`."""
        entries = [self.contents.sources[key] for key in sorted(self._lost)]
        if entries:
            names = [one.name for one in entries[:MAX_NAMED]]
            if more := len(entries) - len(names):
                names.append(f"{more} more")
            self.notice += (
                f" Sources that no longer exist could not be read again: {', '.join(names)}."
            )

    def _update(self, source: Source, result: UpdateResult) -> None:
        known, entry = self._known(source.key), self._entry(source)
        for item in source.items(result.left_out):
            stamp = item.stamp % (1 << 64)
            old = known.pop(item.path, None)
            if old is not None:
                pack, file = old
                if (int(pack.sizes[file]), int(pack.stamps[file])) == (item.size, stamp):
                    result.unchanged += 1
                    continue
                self._drop(entry, pack, file)
            lexemes = self._read(item, result)
            if lexemes is None:
                continue
            self._draft.add(
                source.key,
                item.path,
                size=item.size,
                stamp=stamp,
                lexemes=len(lexemes),
                found=fingerprints(lexemes.numbers),
                marks=lexemes.marked(),
            )
            entry.files += 1
            entry.lexemes += len(lexemes)
            result.files += 1
            result.lexemes += len(lexemes)
            result.bytes += item.size
            if self._draft.lexemes >= PACK_LEXEMES:
                self._finish()
                self._report(
                    f"{source.name}: {result.lexemes:,} words and symbols in {result.files:,} files so far"
                )
        for pack, file in known.values():
            self._drop(entry, pack, file)
            result.gone += 1

    def _read(self, item: Item, result: UpdateResult) -> Lexemes | None:
        """The lexemes of a file; None if it is left out."""
        family = family_of_file(item.path)
        try:
            code = code_of(item.read(), item.path)
        except Exception:  # an archive may be damaged in many ways, or need a password
            result.left_out["unreadable"] += 1
            return None
        if code is None or family is None:
            result.left_out["binary or minified"] += 1
            return None
        lexemes = lex(code, family)
        if len(lexemes) < RUN_LEXEMES:
            result.left_out["too short"] += 1
            return None
        return lexemes

    def _entry(self, source: Source) -> SourceEntry:
        entry = self.contents.sources.setdefault(
            source.key, SourceEntry(kind=source.kind, name=source.name, root=source.root)
        )
        entry.name, entry.version = source.name, source.version
        entry.licence, entry.notices = source.licence, list(source.notices)
        return entry

    def _known(self, key: str) -> dict[str, tuple[Pack, int]]:
        """The valid files of a source, by path."""
        return {
            pack.path(file): (pack, file)
            for pack in self.index.packs
            for file in pack.files_of(key)
        }

    def _drop(self, entry: SourceEntry, pack: Pack, file: int) -> None:
        self._dead.add((pack.folder.name, file))
        entry.files -= 1
        entry.lexemes -= int(pack.starts[file + 1] - pack.starts[file])

    # Writing

    def _finish(self) -> None:
        """Writes the files read so far as a pack, and makes it valid in one step with the removal of replaced files."""
        draft, self._draft = self._draft, Draft()
        if draft.paths:
            name = f"pack-{uuid.uuid4().hex[:12]}"
            draft.write(self.index.folder / name)
            self.contents.packs.append(PackEntry(name))
        for entry in self.contents.packs:
            dead = {file for pack, file in self._dead if pack == entry.name}
            if dead:
                entry.dead = sorted(dead.union(entry.dead))
        self._dead.clear()
        self._save()

    def _save(self) -> None:
        self.index.folder.mkdir(parents=True, exist_ok=True)
        atomic_write(self.index.folder / "index.json", msgspec.json.encode(self.contents))
        self.index.refresh()

    def _merge(self) -> None:
        """Merges packs in which many files are no longer valid and, if there are too many packs, the smaller ones."""
        packs = sorted(self.index.packs, key=lambda pack: pack.lexemes)
        sparse = [pack for pack in packs if pack.alive.mean() < 0.7]
        small = packs[: -MAX_PACKS // 2] if len(packs) > MAX_PACKS else []
        chosen: list[Pack] = []
        for pack in {id(pack): pack for pack in [*sparse, *small]}.values():
            if sum(one.lexemes for one in chosen) + pack.lexemes < MAX_MERGED_LEXEMES:
                chosen.append(pack)
        if not chosen or (len(chosen) == 1 and not sparse):
            return
        self._report("Merging parts of the index.")
        draft = merged(chosen)
        gone = {pack.folder.name for pack in chosen}
        self.contents.packs = [entry for entry in self.contents.packs if entry.name not in gone]
        self._draft = draft
        self._finish()
        self._sweep()

    def _sweep(self) -> None:
        """Deletes packs that `index.json` does not list: unfinished ones, and those that were merged."""
        listed = {entry.name for entry in self.contents.packs}
        for folder in self.index.folder.glob("pack-*"):
            if folder.name not in listed and folder.suffix != checksums.REPLACED_SUFFIX:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def writing(folder: Path, report: Callable[[str], None] = lambda text: None) -> Iterator[Writer]:
    """The writer of an index, which stays locked inside the block; `report` is called with its progress.

    Raises RequestError if another process is changing the index, or if it cannot be written.
    """
    from filelock import Timeout

    try:
        with locked(folder / "lock") as held:
            if not held:
                raise RequestError(
                    f"The index cannot be changed because the disk of {folder} has no file locks. Set JUPYTER_DATA_DIR "
                    "to a folder on another disk."
                )
            yield Writer(folder, report)
    except Timeout:
        raise RequestError(f"Another process is changing the index in {folder}.") from None
    except OSError as error:
        raise RequestError(
            f"The index in {folder} could not be written: {error.strerror or error}. "
            "What was finished stays in it."
        ) from error
