"""The engine on llama.cpp: GGUF files, on the CPU, or on the GPU that the installed xllamacpp was built for.

Prompts are ids, as for every engine; llama.cpp's templates for fill-in-the-middle are not used. Each token is a
request of its own. The server caches the KV of the last prompt, so a request costs one pass as in any decode loop,
nothing is computed past the end, and the first tokens can be constrained for token healing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import random
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

from jupyter_sc2.engines.base import Capabilities, DraftFn, check_length, no_draft
from jupyter_sc2.engines.decoding.prefix_cache import (
    CachedPrefix,
    PrefixCache,
    common_length,
    worth_caching,
)
from jupyter_sc2.engines.decoding.sampling import NUM_ALTERNATIVES
from jupyter_sc2.engines.gguf import EXTRA
from jupyter_sc2.engines.gguf import locate as gguf_locate
from jupyter_sc2.engines.gguf.header import GGUFHeader
from jupyter_sc2.engines.llamacpp.server import LlamaServer, ServerOptions
from jupyter_sc2.errors import EngineLost, GenerationError, ModelLoadError
from jupyter_sc2.models import files as model_files
from jupyter_sc2.models.cards import ModelCard, with_known_layout
from jupyter_sc2.models.plan import SMALL_MODEL_PARAMS, smaller
from jupyter_sc2.runtime.hardware import format_bytes, free_memory
from jupyter_sc2.runtime.progress import Cancelled, Progress
from jupyter_sc2.runtime.threads import cores_here, most_threads, threads_that_help
from jupyter_sc2.types import SamplingParams, SpellingConstraint, Token

# Added to the logits of the tokens that are allowed. A power of two: it costs the fewest digits.
ALLOWED_LOGIT_BIAS = 64.0
# llama.cpp allocates its KV cache when it loads; StarCoder2 was trained on windows of this length.
MAX_CONTEXT_TOKENS = 4096
MAX_STASHED_BYTES = 512 << 20  # on the disk, of stashed prompts
# Weights of these types are copied into an order that is quicker to multiply. With the file mapped they would be in
# memory twice: StarCoder2-3B in Q4_K_M takes 3.3 GB so, and 2.0 GB if it is read.
REPACKED_TYPES = ("Q4_0", "Q4_K", "IQ4_NL")


class LlamaCppEngine:
    """A loaded model and its KV cache. Only one thread calls it."""

    name = "llamacpp"
    capabilities = Capabilities(alternatives=True, constraints="names")

    def __init__(
        self, server: LlamaServer, header: GGUFHeader, card: ModelCard, notice: str = ""
    ) -> None:
        self.card = card
        self.notice = notice
        self.precision = header.precision
        self._server: LlamaServer | None = server
        self._header = header
        self._server_ids: list[int] = []  # the ids in the server's KV cache
        self._prompt_length = 0  # ids that were prefilled; the others were decoded
        self._stash: PrefixCache[str] = PrefixCache(MAX_STASHED_BYTES)
        self._stash_count = 0

    @property
    def special_ids(self) -> dict[str, int]:
        return self._header.special_ids

    def encode(self, text: str) -> list[int]:
        """See Engine. llama.cpp takes what a file marks as the user's own token for that token in any text."""
        ids = self._tokenize(text)
        special = self.special_ids
        if special.keys().isdisjoint(self._header.tokens[id] for id in ids):
            return ids
        # Cut after its first character, such a token is text like any other.
        parts = [text]
        for name in special:
            parts = [part for part in parts for part in _cut(part, name)]
        return [id for piece in parts for id in self._tokenize(piece)]

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        table = self._header.bytes_of
        return b"".join(table[id] if 0 <= id < len(table) else b"" for id in ids)

    def prefill(self, ids: Sequence[int], cancelled: Cancelled) -> int:
        """Reads `ids` into the KV cache in chunks; returns how many of them were new.

        The last one is read by the request for the next token.
        """
        check_length(ids, self.card)
        common = self._trim_to_common_prefix(ids[:-1])
        new = len(ids) - 1 - common
        if new == 0:
            self._prompt_length = len(ids) - 1
            return 1
        if cancelled():
            return 0
        read = self._read_new(ids[:-1], cancelled)
        return read - common + (1 if read == len(ids) - 1 else 0)

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

        Decoded tokens stay in the KV cache, so that an accepted completion is not prefilled again.
        """
        self.prefill(ids, cancelled)
        ids, pending = list(ids), constraint
        draw = random.Random(sampling.seed)  # None: from the system's own
        for index in range(sampling.max_tokens):
            if cancelled():
                return
            allowed = None
            if pending is not None:
                allowed = self._header.spelling.allowed(pending) or None
            token = self._next(ids, sampling, draw.getrandbits(32), allowed, cancelled)
            if token is None:
                return
            yield token
            last = index + 1 == sampling.max_tokens or len(ids) + 1 >= self.card.context
            if last or token.id in stop_ids:
                return
            if pending is not None:
                # Where no token can spell it (no byte-level vocabulary) the constraint ends.
                spelled = self._header.bytes_of[token.id]
                pending = pending.advance(spelled) if allowed is not None else None
            ids.append(token.id)

    def _trim_to_common_prefix(self, ids: Sequence[int]) -> int:
        """How many of `ids` the server has, after a prompt that would be lost is stashed or a stashed one restored."""
        common = common_length(self._server_ids, ids)
        longer = self._stash.pop_longer_match(ids, common)
        if worth_caching(self._prompt_length, common):
            self._stash_count += 1
            name = f"{self._stash_count}.kv"
            nbytes = self._loaded().stash(name)
            if nbytes:
                for gone in self._stash.add(CachedPrefix(tuple(self._server_ids), name, nbytes)):
                    self._loaded().forget(gone.payload)
            self._prompt_length = common
        if longer is not None:
            if self._loaded().restore(longer.payload):
                self._server_ids, self._prompt_length = list(longer.ids), len(longer.ids)
                common = common_length(self._server_ids, ids)
            self._loaded().forget(longer.payload)
        return common

    def use_threads(self, count: int) -> None:
        """Does nothing: llama.cpp fixes them when it loads."""

    def memory_bytes(self) -> int:
        """The memory of the process that runs the model; at least the weights and the KV cache, wherever they are."""
        if self._server is None:
            return 0
        held = self._header.weight_bytes + self._header.kv_bytes(self.card.context)
        return max(held, self._server.resident_bytes())

    def close(self) -> None:
        """Ends the process, which releases the memory."""
        server, self._server, self._server_ids = self._server, None, []
        if server is not None:
            server.close()

    def when_lost(self, tell: Callable[[EngineLost], None]) -> None:
        """See ExternalEngine."""
        self._loaded().when_lost(tell)

    def _loaded(self) -> LlamaServer:
        if self._server is None:
            raise GenerationError(f"{self.card.name} is not loaded any more.")
        return self._server

    def _tokenize(self, text: str) -> list[int]:
        body = {"content": text, "add_special": False, "parse_special": False}
        ids: list[int] = self._loaded().ask("/tokenize", body)["tokens"]
        return ids

    def _read_new(self, ids: Sequence[int], cancelled: Cancelled) -> int:
        """Prefills a prompt until its end or until cancelled; returns how many of its ids the server then has."""
        request = {
            "prompt": list(ids),
            "n_predict": 0,
            "cache_prompt": True,
            "stream": True,
            "return_progress": True,
        }
        read = 0
        try:
            stream = self._loaded().stream("/completion", request, cancelled)
            with contextlib.closing(stream) as events:
                for event in events:
                    if "prompt_progress" in event:
                        read = int(event["prompt_progress"]["processed"])
                    if cancelled():
                        break
        finally:
            # A pass that is under way when the stream is closed is finished; what it reads is found later.
            self._server_ids, self._prompt_length = list(ids[:read]), read
        return read

    def _next(
        self,
        ids: Sequence[int],
        sampling: SamplingParams,
        seed: int,
        allowed: Sequence[int] | None,
        cancelled: Cancelled,
    ) -> Token | None:
        """One pass over the last of `ids`, and the token sampled after it, one of `allowed` (None: any).

        None if cancelled before.
        """
        bias: list[list[Any]] = []
        if allowed is not None:
            bias = [[id, ALLOWED_LOGIT_BIAS] for id in allowed]
        answer = self._complete(ids, sampling, seed, bias, cancelled)
        if answer is not None and allowed is not None and answer["tokens"][0] not in allowed:
            # The others were likelier by more than that, so they are ruled out one by one.
            forbidden = set(range(len(self._header.tokens))).difference(allowed)
            ruled_out: list[list[Any]] = [[id, False] for id in forbidden]
            answer = self._complete(ids, sampling, seed, ruled_out, cancelled)
        if answer is None:
            return None
        id = int(answer["tokens"][0])
        probabilities = answer.get("completion_probabilities")
        logprob = _logprob_of(id, probabilities)
        if logprob is None:
            return Token(id, self._logprob(ids, id))
        greedy = allowed is None and not sampling.temperature
        alternatives = _others(id, probabilities or []) if greedy else ()
        return Token(id, logprob, alternatives=alternatives)

    def _complete(
        self,
        ids: Sequence[int],
        sampling: SamplingParams,
        seed: int,
        bias: list[list[Any]],
        cancelled: Cancelled = lambda: False,
        n: int = NUM_ALTERNATIVES + 1,
    ) -> dict[str, Any] | None:
        request = {
            "prompt": ids,
            "n_predict": 1,
            "cache_prompt": True,
            "return_tokens": True,
            "n_probs": n,
            "samplers": ["temperature", "top_k", "top_p"],
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "seed": seed,
            "logit_bias": bias,
            "response_fields": ["tokens", "completion_probabilities"],
        }
        answer = self._loaded().post("/completion", request, cancelled)
        if answer is not None:
            self._server_ids = list(ids)
        return answer

    def _logprob(self, ids: Sequence[int], id: int) -> float:
        """The log-probability of a token that is the beginning of a character, which the server leaves out.

        The server reports it for a whole character only. So a newline is forced, and the token is looked up among the
        most likely ones.
        """
        whole = next(i for i, spelled in enumerate(self._header.bytes_of) if spelled == b"\n")
        for count in (16, len(self._header.tokens)):
            answer = self._complete(ids, SamplingParams(), 0, [[whole, 1e6]], n=count)
            assert answer is not None  # nobody can cancel it
            (first,) = answer["completion_probabilities"]
            for entry in first["top_logprobs"]:
                if entry["id"] == id:
                    return float(entry["logprob"])
        raise GenerationError(_NOT_A_NUMBER)


_NOT_A_NUMBER = (
    "The model computed something that is not a number: its weights are damaged, "
    "or the precision is too low for it."
)


def _logprob_of(id: int, probabilities: list[dict[str, Any]] | None) -> float | None:
    if not probabilities:
        return None
    logprob = probabilities[0]["logprob"]
    if logprob is None or not math.isfinite(logprob):
        raise GenerationError(_NOT_A_NUMBER)
    return float(logprob)


def _others(id: int, probabilities: list[dict[str, Any]]) -> tuple[tuple[int, float], ...]:
    """The next most likely tokens in the server's answer, with their log-probabilities."""
    top_tokens = [
        (int(entry["id"]), float(entry["logprob"]))
        for place in probabilities
        for entry in place.get("top_logprobs", ())
    ]
    return tuple(other for other in top_tokens if other[0] != id)[:NUM_ALTERNATIVES]


def _cut(text: str, name: str) -> list[str]:
    """The text cut into parts none of which contains `name`."""
    first, *others = text.split(name)
    parts = [first]
    for other in others:
        parts[-1] += name[:1]
        parts.append(name[1:] + other)
    return [piece for piece in parts if piece]


# Loading


def load(
    model: str,
    *,
    precision: str = "auto",
    threads: int | None = None,
    offline: bool = False,
    progress: Progress = lambda state, share: None,
) -> LlamaCppEngine:
    """Loads a GGUF file by its path, or by the name, hub id or folder of a model. Raises ModelLoadError.

    A file that was not made yet and is not on the Hub is made from the original weights, once.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise ModelLoadError(f"The engine llamacpp needs the package xllamacpp: {EXTRA}.")
    card, file, notice = gguf_locate.find(model, precision, offline=offline, progress=progress)
    header = GGUFHeader(file)
    if precision not in ("auto", header.precision) and header.precision:
        raise ModelLoadError(f"{file} is in {header.precision}, and {precision} is set.")
    card = _described(card, header)
    _check_memory(header, card)
    server = LlamaServer.start(
        ServerOptions(
            model=file,
            context=card.context,
            chunk=prefill_chunk(header.parameters),
            threads=threads or default_threads(header.parameters),
            mapped=header.share_of(REPACKED_TYPES) < 0.25,
        ),
        waiting=lambda: progress("loading", None),
    )
    return LlamaCppEngine(server, header, card, notice)


def _described(card: ModelCard, header: GGUFHeader) -> ModelCard:
    """The card completed from the file; the context is at most MAX_CONTEXT_TOKENS."""
    card = with_known_layout(card, header.special_ids)
    context = header.number("context_length", card.context)
    # Some files do not tell the window that a model was trained with, and then its card does.
    window = header.number("attention.sliding_window", min(card.window, context))
    context = min(context, MAX_CONTEXT_TOKENS)
    size = card.parameters if card.parameters != "?" else model_files.in_billions(header.parameters)
    licence = card.licence if card.licence != "unknown" else header.licence
    return replace(
        card,
        context=context,
        window=min(window, context),
        parameters=size,
        licence=licence,
        token_healing=card.token_healing or header.token_healing,
    )


def _check_memory(header: GGUFHeader, card: ModelCard) -> None:
    needed, free = header.weight_bytes + header.kv_bytes(card.context), free_memory()
    if free is not None and needed > free:
        raise ModelLoadError(
            f"{card.name} in {header.precision} needs about {format_bytes(needed)} of memory, and {format_bytes(free)} "
            f"are free. Try {smaller(header.precision) if card.gguf else 'a file of fewer bits'}."
        )


def prefill_chunk(parameters: int) -> int:
    """Tokens per prefill pass on the CPU: a cancelled request has to wait for one of them.

    Two cores read 3B parameters in Q4_K_M at some 30 tokens/s in passes of 32 tokens and longer; passes of 16 cost a
    quarter more in all, and half a second each.
    """
    return 256 if parameters < SMALL_MODEL_PARAMS else 64 if parameters < 500_000_000 else 16


def default_threads(parameters: int) -> int:
    """One for a small model, whose passes are too short to be split; else the number of cores.

    Busy cores count too: the number holds for as long as the model is loaded.
    """
    return threads_that_help(cores_here, cell_runs=False, most=most_threads(parameters))
