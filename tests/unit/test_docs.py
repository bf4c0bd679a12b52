"""What the documents name is there: files, modules and the documents that they link to."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from functools import cache

import pytest

from tests.support.paths import ROOT
from tests.unit.test_layers import LAYERS

DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    "jupyter_sc2/embedded/model/README.md",
]
QUOTED = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
SOURCE_FILE = re.compile(r"[\w.-]+(?:/[\w.-]+)*\.(?:py|ts|tsx)")
FOLDER = re.compile(r"(?:[\w.-]+/)+")
OUR_FILE = re.compile(
    r"(?:jupyter_sc2|labextension|tests|benchmarks|scripts|docs|examples)/[\w./{},-]*\w"
)
MODULE = re.compile(r"python\s+-m\s+((?:benchmarks|tests|jupyter_sc2)[\w.]*)")
LINK = re.compile(r"\]\((?!https?:|#)([^)#]+)(?:#([^)]*))?\)")
# Files of the user's and of others that the documents give as examples.
OTHERS = {"cell.py", "ipython_config.py", "notebook.py", "numpy.py", "tqdm.py", "jupyter_sc2.py"}
OTHER_FOLDERS = {"dist/"}


@cache
def tracked() -> list[str]:
    """The paths of all files in the checkout that git knows or would add."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip("not a checkout")
    return [path for path in done.stdout.splitlines() if (ROOT / path).exists()]


def is_there(name: str) -> bool:
    """Whether a file of this name, or a folder if it ends in a slash, is in the checkout."""
    if name.endswith("/"):
        return any(f"/{path}".find(f"/{name}") >= 0 for path in tracked())
    return any(f"/{path}".endswith(f"/{name}") for path in tracked())


def missing_paths(text: str) -> list[str]:
    quoted = QUOTED.findall(text)
    files = [name for name in quoted if SOURCE_FILE.fullmatch(name) and name not in OTHERS]
    folders = [name for name in quoted if FOLDER.fullmatch(name) and name not in OTHER_FOLDERS]
    return [name for name in files + folders + OUR_FILE.findall(text) if not is_there_either(name)]


def is_there_either(name: str) -> bool:
    return is_there(name) or is_there(f"{name}/")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_file_and_folder_that_a_document_names_exists(document: str) -> None:
    assert missing_paths((ROOT / document).read_text("utf-8")) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_module_that_a_document_runs_exists(document: str) -> None:
    modules = MODULE.findall((ROOT / document).read_text("utf-8"))
    assert [name for name in modules if importlib.util.find_spec(name) is None] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_of_a_document_leads_to_a_file_and_a_heading(document: str) -> None:
    at = ROOT / document
    for target, heading in LINK.findall(at.read_text("utf-8")):
        assert (at.parent / target).exists(), target
        if heading:
            headings = re.findall(r"^#+ (.*)$", (at.parent / target).read_text("utf-8"), re.M)
            assert heading in [anchor(line) for line in headings], f"{target}#{heading}"


def anchor(heading: str) -> str:
    """The anchor that a heading gets in rendered Markdown."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_a_file_that_has_moved_is_found_missing() -> None:
    text = (
        "See `kernel/session.py`, `completions.ts` and `no_such_folder/`, but `docs/isolation.md`."
    )
    assert missing_paths(text) == ["kernel/session.py", "completions.ts", "no_such_folder/"]


def test_the_architecture_document_has_the_layers_that_the_test_of_imports_has() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    table = text.partition("| layer | what it is for |\n|---|---|\n")[2].partition("\n\n")[0]
    described = [set(QUOTED.findall(row.split("|")[1])) for row in table.splitlines()]
    assert described == LAYERS[::-1]
