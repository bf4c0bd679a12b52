"""From a prompt to tokens, for the engines that run the model in this process.

The loop is our own and small: read what is new of the prompt in chunks, then one token at a time, or several
hypotheses at once (search.py). Between any two forward passes it asks whether it is still wanted. How a pass is
computed is the engine's business; what it gives are logits as a NumPy array.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jupyter_sc2.engines.base import Guess, check_length, no_guess
from jupyter_sc2.engines.decoding.beam_search import Way, agreed, best
from jupyter_sc2.engines.decoding.prefix_cache import PromptCache
from jupyter_sc2.engines.decoding.sampling import Sampler, likeliest, make_sampler
from jupyter_sc2.engines.decoding.token_healing import advance
from jupyter_sc2.engines.decoding.tokenizer import Tokenizer
from jupyter_sc2.errors import SC2Error
from jupyter_sc2.models.cards import ModelCard
from jupyter_sc2.runtime.exit_gate import gate
from jupyter_sc2.runtime.hardware import give_back_memory
from jupyter_sc2.runtime.progress import Cancelled
from jupyter_sc2.types import SamplingParams, Token

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Reading more tokens than this on a CPU leaves behind much memory that is free and not the system's: 150 MB for
# StarCoder2-3B and 512 tokens, 20 MB for the embedded model. Giving it back takes 15 ms at most.
LONG = 256
SHORT = 16  # tokens that are read in a pass hardly longer than that of one


class LayerCache(PromptCache[Any]):
    """The keys and values of all layers, which a forward pass adds to."""

    def forget_last_pass(self) -> None:
        """Takes out what a pass that did not end, or hypotheses that were given up, have left behind the ids."""
        self._set_length(len(self.ids))

    @property
    def length(self) -> int:
        """How many tokens the layers hold: the ids, and the tokens of hypotheses that are being followed."""
        raise NotImplementedError

    def choose(self, places: Sequence[int], ids: Sequence[int]) -> None:
        """Of what was read behind the ids keeps these places: there are `ids`, which are among them from now on."""
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
        guessed: int,
        notice: str = "",
        on_cpu: bool = True,
    ) -> None:
        self.card = card
        self.notice = notice  # what the user should know about this load, in one sentence
        self.tokenizer = tokenizer
        self.chunk = chunk  # tokens of the prompt that one pass reads
        self.ways = card.ways  # how many hypotheses are followed at once
        self.guessed = guessed  # the most guessed tokens that one pass checks
        self._cache = cache
        self._on_cpu = on_cpu
        self._prompt: _Prompt | None = None
        self._interrupted: tuple[int, int] | None = None  # where a chunk was given up: position, id
        # (K, V) float32: what follows each of the last K tokens that were read
        self._logits: NDArray[np.float32] | None = None

    @abstractmethod
    def _pass(
        self,
        ids: Sequence[int],
        unwanted: Cancelled | None,
        *,
        every: bool = True,
        ways: Sequence[Way] = (),
    ) -> bool:
        """Reads `ids` after what the cache holds; `_logits` are then those of `every` one, or of the last.

        With `ways`, the ids are the last tokens of these hypotheses: each sees the ids of the cache and the tokens
        of its own. May end early if `unwanted`, and then returns False; the layers hold the ids and no more.
        """

    def _inside(self) -> contextlib.AbstractContextManager[Any]:
        """What is held while a library of compiled code is called."""
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
        """Reads `ids` into the KV cache in chunks; returns how many had to be read."""
        with self._sound():
            return self._read_prompt(ids, cancelled)

    def generate(
        self,
        ids: Sequence[int],
        sampling: SamplingParams,
        stop_ids: Collection[int],
        cancelled: Cancelled,
        healed: bytes = b"",
        guess: Guess = no_guess,
    ) -> Iterator[Token]:
        """See Engine. Ends early, without a token more, when cancelled or where the model's positions end.

        What was decoded stays in the KV cache: if the user accepts it, it need not be read again. A pass over a
        drawn token reads a few guessed ones after it. Each is then drawn as if it had not been guessed, and is
        already read where the guess was right.
        """
        with self._sound():
            yield from self._decode(ids, sampling, stop_ids, cancelled, healed, guess)

    @contextlib.contextmanager
    def _sound(self) -> Iterator[None]:
        """After a pass that failed, for want of memory say, nothing counts that was read before."""
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
        healed: bytes,
        guess: Guess,
    ) -> Iterator[Token]:
        sample = make_sampler(sampling)
        self._read_prompt(ids, cancelled)
        if self._cache.ids != list(ids):  # cancelled
            return
        ways = self.ways if sampling.temperature == 0 else 1
        rest, drawn = healed, list[int]()
        row, guesses = 0, list[int]()
        left = min(sampling.max_tokens, self.card.context - len(ids))
        while not cancelled():
            found = self._onward(Way(rest), row, stop_ids) if ways > 1 else []
            if len(found) > 1:
                self._cache.cut(len(ids) + len(drawn))
                way = yield from self._follow(found, left, stop_ids, cancelled)
                if way is None:  # cancelled
                    return
                drawn += [token.id for token in way.tokens]
                left -= len(way.tokens)
                token, rest, guesses = way.tokens[-1], way.rest, []
            else:
                if found:
                    (token,) = found[0].tokens
                else:
                    token = self._draw(sample, row, self._allowed(rest))
                yield token
                rest = self._rest(rest, token)
                drawn.append(token.id)
                left -= 1
            if left <= 0 or token.id in stop_ids or cancelled():
                return
            if row < len(guesses) and guesses[row] == token.id:
                row += 1
                continue
            self._cache.cut(len(ids) + len(drawn) - 1)
            row, guesses = 0, []
            if self.guessed and not rest:
                guesses = list(guess(drawn)[: min(self.guessed, left - 1)])
            if not self._forward([token.id, *guesses], cancelled):
                return

    def _follow(
        self, ways: list[Way], left: int, stop_ids: Collection[int], cancelled: Cancelled
    ) -> Generator[Token, None, Way | None]:
        """Follows these ways until only one is left, or for `left` tokens; yields the tokens of that one.

        All but its last token are then read. Gives None if cancelled before.
        """
        told = 0
        while len(ways) > 1 and max(len(way.tokens) for way in ways) < left:
            shared = agreed(ways)
            yield from ways[0].tokens[told:shared]
            told = shared
            running = [way for way in ways if not way.ended]
            if cancelled() or not self._pass(
                [way.tokens[-1].id for way in running], cancelled, ways=running
            ):
                return None
            first = self._cache.length - len(running)
            onward = [
                next
                for row, way in enumerate(running)
                for next in self._onward(way.read(first + row), row, stop_ids)
            ]
            ways = best([*onward, *(way for way in ways if way.ended)], self.ways)
        with self._inside():
            read = ways[0].tokens[: len(ways[0].places)]
            self._cache.choose(ways[0].places, [token.id for token in read])
        yield from ways[0].tokens[told:]
        return ways[0]

    def _onward(self, way: Way, row: int, stop_ids: Collection[int]) -> list[Way]:
        """The way with each of the tokens that may come next, by the logits of this row."""
        with self._inside():
            tokens = likeliest(self._row(row), self._allowed(way.rest), self.ways)
        return best(
            (
                way.on(token, self._rest(way.rest, token), ended=self._ends(token, stop_ids))
                for token in tokens
            ),
            self.ways,
        )

    def _ends(self, token: Token, stop_ids: Collection[int]) -> bool:
        return token.id in stop_ids or b"\n" in self.tokenizer.decode_bytes([token.id])

    def _allowed(self, rest: bytes) -> list[int] | None:
        """The tokens that can spell it, None for all: also where none can (no byte-level vocabulary)."""
        return (self.tokenizer.spelling.allowed(rest) or None) if rest else None

    def _rest(self, rest: bytes, token: Token) -> bytes:
        """What is left to spell after a token."""
        if not rest or token.among_allowed is None:
            return b""
        return advance(rest, self.tokenizer.bytes_of[token.id])

    def _read_prompt(self, ids: Sequence[int], cancelled: Cancelled) -> int:
        read = self._read(ids, cancelled)
        if read > LONG and self._on_cpu:
            give_back_memory()
        return read

    def _read(self, ids: Sequence[int], cancelled: Cancelled) -> int:
        """Reads what is new of `ids`, up to the end unless cancelled before; returns how many ids that were."""
        check_length(ids, self.card)
        # After an idle prefill, or for the next candidate, the same prompt comes again and its logits are known.
        repeated = self._prompt is not None and self._prompt.ids == tuple(ids)
        with self._inside():
            start = self._cache.keep_common(ids, at_most=len(ids) if repeated else len(ids) - 1)
        if repeated and start == len(ids):
            self._logits = self._prompt.logits  # type: ignore[union-attr]
            return 0
        for position in range(start, len(ids), self.chunk):
            if cancelled():
                return position - start
            # A chunk that was given up once is read to its end the next time: who types on asks for it again and
            # again, and would never see it done. A short one has the keys of the next request in it as well.
            chunk = ids[position : position + self.chunk]
            here = (position, ids[position])
            again = here == self._interrupted and len(chunk) > SHORT
            if not self._forward(chunk, None if again else cancelled, every=False):
                self._interrupted = here
                return position - start
            self._interrupted = None
            self._cache.read = position + len(chunk)
        assert self._logits is not None
        self._prompt = _Prompt(tuple(ids), self._logits)
        return len(ids) - start

    def _forward(
        self, ids: Sequence[int], unwanted: Cancelled | None = None, *, every: bool = True
    ) -> bool:
        """As `_pass`, and what was read are ids of the cache from then on."""
        if not self._pass(ids, unwanted, every=every):
            return False
        self._cache.ids.extend(ids)
        return True

    def _draw(self, sample: Sampler, row: int, allowed: Sequence[int] | None) -> Token:
        with self._inside():
            return sample(self._row(row), allowed)

    def _row(self, row: int) -> NDArray[np.float32]:
        assert self._logits is not None
        logits: NDArray[np.float32] = self._logits[row]
        return logits

    def _forget(self) -> None:
        self._cache.clear()
        self._prompt = None
        self._logits = None


@dataclass(frozen=True)
class _Prompt:
    """The prompt that was last read to its end, and the logits (1, V) after it."""

    ids: tuple[int, ...]
    logits: NDArray[np.float32]
