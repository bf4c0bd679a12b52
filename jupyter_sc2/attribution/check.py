"""Checks each suggestion, in its cell, against the index before it is shown."""

from __future__ import annotations

import logging
import math

from jupyter_sc2.attribution.index import Index
from jupyter_sc2.attribution.lexemes import family_of_language
from jupyter_sc2.source.languages import language_at
from jupyter_sc2.types import Attribution, CompletionRequest

logger = logging.getLogger(__name__)

# Characters on either side of a suggestion that are looked at with it: many times what makes a match.
CONTEXT_CHARS = 3_000
# Seconds that the check of candidates may take: there may be many, and a disk may be slow. The most likely one is
# first, and files that were read for one key are cached for the next.
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
        """Where `text`, standing at the request's cursor, may come from; the longest match first.

        It takes no longer than a user notices or, with `certain`, as long as it needs.
        """
        if not text.strip() or not self.index.exists:
            return ()
        try:
            from jupyter_sc2.attribution.match import Matcher

            if not isinstance(self._matcher, Matcher):
                self._matcher = Matcher(self.index)
            before, behind = _around(request)
            found = self._matcher.find(
                before + text + behind,
                family_of_language(language_at(request)),
                threshold=threshold,
                within=(len(before), len(before) + len(text)),
                patience=math.inf if certain else LOOKUP_TIMEOUT_S,
            )
        except Exception:
            logger.debug("A suggestion could not be looked up", exc_info=True)
            return ()
        told: dict[tuple[str, str], Attribution] = {}
        for match in found:
            told.setdefault((match.attribution.source, match.attribution.path), match.attribution)
        return tuple(told.values())[:MAX_MATCHES_SHOWN]


def _around(request: CompletionRequest) -> tuple[str, str]:
    """The code on either side of the cursor, whole lines of it."""
    before, behind = request.prefix, request.suffix
    if len(before) > CONTEXT_CHARS:
        before = before[-CONTEXT_CHARS:]
        before = before[before.find("\n") + 1 :]
    return before, behind[:CONTEXT_CHARS]
