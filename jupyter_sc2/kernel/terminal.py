"""Ghost text in the IPython terminal, where prompt_toolkit shows one suggestion behind the cursor.

The keys are IPython's: right arrow accepts all, Alt+F a word, Ctrl+right a token. Suggestions from the history come
first, as before; the model is used where there are none.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any, Protocol

from prompt_toolkit.auto_suggest import DummyAutoSuggest, Suggestion
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.document import Document

from jupyter_sc2.errors import SC2Error
from jupyter_sc2.kernel import history
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.pipeline.suggestion_cache import remaining
from jupyter_sc2.runtime.memo import cache_latest
from jupyter_sc2.types import Completion, CompletionRequest

# Seconds without a keystroke before a request, and between two checks for a new keystroke.
DEBOUNCE_S = 0.1
POLL_INTERVAL_S = 0.03


class Settings(Protocol):
    def enabled(self) -> bool: ...


class Terminal:
    """Adds the model's suggestions to those of one terminal's history."""

    def __init__(self, shell: Any, session: Session, settings: Settings) -> None:
        self._shell = shell
        self._session = session
        self._settings = settings
        self._patched: Any = None
        self._ids = itertools.count(1)
        # Made anew only when the history grows: it may be long, and is needed at each keystroke.
        self._notebook = cache_latest(lambda *length: history.notebook(shell))
        # The text before and after the cursor, and the suggestion for it.
        self._last_suggestion = ("", "", "")

    def install(self) -> None:
        if self._shell.auto_suggest is None:  # suggestions from the history are off
            self._shell.auto_suggest = self._shell.pt_app.auto_suggest = DummyAutoSuggest()
        # On the object, so that it keeps the type that IPython's key bindings check for.
        self._patched = self._shell.auto_suggest
        self._patched.get_suggestion_async = self._suggest
        self._shell.observe(self._provider_changed, "autosuggestions_provider")

    def remove(self) -> None:
        self._shell.unobserve(self._provider_changed, "autosuggestions_provider")
        vars(self._patched).pop("get_suggestion_async", None)
        if isinstance(self._patched, DummyAutoSuggest):
            self._shell.auto_suggest = self._shell.pt_app.auto_suggest = None

    def _provider_changed(self, change: object) -> None:
        self.remove()
        self.install()

    async def _suggest(self, buffer: Buffer, document: Document) -> Suggestion | None:
        if suggestion := self._patched.get_suggestion(buffer, document):
            return suggestion  # type: ignore[no-any-return]
        if not self._should_request(document):
            return None
        if (text := self._remaining(document)) is None:
            await asyncio.sleep(DEBOUNCE_S)
            if buffer.document != document:
                return None
            text = await self._request(buffer, document)
            self._last_suggestion = (document.text_before_cursor, document.text_after_cursor, text)
        return Suggestion(text) if text else None

    def _should_request(self, document: Document) -> bool:
        return (
            self._settings.enabled()
            and document.is_cursor_at_the_end_of_line
            and bool(document.text.strip())
        )

    def _remaining(self, document: Document) -> str | None:
        """The rest of the last suggestion after a part of it was typed or accepted; None if it does not fit."""
        before, behind, text = self._last_suggestion
        now = document.text_before_cursor
        if behind != document.text_after_cursor or not now.startswith(before):
            return None
        return remaining(text, now[len(before) :])

    async def _request(self, buffer: Buffer, document: Document) -> str:
        """The first line of a new suggestion; "" if there is none, or a keystroke came first."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[str] = loop.create_future()

        def settle(text: str) -> None:
            if not answer.done():
                answer.set_result(text)

        def tell(text: str) -> None:
            # The prompt may be over, and its loop closed.
            if not loop.is_closed():
                loop.call_soon_threadsafe(settle, text)

        def update(completion: Completion) -> None:
            if completion.finish_reason is not None:
                tell(completion.text)

        def fail(error: SC2Error) -> None:
            tell("")

        id = f"terminal-{next(self._ids)}"
        request = CompletionRequest(
            text=document.text,
            offset=document.cursor_position,
            notebook=self._notebook(*history.length(self._shell)),
            id=id,
        )
        self._session.submit(request, update, fail)
        try:
            while not answer.done() and buffer.document == document:
                await asyncio.wait({answer}, timeout=POLL_INTERVAL_S)
        finally:
            self._session.cancel(id)
        text = answer.result() if answer.done() else ""
        return text.split("\n", 1)[0].rstrip()
