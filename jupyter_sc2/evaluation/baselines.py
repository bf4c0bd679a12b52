"""Baselines that the session is compared with, on the same weights: the usual ways of completing code with a model.

Both get fair treatment: their text is streamed, and they decode no more than the session would.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from jupyter_sc2.engines.base import Engine
from jupyter_sc2.errors import GenerationError, SC2Error
from jupyter_sc2.pipeline.candidate import Candidate
from jupyter_sc2.prompt.builder import Prompt, PromptBuilder
from jupyter_sc2.runtime import background
from jupyter_sc2.types import Completion, CompletionRequest, Stats, Token

Update = Callable[[Completion], None]
Fail = Callable[[SC2Error], None]
# llama.vim's settings, as of January 2026.
PREFIX_LINES, SUFFIX_LINES = 256, 64
RETRY_S = 0.1
# The server's logical batch size: the prefix gets three quarters of it, the suffix one.
N_BATCH = 512


class Generate:
    """transformers' `model.generate` on the whole prompt, each time; requested only where the typist pauses."""

    pauses_only = True
    idle = True
    tokens_read = 0
    tokens_ahead = (0, 0)

    def __init__(self, engine: Any, max_tokens: int, context_tokens: int) -> None:
        """`engine` is a TransformersEngine that nothing else uses at the same time."""
        self._engine, self._max_tokens = engine, max_tokens
        self._context_tokens = context_tokens
        self._builder = PromptBuilder(engine.card, engine.encode, engine.special_ids)

    def prefetch(self, request: CompletionRequest) -> None:
        """Does nothing: there is no cache for the result."""

    def submit(self, request: CompletionRequest, update: Update, fail: Fail) -> None:
        prompt = self._builder.build(request, budget=self._context_tokens)
        update(self._complete(request, prompt, update))

    def _complete(self, request: CompletionRequest, prompt: Prompt, update: Update) -> Completion:
        import torch
        from transformers import StoppingCriteria
        from transformers.generation.streamers import BaseStreamer

        engine, candidate, start = self._engine, Candidate(request, prompt), time.monotonic()
        stop_ids = self._builder.stop_ids

        class Streamer(BaseStreamer):
            prompt = True

            def put(self, value: torch.Tensor) -> None:
                if self.prompt:
                    self.prompt = False
                    return
                for id in value.tolist():
                    candidate.stopped = candidate.stopped or id in stop_ids
                    if candidate.add(engine.decode_bytes([id]), Token(id, 0.0)):
                        update(Completion(text=candidate.text))

            def end(self) -> None:
                """Nothing is buffered."""

        class Complete(StoppingCriteria):
            def __call__(self, ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
                ended = candidate.complete or candidate.stopped
                return torch.full((ids.shape[0],), ended, device=ids.device)

        ids = torch.tensor([prompt.ids], device=engine._device)
        with torch.inference_mode():
            out = engine._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=self._max_tokens,
                do_sample=False,
                streamer=Streamer(),
                stopping_criteria=[Complete()],
                pad_token_id=0,
            )
        self.tokens_read += len(prompt.ids)
        stats = Stats(
            prompt_tokens=len(prompt.ids),
            generated_tokens=out.shape[1] - len(prompt.ids),
            total_ms=(time.monotonic() - start) * 1000,
        )
        return replace(candidate.finish(cancelled=False), stats=stats)


class Infill:
    """llama.cpp's server through `/infill` with its prompt cache, with requests like llama.vim's.

    The notebook is one file. One request runs at a time; a later one waits meanwhile and tries again.
    """

    pauses_only = False
    idle = True
    tokens_read = 0
    tokens_ahead = (0, 0)

    def __init__(self, file: Path, engine: Engine, max_tokens: int, threads: int | None) -> None:
        from jupyter_sc2.engines.gguf.header import GGUFHeader
        from jupyter_sc2.engines.llamacpp.engine import default_threads
        from jupyter_sc2.engines.llamacpp.server import LlamaServer, ServerOptions

        self._max_tokens = max_tokens
        self._server = LlamaServer.start(
            ServerOptions(
                model=file,
                context=4096,
                chunk=N_BATCH,
                threads=threads or default_threads(GGUFHeader(file).parameters),
            )
        )
        self._builder = PromptBuilder(engine.card, engine.encode, engine.special_ids)
        self._changed = threading.Condition()
        self._waiting: tuple[CompletionRequest, Update, Fail] | None = None
        self._closed = False
        self._thread = background.Thread(self._work)
        self._thread.start()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._server.close()

    def prefetch(self, request: CompletionRequest) -> None:
        """Does nothing: the prompt is always the whole file."""

    def submit(self, request: CompletionRequest, update: Update, fail: Fail) -> None:
        with self._changed:
            older, self._waiting = self._waiting, (request, update, fail)
            self._changed.notify_all()
        if older is not None:
            older[1](Completion(text="", finish_reason="cancelled", reason="cancelled"))

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closed)
                if self._closed or self._waiting is None:
                    return
                (request, update, fail), self._waiting = self._waiting, None
            try:
                update(self._complete(request, update))
            except SC2Error as error:
                fail(error)
            with self._changed:
                if self._waiting is not None:  # it would have found the server busy
                    self._changed.wait(RETRY_S / 2)

    def _complete(self, request: CompletionRequest, update: Update) -> Completion:
        cells = request.notebook.cells
        here = next(i for i, cell in enumerate(cells) if cell.id == request.cell_id)
        above = "".join(f"{cell.source}\n\n" for cell in cells[:here])
        below = "".join(f"\n\n{cell.source}" for cell in cells[here + 1 :])
        *lines, line = (above + request.prefix).splitlines(keepends=True)[-PREFIX_LINES:] or [""]
        if line.endswith("\n"):
            lines, line = [*lines, line], ""
        body = {
            "input_prefix": "".join(lines),
            "prompt": line,
            "input_suffix": "".join(
                (request.suffix + below + "\n").splitlines(keepends=True)[: SUFFIX_LINES + 1]
            ),
            "n_predict": self._max_tokens,
            "temperature": 0.0,
            "samplers": ["temperature"],
            "cache_prompt": True,
            "stream": True,
            "timings_per_token": True,
            "n_indent": len(line) - len(line.lstrip()),
        }
        candidate, read, generated = Candidate(request, Prompt((), "psm")), Stats(), 0
        for event in self._events(body):
            if "timings" in event:
                timings = event["timings"]
                read = Stats(
                    prompt_tokens=timings["prompt_n"] + timings.get("cache_n", 0),
                    reused_tokens=timings.get("cache_n", 0),
                )
            if event.get("stop"):
                candidate.stopped = True
                break
            generated += len(event.get("tokens", ()))
            if candidate.add(event["content"].encode(), Token(0, 0.0)):
                update(Completion(text=candidate.text))
            if candidate.complete:
                break
        self.tokens_read += read.prompt_tokens - read.reused_tokens
        return replace(
            candidate.finish(cancelled=False), stats=replace(read, generated_tokens=generated)
        )

    def _events(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        try:
            yield from self._server.stream("/infill", body)
        except json.JSONDecodeError as error:
            raise GenerationError(f"llama.cpp's answer cannot be read: {error}.") from error
