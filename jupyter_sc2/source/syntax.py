"""The syntax of each language, as far as suggestions depend on it: the only list of these rules.

Comments, strings, what opens a block and what closes it, and which line is continued in the next. Post-processing
(`pipeline/postprocess.py`) and the page's rule for a new line read it; a new language is one row of `_SYNTAX`. A
language without a row gets the rules of a family: brackets count, and nothing else is known.

Regular expressions are searched in a line without blanks at its end, without regard to capitals. The page runs them
as JavaScript, so they use only what both languages understand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from jupyter_sc2.source.brackets import CLOSED, CLOSING
from jupyter_sc2.source.languages import LANGUAGES

MAX_LINE_CHARS = 2_000
# How blocks are written: by indentation, between braces, up to an `end`, or not at all: statements up to a semicolon
# as in SQL, paragraphs as in Markdown.
Family = Literal["indentation", "braces", "end", "statements", "prose"]


@dataclass(frozen=True, kw_only=True)
class Syntax:
    """The rules of one language.

    `comment` begins a comment, "" if there is none. `opens` matches a line that opens a block, `closes` one that
    begins with what closes it, `goes_on` one that begins with what closes it and opens the next, such as `else`.
    `continued` matches the end of a line that needs another one. `quotes` are the delimiters of strings, longer ones
    first; those in `multiline` may run over lines. `block_comment` is the pair around a comment that may.
    """

    family: Family
    comment: str
    opens: str
    closes: str = ""
    goes_on: str = ""
    continued: str = r"\\"
    quotes: tuple[str, ...] = ('"', "'")
    multiline: tuple[str, ...] = ()
    block_comment: tuple[str, str] | None = None
    balanced: bool = True  # whether every bracket outside strings has its counterpart

    @property
    def openers(self) -> str:
        """Matches a line below which a new line is completed: it opens a block or a bracket, or is continued."""
        return f"(?:{self.opens}|[(\\[{{,]$|(?:{self.continued})$)"

    def is_opener(self, line: str) -> bool:
        """Whether the line opens a block."""
        # A longer line holds data, and some expressions look at it from each of its words.
        return len(line) <= MAX_LINE_CHARS and bool(_compiled(self.opens).search(line.rstrip()))

    def is_closer(self, line: str) -> bool:
        """Whether the line begins with the word that closes a block."""
        return bool(self.closes and _compiled(self.closes).match(line.lstrip()))

    def is_middle(self, line: str) -> bool:
        """Whether the line closes a part of a block and opens the next one, as `else` does."""
        return bool(self.goes_on and _compiled(self.goes_on).match(line.lstrip()))

    def is_continued(self, line: str) -> bool:
        """Whether the line needs another one."""
        return bool(_compiled(f"(?:{self.continued})$").search(line.rstrip()))

    def is_comment(self, line: str) -> bool:
        start = line.lstrip()
        return bool(self.comment and start.startswith(self.comment)) or bool(
            self.block_comment and start.startswith(self.block_comment[0])
        )


@lru_cache(maxsize=256)
def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(expression, re.IGNORECASE)


_C_COMMENT = ("/*", "*/")
_C_CONTINUED = r"[+\-*%=&|^<?:.]|[^/]/|=>|->"
_BRACES = Syntax(
    family="braces",
    comment="//",
    opens=r"\{$",
    goes_on=r"\}\s*(?:else|catch|finally|while)\b|else\b",
    continued=_C_CONTINUED,
    block_comment=_C_COMMENT,
)
_PYTHON = Syntax(
    family="indentation",
    comment="#",
    opens=r":$",
    goes_on=r"(?:else|elif|except|finally|case)\b",
    quotes=('"""', "'''", '"', "'"),
    multiline=('"""', "'''"),
)
_END = Syntax(family="end", comment="#", opens=r"(?!)", closes=r"end\b", goes_on=r"else\b")
_PROSE = Syntax(
    family="prose", comment="", opens=r":$", continued=r"(?!)", quotes=(), balanced=False
)
_UNKNOWN = Syntax(family="braces", comment="#", opens=r"[:{]$", balanced=False)

_WORDS = r"^\s*(?:{})\b"
_SYNTAX: dict[str, Syntax] = {
    "python": _PYTHON,
    "cython": _PYTHON,
    "yaml": Syntax(
        family="indentation",
        comment="#",
        opens=r"(?::|:\s*[|>][+-]?|^\s*-)$",
        continued=r"(?!)",
    ),
    "coffeescript": replace(_PYTHON, opens=r"(?:[-=]>|^\s*(?:if|else|for|while|class)\b.*)$"),
    "haskell": Syntax(
        family="indentation",
        comment="--",
        opens=r"(?:\b(?:where|do|of|let|then|else)|=)$",
        block_comment=("{-", "-}"),
        quotes=('"',),
    ),
    "r": replace(
        _BRACES,
        comment="#",
        continued=r"[+\-*/=&|^~<]|<-|%[^%\s]*%|\|>",
        block_comment=None,
        quotes=('"', "'", "`"),
        multiline=('"', "'"),
    ),
    "julia": Syntax(
        family="end",
        comment="#",
        opens=(
            r"(?:^\s*(?:(?:base\.)?@\w+\s+)*(?:function|macro|if|elseif|else|for|while|begin|let|quote|try|catch|finally|"
            r"module|baremodule|struct|mutable\s+struct)\b(?!.*\bend\b)|\bdo(?:\s+[\w,\s()]+)?$|"
            r"=\s*(?:begin|let|if|try)\b(?!.*\bend\b))"
        ),
        closes=r"end\b",
        goes_on=r"(?:else|elseif|catch|finally)\b",
        continued=r"[+\-*/=&|^<>?:]|->",
        quotes=('"""', '"'),
        multiline=('"""',),
        block_comment=("#=", "=#"),
    ),
    "sql": Syntax(
        family="statements",
        comment="--",
        opens=(
            r"\b(?:select|distinct|from|where|and|or|on|join|set|values|having|as|in|then|else|case|begin|with|"
            r"(?:group|order|partition)\s+by)$"
        ),
        continued=r"[+\-*/=<>|]",
        block_comment=_C_COMMENT,
        quotes=("'", '"', "`"),
        multiline=("'",),
    ),
    "bash": Syntax(
        family="end",
        comment="#",
        opens=r"(?:(?:^|\s|;)(?:then|do|else|in)|\{|\()$",
        closes=r"(?:fi|done|esac)\b|\}|\)",
        goes_on=r"(?:else|elif)\b|;;",
        continued=r"\\|\|\|?|&&",
        balanced=False,  # the patterns of a `case`
        quotes=('"', "'", "`"),
        multiline=('"', "'"),
    ),
    "javascript": replace(_BRACES, quotes=("`", '"', "'"), multiline=("`",)),
    "typescript": replace(_BRACES, quotes=("`", '"', "'"), multiline=("`",)),
    # A quote in Rust may begin a lifetime, which has no end.
    "rust": replace(_BRACES, quotes=('"',), multiline=('"',)),
    "go": replace(_BRACES, quotes=("`", '"'), multiline=("`",)),
    "java": replace(_BRACES, quotes=('"""', '"', "'"), multiline=('"""',)),
    "kotlin": replace(_BRACES, quotes=('"""', '"', "'"), multiline=('"""',)),
    "scala": replace(_BRACES, opens=r"(?:\{|=|=>)$", quotes=('"""', '"'), multiline=('"""',)),
    "swift": replace(_BRACES, quotes=('"""', '"'), multiline=('"""',)),
    "php": replace(_BRACES, quotes=('"', "'"), multiline=('"', "'")),
    "c#": replace(_BRACES, opens=r"\{$"),
    "graphviz": _BRACES,
    "css": replace(_BRACES, continued=r":"),
    "json": replace(
        _BRACES, comment="", opens=r"[{\[]$", continued=r":", block_comment=None, quotes=('"',)
    ),
    "toml": replace(_UNKNOWN, opens=r"^\s*\[.*\]$", continued="="),
    "ruby": replace(
        _END,
        opens=(
            r"(?:^\s*(?:def|class|module|if|unless|elsif|else|while|until|for|case|when|begin|rescue|ensure)\b"
            r"(?!.*\bend\b)|\bdo(?:\s*\|[^|]*\|)?|\{)$|^\s*(?:def|class|module|if|unless|while|case)\b(?!.*\bend\b)"
        ),
        closes=r"end\b|\}",
        goes_on=r"(?:else|elsif|when|rescue|ensure)\b",
        continued=r"[+\-*/=&|.]",
    ),
    "lua": replace(
        _END,
        comment="--",
        opens=r"(?:\b(?:then|do|else|repeat)|\bfunction\b[^()]*\([^()]*\))$",
        closes=r"(?:end|until)\b",
        goes_on=r"(?:else|elseif)\b",
        continued=r"[+\-*/=]|\.\.",
    ),
    "matlab": replace(
        _END,
        comment="%",
        opens=r"^\s*(?:function|if|elseif|else|for|while|switch|case|otherwise|try|catch|classdef)\b(?!.*\bend\b)",
        goes_on=r"(?:else|elseif|case|otherwise|catch)\b",
        continued=r"\.\.\.",
        quotes=('"',),
    ),
    "fortran": replace(
        _END,
        comment="!",
        opens=r"(?:\bthen|^\s*(?:do|program|module|subroutine|function|contains|else|select)\b.*)$",
        goes_on=r"(?:else|elseif|case|contains)\b",
        continued="&",
    ),
    "latex": Syntax(
        family="end",
        comment="%",
        opens=r"\\begin\{[^}]*\}(?:\[[^\]]*\]|\{[^}]*\})*$",
        closes=r"\\end\{",
        continued=r"(?!)",
        balanced=False,
        quotes=(),
    ),
    "markdown": replace(_PROSE, opens=r"(?::|^\s*(?:```|~~~)\s*\w*)$"),
    "text": _PROSE,
    "html": replace(_PROSE, opens=r"<[a-z][^<>/]*>$", block_comment=("<!--", "-->")),
    "xml": replace(_PROSE, opens=r"<[a-z][^<>/]*>$", block_comment=("<!--", "-->")),
    "svg": replace(_PROSE, opens=r"<[a-z][^<>/]*>$", block_comment=("<!--", "-->")),
    "makefile": replace(_UNKNOWN, opens=r"^[^\s#=]+:[^=]*$", family="indentation"),
    "batchfile": replace(_UNKNOWN, comment="REM", opens=r"\($", continued=r"\^"),
}


@lru_cache(maxsize=256)
def syntax_of(language: str) -> Syntax:
    """The syntax of a language, by its name in LANGUAGES; what is common to most for one that is not known."""
    syntax = _SYNTAX.get(language)
    if syntax is not None:
        return syntax
    _, comment = LANGUAGES.get(language, ("txt", "#"))
    return replace(_BRACES if comment == "//" else _UNKNOWN, comment=comment)


@lru_cache(maxsize=64)
def _tokens(syntax: Syntax) -> re.Pattern[str]:
    """Matches a string, a comment or a bracket; a string or comment that is not closed runs to where it may."""
    parts = []
    if syntax.block_comment is not None:
        begin, end = map(re.escape, syntax.block_comment)
        parts.append(rf"{begin}(?:(?!{end}).)*(?:{end})?")
    if syntax.comment:
        parts.append(rf"{re.escape(syntax.comment)}[^\n]*")
    for quote in syntax.quotes:
        sign = re.escape(quote)
        # In SQL a backslash escapes nothing.
        escape = "" if syntax.family == "statements" else r"|\\."
        if quote in syntax.multiline:
            parts.append(rf"{sign}(?:(?!{sign}|\\).{escape})*(?:{sign})?")
        else:
            parts.append(rf"{sign}(?:(?!{sign}|\\)[^\n]{escape})*(?:{sign})?")
    parts.append(r"[()\[\]{}]")
    return re.compile("|".join(parts), re.DOTALL)


def brackets_in(text: str, syntax: Syntax) -> Iterator[tuple[int, str]]:
    """Each bracket outside strings and comments, with its index."""
    for found in _tokens(syntax).finditer(text):
        if found[0] in CLOSING or found[0] in CLOSED:
            yield found.start(), found[0]
