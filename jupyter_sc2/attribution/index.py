"""The index of code on this machine: its content, its updates and its lookups.

A folder holds packs (see packs.py) and `index.json`, which lists the valid ones. A pack is written beside the
others, and counts from the moment at which `index.json` is replaced, whole: an end in the middle or a full disk leaves
what was there, and a run that is begun again goes on behind the last pack that was finished. A damaged pack is left out
when something is looked up; the next run renames it, and reads again what was in it.
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

# Lexemes after which a pack is written: what is lost at most when a run ends in the middle.
PACK_LEXEMES = 4_000_000
# A suggestion is looked up in each pack, so there are to be few.
MAX_PACKS = 6
# A pack that is made of others has at most so many, since it is put together in memory.
MAX_MERGED_LEXEMES = 400_000_000
# Sources that a sentence names.
MAX_NAMED = 5
# Of the process or the machine, and no damage.
_FOR_NOW = {errno.ENOMEM, errno.EMFILE, errno.ENFILE}

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Find:
    """A fingerprint that is in the index: where in the text asked about, and in which file it begins where."""

    at: int
    pack: Pack
    file: int
    place: int


@dataclass
class Done:
    """The result of a run."""

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
    """The index in a folder, for looking up. Follows what other processes do to it.

    With `verified`, each pack is read and compared with its checksums; else damage is noticed where it matters.
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
        """What is left out, as a sentence for the user; "" if nothing is."""
        if not self.damaged:
            return ""
        listed = len(self.contents.packs)
        return (
            f"{len(self.damaged)} of {listed} parts of the index in {self.folder} cannot be read, and what is in there "
            "is not found: `jupyter sc2 attribution index` makes them anew."
        )

    @property
    def lexemes(self) -> int:
        return sum(source.lexemes for source in self.contents.sources.values())

    def refresh(self) -> bool:
        """Reads what is new since the last call; whether there is anything to look things up in."""
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
        """Reads it, whether or not it has changed. Raises OSError, or ValueError for what this version cannot read."""
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
                if isinstance(error, OSError) and error.errno in _FOR_NOW:
                    self._stamp = None  # so that it is tried again
                    if self._verified:
                        raise
        self.contents, self.packs, self.damaged = contents, packs, damaged

    def _open(self, entry: PackEntry) -> Pack:
        if not is_plain_name(entry.name):
            raise ValueError("a pack has no plain name")
        pack = Pack(self.folder / entry.name, entry.dead)
        if self._verified and not pack.is_whole:
            raise ValueError("a pack is not what was written")
        return pack

    def look_up(self, hashes: npt.NDArray[np.uint32], places: npt.NDArray[np.uint32]) -> list[Find]:
        return [
            Find(at, pack, file, place)
            for pack in self.packs
            for at, file, place in pack.look_up(hashes, places)
        ]

    def source_of(self, find: Find) -> SourceEntry | None:
        return self.contents.sources.get(find.pack.source(find.file))


class Writer:
    """Changes the index in a folder. Got by `writing`, as only one process may at a time."""

    def __init__(self, folder: Path, tell: Tell) -> None:
        self.index = Index(folder, verified=True)
        self.notice = ""  # what was damaged and what became of it, in sentences for the user
        self._tell = tell
        self._load(folder / "index.json")
        self.contents = self.index.contents
        self._draft, self._dead = Draft(), set[tuple[str, int]]()
        self._lost = self._rename_damaged()
        self._sweep()

    def _load(self, file: Path) -> None:
        """Reads index.json, or renames it if it is damaged. Raises OSError, and RequestError for another version's."""
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
                f"The index in {file.parent} was made by another version. Delete that folder to index anew."
            ) from None
        checksums.quarantine(file)
        self.notice = (
            f"The list of what is indexed was damaged. It was renamed to {file.name}{checksums.REPLACED_SUFFIX} "
            f"in {file.parent}, and the index is made anew: index again what is not in this run."
        )

    def _rename_damaged(self) -> set[str]:
        """Renames damaged packs, counts what is left, and returns the keys of the sources that have lost something."""
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
            # Earlier versions counted twice what they had read again.
            entry.files, entry.lexemes = counts[key], lexemes[key]
        if damaged:
            several = len(damaged) > 1
            self.notice = (
                f"{len(damaged)} part{'s' * several} of the index {'were' if several else 'was'} damaged, and "
                f"renamed to *{checksums.REPLACED_SUFFIX} in {self.index.folder}."
            )
        return lost

    def update(self, sources: Sequence[Source]) -> Done:
        """Brings these sources up to date: new and changed files in, vanished ones out. Raises OSError, RequestError.

        What is finished when it is interrupted or fails stays, and is not read again by the next run.
        """
        done, began = Done(), monotonic()
        lost = self._lost_sources({source.key for source in sources})
        try:
            for number, source in enumerate([*sources, *lost], 1):
                count = len(sources) + len(lost)
                self._tell(f"{number} of {count}: {source.name} {source.version}".rstrip())
                try:
                    self._update(source, done)
                except RequestError:
                    if source not in lost:  # nobody has asked for those
                        raise
                    continue
                self._lost.discard(source.key)
        finally:
            self._finish()
        self._merge()
        self._tell_of_lost()
        done.seconds = monotonic() - began
        return done

    def remove(self, keys: Sequence[str]) -> None:
        """Takes these sources out. Raises OSError."""
        for key in keys:
            for pack, file in self._known(key).values():
                self._dead.add((pack.folder.name, file))
            self.contents.sources.pop(key, None)
            self._lost.discard(key)
        self._finish()
        self._merge()

    def _lost_sources(self, chosen: set[str]) -> list[Source]:
        """Those that damaged packs held, besides the chosen ones, as far as they are still there."""
        lost = self._lost - chosen
        packages = {one.key: one for one in installed()} if lost else {}
        found = [packages.get(key) for key in sorted(lost)]
        return [source for source in found if source is not None] + [
            entry.source()
            for key, entry in sorted(self.contents.sources.items())
            if key in lost and entry.kind != "package" and os.path.exists(entry.root)
        ]

    def _tell_of_lost(self) -> None:
        entries = [self.contents.sources[key] for key in sorted(self._lost)]
        if entries:
            names = [one.name for one in entries[:MAX_NAMED]]
            if more := len(entries) - len(names):
                names.append(f"{more} more")
            self.notice += (
                f" What is not there any more could not be read again: {', '.join(names)}."
            )

    def _update(self, source: Source, done: Done) -> None:
        known, entry = self._known(source.key), self._entry(source)
        for item in source.items(done.left_out):
            stamp = item.stamp % (1 << 64)
            old = known.pop(item.path, None)
            if old is not None:
                pack, file = old
                if (int(pack.sizes[file]), int(pack.stamps[file])) == (item.size, stamp):
                    done.unchanged += 1
                    continue
                self._drop(entry, pack, file)
            lexemes = self._read(item, done)
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
            done.files += 1
            done.lexemes += len(lexemes)
            done.bytes += item.size
            if self._draft.lexemes >= PACK_LEXEMES:
                self._finish()
                self._tell(
                    f"{source.name}: {done.lexemes:,} words and symbols in {done.files:,} files so far"
                )
        for pack, file in known.values():
            self._drop(entry, pack, file)
            done.gone += 1

    def _read(self, item: Item, done: Done) -> Lexemes | None:
        family = family_of_file(item.path)
        try:
            code = code_of(item.read(), item.path)
        except Exception:  # an archive may be damaged in many ways, and may want a password
            done.left_out["unreadable"] += 1
            return None
        if code is None or family is None:
            done.left_out["binary or minified"] += 1
            return None
        lexemes = lex(code, family)
        if len(lexemes) < RUN_LEXEMES:
            done.left_out["too short"] += 1
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
        """The living files of a source by their paths."""
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
        """Writes what was read so far, and makes it count together with what it replaces."""
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
        """Makes one of the smaller packs where there are many, and of those that hold little any more."""
        packs = sorted(self.index.packs, key=lambda pack: pack.lexemes)
        few = [pack for pack in packs if pack.alive.mean() < 0.7]
        many = packs[: -MAX_PACKS // 2] if len(packs) > MAX_PACKS else []
        chosen: list[Pack] = []
        for pack in {id(pack): pack for pack in [*few, *many]}.values():
            if sum(one.lexemes for one in chosen) + pack.lexemes < MAX_MERGED_LEXEMES:
                chosen.append(pack)
        if not chosen or (len(chosen) == 1 and not few):
            return
        self._tell("Putting the index in order.")
        draft = merged(chosen)
        gone = {pack.folder.name for pack in chosen}
        self.contents.packs = [entry for entry in self.contents.packs if entry.name not in gone]
        self._draft = draft
        self._finish()
        self._sweep()

    def _sweep(self) -> None:
        """Deletes what does not count: unfinished packs, and those that others have replaced."""
        counting = {entry.name for entry in self.contents.packs}
        for folder in self.index.folder.glob("pack-*"):
            if folder.name not in counting and folder.suffix != checksums.REPLACED_SUFFIX:
                shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def writing(folder: Path, tell: Tell = lambda words: None) -> Iterator[Writer]:
    """The one who may change the index. Raises RequestError if another process does, or it cannot be written."""
    from filelock import Timeout

    try:
        with locked(folder / "lock") as alone:
            if not alone:
                raise RequestError(
                    f"The index cannot be changed, for the disk of {folder} has no file locks: set JUPYTER_DATA_DIR "
                    "to a folder on another disk."
                )
            yield Writer(folder, tell)
    except Timeout:
        raise RequestError(f"Another process is changing the index in {folder}.") from None
    except OSError as error:
        raise RequestError(
            f"The index in {folder} could not be written: {error.strerror or error}. "
            "What was finished stays in it."
        ) from error
