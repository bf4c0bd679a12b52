"""Reads the files of a source archive as cells: notebooks, scripts, documentation pages, docstrings."""

from __future__ import annotations

import ast
import json
import re
import textwrap
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from jupyter_sc2.notebook import Cell
from jupyter_sc2.source.languages import of_cell_magic
from jupyter_sc2.source.well_known import MODULES
from jupyter_sc2.types import CompletionRequest

# Lines that IPython accepts and Python does not: a magic, a shell command (also on several lines), a help query.
SHELL_LINE = re.compile(
    r"^([ \t]*)(?:(?:[^\s=#][^\n=#]*? ?= ?)?[%!](?:[^\n]*\\\n)*[^\n]*|\?+[\w.]+|[\w.]+\?{1,2})[ \t]*$",
    re.MULTILINE,
)

MAX_CELL_CHARS = 6_000
# Cells that nobody types: a large one with more than this share of its characters in numbers is a table.
NUMBER = re.compile(r"(?<![A-Za-z_])[-+]?\d[\w.+-]*[,;\s]*")
TABLE_SHARE, TABLE_SIZE = 0.5, 400
ENCODED = re.compile(r"(?<![\w+/.:-])[A-Za-z0-9+/]{72,}")  # but not the path of a URL
# The most characters beyond Latin and Greek: the tokenizer has hardly any tokens for them.
FOREIGN_SHARE = 0.2
SECRET = re.compile(
    r"\b(?:AKIA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|hf_[A-Za-z]{34}|sk-[A-Za-z0-9]{32,}|xox[abp]-[\w-]{20,}"
    r"|AIza[\w-]{35})|-----BEGIN [A-Z ]*PRIVATE KEY"
)
# E-mail addresses, only with these endings because `A@B.mean` is a product of matrices; `git@github.com` is nobody's.
ADDRESS = re.compile(
    r"\b(?!git@)[\w.+-]{1,64}@[\w-]+(?:\.[\w-]+)*"
    r"\.(?:com|org|net|edu|gov|ac\.uk|co\.uk|io|ai|de|fr|ch|nl|it|es|eu|ca|au|jp|cn|ru|br|se|fi|dk|be|at)\b(?!\()"
)

CELL_MARK = re.compile(r"^# ?(?:%%+|In\[[\d ]*\]:|<codecell>|#{18,})[^\n]*$", re.MULTILINE)

FENCE = re.compile(r"\s*(`{3,}|~{3,})(.*)")
DIRECTIVE = re.compile(r"\s*\.\. ([\w-]+::.*)")
# Names of fences and directives that contain Python, and those that take the language as an argument.
PYTHON = re.compile(
    r"python3?|py|ipython3?|pycon|python-repl|code-cell|jupyter-execute|testcode|doctest"
    r"|(?:nb|pyvista-|altair-|bokeh-)?plot"
)
CODE = frozenset({"code", "code-block", "sourcecode", "prompt"})
OPTION = re.compile(r"\s*(?::[\w-]+:.*|)")


def is_python(source: str) -> bool:
    """Whether a cell is valid Python 3, magics and shell commands aside."""
    language, body = below_magic(source)
    return language in ("", "python") and (
        # A line that begins with % may be half of a formatted string.
        _parse(body) is not None or _parse(SHELL_LINE.sub(r"\1pass", body)) is not None
    )


def below_magic(cell: str) -> tuple[str, str]:
    """The language that a cell magic names, or "", and what a prompt has of the cell for a cursor at its end.

    Where a language is named, that is the cell without the magic's line.
    """
    request = CompletionRequest(text=cell, offset=len(cell), language="")
    language, body, _ = of_cell_magic(request)
    return language, body


def _parse(source: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's code
            return ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def notebook_cells(text: str) -> list[Cell]:
    """The cells of an .ipynb file, without outputs; none if it is not a Python notebook."""
    try:
        data = json.loads(text)
        language = data.get("metadata", {}).get("kernelspec", {}).get("language", "python")
        raw = data["cells"] if language == "python" else []
        pairs = [(cell["cell_type"], "".join(cell["source"])) for cell in raw]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []
    return make_cells(pairs)


def script_cells(text: str) -> list[Cell]:
    """A script cut where a notebook would have been: at `# %%` marks, or at blank lines between statements.

    Comments that follow a mark are text, as in the galleries of Sphinx and the scripts of Jupytext.
    """
    text = re.sub(r"\A(?:#(?! ?%%)[^\n]*\n|\s*\n)+", "", text)  # licence headers
    docstring = re.match(r'\A[rRuU]{0,2}("""|\'\'\')(.*?)\1[ \t]*\n', text, re.DOTALL)
    title = ""
    if docstring:
        lines = docstring[2].strip().splitlines()[:4]
        title = "\n".join(line for line in lines if line.strip(" =-*#~"))
        text = text[docstring.end() :]
    pairs = [("markdown", title)]
    if CELL_MARK.search(text):
        for part in CELL_MARK.split(text):
            comment = re.match(r"\s*((?:^#[^\n]*\n?)*)", part, re.MULTILINE)
            words = comment[1] if comment else ""
            pairs.append(("markdown", re.sub(r"^# ?", "", words, flags=re.MULTILINE)))
            pairs.append(("code", part.strip("\n").removeprefix(words.strip("\n"))))
    else:
        blocks = _merge(_statements(text))
        pairs.extend(("code", part) for block in blocks for part in _split_class(block))
    return make_cells(pairs)


def _statements(text: str) -> list[str]:
    """The text cut at the blank lines between its top-level statements; nothing if it is not Python 3."""
    tree = _parse(text)
    if tree is None:
        return []
    inside: set[int] = set()
    for node in tree.body:
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        inside.update(range(first + 1, (node.end_lineno or first) + 1))
    blocks: list[list[str]] = [[]]
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() or number in inside:
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    return ["\n".join(block) for block in blocks if block]


def _merge(blocks: Iterable[str], lines: int = 12) -> list[str]:
    """Joins neighbouring blocks as long as they stay short: blank lines in a script are closer together than cells."""
    merged: list[str] = []
    for block in blocks:
        defines = block.startswith(("def ", "class ", "@"))
        short = merged and (merged[-1] + block).count("\n") < lines
        if short and not defines and not merged[-1].startswith("def "):
            merged[-1] += f"\n\n{block}"
        else:
            merged.append(block)
    return merged


def _split_class(block: str, limit: int = 4_000) -> list[str]:
    """A class that is too long for a cell as several cells, each with some of its methods below the class statement.

    As one cell it would be left out, and of many modules only the imports would remain.
    """
    tree = _parse(block) if len(block) > MAX_CELL_CHARS else None
    if tree is None or len(tree.body) != 1 or not isinstance(tree.body[0], ast.ClassDef):
        return [block]
    lines = block.splitlines()
    body = tree.body[0].body
    first = min([body[0].lineno, *(d.lineno for d in getattr(body[0], "decorator_list", []))])
    head, at = lines[: first - 1], first - 1
    parts: list[list[str]] = [[]]
    for node in body:
        end = node.end_lineno or at
        if parts[-1] and sum(map(len, parts[-1] + lines[at:end])) > limit:
            parts.append([])
        parts[-1] += lines[at:end]
        at = end
    return ["\n".join([*head, *part]) for part in parts if head]


def docstring_sessions(text: str) -> Iterator[list[Cell]]:
    """The examples in a module's strings, one list of cells for each string that holds any."""
    # All strings and not only docstrings: large libraries keep theirs in variables, to share or fill them.
    for string in re.finditer(r'("""|\'\'\')(.*?)\1', text, re.DOTALL):
        if re.search(r">>> |```|::[ \w]*\n", string[2]):
            yield page_cells(string[2])


def page_cells(text: str) -> list[Cell]:
    """The Python blocks of a text (reStructuredText, Markdown or a docstring), one cell each.

    A printed result ends a cell, as it does in a notebook. Conventional imports are added.
    """
    return with_imports(make_cells(("code", block) for block in code_blocks(text)))


def myst_cells(text: str) -> list[Cell]:
    """The cells of a notebook that is stored as a Markdown page (MyST or Jupytext); none if it is not one."""
    header = re.match(
        r"---\n.*?^(?:kernelspec|jupytext|file_format):.*?^---\n", text, re.DOTALL | re.M
    )
    if not header:
        return []
    pairs: list[tuple[str, str]] = []
    words: list[str] = []
    lines = text[header.end() :].splitlines()
    at = 0
    while at < len(lines):
        fence = FENCE.fullmatch(lines[at])
        if fence and _shows_python(fence[2]):
            end = _fence_end(lines, at, fence[1])
            pairs += [("markdown", "\n".join(words)), ("code", _body(lines[at + 1 : end]))]
            words = []
            at = end
        elif not lines[at].startswith("+++"):
            words.append(lines[at])
        at += 1
    return make_cells([*pairs, ("markdown", "\n".join(words))]) if pairs else []


def code_blocks(text: str) -> Iterator[str]:
    """The Python code that a text shows: fences, directives, literal blocks, and sessions with prompts."""
    lines = text.expandtabs().splitlines()
    at = 0
    while at < len(lines):
        line = lines[at]
        if fence := FENCE.fullmatch(line):
            end = _fence_end(lines, at, fence[1])
            if _shows_python(fence[2]):
                yield from _without_prompts(_body(lines[at + 1 : end]))
            at = end + 1
            continue
        directive = DIRECTIVE.fullmatch(line)
        info = directive[1] if directive else ""
        literal = not directive and line.rstrip().endswith("::")
        end = at + 1
        if line.lstrip().startswith(">>>"):
            while end < len(lines) and lines[end].strip():
                end += 1
            yield from _session(lines[at:end])
        elif literal or info.partition("::")[0] in CODE or _shows_python(info):
            margin = _margin(line)
            while end < len(lines) and (not lines[end].strip() or _margin(lines[end]) > margin):
                end += 1
            block = _body(lines[at + 1 : end])
            # Without a language it may be anything.
            unnamed = literal or info.rstrip().endswith("::")
            if _shows_python(info) or (unnamed and _looks_like_python(block)):
                yield from _without_prompts(block)
        at = end


def _shows_python(info: str) -> bool:
    words = re.findall(r"[\w-]+", info.lower())
    if words and words[0] in CODE:
        words = words[1:]
    return bool(words) and PYTHON.fullmatch(words[0]) is not None


def _looks_like_python(block: str) -> bool:
    return ">>>" in block or (bool(re.search(r"[=(]|^import ", block)) and is_python(block))


def _fence_end(lines: Sequence[str], at: int, fence: str) -> int:
    for end in range(at + 1, len(lines)):
        if lines[end].strip() == fence:
            return end
    return len(lines)


def _margin(line: str) -> int:
    return len(line) - len(line.lstrip())


def _body(lines: Sequence[str]) -> str:
    """A block without its indentation and without the options at its start."""
    first = next((n for n, line in enumerate(lines) if not OPTION.fullmatch(line)), len(lines))
    block = textwrap.dedent("\n".join(lines[first:])).strip("\n")
    return re.sub(r"\A---\n.*?^---\n", "", block, flags=re.DOTALL | re.MULTILINE)


def _without_prompts(block: str) -> list[str]:
    """The cells of a block: the block itself, or what was typed if it shows a session."""
    if re.search(r"^\s*>>>", block, re.MULTILINE):
        return _session(block.splitlines())
    if re.search(r"^In \[\d+\]:", block, re.MULTILINE):
        parts = re.split(r"^In \[\d+\]: ?", block, flags=re.MULTILINE)[1:]
        return ["\n".join(_continued(part.splitlines())) for part in parts]
    # IPython's directive: a decorator of its own says what to do with the output.
    return [re.sub(r"^@(?:suppress|verbatim|okexcept|savefig).*\n", "", block, flags=re.MULTILINE)]


def _continued(lines: Sequence[str]) -> list[str]:
    found = [lines[0]] if lines else []
    for line in lines[1:]:
        mark = re.match(r"   \.{3,}: ?", line)
        if not mark:
            break
        found.append(line[mark.end() :])
    return found


def _session(lines: Iterable[str]) -> list[str]:
    """What was typed at the prompts; a printed result ends a cell."""
    cells: list[str] = []
    open_cell = False
    for line in lines:
        prompt = re.match(r"\s*(>>>|\.\.\.)(?: (.*)|$)", line)
        if not prompt or (prompt[1] == "..." and not open_cell):
            open_cell = False
            continue
        code = re.sub(r"\s*# ?doctest:.*", "", prompt[2] or "").rstrip()
        if open_cell:
            cells[-1] += f"\n{code}"
        else:
            cells.append(code)
            open_cell = True
    return cells


def with_imports(cells: list[Cell]) -> list[Cell]:
    """The cells, preceded by conventional imports of the names that they use without binding them.

    Docstrings use these names and leave their imports to the reader.
    """
    code = "\n".join(cell.source for cell in cells)
    bound = set(re.findall(r"^\s*(\w+)\s*=[^=]", code, re.MULTILINE))
    for names in re.findall(r"import (.*)", code):
        bound.update(re.findall(r"\w+", names))
    used = set(re.findall(r"(?<![\w.])(\w+)\.\w", code))
    lines = "\n".join(line for name, line in MODULES.items() if name in used - bound)
    if not lines:
        return cells
    if re.match(r"(?:import|from) ", cells[0].source):
        return [replace(cells[0], source=f"{lines}\n{cells[0].source}"), *cells[1:]]
    return [Cell(id="imports", source=lines), *cells]


def make_cells(pairs: Iterable[tuple[str, str]]) -> list[Cell]:
    """Cells of sensible size, with numbers as ids.

    Cells are left out if they have very long lines, are tables of numbers, contain encoded files or secret keys, are
    mostly in a writing system that the tokenizer does not know, or are not valid Python 3. Code below the magic of
    another language is not parsed. E-mail addresses are replaced.
    """
    kept: list[Cell] = []
    for kind, source in pairs:
        source = source.strip("\n").rstrip()
        if not source.strip() or len(source) > MAX_CELL_CHARS or is_junk(source):
            continue
        source = ADDRESS.sub("user@example.com", source)
        if kind == "markdown":
            kept.append(Cell(id=str(len(kept)), source=source, cell_type="markdown"))
        elif kind == "code" and _is_code(source):
            kept.append(Cell(id=str(len(kept)), source=source))
    return kept


def _is_code(source: str) -> bool:
    if max(map(len, source.splitlines())) > 200:
        return False
    language, body = below_magic(source)
    return bool(body.strip()) if language not in ("", "python") else is_python(source)


def is_junk(source: str) -> bool:
    """Whether a cell is mostly data, has a secret key, or is in a writing system that the tokenizer does not know."""
    foreign = sum(char > "\u03ff" for char in source) if not source.isascii() else 0
    return (
        foreign > FOREIGN_SHARE * len(source)
        or any(re.search(r"[a-z].*\d|\d.*[a-z]", run) for run in ENCODED.findall(source))
        or SECRET.search(source) is not None
        or (
            len(source) > TABLE_SIZE
            and sum(map(len, NUMBER.findall(source))) > TABLE_SHARE * len(source)
        )
    )
