"""Suggestions that were made before, found again without the model while the user types them."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from jupyter_sc2.models.calibration import Certainty
from jupyter_sc2.pipeline import postprocess
from jupyter_sc2.source.brackets import strip_auto_closers
from jupyter_sc2.types import CompletionRequest

# How much may be typed of a suggestion, in characters.
MAX_TYPED = 128


@dataclass
class Suggestion:
    """A text that was suggested, and how much of it was shown.

    `certainties` are those of its tokens; `shown` is a number of characters. The text is `partial` if decoding ended
    before it did, as more of it was not worth showing. `tokens_ahead` were decoded before anybody had requested them;
    0 once the text was requested.
    """

    text: str
    certainties: tuple[Certainty, ...] = ()
    shown: int = 0
    partial: bool = False
    tokens_ahead: int = 0


@dataclass(frozen=True)
class Remainder:
    """What remains of a suggestion after the user has typed a part of it; "" if nothing does."""

    text: str
    suggestion: Suggestion
    typed: int  # characters

    @property
    def certainties(self) -> tuple[Certainty, ...]:
        """Of the remaining tokens."""
        found, start = [], 0
        for one in self.suggestion.certainties:
            if one.end > self.typed:
                begun = one.begun if start < self.typed else None
                probability = one.probability if begun is None else begun
                found.append(Certainty(one.end - self.typed, probability))
            start = one.end
        return tuple(found)

    @property
    def shown(self) -> int:
        """How many characters of the text were shown."""
        return max(0, self.suggestion.shown - self.typed)

    def show(self, characters: int) -> None:
        self.suggestion.shown = max(self.suggestion.shown, self.typed + characters)


@dataclass(frozen=True)
class _Entry:
    suggestion: Suggestion
    raw_text: str
    scope: postprocess.Scope
    suffix: str


class SuggestionCache:
    """The newest suggestions, found again while the user types them and after Backspace."""

    SIZE = 256

    def __init__(self) -> None:
        self._suggestions: OrderedDict[tuple[int, str, str], _Entry] = OrderedDict()

    def add(
        self,
        request: CompletionRequest,
        suggestion: Suggestion,
        raw_text: str = "",
        scope: postprocess.Scope | None = None,
    ) -> None:
        """Keeps what was suggested for `request`, and the `raw_text` that the model wrote.

        `scope` is how far the text was to go, by default as for this request.
        """
        if not suggestion.text and not raw_text.strip():
            return
        entry = _Entry(suggestion, raw_text, scope or postprocess.scope(request), request.suffix)
        self._suggestions[_surroundings(request), _suffix(request), request.prefix] = entry
        while len(self._suggestions) > self.SIZE:
            self._suggestions.popitem(last=False)

    def find(self, request: CompletionRequest) -> Remainder | None:
        """What remains of a suggestion after the user has typed a part of it; None if there is none."""
        surroundings, suffix, prefix = _surroundings(request), _suffix(request), request.prefix
        known = {len(before) for _, _, before in self._suggestions}
        for length in range(min(MAX_TYPED, len(prefix)) + 1):
            start = len(prefix) - length
            if start not in known:
                continue
            entry = self._suggestions.get((surroundings, suffix, prefix[:start]))
            if entry is not None:
                rest = _remaining(entry, prefix[start:], request)
                if rest is not None:
                    return Remainder(rest, entry.suggestion, length)
        return None

    def clear(self) -> None:
        self._suggestions.clear()


def remaining(text: str, typed: str) -> str | None:
    """What remains of a suggestion after this was typed; None if it is something else, or all of it."""
    return text[len(typed) :] if text.startswith(typed) and len(text) > len(typed) else None


def typed_since(older: CompletionRequest, newer: CompletionRequest) -> str | None:
    """What was typed at the cursor between two requests, or None if anything else is different."""
    same = (
        newer.prefix.startswith(older.prefix)
        and _suffix(newer) == _suffix(older)
        and _surroundings(newer) == _surroundings(older)
    )
    return newer.prefix[len(older.prefix) :] if same else None


def _remaining(entry: _Entry, typed: str, request: CompletionRequest) -> str | None:
    if (
        entry.suffix == request.suffix
        and (rest := remaining(entry.suggestion.text, typed)) is not None
    ):
        return rest
    if not entry.raw_text.startswith(typed):
        return None
    # An editor has closed a bracket meanwhile, or all of the text is typed: then the line was to end here.
    rest = entry.raw_text[len(typed) :]
    if not rest.strip() and ("\n" not in rest or "\n" in typed):
        return None
    text = postprocess.trim(rest, request, entry.scope, final=True)[0]
    if typed and not text and entry.scope == "line" and postprocess.opens(request):
        return None  # a ":" was the end of a requested line; now it is the beginning of a block
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
