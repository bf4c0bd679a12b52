"""Builds the corpus of the embedded model: permissively licensed Python, read as if it were notebooks.

A source archive holds more than a library: example scripts, notebooks, documentation pages and docstrings with
sessions, and those are what people type in a notebook. Each becomes a `Document` of cells.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from email.parser import HeaderParser
from pathlib import Path
from random import Random

from jupyter_sc2.errors import RequestError
from jupyter_sc2.notebook import Cell
from jupyter_sc2.runtime import background
from jupyter_sc2.training.cells import (
    docstring_sessions,
    make_cells,
    myst_cells,
    notebook_cells,
    page_cells,
    script_cells,
)
from jupyter_sc2.training.document import Document, Kind
from jupyter_sc2.training.licences import is_permissive, licence_texts, permissive_licence
from jupyter_sc2.training.overlap import Fragments, Seen, read_rows, sample, solution

# Chosen for their notebooks, galleries and docstrings. Source archives only: wheels leave the first two out.
PACKAGES = tuple(Path(__file__).with_name("packages.txt").read_text().split())

# Whole packages that are never trained on: a model looks too good on notebooks of a package that it has seen.
HELD_OUT = frozenset({"seaborn", "lifelines", "yellowbrick"})

# Repositories of public notebooks that are never trained on either: on them the probabilities that the model gives are
# compared with how often it is right (`jupyter sc2 eval calibration`).
FOR_CALIBRATION = frozenset(
    f"github:{name}"
    for name in (
        "astropy/astropy-tutorials",
        "gboeing/osmnx-examples",
        "guiwitz/NumpyPandas_course",
        "interpretml/interpret",
        "jakevdp/WhirlwindTourOfPython",
        "scikit-image/skimage-tutorials",
        "tirthajyoti/Stats-Maths-with-Python",
        "uber/orbit",
        "webartifex/intro-to-python",
    )
)

# Characters of plain library code per package, in whole modules that define something public. With 250,000, some 260 of
# 567 packages contribute all they have, and the others equal amounts: more would come from ever fewer packages.
LIBRARY_LIMIT = 250_000
DEFINITION = re.compile(r"^(?:async def|def|class) (?!_)", re.MULTILINE)
GENERATED = re.compile(
    r"auto-?generated|automatically generated|do not edit|(?:code|file) (?:is |was )?generated",
    re.IGNORECASE,
)
# A cell of at least so many characters that was in so many earlier documents is a licence, a form or the set-up of a
# course.
REPEATED, REPEATS = 200, 3
# A document with this share of its runs of words in held-out packages is left out.
HELD_OUT_SHARE = 0.5
# Of duplicates, the one whose kind comes first here is kept.
KINDS: tuple[Kind, ...] = ("notebook", "example", "docs", "doctest", "library")

PAGE_FOLDERS = re.compile(r"(?:^|/)docs?(?:_\w+)?/", re.IGNORECASE)
EXAMPLE_FOLDERS = re.compile(
    r"(?:^|/)(?:examples?|galler(?:y|ies)|tutorials?|demos?|notebooks?|cookbook|docs?|case_studies"
    r"|walkthrough\w*|samples?|lessons?|recipes|quickstarts?|how-?tos?)(?:[_-]\w+)?/",
    re.IGNORECASE,
)
UNWANTED = re.compile(
    r"(?:^|/)(?:tests?|testing|_?vendor(?:ed)?|extern(?:al|s)?|node_modules|third_party|build|benchmarks?|asv_bench"
    r"|idlelib|lib2to3|ensurepip|site-packages|__pycache__|[\w-]+\.egg-info|\.\w+)/"
    r"|(?:^|/)(?:test_\w+|conftest|setup|conf|_?version|versioneer|__init__|__about__|noxfile)\.py$"
    r"|_pb2\.py$|_test\.py$"
)
# The files that are kept of an unpacked archive: a tenth of it, as the rest is data and pictures.
KEPT = re.compile(r"\.(?:ipynb|py|rst|md|txt)$|^PKG-INFO$|^(?:LICEN[CS]E|COPYING)", re.IGNORECASE)


@dataclass(frozen=True)
class Source:
    """One package of the corpus, for the model's card."""

    name: str
    version: str
    licence: str
    code: Mapping[Kind, int] = field(default_factory=dict)  # bytes of code


def fetch(packages: Iterable[str], folder: Path, *, jobs: int = 3, timeout: float = 120) -> None:
    """Downloads source archives and leaves the files that are read, unpacked, in `folder/NAME`.

    A name may pin a version, `NAME==VERSION`. Packages that cannot be downloaded are left out.
    """
    # pip prepares a source archive's metadata, which for SciPy means minutes of configuring a build. Run for an
    # environment that has no build backend it fails at once, and `--no-clean` leaves the unpacked source.
    bare = folder.resolve() / ".bare"
    if not bare.exists():
        venv.create(bare, with_pip=False)
    python = bare / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    def download(name: str) -> None:
        target = folder.resolve() / name
        if any(target.glob("*/*/PKG-INFO")):
            return
        target.mkdir(parents=True, exist_ok=True)
        options = [
            "--no-clean",
            "--no-cache-dir",
            "--no-deps",
            "--no-binary",
            ":all:",
            "--no-build-isolation",
        ]
        command = [sys.executable, "-m", "pip", "--python", str(python), "download", *options]
        try:
            subprocess.run(
                [*command, "-d", str(target), name],
                env={**os.environ, "TMPDIR": str(target)},
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            print(f"{name}: no archive within {timeout:.0f} s", file=sys.stderr)
        for path in target.rglob("*"):
            if path.is_file() and not KEPT.search(path.name):
                path.unlink()

    with background.pool(jobs) as pool:
        list(pool.map(download, packages))


def build_corpus(
    archives: Path,
    output: Path,
    *,
    with_standard_library: bool = True,
    exclude: Path | Iterable[str] = (),
    notebooks: Path | None = None,
) -> list[Source]:
    """Reads the unpacked archives and the standard library into `output/documents.jsonl`, without duplicates.

    `notebooks` is a file of more documents (see `read_notebooks`). Packages and repositories without a permissive
    licence are left out, and so are documents that contain a function of `exclude`: texts, or a file with the rows of
    an evaluation. `output/sources.json` lists the packages and repositories that are in.
    """
    output.mkdir(parents=True, exist_ok=True)
    trees = list(unpacked(archives))
    if with_standard_library:
        trees.append(standard_library())
    documents = [document for root, source in trees for document in read_tree(root, source.name)]
    origins = [source for _, source in trees]
    if notebooks:
        repositories = read_sources(notebooks)
        origins += repositories
        names = {source.name for source in repositories} - FOR_CALIBRATION
        documents += read_notebooks(notebooks, names)
    # Held-out packages first, so that the other copy is dropped.
    documents.sort(key=lambda d: (d.package not in HELD_OUT, KINDS.index(d.kind), d.package))
    if isinstance(exclude, Path):
        exclude = [solution(row) for row in read_rows(exclude)]
    is_wanted, trim = Filter(Fragments(exclude)), Trim()
    code: dict[str, Counter[Kind]] = defaultdict(Counter)
    part = output / "documents.part"  # an incomplete file is not mistaken for a corpus
    with part.open("w", encoding="utf-8") as file:
        for document in filter(is_enough, map(trim, filter(is_wanted, documents))):
            file.write(dump(document) + "\n")
            cells = (cell.source for cell in document.cells if cell.cell_type == "code")
            code[document.package][document.kind] += sum(len(source.encode()) for source in cells)
    part.replace(output / "documents.jsonl")
    print(f"left out: {dict(is_wanted.left_out)}, {trim.left_out} repeated cells", file=sys.stderr)
    sources: dict[str, Source] = {}
    for source in origins:
        if earlier := sources.get(source.name):
            source = replace(source, version=f"{earlier.version}, {source.version}")
        if source.name in code:
            sources[source.name] = replace(source, code=dict(code[source.name]))
    rows = [asdict(source) for source in sources.values()]
    (output / "sources.json").write_text(json.dumps(rows, indent=1))
    return list(sources.values())


class Filter:
    """Lets each text through once, except for unwanted ones and those that are mostly from a held-out package."""

    def __init__(self, unwanted: Fragments) -> None:
        self.left_out: Counter[str] = Counter()
        self._unwanted = unwanted
        self._copies: set[bytes] = set()
        self._seen = Seen()
        self._held_out = Seen(HELD_OUT_SHARE)

    def __call__(self, document: Document) -> bool:
        text = document.text
        found = sample(text)
        digest = _digest(text)
        if digest in self._copies:
            reason = "copies"
        elif self._unwanted.occur_in(text):
            reason = "excluded"
        elif found in self._seen:
            reason = "near copies"
        elif document.package not in HELD_OUT and found in self._held_out:
            reason = "of held-out packages"
        else:
            self._copies.add(digest)
            self._seen.add(found)
            if document.package in HELD_OUT:
                self._held_out.add(found)
            return True
        self.left_out[reason] += 1
        return False


class Trim:
    """Removes long cells from a document that were in several documents before. Held-out documents are not changed."""

    def __init__(self) -> None:
        self.left_out = 0
        self._documents: Counter[bytes] = Counter()  # how many have a cell, by its digest

    def __call__(self, document: Document) -> Document:
        cells = tuple(c for c in document.cells if self._documents[_digest(c.source)] < REPEATS)
        long = {c.source for c in document.cells if len(c.source) >= REPEATED}
        self._documents.update(map(_digest, long))
        if document.package in HELD_OUT:
            return document
        self.left_out += len(document.cells) - len(cells)
        return replace(document, cells=cells)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=12).digest()


def read_sources(notebooks: Path) -> list[Source]:
    """The repositories that a file of notebooks comes from, permissive licences only.

    `X-sources.json`, next to `X.jsonl` or `X.jsonl.xz`, has their names, licences and commits.
    """
    stem = notebooks.name.removesuffix(".xz").removesuffix(".jsonl")
    path = notebooks.with_name(f"{stem}-sources.json")
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        found = [Source(f"github:{r['name']}", r["commit"], r["licence"]) for r in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            f"{notebooks} needs a list of its repositories with licences, {path.name}: {error!r}."
        ) from error
    for source in found:
        if not is_permissive(source.licence):
            print(f"{source.name}: left out, {source.licence} is not permissive", file=sys.stderr)
    return [source for source in found if is_permissive(source.licence)]


def read_notebooks(path: Path, packages: Collection[str]) -> Iterator[Document]:
    """The documents of these packages in a file with one per line, as `dump` writes them, compressed or not.

    Repositories of the held-out packages are skipped.
    """
    number = 0
    with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as file:
        try:
            for line in file:
                number += 1
                document = parse(line)
                cells = make_cells((cell.cell_type, cell.source) for cell in document.cells)
                document = replace(document, cells=tuple(cells))
                held_out = any(name in document.package.lower() for name in HELD_OUT)
                if document.package in packages and not held_out and is_enough(document):
                    yield document
        except (lzma.LZMAError, EOFError) as error:
            raise RequestError(f"{path} is cut off or not compressed by xz: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RequestError(f"{path}, line {number} is not a document: {error!r}") from error


def unpacked(archives: Path) -> Iterator[tuple[Path, Source]]:
    """The source trees under `archives/NAME` with name, version and licence, permissive licences only."""
    for folder in sorted(path for path in archives.iterdir() if path.is_dir()):
        found = [*folder.glob("*/PKG-INFO"), *folder.glob("*/*/PKG-INFO")]
        for tree in sorted(path.parent for path in found)[:1]:
            name = folder.name.partition("==")[0]
            metadata = (tree / "PKG-INFO").read_text(encoding="utf-8", errors="replace")
            licence = permissive_licence(metadata, licence_texts(tree))
            if licence:
                version = HeaderParser().parsestr(metadata).get("Version", "")
                yield tree, Source(name, version, licence)
            else:
                print(f"{name}: left out, it has no clear permissive licence", file=sys.stderr)


def standard_library() -> tuple[Path, Source]:
    version = ".".join(map(str, sys.version_info[:3]))
    return Path(sysconfig.get_paths()["stdlib"]), Source("python", version, "PSF-2.0")


def read_tree(root: Path, package: str, *, own: bool = False) -> Iterator[Document]:
    """The documents of a source tree. Plain library code is taken only in part, unless the tree is the user's `own`.

    Unreadable files are skipped.
    """
    library: list[str] = []
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if UNWANTED.search(name) or not KEPT.search(path.name) or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8") if path.stat().st_size < 20_000_000 else ""
        except (OSError, UnicodeDecodeError):
            continue
        if path.suffix == ".py" and not EXAMPLE_FOLDERS.search(name):
            library.append(text)
        for kind, cells in read_file(name, text):
            document = Document(kind, package, tuple(cells))
            if is_enough(document):
                yield document
    Random(package).shuffle(library)
    size = 0
    for text in library:
        if not own and (size + len(text) > LIBRARY_LIMIT or GENERATED.search(text[:1_000])):
            continue
        document = Document("library", package, tuple(script_cells(text)))
        if own or any(DEFINITION.search(cell.source) for cell in document.cells):
            size += len(text)
            if is_enough(document):
                yield document


def read_file(name: str, text: str) -> Iterator[tuple[Kind, list[Cell]]]:
    """The parts of a file that can be read as a notebook, by its name and folder."""
    suffix = name[name.rfind(".") :]
    if suffix == ".ipynb":
        yield "notebook", notebook_cells(text)
    elif suffix in (".rst", ".md") or (suffix == ".txt" and PAGE_FOLDERS.search(name)):
        notebook = myst_cells(text)
        yield ("notebook", notebook) if notebook else ("docs", page_cells(text))
    elif suffix == ".py" and EXAMPLE_FOLDERS.search(name):
        yield "example", script_cells(text)
    elif suffix == ".py":
        yield from (("doctest", cells) for cells in docstring_sessions(text))


def is_enough(document: Document) -> bool:
    return sum(len(cell.source) for cell in document.cells if cell.cell_type == "code") >= 40


def dump(document: Document) -> str:
    cells = [[cell.cell_type, cell.source] for cell in document.cells]
    return json.dumps({"kind": document.kind, "package": document.package, "cells": cells})


def load_documents(path: Path) -> Iterator[Document]:
    """The documents of a corpus, as `build_corpus` wrote them."""
    with path.open("rb") as file:
        yield from map(parse, file)


def parse(line: bytes) -> Document:
    """The document in a line that `dump` wrote. Raises ValueError, KeyError, TypeError or AttributeError for others."""
    row = json.loads(line)
    if row["kind"] not in KINDS:
        raise ValueError(f"{row['kind']!r} is not a kind of document")
    cells = (
        Cell(id=str(n), source=source, cell_type=kind)
        for n, (kind, source) in enumerate(row["cells"])
    )
    return Document(row["kind"], row["package"], tuple(cells))
