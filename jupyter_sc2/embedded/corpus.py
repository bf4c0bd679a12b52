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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from email.parser import HeaderParser
from pathlib import Path
from typing import Literal

from jupyter_sc2.prompt.notebook import Cell

Kind = Literal["notebook", "example", "docs", "doctest", "library"]

# Chosen for their notebooks, galleries and docstrings. Source archives only: wheels leave the first two out.
PACKAGES = tuple(Path(__file__).with_name("packages.txt").read_text().split())

# Never trained on, and whole: notebooks of a package one has seen flatter a model.
HELD_OUT = frozenset({"seaborn", "lifelines", "yellowbrick"})

# Docstrings use these names and leave their imports to the reader.
CONVENTIONS: Mapping[str, str] = {
    "np": "import numpy as np",
    "pd": "import pandas as pd",
    "plt": "import matplotlib.pyplot as plt",
    "sns": "import seaborn as sns",
    "nx": "import networkx as nx",
    "xr": "import xarray as xr",
    "sm": "import statsmodels.api as sm",
    "smf": "import statsmodels.formula.api as smf",
    "stats": "from scipy import stats",
    "mpl": "import matplotlib as mpl",
    "pl": "import polars as pl",
    "alt": "import altair as alt",
    "px": "import plotly.express as px",
    "az": "import arviz as az",
    "pm": "import pymc as pm",
    "gpd": "import geopandas as gpd",
    "jnp": "import jax.numpy as jnp",
    "torch": "import torch",
    "os": "import os",
    "re": "import re",
    "math": "import math",
    "random": "import random",
}

# Characters of plain library code per package: the large ones would drown the rest.
LIBRARY_LIMIT = 1_000_000
EXAMPLE_FOLDERS = re.compile(
    r"(?:^|/)(?:examples?|galler(?:y|ies)|tutorials?|demos?|notebooks?|cookbook|docs?|case_studies|walkthrough\w*)"
    r"(?:_\w+)?/",
    re.IGNORECASE,
)
UNWANTED = re.compile(
    r"(?:^|/)(?:tests?|testing|_?vendor(?:ed)?|extern(?:al|s)?|node_modules|third_party|build|benchmarks?|asv_bench"
    r"|idlelib|lib2to3|ensurepip|site-packages|__pycache__|\.\w+)/"
    r"|(?:^|/)(?:test_\w+|conftest|setup|conf|_?version|versioneer|__init__|__about__|noxfile)\.py$"
    r"|_pb2\.py$|_test\.py$"
)
FENCE = re.compile(
    r"^```\s*\{?(?:python|py|ipython3?|code-cell[^\n]*)\b[^\n]*\n(.*?)^```",
    re.DOTALL | re.MULTILINE,
)
DIRECTIVE = re.compile(
    r"^([ \t]*)\.\. (?:code-block|code|sourcecode|ipython|plot|jupyter-execute|testcode)::"
    r"[ \t]*(?:python3?|ipython|py)?[ \t]*\n"
    r"((?:\1[ \t]+:[^\n]*\n)*)((?:[ \t]*\n|\1[ \t]+[^\n]*\n)+)",
    re.MULTILINE,
)
PERMISSIVE = re.compile(
    r"\b(?:MIT|BSD|0BSD|Apache|ISC|PSF|Python Software Foundation|HPND|Zlib|Unlicense|CC0)\b", re.I
)
RESTRICTED = re.compile(
    r"[AL]?GPL|GNU|MPL|Mozilla|CC-BY|Creative Commons|EUPL|CeCILL|Business Source", re.I
)


@dataclass(frozen=True)
class Document:
    kind: Kind
    package: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Source:
    """One package of the corpus, for the model's card."""

    name: str
    version: str
    licence: str


def fetch(packages: Iterable[str], folder: Path, *, jobs: int = 3, timeout: float = 120) -> None:
    """Downloads source archives and leaves them unpacked in `folder/NAME`. What cannot be had is left out."""
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
        options = ["--no-clean", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"]
        command = [sys.executable, "-m", "pip", "--python", str(python), "download", *options, name]
        environment = {**os.environ, "TMPDIR": str(target)}
        try:
            subprocess.run(
                [*command, "-d", str(target)],
                env=environment,
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            print(f"{name}: no archive within {timeout:.0f} s", file=sys.stderr)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(download, packages))


def build_corpus(
    archives: Path, output: Path, *, with_standard_library: bool = True
) -> list[Source]:
    """Reads the unpacked archives and the standard library into `output/documents.jsonl`, without duplicates.

    Packages without a permissive licence in their metadata are left out. `output/sources.json` says what is in.
    """
    output.mkdir(parents=True, exist_ok=True)
    sources: list[Source] = []
    seen: set[bytes] = set()
    part = (
        output / "documents.part"
    )  # renamed at the end: what is cut off is not taken for a corpus
    with part.open("w", encoding="utf-8") as file:
        for root, source in [
            *unpacked(archives),
            *([standard_library()] if with_standard_library else []),
        ]:
            sources.append(source)
            for document in read_tree(root, source.name):
                text = "\n\n".join(cell.source for cell in document.cells)
                digest = hashlib.blake2b(text.encode(), digest_size=12).digest()
                if digest not in seen:
                    seen.add(digest)
                    file.write(dump(document) + "\n")
    part.replace(output / "documents.jsonl")
    (output / "sources.json").write_text(
        json.dumps([asdict(source) for source in sources], indent=1)
    )
    return sources


def unpacked(archives: Path) -> Iterator[tuple[Path, Source]]:
    """The source trees under `archives/NAME` with what their metadata says, permissive licences only."""
    for folder in sorted(path for path in archives.iterdir() if path.is_dir()):
        trees = sorted(
            path.parent
            for pattern in ("*/PKG-INFO", "*/*/PKG-INFO")
            for path in folder.glob(pattern)
        )
        for tree in trees[:1]:
            metadata = (tree / "PKG-INFO").read_text(encoding="utf-8", errors="replace")
            headers = HeaderParser().parsestr(metadata)
            licence = permissive_licence(metadata)
            if licence:
                yield tree, Source(folder.name, headers.get("Version", ""), licence)
            else:
                print(
                    f"{folder.name}: left out, no permissive licence in its metadata",
                    file=sys.stderr,
                )


def permissive_licence(metadata: str) -> str | None:
    """The licence that a package's metadata states, or None if it is not a permissive one or not clear."""
    headers = HeaderParser().parsestr(metadata)
    classifiers = [c for c in headers.get_all("Classifier", []) if c.startswith("License ::")]
    names = [c.rpartition(" :: ")[2] for c in classifiers]
    stated = headers.get("License", "").strip().splitlines()
    for claim in (
        headers.get("License-Expression", ""),
        ", ".join(names),
        stated[0][:60] if stated else "",
    ):
        if RESTRICTED.search(claim):
            return None
        if PERMISSIVE.search(claim):
            return claim
    return None


def standard_library() -> tuple[Path, Source]:
    version = ".".join(map(str, sys.version_info[:3]))
    return Path(sysconfig.get_paths()["stdlib"]), Source("python", version, "PSF-2.0")


def read_tree(root: Path, package: str) -> Iterator[Document]:
    """All documents of one source tree. Files that cannot be read are passed over."""
    library = 0
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.suffix not in (".ipynb", ".py", ".rst", ".md") or UNWANTED.search(name):
            continue
        try:
            if not path.is_file() or path.stat().st_size > 5_000_000:
                continue
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            continue
        found: list[tuple[Kind, list[Cell]]] = []
        if path.suffix == ".ipynb":
            found.append(("notebook", notebook_cells(text)))
        elif path.suffix in (".rst", ".md"):
            found.append(("docs", page_cells(text)))
        elif EXAMPLE_FOLDERS.search(name):
            found.append(("example", script_cells(text)))
        else:
            found.extend(("doctest", cells) for cells in doctest_sessions(text))
            if library < LIBRARY_LIMIT and len(text) < 100_000:
                library += len(text)
                found.append(("library", script_cells(text)))
        for kind, cells in found:
            if sum(len(cell.source) for cell in cells if cell.cell_type == "code") >= 40:
                yield Document(kind, package, tuple(cells))


def notebook_cells(text: str) -> list[Cell]:
    """The cells of an .ipynb file, outputs left out; none if it is no notebook in Python."""
    try:
        data = json.loads(text)
        language = data.get("metadata", {}).get("kernelspec", {}).get("language", "python")
        raw = data["cells"] if language == "python" else []
        pairs = [(cell["cell_type"], "".join(cell["source"])) for cell in raw]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    return _cells((kind, source) for kind, source in pairs if not source.startswith("%%"))


def script_cells(text: str) -> list[Cell]:
    """A script cut where a notebook would have been: at `# %%` marks, or at blank lines between statements."""
    text = re.sub(r"\A(?:#[^\n]*\n|\s*\n)+", "", text)  # licence headers
    docstring = re.match(r'\A[rRuU]{0,2}("""|\'\'\')(.*?)\1[ \t]*\n', text, re.DOTALL)
    title = ""
    if docstring:
        title = "\n".join(
            line for line in docstring[2].strip().splitlines()[:4] if line.strip(" =-*#~")
        )
        text = text[docstring.end() :]
    if re.search(r"^# ?%%|^#{20,}$", text, re.MULTILINE):
        parts = re.split(r"^(?:# ?%%[^\n]*|#{20,})\n", text, flags=re.MULTILINE)
    else:
        parts = _merge(re.split(r"\n\s*\n(?=[^\s)\]}])", text))
    return _cells([("markdown", title), *(("code", part) for part in parts)])


def _merge(blocks: Iterable[str], lines: int = 12) -> list[str]:
    """Joins neighbouring blocks while they stay short: blank lines in a script are closer than cells."""
    merged: list[str] = []
    for block in blocks:
        defines = block.startswith(("def ", "class ", "@"))
        if (
            merged
            and not defines
            and (merged[-1] + block).count("\n") < lines
            and not merged[-1].startswith("def ")
        ):
            merged[-1] += f"\n\n{block}"
        else:
            merged.append(block)
    return merged


def doctest_sessions(text: str) -> list[list[Cell]]:
    """The `>>>` sessions of a module's docstrings, one list of cells each, with the imports they take for granted.

    A printed result ends a cell, as it does in a notebook.
    """
    sessions: list[list[str]] = [[]]
    open_cell = False
    for line in text.splitlines():
        prompt = re.match(r"\s*(>>>|\.\.\.)(?: (.*)|$)", line)
        if prompt and (prompt[1] == ">>>" or open_cell):
            code = re.sub(r"\s*# ?doctest:.*", "", prompt[2] or "").rstrip()
            if open_cell:
                sessions[-1][-1] += f"\n{code}"
            else:
                sessions[-1].append(code)
                open_cell = True
            continue
        open_cell = False
        if '"""' in line or "'''" in line:
            sessions.append([])
    return [_cells(("code", cell) for cell in with_imports(cells)) for cells in sessions if cells]


def with_imports(cells: Sequence[str]) -> list[str]:
    """The cells, with conventional imports first for the names that they use and nowhere bind."""
    code = "\n".join(cells)
    bound = set(re.findall(r"^\s*(\w+)\s*=[^=]", code, re.MULTILINE))
    bound |= {
        word for line in re.findall(r"import (.*)", code) for word in re.findall(r"\w+", line)
    }
    used = set(re.findall(r"(?<![\w.])(\w+)\.\w", code))
    lines = [line for name, line in CONVENTIONS.items() if name in used - bound]
    if not lines:
        return list(cells)
    if re.match(r"(?:import|from) ", cells[0]):
        return ["\n".join(lines) + f"\n{cells[0]}", *cells[1:]]
    return ["\n".join(lines), *cells]


def page_cells(text: str) -> list[Cell]:
    """The Python blocks of a documentation page (reStructuredText or Markdown), one cell each."""
    cells: list[str] = []
    for block in FENCE.findall(text):
        cells.extend(_plain(block))
    for match in DIRECTIVE.finditer(text):
        cells.extend(_plain(_dedent(match[3])))
    if not cells:
        cells = [cell.source for session in doctest_sessions(text) for cell in session]
    return _cells(("code", cell) for cell in with_imports(cells)) if cells else []


def _plain(block: str) -> list[str]:
    """Code without prompts and without what was printed."""
    if ">>>" in block:
        return [cell.source for session in doctest_sessions(block) for cell in session]
    if re.search(r"^In \[\d+\]:", block, re.MULTILINE):
        lines = re.findall(r"^(?:In \[\d+\]:|   \.+:) ?(.*)$", block, re.MULTILINE)
        return ["\n".join(lines)]
    return [
        re.sub(r"^(?:---\n.*?\n---|@\w+[^\n]*|:\w+:[^\n]*)\n", "", block, flags=re.DOTALL).strip(
            "\n"
        )
    ]


def _dedent(block: str) -> str:
    lines = block.expandtabs().splitlines()
    margin = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[margin:] for line in lines)


def _cells(pairs: Iterable[tuple[str, str]]) -> list[Cell]:
    """Cells of sensible size with numbers for ids; long lines (embedded data) and other kinds are left out."""
    kept: list[Cell] = []
    for kind, source in pairs:
        source = source.strip("\n").rstrip()
        if not source.strip() or len(source) > 6_000:
            continue
        longest = max(map(len, source.splitlines()))
        if kind == "code" and longest <= 200:
            kept.append(Cell(id=str(len(kept)), source=source))
        elif kind == "markdown":
            kept.append(Cell(id=str(len(kept)), source=source, cell_type="markdown"))
    return kept


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
