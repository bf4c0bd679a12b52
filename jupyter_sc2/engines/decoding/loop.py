"""The decode loop of the engines that run a model in this process.

It prefills the new part of the prompt in chunks, then decodes one token at a time, with draft tokens, or several
hypotheses at once (beam_search.py). Between any two forward passes it checks whether it is cancelled. The engine
computes the pass; its logits are a NumPy array.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jupyter_sc2.engines.base import Capabilities, DraftFn, check_length, no_draft
from jupyter_sc2.engines.decoding.beam_search import Hypothesis, common_prefix_length, prune
from jupyter_sc2.engines.decoding.prefix_cache import PromptState
from jupyter_sc2.engines.decoding.sampling import TopTokens, make_sampler, top_tokens
from jupyter_sc2.engines.decoding.tokenizer import Tokenizer
from jupyter_sc2.errors import SC2Error
from jupyter_sc2.models.cards import ModelCard
from jupyter_sc2.runtime.exit_gate import gate
from jupyter_sc2.runtime.hardware import give_back_memory
from jupyter_sc2.runtime.progress import Cancelled
from jupyter_sc2.types import SamplingParams, SpellingConstraint, Token

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Whose logits a pass is to compute.
Logits = Literal["all", "last", "none"]
# Prefilling more tokens than this on a CPU leaves much freed memory with the allocator: 150 MB for StarCoder2-3B and
# 512 tokens, 20 MB for the embedded model. Returning it to the system takes 15 ms at most.
LONG_PROMPT_TOKENS = 256
# A pass over so many tokens takes hardly longer than a pass over one.
SHORT_CHUNK_TOKENS = 16


class LayerCache(PromptState[Any]):
    """The keys and values of all layers, which a forward pass adds to."""

    def rollback(self) -> None:
        """Drops what a cancelled pass or abandoned hypotheses have written after the ids."""
        self._set_length(len(self.ids))

    @property
    def length(self) -> int:
        """How many tokens the layers hold: the ids, and those of live hypotheses."""
        raise NotImplementedError

    def select(self, positions: Sequence[int], ids: Sequence[int]) -> None:
        """Keeps only these positions of what was written after the ids, and appends `ids`, which are there.

        `positions` index the sequence axis; there are as many as `ids`. Called when beam search has picked a winner.
        """
        raise NotImplementedError


class DecodingEngine(ABC):
    """A loaded model, its KV cache and the loop. Only one thread at a time calls it."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        card: ModelCard,
        cache: LayerCache,
        *,
        chunk: int,
        max_draft_tokens: int,
        notice: str = "",
        on_cpu: bool = True,
    ) -> None:
        self.card = card
        self.notice = notice  # what the user should know about this load, in one sentence
        self.tokenizer = tokenizer
        self.chunk = chunk  # prompt tokens that one pass reads
        self.capabilities = Capabilities(
            beam_width=card.beam_width,
            max_draft_tokens=max_draft_tokens,
            alternatives=True,
            constraints="names",
        )
        self._cache = cache
        self._on_cpu = on_cpu
        self._prompt: _Prompt | None = None
        # Where a chunk was cancelled: position, id.
        self._interrupted: tuple[int, int] | None = None
        # (K, V) float32: what follows each of the last K tokens that were read
        self._logits: NDArray[np.float32] | None = None
        self._top: TopTokens | None = None  # of these logits

    @abstractmethod
    def _pass(
        self,
        ids: Sequence[int],
        aborted: Cancelled | None,
        *,
        logits: Logits = "all",
        hypotheses: Sequence[Hypothesis] = (),
    ) -> bool:
        """One forward pass over `ids` after the cache. `_logits` are then those of all (T, V), or of the last (1, V).

        With "none" they may be either, or what they were before.

        With `hypotheses`, the ids are their last tokens: each sees the ids of the cache and the tokens of its own
        hypothesis. May end early if `aborted`, and then returns False; the layers hold the ids and no more.
        """

    def _inside(self) -> contextlib.AbstractContextManager[Any]:
        """The context in which a library of compiled code is called."""
        return gate

    @property
    def special_ids(self) -> dict[str, int]:
        return self.tokenizer.special_ids

    def encode(self, text: str) -> list[int]:
        with gate:
            return self.tokenizer.encode(text)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return self.tokenizer.decode_bytes(ids)

    def prefill(self, ids: Sequence[int], cancelled: Cancelled) -> int:
        """Prefills `ids` in chunks; returns how many were not in the KV cache."""
        with self._forgets_on_failure():
            return self._read_prompt(ids, cancelled)

    def generate(
        self,
        ids: Sequence[int],
        sampling: SamplingParams,
        stop_ids: Collection[int],
        cancelled: Cancelled,
        constraint: SpellingConstraint | None = None,
        draft: DraftFn = no_draft,
    ) -> Iterator[Token]:
        """See Engine. Ends early, without a token more, when cancelled or where the model's positions end.

        Decoded tokens stay in the KV cache, so that an accepted completion is not prefilled again. A pass over a
        sampled token also verifies a few draft tokens; the next tokens are sampled as without them, and cost no pass
        where the draft was right.
        """
        with self._forgets_on_failure():
            yield from self._decode(ids, sampling, stop_ids, cancelled, constraint, draft)

    @contextlib.contextmanager
    def _forgets_on_failure(self) -> Iterator[None]:
        """Clears the KV cache after a pass that failed, for lack of memory say."""
        try:
            yield
        except SC2Error:
            raise
        except Exception:
            self._forget()
            raise

    def _decode(
        self,
        ids: Sequence[int],
        sampling: SamplingParams,
        stop_ids: Collection[int],
        cancelled: Cancelled,
        constraint: SpellingConstraint | None,
        draft: DraftFn,
    ) -> Iterator[Token]:
        sample = None if sampling.temperature == 0 else make_sampler(sampling)
        self._read_prompt(ids, cancelled)
        if self._cache.ids != list(ids):  # cancelled
            return
        max_draft_tokens = self.capabilities.max_draft_tokens
        pending, drawn = constraint, list[int]()
        row, drafted = 0, list[int]()
        left = min(sampling.max_tokens, self.card.context - len(ids))
        while not cancelled():
            found = self._expand(Hypothesis(pending), row, stop_ids) if sample is None else []
            if len(found) > 1:
                self._cache.truncate(len(ids) + len(drawn))
                hypothesis = yield from self._beam_search(found, left, stop_ids, cancelled)
                if hypothesis is None:  # cancelled
                    return
                drawn += [token.id for token in hypothesis.tokens]
                left -= len(hypothesis.tokens)
                token, pending, drafted = hypothesis.tokens[-1], hypothesis.pending, []
            else:
                if sample is None:
                    (token,) = found[0].tokens
                else:
                    with self._inside():
                        token = sample(self._row(row), self._allowed(pending))
                yield token
                pending = self._advance(pending, token)
                drawn.append(token.id)
                left -= 1
            if left <= 0 or token.id in stop_ids or cancelled():
                return
            if row < len(drafted) and drafted[row] == token.id:
                row += 1
                continue
            self._cache.truncate(len(ids) + len(drawn) - 1)
            row, drafted = 0, []
            if max_draft_tokens and pending is None:
                drafted = list(draft(drawn)[: min(max_draft_tokens, left - 1)])
            if not self._forward([token.id, *drafted], cancelled):
                return

    def _beam_search(
        self,
        hypotheses: list[Hypothesis],
        left: int,
        stop_ids: Collection[int],
        cancelled: Cancelled,
    ) -> Generator[Token, None, Hypothesis | None]:
        """Searches until one hypothesis is left, or for `left` tokens; yields the tokens of the winner.

        All but its last token are then in the cache. Returns None if cancelled.
        """
        emitted = 0
        while (
            len(hypotheses) > 1 and max(len(hypothesis.tokens) for hypothesis in hypotheses) < left
        ):
            shared = common_prefix_length(hypotheses)
            yield from hypotheses[0].tokens[emitted:shared]
            emitted = shared
            running = [hypothesis for hypothesis in hypotheses if not hypothesis.finished]
            if cancelled() or not self._pass(
                [hypothesis.tokens[-1].id for hypothesis in running], cancelled, hypotheses=running
            ):
                return None
            first = self._cache.length - len(running)
            onward = [
                next
                for row, hypothesis in enumerate(running)
                for next in self._expand(hypothesis.with_position(first + row), row, stop_ids)
            ]
            hypotheses = prune(
                [*onward, *(hypothesis for hypothesis in hypotheses if hypothesis.finished)],
                self.capabilities.beam_width,
            )
        with self._inside():
            read = hypotheses[0].tokens[: len(hypotheses[0].cache_positions)]
            self._cache.select(hypotheses[0].cache_positions, [token.id for token in read])
        yield from hypotheses[0].tokens[emitted:]
        return hypotheses[0]

    def _expand(
        self, hypothesis: Hypothesis, row: int, stop_ids: Collection[int]
    ) -> list[Hypothesis]:
        """The hypothesis extended by each of the most likely next tokens, by the logits of this row."""
        allowed = self._allowed(hypothesis.pending)
        with self._inside():
            if allowed is not None:
                tokens = top_tokens(self._row(row), allowed, self.capabilities.beam_width)
            else:
                tokens = self._top_tokens()[row]
        return prune(
            (
                hypothesis.extend(
                    token,
                    self._advance(hypothesis.pending, token),
                    finished=self._ends(token, stop_ids),
                )
                for token in tokens
            ),
            self.capabilities.beam_width,
        )

    def _ends(self, token: Token, stop_ids: Collection[int]) -> bool:
        return token.id in stop_ids or b"\n" in self.tokenizer.decode_bytes([token.id])

    def _allowed(self, pending: SpellingConstraint | None) -> list[int] | None:
        """The tokens that can spell it. None for all, also where none can (no byte-level vocabulary)."""
        return None if pending is None else self.tokenizer.spelling.allowed(pending) or None

    def _advance(
        self, pending: SpellingConstraint | None, token: Token
    ) -> SpellingConstraint | None:
        """What is left to spell after a token."""
        if pending is None or token.constrained_logprob is None:
            return None
        return pending.advance(self.tokenizer.bytes_of[token.id])

    def _read_prompt(self, ids: Sequence[int], cancelled: Cancelled) -> int:
        read = self._read(ids, cancelled)
        if read > LONG_PROMPT_TOKENS and self._on_cpu:
            give_back_memory()
        return read

    def _read(self, ids: Sequence[int], cancelled: Cancelled) -> int:
        """Prefills the new part of `ids` until its end or until cancelled; returns how many ids were read."""
        check_length(ids, self.card)
        # After an idle prefill, or for the next candidate, the prompt is the same and its logits are known.
        repeated = self._prompt is not None and self._prompt.ids == tuple(ids)
        with self._inside():
            start = self._cache.trim_to_common_prefix(
                ids, at_most=len(ids) if repeated else len(ids) - 1
            )
        if repeated and start == len(ids):
            self._logits = self._prompt.logits  # type: ignore[union-attr]
            return 0
        for position in range(start, len(ids), self.chunk):
            if cancelled():
                return position - start
            # A chunk that was cancelled once is read to its end the next time: while the user types, each request
            # needs it again, and it would never be finished. A short one also holds the keys of the next request.
            chunk = ids[position : position + self.chunk]
            here = (position, ids[position])
            again = here == self._interrupted and len(chunk) > SHORT_CHUNK_TOKENS
            last = position + len(chunk) == len(ids)
            if not self._forward(
                chunk, None if again else cancelled, logits="last" if last else "none"
            ):
                self._interrupted = here
                return position - start
            self._interrupted = None
            self._cache.prompt_length = position + len(chunk)
        assert self._logits is not None
        self._prompt = _Prompt(tuple(ids), self._logits)
        return len(ids) - start

    def _forward(
        self, ids: Sequence[int], aborted: Cancelled | None = None, *, logits: Logits = "all"
    ) -> bool:
        """A pass whose ids become ids of the cache."""
        if not self._pass(ids, aborted, logits=logits):
            return False
        self._cache.ids.extend(ids)
        return True

    def _top_tokens(self) -> TopTokens:
        """Of all rows of the logits that there are."""
        assert self._logits is not None
        if self._top is None or self._top.logits is not self._logits:
            self._top = TopTokens(self._logits, self.capabilities.beam_width)
        return self._top

    def _row(self, row: int) -> NDArray[np.float32]:
        assert self._logits is not None
        logits: NDArray[np.float32] = self._logits[row]
        return logits

    def _forget(self) -> None:
        self._cache.clear()
        self._prompt = None
        self._logits = self._top = None


@dataclass(frozen=True)
class _Prompt:
    """The prompt that was last prefilled to its end, and the logits (1, V) after it."""

    ids: tuple[int, ...]
    logits: NDArray[np.float32]
