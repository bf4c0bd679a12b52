"""Languages: their names, file endings and comment signs, and which one is at the cursor.

A cell may be in another language than its notebook (`%%bash`, `%%writefile run.sh`), and so may a line (`!ls`, `files =
!ls`, `%sql SELECT 1`). All code that needs the language uses `language_at`.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from jupyter_sc2.source.brackets import CLOSING, scan
from jupyter_sc2.source.incomplete import complete_tree
from jupyter_sc2.types import CompletionRequest

# The language below a magic that is not known, and in a magic's options.
UNKNOWN = "unknown"
# The language of magics' names, and of the arguments of common magics (`%matplotlib inline`).
IPYTHON = "magic"

# File ending and comment sign by language; other languages get a plain text file and "#".
LANGUAGES: Mapping[str, tuple[str, str]] = {
    "python": ("py", "#"),
    "r": ("r", "#"),
    "julia": ("jl", "#"),
    "javascript": ("js", "//"),
    "typescript": ("ts", "//"),
    "scala": ("scala", "//"),
    "bash": ("sh", "#"),
    "sql": ("sql", "--"),
    "html": ("html", "//"),
    "css": ("css", "//"),
    "latex": ("tex", "%"),
    "ruby": ("rb", "#"),
    "perl": ("pl", "#"),
    "rust": ("rs", "//"),
    "c": ("c", "//"),
    "c++": ("cpp", "//"),
    "cython": ("pyx", "#"),
    "java": ("java", "//"),
    "go": ("go", "//"),
    "json": ("json", "//"),
    "yaml": ("yaml", "#"),
    "toml": ("toml", "#"),
    "markdown": ("md", "#"),
    "batchfile": ("bat", "REM"),
    "c#": ("cs", "//"),
    "coffeescript": ("coffee", "#"),
    "cuda": ("cu", "//"),
    "dockerfile": ("dockerfile", "#"),
    "fortran": ("f90", "!"),
    "graphviz": ("dot", "//"),
    "haskell": ("hs", "--"),
    "kotlin": ("kt", "//"),
    "lua": ("lua", "--"),
    "makefile": ("mk", "#"),
    "matlab": ("m", "%"),
    "mermaid": ("mmd", "%%"),
    "php": ("php", "//"),
    "powershell": ("ps1", "#"),
    "sas": ("sas", "//"),
    "stata": ("do", "//"),
    "svg": ("svg", "//"),
    "swift": ("swift", "//"),
    "text": ("txt", "#"),
    "xml": ("xml", "//"),
}
# Other names of the languages, used by magics, kernels, models' cards and programs.
_OTHER_NAMES = {
    "python": "py ipython ipython3 python2 python3 pypy pypy3 px pyspark",
    "bash": "sh zsh ksh dash shell shellscript system sx ! sc terminal",
    "batchfile": "cmd batch",
    "powershell": "pwsh posh",
    "sql": "bigquery bq sqlite sqlite3 duckdb dql psql mysql sparksql",
    "javascript": "js jsx node nodejs deno",
    "typescript": "ts tsx",
    "r": "rscript rlang rsrc",
    "latex": "tex tikz stex",
    "markdown": "md rmarkdown gfm ipythongfm",
    "c++": "cpp c++11 c++14 c++17 c++20 c++23",
    "c#": "csharp cs c-sharp",
    "cuda": "cu nvcc",
    "cython": "cython_inline cython_pyximport",
    "graphviz": "dot gv",
    "matlab": "octave",
    "yaml": "yml",
    "text": "plain",
}
OTHER_NAMES = {other: name for name, others in _OTHER_NAMES.items() for other in others.split()}
_OTHER_ENDINGS = {
    "python": "pyi pyw",
    "bash": "bash zsh ksh",
    "javascript": "jsx mjs cjs",
    "typescript": "tsx",
    "html": "htm",
    "c": "h",
    "c++": "cc cxx hpp hh",
    "cuda": "cuh",
    "cython": "pxd",
    "batchfile": "cmd",
    "fortran": "f f95 f03",
    "graphviz": "gv",
    "markdown": "markdown qmd rmd",
    "r": "rprofile",
    "json": "jsonl geojson ipynb",
    "latex": "sty cls",
    "yaml": "yml",
}
ENDINGS = {ending: name for name, (ending, _) in LANGUAGES.items()} | {
    other: name for name, others in _OTHER_ENDINGS.items() for other in others.split()
}
FILE_NAMES = {
    "makefile": "makefile",
    "dockerfile": "dockerfile",
    ".bashrc": "bash",
    ".bash_profile": "bash",
    ".profile": "bash",
    ".zshrc": "bash",
}


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# Cell magics that run or inspect the cell in the notebook's own language and with its variables.
OWN = _set(
    "time timeit capture prun debug memit mprun lprun snakeviz scalene pyinstrument heat wandb complete "
    "local ipytest black skip tb manim"
)
FILES = frozenset(("writefile", "file"))
# Line magics: those followed by code in the notebook's language, those with common arguments, and aliases of shell
# commands. All others are known as cell magics, or not at all.
CODE_LINES = _set(
    "time timeit prun debug memit mprun lprun complete pinfo pinfo2 pdoc psource pdef page xdel"
)
USUAL_LINES = _set("matplotlib pylab config load_ext reload_ext unload_ext autoreload aimport")
SHELL_LINES = _set(
    "pip conda mamba micromamba uv cd ls ll la lk lx ldir cat cp mv rm rmdir mkdir less more man git"
)

CELL_MAGIC = re.compile(r"\s*%%(?P<name>[^\s%]\S*)(?P<line>[^\n]*)(?:\n|\Z)")
# What the output of `!` and of magics may be assigned to.
TARGET = re.compile(r"[\w.,*\s]+(?:\[[^\]\n]*\])*")
QUESTION = re.compile(r"\?|[\w.*%\[\]]+\?{1,2}\s*\Z")


class LanguageAtCursor(NamedTuple):
    """The language at the cursor.

    `cell` is the language of its cell, which starts at the index `start`, below the magic of another language. Code
    that `runs_here` sees the kernel's variables.
    """

    language: str
    cell: str
    start: int
    runs_here: bool


def language_at(request: CompletionRequest) -> str:
    """The language at the cursor, by its name in `LANGUAGES`; or UNKNOWN, or IPYTHON.

    Below an unknown magic, an explicit request gets the notebook's language if the code above the cursor is Python.
    """
    return _find_language(request).language


def runs_here(request: CompletionRequest) -> bool:
    """Whether the kernel would run the cell as Python, so that its variables matter."""
    if request.companion:
        return False
    at_cursor = _find_language(request)
    return at_cursor.runs_here and at_cursor.cell == "python"


def of_cell_magic(request: CompletionRequest) -> tuple[str, str, str]:
    """The language of the cell, the prefix and the suffix; below `%%bash` the language is bash, and the prefix lacks
    that line."""
    at_cursor = _find_language(request)
    return at_cursor.cell, request.text[at_cursor.start : request.offset], request.suffix


def canonical(name: str) -> str:
    """The name that is used here for a language that is also called `name`: "bash" for "Shell"."""
    name = name.lower()
    return OTHER_NAMES.get(name, name)


def of_file(name: str) -> str:
    """The language of a file by its name or path; "text" if it is not known."""
    base = name.replace("\\", "/").rpartition("/")[2].lower()
    _, dot, ending = base.rpartition(".")
    return FILE_NAMES.get(base) or ENDINGS.get(ending if dot else "", "text")


def of_text_file(path: str, language: str) -> str:
    """The language of a text file by its path; where that does not tell, what the editor takes it for."""
    by_path = of_file(path)
    return by_path if by_path != "text" else canonical(language)


def of_cell_magics() -> dict[str, str]:
    """The language below each cell magic that is in one of LANGUAGES, by the magic's name without `%%`.

    Those in OWN are in the notebook's own language, those in FILES in that of the file they write.
    """
    names = {name: name for name in LANGUAGES} | OTHER_NAMES
    return {name: language for name, language in names.items() if name not in OWN}


def not_asked(request: CompletionRequest, model: str) -> str:
    """A sentence that says why this model is not used: its card does not name the language at the cursor."""
    language = language_at(request)
    if language == UNKNOWN:
        return f"{model} is not asked here: nothing tells which language stands at the cursor."
    return f"{model} is not asked for {language}: its card does not name that language."


def _find_language(request: CompletionRequest) -> LanguageAtCursor:
    if request.path:  # a text file has no magics
        own = canonical(request.language)
        return LanguageAtCursor(own, own, 0, True)
    return _find(request.text, request.offset, request.language, request.trigger == "invoke")


# Called by each rule, for each token.
@lru_cache(maxsize=16)
def _find(text: str, offset: int, language: str, invoked: bool) -> LanguageAtCursor:
    own = canonical(language)
    is_python = own in ("python", "")  # "": a cell without a notebook
    start = 0
    while magic := CELL_MAGIC.match(text, start):
        name = magic["name"].lower()
        of_magic = _of_cell_magic(name, magic["line"])
        if not is_python and of_magic in (None, UNKNOWN):
            break  # `%%` is an operator in R
        if offset <= magic.end("name"):
            asks = name.endswith("?") and offset == magic.end("name")
            return LanguageAtCursor(UNKNOWN if asks else IPYTHON, own, 0, True)
        if offset <= magic.end("line"):
            code = of_magic is None and name in CODE_LINES
            return LanguageAtCursor(own if code else UNKNOWN, own, 0, code)
        if of_magic == UNKNOWN:
            known = invoked and _is_python_above(text[magic.end() : offset])
            return LanguageAtCursor(own if known else UNKNOWN, own, 0, known)
        if of_magic is not None:
            return LanguageAtCursor(of_magic, of_magic, magic.end(), False)
        start = magic.end()
    command = _command(text[start:offset]) if is_python else None
    language = own if command is None else _of_command(command, own)
    return LanguageAtCursor(language, own, 0, True)


def _of_cell_magic(name: str, line: str) -> str | None:
    """The language below a cell magic; None if it is the notebook's own."""
    if name in OWN:
        return None
    if name in FILES:
        names = [word for word in _words(line) if not word.startswith("-")]
        return of_file(names[0]) if names else "text"
    if name == "script":
        return _of_program(_words(line))
    return _known(name)


def _of_program(words: list[str]) -> str | None:
    """The language of a program given to `%%script`; None if the program only keeps the cell from being run."""
    takes_value = False
    for word in words:
        program = word.replace("\\", "/").rpartition("/")[2].lower()
        if takes_value or word.startswith("-") or program == "env":
            takes_value = word in ("--out", "--err", "--proc")
        elif program in ("false", "true", "echo", ":"):
            return None
        else:
            return _known(re.sub(r"[\d.]+\Z|\.exe\Z", "", program))
    return UNKNOWN


def _known(name: str) -> str:
    name = canonical(name)
    return name if name in LANGUAGES else UNKNOWN


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # a quote that is still open
        return line.replace('"', "").replace("'", "").split()


def _command(source: str) -> str | None:
    """The IPython or shell command that the source ends in; None if it ends in code."""
    start = source.rfind("\n") + 1
    while start > 1 and source[start - 2] == "\\":  # it began on a line above
        start = source.rfind("\n", 0, start - 1) + 1
    command = _as_command(source[start:])
    return None if command is None or _is_continued(source[:start]) else command


def _as_command(line: str) -> str | None:
    """The line without the target it is assigned to, if it is a command; else None."""
    line = line.lstrip(" \t")
    if line.startswith(("!", "%")) or QUESTION.match(line):
        return line
    target, _, value = line.partition("=")
    value = value.lstrip(" \t")
    return value if value.startswith(("!", "%")) and TARGET.fullmatch(target.rstrip()) else None


def _is_continued(above: str) -> bool:
    """Whether the next line is inside a bracket or a string, where `%` is an operator and `!` a character."""
    opened: list[str] = []
    quote = ""
    goes_on = False  # a command, with a backslash
    for line in above.splitlines(keepends=True):
        is_command = not opened and not quote and (goes_on or _as_command(line) is not None)
        goes_on = is_command and line.endswith("\\\n")
        if is_command:
            continue
        for _, char, inside in scan(line, quote):
            quote = inside
            if inside:
                continue
            if char in CLOSING:
                opened.append(char)
            elif char in CLOSING.values() and opened:
                opened.pop()
    return bool(opened or quote)


def _of_command(command: str, own: str) -> str:
    if command.startswith("!"):
        return "bash"
    name, blank, code = re.match(r"%*(\S*)(\s*)(.*)", command, re.DOTALL).groups()  # type: ignore[union-attr]
    if QUESTION.match(command) and not blank:
        return UNKNOWN
    name = name.lower()
    if not blank or name in USUAL_LINES:
        return IPYTHON
    if name in CODE_LINES:
        nested = _as_command(code)
        return own if nested is None else _of_command(nested, own)
    return "bash" if name in SHELL_LINES else _known(name)


def _is_python_above(body: str) -> bool:
    """Whether there is a Python statement above the last line of the text."""
    above = body.rpartition("\n")[0]
    completed = complete_tree(above, "", "") if above.strip() else None
    return completed is not None and any(
        not isinstance(node, ast.Expr) for node in completed[0].body
    )
