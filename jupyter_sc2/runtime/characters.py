"""Text and names from outside: which characters nobody can see, and which names may become a file's.

What a server, a hub, a file or a model says can hold characters that move a terminal's cursor, turn the order of a line
around or hide what stands there (Boucher and Anderson, arXiv 2111.00169). In a suggestion they end it, in what is
displayed they are escaped.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from typing import TypeGuard

# Controls but for the line end and the tab; what directs, joins, separates or fills without a mark of its own;
# selectors of variants, tags, halves of surrogate pairs: Unicode's Default_Ignorable_Code_Point and Bidi_Control.
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# Whether one of these belongs there is told by what comes next.
JOINERS = "\u200c\u200d\ufe0e\ufe0f"
_NON_JOINER, _JOINER = "\u200c\u200d"
_KEYCAP = "\u20e3"
# The scripts from Arabic to those of India and Mongolia, whose letters take other forms beside a joiner.
_JOINING = ("\u0600", "\u1cff")

# Windows takes these for devices, whatever their ending.
_DEVICES = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{port}{number}" for port in ("com", "lpt") for number in "123456789\u00b9\u00b2\u00b3"
}
MAX_NAME_CHARS = 255  # bytes, as file systems have it


def first_unseen(text: str) -> int | None:
    """Where the first character stands that nobody can see; None if there is none.

    A joiner or a selector within an emoji ("👩‍💻", "❤️", "1️⃣"), and a joiner between letters of a script that needs it,
    are part of what is seen.
    """
    return next(_unseen(text), None)


def escaped(text: str) -> str:
    r"""The text in one line, with what nobody can see as Python writes it: "\x1b", "\u202e", "\n"."""
    for at in reversed([*_unseen(text)]):
        text = text[:at] + text[at].encode("unicode_escape").decode() + text[at + 1 :]
    return text.replace("\n", "\\n").replace("\t", "\\t")


def is_plain_name(name: object) -> TypeGuard[str]:
    """Whether it can be the name of one file in a folder, on every system, and of nothing else.

    No path, no drive, no device, nothing that is stripped or that nobody can see.
    """
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and not set(name).intersection('/\\:*?"<>|\n\t')
        and name[-1] not in " ."
        and name[0] != " "
        and first_unseen(name) is None
        and len(name.encode()) <= MAX_NAME_CHARS
        and name.partition(".")[0].rstrip().lower() not in _DEVICES
    )


def is_plain_path(path: object) -> TypeGuard[str]:
    """Whether it is plain names with "/" between them: a place below a folder, on every system."""
    return isinstance(path, str) and all(map(is_plain_name, path.split("/")))


def _unseen(text: str) -> Iterator[int]:
    return (m.start() for m in UNSEEN.finditer(text) if not _belongs(text, m.start()))


def _belongs(text: str, at: int) -> bool:
    char, before, after = text[at], text[at - 1 : at], text[at + 1 : at + 2]
    if char not in JOINERS or not before:
        return False
    if char in (_NON_JOINER, _JOINER):
        pictures = _is_picture(before) and bool(after) and _is_picture(after)
        return (char == _JOINER and pictures) or (_joins(before) and _joins(after))
    if before.isascii():
        return before in "#*0123456789" and after == _KEYCAP
    return unicodedata.category(before)[0] in "SP"


def _is_picture(char: str) -> bool:
    # With the colours of skin, and what asks for the coloured form of a sign.
    return (
        unicodedata.category(char) == "So"
        or "\U0001f3fb" <= char <= "\U0001f3ff"
        or char == "\ufe0f"
    )


def _joins(char: str) -> bool:
    first, last = _JOINING
    return first <= char <= last and unicodedata.category(char)[0] in "LM"
