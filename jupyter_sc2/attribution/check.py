"""The check of each suggestion, together with the code around it, against the index before it is shown."""

from __future__ import annotations

import logging
import math

from jupyter_sc2.attribution.index import Index
from jupyter_sc2.attribution.lexemes import family_of_language
from jupyter_sc2.source.languages import language_at
from jupyter_sc2.types import Attribution, CompletionRequest

logger = logging.getLogger(__name__)

# Characters on either side of a suggestion that are looked up together with it: far more than a match needs.
CONTEXT_CHARS = 3_000
# Seconds for verifying candidates: there may be many, and the disk may be slow. The most likely ones come first, and
# files that were read after one keystroke are cached for the next.
LOOKUP_TIMEOUT_S = 0.015
# The same text is often in several packages.
MAX_MATCHES_SHOWN = 5


class Checker:
    """Checks suggestions against an index; without one it does nothing, and does not import numpy.

    Called on a session's thread. Failures are logged, and never keep a suggestion from being shown.
    """

    def __init__(self, index: Index | None = None) -> None:
        self.index = index or Index()
        self._matcher: object | None = None

    @property
    def active(self) -> bool:
        return self.index.exists

    def matches(
        self, request: CompletionRequest, text: str, threshold: int, *, certain: bool = False
    ) -> tuple[Attribution, ...]:
        """Where `text` may come from if it is inserted at the request's cursor, the longest match first.

        Verifying candidates ends after `LOOKUP_TIMEOUT_S`; with `certain` it takes as long as it needs.
        """
        if not text.strip() or not self.index.exists:
            return ()
        try:
            from jupyter_sc2.attribution.match import Matcher

            if not isinstance(self._matcher, Matcher):
                self._matcher = Matcher(self.index)
            before, after = _around(request)
            found = self._matcher.find(
                before + text + after,
                family_of_language(language_at(request)),
                threshold=threshold,
                within=(len(before), len(before) + len(text)),
                patience=math.inf if certain else LOOKUP_TIMEOUT_S,
            )
        except Exception:
            logger.debug("A suggestion could not be looked up", exc_info=True)
            return ()
        longest: dict[tuple[str, str], Attribution] = {}  # by file
        for match in found:
            file = (match.attribution.source, match.attribution.path)
            longest.setdefault(file, match.attribution)
        return tuple(longest.values())[:MAX_MATCHES_SHOWN]


def _around(request: CompletionRequest) -> tuple[str, str]:
    """The code before and after the cursor; the part that is left of a long prefix begins with a line."""
    before, after = request.prefix, request.suffix
    if len(before) > CONTEXT_CHARS:
        before = before[-CONTEXT_CHARS:]
        before = before[before.find("\n") + 1 :]
    return before, after[:CONTEXT_CHARS]
