"""Answers without the model: what was proposed before is found again while the user types it."""

from __future__ import annotations

from collections import OrderedDict

from jupyter_sc2.completion import CompletionRequest


class TypeThroughCache:
    """Finished completions, found again while the user types what they say, and after Backspace."""

    SIZE = 256
    # Typed since the completion was made, in characters.
    REACH = 128

    def __init__(self) -> None:
        self._texts: OrderedDict[tuple[int, str, str], str] = OrderedDict()

    def add(self, request: CompletionRequest, text: str) -> None:
        if not text:
            return
        self._texts[_surroundings(request), request.suffix, request.prefix] = text
        while len(self._texts) > self.SIZE:
            self._texts.popitem(last=False)

    def find(self, request: CompletionRequest) -> str | None:
        """What is left of a completion that says what was typed since, or None."""
        surroundings = _surroundings(request)
        prefix = request.prefix
        for typed in range(min(self.REACH, len(prefix)) + 1):
            start = len(prefix) - typed
            text = self._texts.get((surroundings, request.suffix, prefix[:start]))
            if text is not None and len(text) > typed and text.startswith(prefix[start:]):
                return text[typed:]
        return None

    def clear(self) -> None:
        self._texts.clear()


def _surroundings(request: CompletionRequest) -> int:
    return hash(
        (
            request.cell_id,
            request.language,
            request.sampling,
            request.notebook.above(request.cell_id),
        )
    )
