"""Answers without the model: what was proposed before is found again while the user types it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from jupyter_sc2.pipeline import postprocess
from jupyter_sc2.source.brackets import strip_auto_closers
from jupyter_sc2.types import CompletionRequest

# Typed since a completion was made, in characters.
REACH = 128


@dataclass(frozen=True)
class _Suggestion:
    shown: str
    said: str
    scope: postprocess.Scope
    suffix: str


class SuggestionCache:
    """What the model said, found again while the user types it and after Backspace."""

    SIZE = 256

    def __init__(self) -> None:
        self._said: OrderedDict[tuple[int, str, str], _Suggestion] = OrderedDict()

    def add(
        self,
        request: CompletionRequest,
        shown: str,
        said: str = "",
        scope: postprocess.Scope | None = None,
    ) -> None:
        """Keeps what was shown for `request`, and all that the model `said` for it.

        `scope` is how far it was to go, by default as for this request.
        """
        if not shown and not said.strip():
            return
        entry = _Suggestion(shown, said, scope or postprocess.scope(request), request.suffix)
        self._said[_surroundings(request), _suffix(request), request.prefix] = entry
        while len(self._said) > self.SIZE:
            self._said.popitem(last=False)

    def find(self, request: CompletionRequest) -> str | None:
        """What is left of a text that says what was typed since: "" if nothing, None if there is no such text."""
        surroundings, suffix, prefix = _surroundings(request), _suffix(request), request.prefix
        known = {len(before) for _, _, before in self._said}
        for length in range(min(REACH, len(prefix)) + 1):
            start = len(prefix) - length
            if start not in known:
                continue
            entry = self._said.get((surroundings, suffix, prefix[:start]))
            if entry is not None:
                rest = _rest(entry, prefix[start:], request)
                if rest is not None:
                    return rest
        return None

    def clear(self) -> None:
        self._said.clear()


def typed_since(older: CompletionRequest, newer: CompletionRequest) -> str | None:
    """What was typed at the cursor between two requests, or None if anything else is different."""
    same = (
        newer.prefix.startswith(older.prefix)
        and _suffix(newer) == _suffix(older)
        and _surroundings(newer) == _surroundings(older)
    )
    return newer.prefix[len(older.prefix) :] if same else None


def _rest(entry: _Suggestion, typed: str, request: CompletionRequest) -> str | None:
    shown = entry.shown if entry.suffix == request.suffix else ""
    if shown.startswith(typed) and len(shown) > len(typed):
        return shown[len(typed) :]
    if not entry.said.startswith(typed):
        return None
    # An editor has closed a bracket meanwhile, or all that was shown is typed: then the line was to end here.
    rest = entry.said[len(typed) :]
    if not rest.strip() and ("\n" not in rest or "\n" in typed):
        return None
    text = postprocess.trim(rest, request, entry.scope, final=True)[0]
    if typed and not text and entry.scope == "line" and postprocess.opens(request):
        return None  # a ":" was the end of a line that was asked for; now it is the beginning of a block
    return text


def _suffix(request: CompletionRequest) -> str:
    return strip_auto_closers(request.prefix, request.suffix)


def _surroundings(request: CompletionRequest) -> int:
    return hash(
        (
            request.cell_id,
            request.language,
            request.sampling,
            request.notebook.hash_above(request.cell_id),
        )
    )
