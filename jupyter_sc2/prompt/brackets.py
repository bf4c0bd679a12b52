"""What an editor closes by itself: `print(` becomes `print()` with the cursor inside.

Those closers come and go behind the cursor while somebody types. They say nothing that the openers before the
cursor do not say, so prompts and caches look at the suffix without them: it stays the same from key to key.
"""

from __future__ import annotations

PAIRS = {"(": ")", "[": "]", "{": "}"}
QUOTES = "'\""
# Editors close a bracket where one of these follows, or nothing (CodeMirror's closeBrackets).
MAY_FOLLOW = " \t)]}:;>,"


def open_closers(line: str) -> str:
    """The brackets and quotes that would close what `line` leaves open, the innermost first."""
    closers: list[str] = []
    escaped = False
    for char in line:
        quoted = bool(closers) and closers[-1] in QUOTES
        if escaped:
            escaped = False
        elif quoted:
            if char == closers[-1]:
                closers.pop()
            escaped = char == "\\"
        elif char == "#":
            break
        elif char in QUOTES:
            closers.append(char)
        elif char in PAIRS:
            closers.append(PAIRS[char])
        elif closers and char == closers[-1]:
            closers.pop()
    return "".join(reversed(closers))


def settled(prefix: str, suffix: str) -> str:
    """The suffix without what an editor may have put there to close the brackets and quotes of the cursor's line."""
    length = 0
    for closer in open_closers(prefix.rpartition("\n")[2]):
        if suffix[length : length + 1] != closer:
            break
        length += 1
    rest = suffix[length:].split("\n", 1)[0]
    return suffix[length:] if not rest or rest[0] in MAY_FOLLOW else suffix
