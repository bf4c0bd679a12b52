"""The suggestion after the one that is shown: what is computed before it is requested, and where.

While ghost text is shown, its reader decides; meanwhile the model is free. So the session completes the place where the
reader types on after accepting: at the end of the accepted text, and where nothing is to be added there, on the line
below, after Enter. The result is cached as if it had been requested. llama.vim does the same at the end of the text.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from jupyter_sc2.prompt.excerpt import excerpt
from jupyter_sc2.runtime.clock import monotonic
from jupyter_sc2.source.brackets import innermost_open, open_at_end, open_closers
from jupyter_sc2.source.languages import language_at
from jupyter_sc2.types import CompletionRequest

# After the last key: whoever types on has mostly pressed the next one by then, and whoever reads has not accepted yet.
DELAY_S = 0.25
# Front ends whose shown text is remembered.
MAX_FRONT_ENDS = 16
INDENT = "    "


@dataclass(frozen=True)
class ShownText:
    """A text that is shown at the cursor of a request; `due` is when what follows may be computed."""

    request: CompletionRequest
    text: str
    due: float

    @property
    def accepted(self) -> CompletionRequest:
        """The request that a front end makes after the text is accepted."""
        request = self.request
        return excerpt(
            replace(
                request,
                text=request.prefix + self.text + request.suffix,
                offset=request.offset + len(self.text),
                trigger="automatic",
                candidates=1,
                id="",
                waited_s=0.0,
            )
        )

    @property
    def place(self) -> tuple[str | None, str, int]:
        """The same for a text and for what remains of it while it is typed."""
        accepted = self.accepted
        return accepted.cell_id, accepted.text, accepted.offset

    def requests(self) -> Iterator[CompletionRequest]:
        """What is likely to be requested after the text is accepted, the next request first."""
        yield self.accepted
        if (below := line_below(self.accepted)) is not None:
            yield below


def line_below(request: CompletionRequest) -> CompletionRequest | None:
    """The request after Enter at the end of the cursor's line; None where more of that line follows the cursor.

    Closers that an editor has put behind the cursor are typed over. The new line is indented as editors do it: as the
    cursor's line, one level deeper after a colon in Python, and within brackets as what follows the opening one in its
    line or, at its end, one level deeper than that line. None as well within a string.
    """
    rest, _, _ = request.suffix.partition("\n")
    line = request.prefix.rpartition("\n")[2]
    if not line.strip() or rest.strip() not in ("", open_closers(line)):
        return None
    before = request.prefix + rest.rstrip()
    quote = open_at_end(before)[1]
    if quote not in ("", "#"):
        return None
    bracket = innermost_open(before)
    if bracket is not None:
        indent = _indent_in(before, bracket)
    else:
        indent = _indent_of(line)
        if before.endswith(":") and not quote and language_at(request) == "python":
            indent = _deeper(indent)
    before = f"{before.rstrip(' ')}\n{indent}"
    return excerpt(replace(request, text=before + request.suffix[len(rest) :], offset=len(before)))


def _indent_in(source: str, bracket: int) -> str:
    """The indentation of a new line at the end of the source, in the bracket that is open there."""
    start = source.rfind("\n", 0, bracket) + 1
    following = source[bracket + 1 :].split("\n", 1)[0]
    if not following.strip() or following.lstrip().startswith("#"):
        return _deeper(_indent_of(source[start:]))
    return " " * (bracket + 1 - start + len(following) - len(following.lstrip()))


def _indent_of(line: str) -> str:
    return line[: len(line) - len(line.lstrip(" \t"))]


def _deeper(indent: str) -> str:
    return indent + ("\t" if indent.startswith("\t") else INDENT)


class ShownTexts:
    """The texts that are shown, one of each front end, for which nothing was computed yet.

    A session calls this with its lock held.
    """

    def __init__(self) -> None:
        self._shown: OrderedDict[str, ShownText] = OrderedDict()
        self._done: OrderedDict[str, tuple[str | None, str, int]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._shown)

    def add(self, shown: ShownText) -> None:
        """Does nothing if what follows the text is computed already."""
        front_end = shown.request.front_end
        if self._done.get(front_end) == shown.place:
            return
        self._shown[front_end] = shown
        _limit(self._shown)

    @property
    def wait_s(self) -> float | None:
        """Seconds until one is due, None if there is none."""
        if not self._shown:
            return None
        return max(0.0, min(one.due for one in self._shown.values()) - monotonic())

    def next(self) -> ShownText:
        """Takes out the one that is due first."""
        first = min(self._shown, key=lambda front_end: self._shown[front_end].due)
        return self._shown.pop(first)

    def done(self, shown: ShownText) -> None:
        """What follows this text is computed: once is enough."""
        self._done[shown.request.front_end] = shown.place
        self._done.move_to_end(shown.request.front_end)
        _limit(self._done)

    def drop(self, front_end: str) -> None:
        """Its text is not shown any more."""
        self._shown.pop(front_end, None)

    def clear(self) -> None:
        self._shown.clear()


def _limit(remembered: OrderedDict[str, Any]) -> None:
    while len(remembered) > MAX_FRONT_ENDS:
        remembered.popitem(last=False)
