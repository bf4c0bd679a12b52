"""The engine on torch: fp32, bf16, fp16, 8-bit and 4-bit, on the CPU, CUDA or MPS.

The loop is our own and small: read what is new of the prompt in chunks, then one token at a time. Between any
two forward passes, and in a prefill chunk between any two layers, it asks whether it is still wanted. All of
torch's switches that it needs (inference mode, number of threads, random state) are those of its own thread:
nothing changes for the user's code.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import inspect
import sys
import threading
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from jupyter_sc2 import plan
from jupyter_sc2.completion import SamplingParams, Token
from jupyter_sc2.engines import (
    Cancelled,
    Guess,
    Progress,
    check_length,
    no_guess,
    quantized,
    weights,
)
from jupyter_sc2.engines.build import (
    best_device,
    convert,
    quick_bf16,
    skeleton,
    weight_bytes,
)
from jupyter_sc2.engines.gate import gate
from jupyter_sc2.engines.healing import advance
from jupyter_sc2.engines.kvcache import Interrupted, KVCache
from jupyter_sc2.engines.sampler import Sampler, likeliest, make_sampler
from jupyter_sc2.engines.search import Way, agreed, best
from jupyter_sc2.engines.tokenizer import Tokenizer, missing
from jupyter_sc2.errors import GenerationError, ModelLoadError, SC2Error
from jupyter_sc2.hardware import machine
from jupyter_sc2.models import PACKED, QUANTIZED, ModelCard, Shape, suited
from jupyter_sc2.plan import SMALL
from jupyter_sc2.threads import Load, most_threads, threads_that_help

PLANNED_TOKENS = 2048  # room for the KV cache of a prompt of this length
SHORT = 16  # tokens that are read in a pass hardly longer than that of one
# Reading more tokens than this leaves behind much memory that is free and not the system's: 150 MB for StarCoder2-3B
# and 512 tokens. Giving it back takes 15 ms, where reading took seconds.
LONG = 256


class TransformersEngine:
    """A loaded model and its KV cache. Only one thread calls it at a time."""

    name = "transformers"

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        card: ModelCard,
        *,
        precision: str,
        device: torch.device,
        chunk: int,
        guessed: int = 0,
        notice: str = "",
        most_threads: int = 1,
    ) -> None:
        self.card = card
        self.notice = notice  # what the user should know about this load, in one sentence
        self.precision = precision
        self.tokenizer = tokenizer
        self.chunk = chunk
        self.ways = card.ways  # how many are followed at once
        self.guessed = guessed  # the most guessed tokens that one pass checks
        self._model = model
        self._cache_argument = cache_argument(model)
        self._model.get_output_embeddings().register_forward_pre_hook(_compact)
        self._device = device
        self.most_threads = most_threads
        self._own = threading.local()
        self._cache = KVCache(model.config.num_hidden_layers)
        self._prompt: _Prompt | None = None
        self._interrupted: tuple[int, int] | None = None  # where a chunk was given up: position, id
        # (K, V) float32 on the CPU: what follows each of the last K ids in the cache
        self._logits = torch.empty(0, 0)

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
            if cancelled() or not self._forward_ways(running, cancelled):
                return None
            first = self._cache.get_seq_length() - len(running)
            onward = [
                next
                for row, way in enumerate(running)
                for next in self._onward(way.read(first + row), row, stop_ids)
            ]
            ways = best([*onward, *(way for way in ways if way.ended)], self.ways)
        with gate, torch.inference_mode():
            read = ways[0].tokens[: len(ways[0].places)]
            self._cache.choose(ways[0].places, [token.id for token in read])
        yield from ways[0].tokens[told:]
        return ways[0]

    def _onward(self, way: Way, row: int, stop_ids: Collection[int]) -> list[Way]:
        """The way with each of the tokens that may come next, by the logits of this row."""
        with gate, torch.inference_mode():
            tokens = likeliest(self._logits[row], self._allowed(way.rest), self.ways)
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

    def use_threads(self, count: int) -> None:
        """See Engine. Beyond `most_threads` no more are used."""
        count = min(count, self.most_threads)
        if getattr(self._own, "threads", None) != count:
            set_own_threads(count)
            self._own.threads = count

    def memory_bytes(self) -> int:
        """Bytes of weights, scales of quantized weights, and the KV cache, counted from the tensors."""
        return 0 if self._model is None else weight_bytes(self._model) + self._cache.memory_bytes()

    def close(self) -> None:
        """Gives the memory back, to the system as well where that can be asked for."""
        with gate:
            self._model = None
            self._forget()
            gc.collect()  # modules and their hooks refer to one another
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        give_back_memory()

    def _read_prompt(self, ids: Sequence[int], cancelled: Cancelled) -> int:
        """Reads what is new of `ids`, up to the end unless cancelled before; returns how many ids that were."""
        check_length(ids, self.card)
        # After an idle prefill, or for the next candidate, the same prompt comes again and its logits are known.
        repeated = self._prompt is not None and self._prompt.ids == tuple(ids)
        with gate, torch.inference_mode():
            start = self._cache.keep_common(ids, at_most=len(ids) if repeated else len(ids) - 1)
        if repeated and start == len(ids):
            with gate:
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
        if len(ids) - start > LONG and self._device.type == "cpu":
            give_back_memory()
        with gate:
            self._prompt = _Prompt(tuple(ids), self._logits)
        return len(ids) - start

    def _forward(
        self, ids: Sequence[int], unwanted: Cancelled | None = None, *, every: bool = True
    ) -> bool:
        """Reads `ids` after what the cache holds; `_logits` are then those of `every` one, or of the last.

        Ends early if `unwanted`, and returns False; then the cache is as before.
        """
        if not self._pass(ids, unwanted, lambda: {"logits_to_keep": len(ids) if every else 1}):
            return False
        self._cache.ids.extend(ids)
        return True

    def _forward_ways(self, ways: Sequence[Way], unwanted: Cancelled) -> bool:
        """Reads the last token of each way, which sees what comes before the ways and its own.

        The ids of the cache stay as they are. Else as `_forward`.
        """

        def sight() -> dict[str, Any]:
            before, length = len(self._cache.ids), self._cache.get_seq_length()
            seen = torch.zeros(len(ways), length + len(ways), dtype=torch.bool)
            seen[:, :before] = True
            for row, way in enumerate(ways):
                seen[row, [*way.places, length + row]] = True
            positions = [before + len(way.tokens) - 1 for way in ways]
            return {
                "attention_mask": seen[None, None].to(self._device),  # (1, 1, W, L)
                "position_ids": torch.tensor([positions], device=self._device),
            }

        return self._pass([way.tokens[-1].id for way in ways], unwanted, sight)

    def _pass(
        self, ids: Sequence[int], unwanted: Cancelled | None, how: Callable[[], dict[str, Any]]
    ) -> bool:
        """Runs the model over `ids`; `how` gives its further arguments, and `_logits` are then those that it gives.

        Ends early if `unwanted`, and returns False; then the layers of the cache hold its ids and no more.
        """
        if self._model is None:
            raise GenerationError(f"{self.card.name} is not loaded any more.")
        # No tensor leaves the gate as a local: freeing one releases the GIL in the middle of torch's code.
        with gate, torch.inference_mode():
            try:
                self._cache.unwanted = unwanted
                out = self._model(
                    input_ids=torch.tensor([ids], device=self._device),  # (1, T)
                    use_cache=True,
                    **{self._cache_argument: self._cache},
                    **how(),
                )
                self._logits = out.logits[0].to(device="cpu", dtype=torch.float32)
                del out
            except Interrupted:
                self._cache.forget_last_pass()
                return False
            except BaseException:
                # Some layers may have taken these ids in already, and others not.
                self._forget()
                raise
        return True

    def _draw(self, sample: Sampler, row: int, allowed: Sequence[int] | None) -> Token:
        # Inference mode is never held during a `yield`: it would hold for the caller's code too.
        with gate, torch.inference_mode():
            return sample(self._logits[row], allowed)

    def _forget(self) -> None:
        self._cache.clear()
        self._prompt = None
        self._logits = torch.empty(0, 0)


def _compact(head: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """Copies the last token's state, a slice of all: by that torch would multiply a copy of the output matrix."""
    return (args[0].clone(memory_format=torch.contiguous_format),)


def cache_argument(model: nn.Module) -> str:
    """What a model's `forward` calls its KV cache: "cache" from transformers 5.24 on, "past_key_values" before.

    The signature tells, and not the version: models got the new name one after the other, and the old one warns.
    """
    names = inspect.signature(model.forward).parameters
    return "past_key_values" if "past_key_values" in names else "cache"


@dataclass(frozen=True)
class _Prompt:
    """The prompt that was last read to its end, and the logits (V,) after it."""

    ids: tuple[int, ...]
    logits: torch.Tensor


# Loading


def load(
    model: str,
    *,
    precision: str = "auto",
    threads: int | None = None,
    offline: bool = False,
    progress: Progress = lambda state, share: None,
) -> TransformersEngine:
    """Loads a model by its name, hub id or folder. Raises ModelLoadError in the user's terms, in one line.

    `threads` is the user's number; without one the model is loaded and used with as many as help.
    """
    card, folder = weights.find(model, offline=offline, progress=progress)
    config = weights.read_config(folder)
    stored = weights.read_headers(folder)
    with gate:
        tokenizer = Tokenizer(folder / "tokenizer.json")
    parameters = sum(entry.elements for entry in stored.values())
    card = suited(weights.describe(card, config, parameters), tokenizer.special_ids)
    card = _noting_fim(card, tokenizer)
    device = best_device()
    most = threads or default_threads(parameters)
    set_own_threads(threads or threads_that_help(Load().cores(), cell_runs=False, most=most))
    if precision == "auto":
        precision = best_precision(config, parameters, device)
    elif precision in QUANTIZED and PACKED in config:
        precision = PACKED  # fewer bits than it has would be no use, and more neither
    try:
        with weights.quiet("transformers", "bitsandbytes", "torch", "filelock"):
            empty = skeleton(config, stored, folder, precision=precision, device=device)
            if device.type == "cpu":
                weights.check_memory(empty.nbytes, card.name, precision)
            notice = ""
            if precision in QUANTIZED:
                module, notice = quantized.load(empty, folder, progress)
            else:
                convert(empty, empty.put, progress)
                module = empty.complete()
            engine = TransformersEngine(
                module,
                tokenizer,
                card,
                precision=precision,
                device=device,
                chunk=prefill_chunk(parameters, precision, device),
                guessed=guessed_at_once(precision),
                notice=notice,
                most_threads=most,
            )
            _try_out(engine)
    except SC2Error:
        raise
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(
            error
        ):
            raise ModelLoadError(
                f"There is not enough memory for {card.name} in {precision}: try precision 4bit or a smaller model."
            ) from error
        if "not implemented for" in str(error):
            raise ModelLoadError(
                f"The installed torch cannot compute {card.name} in {precision} on this machine: "
                "try precision bf16 or fp32."
            ) from error
        raise
    return engine


def _try_out(engine: TransformersEngine) -> None:
    """One pass over two tokens and one over a third: packs quantized weights, and shows what does not run."""
    size = engine._model.get_input_embeddings().weight.shape[0]
    if len(engine.tokenizer) > size:
        raise ModelLoadError(
            f"The tokenizer of {engine.card.name} has {len(engine.tokenizer)} tokens and its model {size}: "
            "they do not belong together."
        )
    for ids in ([0, 0], [0]):
        engine._forward(ids)
    with gate:
        engine._forget()


def _noting_fim(card: ModelCard, tokenizer: Tokenizer) -> ModelCard:
    roles = ("fim_prefix", "fim_middle", "fim_suffix")
    if not missing([card.special[role] for role in roles if role in card.special], tokenizer):
        return card
    note = f"{card.note} Knows no fill-in-the-middle: it completes from what stands before the cursor.".strip()
    return replace(card, note=note)


def best_precision(config: Mapping[str, Any], parameters: int, device: torch.device) -> str:
    """What suits this machine; for shapes that cannot be told from config.json what is computed natively."""
    shape = Shape.from_config(config)
    if shape is not None:
        return plan.choose(shape, machine(), PLANNED_TOKENS)[0]
    return "bf16" if parameters >= SMALL and quick_bf16(device) else "fp32"


def prefill_chunk(parameters: int, precision: str, device: torch.device) -> int:
    """Tokens per prefill pass.

    A cancelled pass ends at its next layer, and what it has read so far is lost. So a chunk is no longer than it
    has to be: on two cores with AMX 3B parameters read 512 tokens in bf16 hardly quicker in one pass than in two,
    while nf4 weights are dequantized once in each pass. Without bf16 a pass takes long, and more tokens gain little.
    """
    if device.type != "cpu":
        return 512
    if parameters < SMALL:
        return 256
    if not quick_bf16(device):
        return 64
    return {"fp32": 64, "bf16": 256, "fp16": 256, "8bit": 256}.get(precision, 512)


def guessed_at_once(precision: str) -> int:
    """The most guessed tokens that are read with a drawn one.

    A pass over 16 tokens costs what one over a single token costs while it is the weights that have to be fetched:
    in bf16 and fp32. Quantized weights are computed with, too: in a packed model three more tokens cost three quarters
    of a single one. (Its attention rounds no more than that as for each alone, see attention.py.)
    """
    return 15 if precision in ("fp32", "bf16", "fp16", "8bit") else 3


def default_threads(parameters: int) -> int:
    """The most that may help: no more than torch itself would take, which follows what the user has set for OpenMP."""
    most = most_threads(parameters)
    return _noted_threads() if most is None else min(most, _noted_threads())


def give_back_memory() -> None:
    """Has the C library return what is free to the system, where that can be asked for."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # musl has no malloc_trim
            ctypes.CDLL(None).malloc_trim(0)


def set_own_threads(count: int) -> None:
    """Sets the number of CPU threads for torch's work in the calling thread alone.

    OpenMP keeps that number for each thread, but torch also notes it down for threads that use torch for the
    first time later on, which would slow the user's. So the note is written back, from a thread that ends.
    """
    before = _noted_threads()
    torch.get_num_threads()  # initialises this thread, which else would take the note's value later
    torch.set_num_threads(count)
    _in_a_new_thread(lambda: torch.set_num_threads(before))


def _noted_threads() -> int:
    """What a thread that has not used torch yet would take."""
    noted: list[int] = []
    _in_a_new_thread(lambda: noted.append(torch.get_num_threads()))
    return noted[0]


def _in_a_new_thread(act: Callable[[], None]) -> None:
    thread = threading.Thread(target=act)
    thread.start()
    thread.join()
