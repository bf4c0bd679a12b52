"""The engine for a completions server (/v1/completions): vLLM, llama-server, TGI, Ollama …

Where the model's tokenizer is at hand and the server takes ids, prompts are ids, and greedy tokens are those of
the same weights in this process. Else prompts are text, in which what only looks like a special token is
defused. The KV cache is the server's; cancelling closes the connection, upon which servers stop.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

from jupyter_sc2.engines.base import Capabilities, DraftFn, check_length, no_draft
from jupyter_sc2.engines.decoding.prefix_cache import common_length
from jupyter_sc2.engines.decoding.tokenizer import Tokenizer
from jupyter_sc2.engines.openai.client import Address, Client, ModelNotFoundError
from jupyter_sc2.engines.openai.discovery import (
    COMPLETIONS,
    Deployment,
    find_deployment,
    open_client,
)
from jupyter_sc2.engines.openai.text_vocabulary import TextVocabulary
from jupyter_sc2.errors import GenerationError, ModelLoadError
from jupyter_sc2.models.cards import EMBEDDED
from jupyter_sc2.runtime.exit_gate import gate
from jupyter_sc2.runtime.progress import Cancelled, Progress
from jupyter_sc2.types import SamplingParams, SpellingConstraint, Token

# Fewer new ids than these are read by the request that needs them: asking twice would cost more.
MIN_PREFILL_TOKENS = 32
# How many stop strings every server takes.
MAX_STOP_STRINGS = 4
# Servers that decode on and on, whatever they were asked for. Tokens have 3 to 4 characters on average, and those of
# indentation up to some dozens; a longer piece of text is more than one token.
MAX_CHARS_PER_TOKEN = 32
# Seconds for the tokens of one request after the first: two a second are slower than reading, and have to do.
MIN_DECODE_S = 10.0
DECODE_S_PER_TOKEN = 0.5
MAX_DECODE_S = 120.0
# Some servers have -9999 for "none at all", JSON has no infinity.
MIN_LOGPROB = -9999.0
# Tokens that are read of a request for one.
MAX_PREFILL_TOKENS = 8


class OpenAIEngine:
    """A model on a server. Only one thread calls it, the one that loaded it."""

    name = "openai"
    precision = ""

    def __init__(self, client: Client, deployment: Deployment) -> None:
        self.card = deployment.card
        self.vocabulary = deployment.vocabulary
        self._client = client
        self._model = deployment.model
        self._kind = deployment.kind
        self.capabilities = capabilities_of(deployment)
        self._sent: list[int] = []  # the ids that the server last read or wrote for us
        self._read: int | None = None  # how many ids it had to read last, where it tells
        self.notice = leaving(client.address)

    @property
    def special_ids(self) -> dict[str, int]:
        return self.vocabulary.special_ids

    def encode(self, text: str) -> list[int]:
        with gate:
            return self.vocabulary.encode(text)

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        return self.vocabulary.decode_bytes(ids)

    def prefill(self, ids: Sequence[int], cancelled: Cancelled) -> int:
        """Has the server read `ids`; returns how many it had to read, as far as it tells.

        A few new ids are left to the request that follows.
        """
        check_length(ids, self.card, where=self._client.address.host)
        new = len(ids) - common_length(self._sent, ids)
        if new < MIN_PREFILL_TOKENS or cancelled():
            return new
        self._read = None
        payload = self._payload(ids, SamplingParams(max_tokens=1), ())
        with contextlib.closing(self._tokens(payload, cancelled)) as tokens:
            for _ in itertools.islice(tokens, MAX_PREFILL_TOKENS):
                pass
        if cancelled():
            return 0
        self._sent = list(ids)
        return new if self._read is None else self._read

    def generate(
        self,
        ids: Sequence[int],
        sampling: SamplingParams,
        stop_ids: Collection[int],
        cancelled: Cancelled,
        constraint: SpellingConstraint | None = None,
        draft: DraftFn = no_draft,
    ) -> Iterator[Token]:
        """See Engine. Where a server tells no log-probabilities, they are 0.

        Where the server has no means for the constraint, the bytes go back to the prompt, and one token represents
        them. Of several alternatives only vLLM is sent all; other servers spell the first.
        """
        check_length(ids, self.card, where=self._client.address.host)
        self._sent, self._read = list(ids), None
        left = min(sampling.max_tokens, self.card.context - len(ids))
        pending = constraint
        by_tokens = self.capabilities.constraints == "names"
        while pending is not None and by_tokens and left > 0:
            allowed = self.vocabulary.spelling.allowed(pending)  # type: ignore[union-attr]
            if not allowed:  # no byte-level vocabulary: the constraint ends
                break
            payload = self._payload(self._sent, _at_most(sampling, 1), stop_ids)
            token = next(self._tokens(payload | {"allowed_token_ids": allowed}, cancelled), None)
            if token is None:
                return
            yield token
            self._sent.append(token.id)
            left -= 1
            pending = pending.advance(self.decode_bytes([token.id]))
        if cancelled() or left <= 0:
            return
        payload = self._payload(self._sent, _at_most(sampling, left), stop_ids)
        text = "" if pending is None else pending.first.decode(errors="replace")
        if text and self.capabilities.constraints == "suffix":
            payload["grammar"] = spelling_grammar(text)
        elif text and not by_tokens:
            if isinstance(self.vocabulary, TextVocabulary):
                payload["prompt"] = self.vocabulary.render(self._sent, end=text)
                spelled = [self.vocabulary.id_of(text)]
            else:
                spelled = self.encode(text)
                payload["prompt"] = [*self._sent, *spelled]
            self._sent += spelled
            for id in spelled:
                yield Token(id, 0.0)
        for count, token in enumerate(self._tokens(payload, cancelled)):
            if count > left:  # with a stop that comes last; more was not asked for
                return
            yield token
            if token.id in stop_ids:
                return
            self._sent.append(token.id)

    def use_threads(self, count: int) -> None:
        """Does nothing: the server has its own."""

    def memory_bytes(self) -> int:
        """Nothing: weights and KV cache are the server's."""
        return 0

    def close(self) -> None:
        self._client.close()

    # One request

    def _payload(
        self, ids: Sequence[int], sampling: SamplingParams, stop_ids: Collection[int]
    ) -> dict[str, Any]:
        text = isinstance(self.vocabulary, TextVocabulary)
        payload: dict[str, Any] = {
            "model": self._model,
            "prompt": self.vocabulary.render(ids)
            if isinstance(self.vocabulary, TextVocabulary)
            else ids,
            "max_tokens": sampling.max_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": sampling.temperature,
            "logprobs": 1,
        }
        if sampling.temperature > 0:
            payload["top_p"] = sampling.top_p
            if sampling.seed is not None:
                payload["seed"] = sampling.seed
        stops = [name for name, id in self.special_ids.items() if id in stop_ids]
        match self._kind:
            case "vllm":
                # A model's own defaults for sampling would count where none are given.
                payload |= {"top_k": sampling.top_k, "min_p": 0.0, "repetition_penalty": 1.0}
                if text:
                    payload |= {"stop": stops, "skip_special_tokens": False}
                else:
                    payload |= {"stop_token_ids": sorted(stop_ids)}
                    payload["return_tokens_as_token_ids"] = True
            case "llamacpp":
                payload |= {"top_k": sampling.top_k, "min_p": 0.0, "cache_prompt": True}
                if text:
                    payload |= {"stop": stops, "preserved_tokens": stops}
            case _:
                if sampling.temperature > 0 and sampling.top_k:
                    payload["top_k"] = sampling.top_k
                payload["stop"] = stops[:MAX_STOP_STRINGS]
        return payload

    def _tokens(self, payload: dict[str, Any], cancelled: Cancelled) -> Generator[Token]:
        """What the server decodes; where a stop ended it that it does not show, the id of one comes last.

        Ends where a server goes on for much longer than was asked for, in characters or seconds.
        """
        asked = payload["max_tokens"]
        left = MAX_CHARS_PER_TOKEN * (asked + 1)
        seconds = min(MIN_DECODE_S + DECODE_S_PER_TOKEN * asked, MAX_DECODE_S)
        stream = self._client.stream(COMPLETIONS, payload, cancelled, seconds=seconds)
        try:
            with contextlib.closing(stream) as events:
                for event in events:
                    self._note_usage(event.get("usage"))
                    choice: Any = next(iter(event.get("choices") or ()), {})  # one was asked for
                    tokens, chars = self._tokens_within(choice, left)
                    for token in tokens:
                        yield token
                        if cancelled():
                            return
                    if (left := left - chars) <= 0:
                        return
        except ModelNotFoundError as error:
            raise GenerationError(f"{error} Load the model again.") from error

    def _tokens_within(self, choice: dict[str, Any], most: int) -> tuple[list[Token], int]:
        """The tokens of an event's choice, of at most so many characters, and how many these are."""
        try:
            text = choice.get("text") or ""
            if len(text) > most:
                choice = {"text": text[:most]}
            tokens = self._tokens_of(choice)
            shown = bool(tokens) and tokens[-1].id in self.special_ids.values()
            if choice.get("finish_reason") == "stop" and not shown:
                stop = self._stop_id(choice)
                tokens += [Token(stop, 0.0)] if stop is not None else []
            return tokens, len(text)
        except (TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
            raise self._client.unlike() from error

    def _tokens_of(self, choice: dict[str, Any]) -> list[Token]:
        text = choice.get("text") or ""
        if not isinstance(text, str):
            raise TypeError
        logprobs = choice.get("logprobs") or {}
        if isinstance(self.vocabulary, TextVocabulary):
            if not text:
                return []
            total = sum(_logprobs(logprobs))
            if text in self.special_ids:
                ids = [self.special_ids[text]]
            elif len(text) > MAX_CHARS_PER_TOKEN:
                ids = self.vocabulary.encode(text)
            else:
                ids = [self.vocabulary.id_of(text)]
            return [Token(id, total / len(ids)) for id in ids]
        tokens = [
            Token(id, value) for id, value in zip(_ids(logprobs), _logprobs(logprobs), strict=False)
        ]
        if self._kind != "vllm":
            # llama-server tells of a character's last token only, where it has several; others tell no ids.
            spelled = self.decode_bytes([token.id for token in tokens])
            if spelled != text.encode():
                total = sum(token.logprob for token in tokens)
                ids = self.encode(text)
                tokens = [Token(id, total / len(ids)) for id in ids]
        return tokens

    def _stop_id(self, choice: dict[str, Any]) -> int | None:
        # Of vLLM: the id or the string; nothing for the end of text.
        reason = choice.get("stop_reason")
        if isinstance(reason, int) and reason in self.special_ids.values():
            return reason
        names = [str(reason), *self.card.stop, *self.special_ids]
        return next((self.special_ids[name] for name in names if name in self.special_ids), None)

    def _note_usage(self, usage: Any) -> None:
        # Many servers tell less, or what is no number.
        with contextlib.suppress(TypeError, LookupError, ValueError, ArithmeticError):
            self._read = max(
                0, int(usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"])
            )


def capabilities_of(deployment: Deployment) -> Capabilities:
    """vLLM takes the ids that are allowed, llama.cpp's server a grammar; of others neither is known."""
    match deployment.kind:
        case "vllm" if isinstance(deployment.vocabulary, Tokenizer):
            return Capabilities(remote=True, constraints="names")
        case "vllm":
            return Capabilities(remote=True)
        case "llamacpp":
            return Capabilities(remote=True, constraints="suffix")
    return Capabilities(remote=True, logprobs=False)


def leaving(address: Address) -> str:
    """What the user has to know of a server, in a sentence."""
    if address.loopback:  # where a tunnel may begin
        return f"Code leaves this kernel: it is sent to {address.host}, on this machine."
    return f"Code leaves this machine: it is sent to {address.host}."


def spelling_grammar(text: str) -> str:
    """llama.cpp's grammar (GBNF) for an answer that begins with `text`."""
    spelled = "".join(f"\\U{ord(char):08X}" for char in text)
    return f'root ::= "{spelled}" [^\\x00]*'


def _ids(logprobs: dict[str, Any]) -> list[int]:
    if "content" in logprobs:  # llama-server
        return [int(entry["id"]) for entry in logprobs["content"] or () if "id" in entry]
    names = [str(name) for name in logprobs.get("tokens") or ()]
    return [int(name[9:]) for name in names if name.startswith("token_id:")]


def _logprobs(logprobs: dict[str, Any]) -> list[float]:
    if "content" in logprobs:
        values = [entry.get("logprob") for entry in logprobs["content"] or ()]
    else:
        values = list(logprobs.get("token_logprobs") or ())
    # None where it is not told; what is above 0, or no number, can be none.
    return [
        max(float(value), MIN_LOGPROB) if value is not None and value <= 0 else 0.0
        for value in values
    ]


def _at_most(sampling: SamplingParams, count: int) -> SamplingParams:
    return replace(sampling, max_tokens=count)


def load(
    model: str,
    *,
    server: str,
    offline: bool = False,
    progress: Progress = lambda state, share: None,
) -> OpenAIEngine:
    """Finds a model on a server. Raises ModelLoadError in the user's terms, in one line.

    `server` is an address with or without /v1, or "auto" for the newest `jupyter sc2 serve` of this user.
    """
    progress("loading", None)
    if not server:
        raise ModelLoadError(
            "The engine openai needs the address of a server in the setting server."
        )
    client, told = open_client(server, offline=offline)
    if model == EMBEDDED.name and told is not None:  # the default: whatever is served
        model = told
    try:
        found = find_deployment(client, model, offline=offline, progress=progress)
    except BaseException as error:
        client.close()
        if isinstance(error, GenerationError):
            raise ModelLoadError(str(error)) from error
        raise
    return OpenAIEngine(client, found)
