"""What the embedded model learns from: permissively licensed Python, read as if it were notebooks.

A source archive holds more than a library: example scripts, notebooks, documentation pages and docstrings
with sessions in them, and those are what people type in a notebook. Each becomes a `Document` of cells.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from email.parser import HeaderParser
from pathlib import Path
from random import Random
from typing import Literal

from jupyter_sc2.embedded.cells import (
    docstring_sessions,
    myst_cells,
    notebook_cells,
    page_cells,
    script_cells,
)
from jupyter_sc2.embedded.licences import licence_texts, permissive_licence
from jupyter_sc2.embedded.overlap import Fragments, Seen, read_rows, solution
from jupyter_sc2.prompt.notebook import Cell

Kind = Literal["notebook", "example", "docs", "doctest", "library"]

# Chosen for their notebooks, galleries and docstrings. Source archives only: wheels leave the first two out.
PACKAGES = tuple(Path(__file__).with_name("packages.txt").read_text().split())

# Never trained on, and whole: notebooks of a package one has seen flatter a model.
HELD_OUT = frozenset({"seaborn", "lifelines", "yellowbrick"})

# Characters of plain library code per package: it fills up what the rest leaves, from many packages.
LIBRARY_LIMIT = 100_000
# Of what says the same, the one that comes first here is kept.
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
# What stays of an unpacked archive: a tenth of it, the rest are data and pictures.
KEPT = re.compile(r"\.(?:ipynb|py|rst|md|txt)$|^PKG-INFO$|^(?:LICEN[CS]E|COPYING)", re.IGNORECASE)


@dataclass(frozen=True)
class Document:
    kind: Kind
    package: str
    cells: tuple[Cell, ...]

    @property
    def text(self) -> str:
        return "\n\n".join(cell.source for cell in self.cells)


@dataclass(frozen=True)
class Source:
    """One package of the corpus, for the model's card."""

    name: str
    version: str
    licence: str
    code: Mapping[Kind, int] = field(default_factory=dict)  # bytes of it


def fetch(packages: Iterable[str], folder: Path, *, jobs: int = 3, timeout: float = 120) -> None:
    """Downloads source archives and leaves what is read of them unpacked in `folder/NAME`.

    A name may pin a version, `NAME==VERSION`. What cannot be had is left out.
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

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(download, packages))


def build_corpus(
    archives: Path,
    output: Path,
    *,
    with_standard_library: bool = True,
    exclude: Path | Iterable[str] = (),
) -> list[Source]:
    """Reads the unpacked archives and the standard library into `output/documents.jsonl`, without duplicates.

    Packages without a permissive licence are left out, and documents that have a function of `exclude` in them:
    texts, or a file of an evaluation's rows. `output/sources.json` says what is in.
    """
    output.mkdir(parents=True, exist_ok=True)
    trees = list(unpacked(archives))
    if with_standard_library:
        trees.append(standard_library())
    documents = [document for root, source in trees for document in read_tree(root, source.name)]
    # Held-out packages first, so that it is the other copy that is left out.
    documents.sort(key=lambda d: (d.package not in HELD_OUT, KINDS.index(d.kind), d.package))
    if isinstance(exclude, Path):
        exclude = [solution(row) for row in read_rows(exclude)]
    kept = Filter(Fragments(exclude))
    code: dict[str, Counter[Kind]] = defaultdict(Counter)
    part = output / "documents.part"  # what is cut off is not taken for a corpus
    with part.open("w", encoding="utf-8") as file:
        for document in filter(kept, documents):
            file.write(dump(document) + "\n")
            cells = (cell.source for cell in document.cells if cell.cell_type == "code")
            code[document.package][document.kind] += sum(len(source.encode()) for source in cells)
    part.replace(output / "documents.jsonl")
    print(f"left out: {dict(kept.left_out)}", file=sys.stderr)
    sources: dict[str, Source] = {}
    for _, source in trees:
        if earlier := sources.get(source.name):
            source = replace(source, version=f"{earlier.version}, {source.version}")
        if source.name in code:
            sources[source.name] = replace(source, code=dict(code[source.name]))
    rows = [asdict(source) for source in sources.values()]
    (output / "sources.json").write_text(json.dumps(rows, indent=1))
    return list(sources.values())


class Filter:
    """Lets each text through once, and none that has to stay out."""

    def __init__(self, unwanted: Fragments) -> None:
        self.left_out: Counter[str] = Counter()
        self._unwanted = unwanted
        self._copies: set[bytes] = set()
        self._seen = Seen()

    def __call__(self, document: Document) -> bool:
        text = document.text
        digest = hashlib.blake2b(text.encode(), digest_size=12).digest()
        if digest in self._copies:
            reason = "copies"
        elif self._unwanted.occur_in(text):
            reason = "excluded"
        elif not self._seen.add(text):
            reason = "near copies"
        else:
            self._copies.add(digest)
            return True
        self.left_out[reason] += 1
        return False


def unpacked(archives: Path) -> Iterator[tuple[Path, Source]]:
    """The source trees under `archives/NAME` with what their metadata says, permissive licences only."""
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
                print(f"{name}: left out, no permissive licence that is clear", file=sys.stderr)


def standard_library() -> tuple[Path, Source]:
    version = ".".join(map(str, sys.version_info[:3]))
    return Path(sysconfig.get_paths()["stdlib"]), Source("python", version, "PSF-2.0")


def read_tree(root: Path, package: str) -> Iterator[Document]:
    """All documents of one source tree, of the plain library only a part. Unreadable files are passed over."""
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
            if _is_enough(cells):
                yield Document(kind, package, tuple(cells))
    Random(package).shuffle(library)
    size = 0
    for text in library:
        if size + len(text) <= LIBRARY_LIMIT:
            size += len(text)
            cells = script_cells(text)
            if _is_enough(cells):
                yield Document("library", package, tuple(cells))


def read_file(name: str, text: str) -> Iterator[tuple[Kind, list[Cell]]]:
    """What looks like a notebook in a file, by its name and folder."""
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


def _is_enough(cells: Iterable[Cell]) -> bool:
    return sum(len(cell.source) for cell in cells if cell.cell_type == "code") >= 40


def dump(document: Document) -> str:
    cells = [[cell.cell_type, cell.source] for cell in document.cells]
    return json.dumps({"kind": document.kind, "package": document.package, "cells": cells})


def load_documents(path: Path) -> Iterator[Document]:
    """The documents of a corpus, as `build_corpus` wrote them."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            row = json.loads(line)
            cells = (
                Cell(id=str(n), source=source, cell_type=kind)
                for n, (kind, source) in enumerate(row["cells"])
            )
            yield Document(row["kind"], row["package"], tuple(cells))
