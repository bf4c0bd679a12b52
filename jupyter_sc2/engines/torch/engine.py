"""The engine on torch: fp32, bf16, fp16, 8-bit and 4-bit, on the CPU, CUDA or MPS.

A cancelled pass ends after the layer that it is in. Inference mode and the number of threads are set for the engine's
own thread only: nothing changes for the user's code.
"""

from __future__ import annotations

import contextlib
import gc
import inspect
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from jupyter_sc2.engines.decoding.beam_search import Hypothesis
from jupyter_sc2.engines.decoding.loop import DecodingEngine, Logits
from jupyter_sc2.engines.decoding.tokenizer import Tokenizer, missing
from jupyter_sc2.engines.torch import quantized_cache
from jupyter_sc2.engines.torch.kv_cache import KVCache, PassCancelled
from jupyter_sc2.engines.torch.model_builder import (
    best_device,
    quick_bf16,
    skeleton,
    stream_weights,
    weight_bytes,
)
from jupyter_sc2.errors import GenerationError, ModelLoadError, in_one_line
from jupyter_sc2.models import files as model_files
from jupyter_sc2.models import plan
from jupyter_sc2.models.cards import PACKED, QUANTIZED, ModelCard, Shape, with_known_layout
from jupyter_sc2.models.plan import SMALL_MODEL_PARAMS, smaller
from jupyter_sc2.runtime import background
from jupyter_sc2.runtime.exit_gate import gate
from jupyter_sc2.runtime.hardware import give_back_memory, machine
from jupyter_sc2.runtime.progress import Cancelled, Progress
from jupyter_sc2.runtime.threads import Load, most_threads, threads_that_help


class TransformersEngine(DecodingEngine):
    """A loaded model and its KV cache. Only one thread calls it at a time."""

    name = "transformers"

    _cache: KVCache

    def __init__(
        self,
        model: Any,
        tokenizer: Tokenizer,
        card: ModelCard,
        *,
        precision: str,
        device: torch.device,
        chunk: int,
        max_draft_tokens: int = 0,
        notice: str = "",
        most_threads: int = 1,
    ) -> None:
        cache = KVCache(model.config.num_hidden_layers)
        super().__init__(
            tokenizer,
            card,
            cache,
            chunk=chunk,
            max_draft_tokens=max_draft_tokens,
            notice=notice,
            on_cpu=device.type == "cpu",
        )
        self.precision = precision
        self._model = model
        self._cache_argument = cache_argument(model)
        self._model.get_output_embeddings().register_forward_pre_hook(_compact)
        self._device = device
        self.most_threads = most_threads
        self._own = threading.local()

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
        """Releases the memory, and returns it to the system where that is possible."""
        with gate:
            self._model = None
            self._forget()
            gc.collect()  # modules and their hooks refer to one another
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        give_back_memory()

    @contextlib.contextmanager
    def _inside(self) -> Iterator[None]:
        # Never held during a `yield` of tokens: inference mode would hold for the caller's code too.
        with gate, torch.inference_mode():
            yield

    def _pass(
        self,
        ids: Sequence[int],
        aborted: Cancelled | None,
        *,
        logits: Logits = "all",
        hypotheses: Sequence[Hypothesis] = (),
    ) -> bool:
        """See DecodingEngine. An aborted pass ends at the next layer."""
        if self._model is None:
            raise GenerationError(f"{self.card.name} is not loaded any more.")
        # No tensor leaves the gate as a local: freeing one releases the GIL in the middle of torch's code.
        with self._inside():
            try:
                self._cache.aborted = aborted
                out = self._model(
                    input_ids=torch.tensor([ids], device=self._device),  # (1, T)
                    use_cache=True,
                    **{self._cache_argument: self._cache},
                    **(
                        self._sight(hypotheses)
                        if hypotheses
                        else {"logits_to_keep": len(ids) if logits == "all" else 1}
                    ),
                )
                found = out.logits[0].to(device="cpu", dtype=torch.float32)
                self._logits = found.numpy().copy()
                del found
                del out
            except PassCancelled:
                self._cache.rollback()
                return False
            except BaseException:
                # Some layers may have taken these ids in already, and others not.
                self._forget()
                raise
        return True

    def _sight(self, hypotheses: Sequence[Hypothesis]) -> dict[str, Any]:
        """The attention mask and the positions of the last token of each hypothesis."""
        before, length = len(self._cache.ids), self._cache.length
        seen = torch.zeros(len(hypotheses), length + len(hypotheses), dtype=torch.bool)
        seen[:, :before] = True
        for row, hypothesis in enumerate(hypotheses):
            seen[row, [*hypothesis.cache_positions, length + row]] = True
        positions = [before + len(hypothesis.tokens) - 1 for hypothesis in hypotheses]
        return {
            "attention_mask": seen[None, None].to(self._device),  # (1, 1, W, L)
            "position_ids": torch.tensor([positions], device=self._device),
        }


def _compact(head: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    """Copies the last token's state, a slice of all: by that torch would multiply a copy of the output matrix."""
    return (args[0].clone(memory_format=torch.contiguous_format),)


def cache_argument(model: nn.Module) -> str:
    """What a model's `forward` calls its KV cache: "cache" from transformers 5.24 on, "past_key_values" before.

    The signature tells, and not the version: models got the new name one after the other, and the old one warns.
    """
    names = inspect.signature(model.forward).parameters
    return "past_key_values" if "past_key_values" in names else "cache"


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

    `threads` is the user's setting; without it, as many threads are used as help.
    """
    card, folder = model_files.find(model, offline=offline, progress=progress)
    config = model_files.read_config(folder)
    stored = model_files.read_headers(folder)
    with gate:
        tokenizer = Tokenizer(folder / "tokenizer.json")
    parameters = sum(entry.elements for entry in stored.values())
    card = with_known_layout(model_files.describe(card, config, parameters), tokenizer.special_ids)
    card = _noting_fim(card, tokenizer)
    device = best_device()
    most = threads or default_threads(parameters)
    set_own_threads(threads or threads_that_help(Load().cores, cell_runs=False, most=most))
    if PACKED in config and precision in ("auto", PACKED, *QUANTIZED):
        # What has been rounded once is not rounded again; in its packed form it is ONNX Runtime's.
        precision = "bf16" if quick_bf16(device) else "fp32"
    elif precision == "auto":
        precision = best_precision(config, parameters, device)
    with (
        _explaining_failures(card.name, precision, packed=PACKED in config),
        model_files.keep_logs_out("transformers", "bitsandbytes", "torch", "filelock"),
    ):
        empty = skeleton(config, stored, folder, precision=precision, device=device)
        if device.type == "cpu":
            model_files.check_memory(empty.nbytes, card.name, precision, packed=PACKED in config)
        notice = ""
        if precision in QUANTIZED:
            module, notice = quantized_cache.load(empty, folder, progress)
        else:
            stream_weights(empty, empty.put, progress)
            module = empty.complete()
        engine = TransformersEngine(
            module,
            tokenizer,
            card,
            precision=precision,
            device=device,
            chunk=prefill_chunk(parameters, precision, device),
            max_draft_tokens=max_draft_tokens_for(precision),
            notice=notice,
            most_threads=most,
        )
        _try_out(engine)
    return engine


@contextlib.contextmanager
def _explaining_failures(name: str, precision: str, *, packed: bool) -> Iterator[None]:
    """Turns what torch raises for want of memory, or of an operation, into ModelLoadError."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(
            error
        ):
            raise ModelLoadError(
                f"There is not enough memory for {name} in {precision}: "
                f"try {smaller(precision, machine(), packed=packed)}."
            ) from error
        if "not implemented for" in str(error):
            raise ModelLoadError(
                f"The installed torch cannot compute {name} in {precision} on this machine: "
                f"try precision {' or '.join(name for name in ('bf16', 'fp32') if name != precision)}."
            ) from error
        raise
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise ModelLoadError(
            f"{name} cannot be computed as its config.json describes it: {in_one_line(error)}"
        ) from error


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
    note = f"{card.note} Reads only the text before the cursor.".strip()
    return replace(card, note=note)


def best_precision(config: Mapping[str, Any], parameters: int, device: torch.device) -> str:
    """The precision for this machine; if config.json does not give the shape, one that is computed natively."""
    shape = Shape.from_config(config)
    if shape is not None:
        return plan.choose(shape, machine(), plan.PLANNED_TOKENS)[0]
    return "bf16" if parameters >= SMALL_MODEL_PARAMS and quick_bf16(device) else "fp32"


def prefill_chunk(parameters: int, precision: str, device: torch.device) -> int:
    """Tokens per prefill pass.

    A cancelled pass ends at its next layer, and what it has read so far is lost. So a chunk is no longer than it
    has to be: on two cores with AMX 3B parameters read 512 tokens in bf16 hardly quicker in one pass than in two,
    while nf4 weights are dequantized once in each pass. Without bf16 a pass takes long, and more tokens gain little.
    """
    if device.type != "cpu":
        return 512
    if parameters < SMALL_MODEL_PARAMS:
        return 256
    if not quick_bf16(device):
        return 64
    return {"fp32": 64, "bf16": 256, "fp16": 256, "8bit": 256}.get(precision, 512)


def max_draft_tokens_for(precision: str) -> int:
    """How many draft tokens one pass verifies.

    A pass over 16 tokens costs what one over a single token costs while it is the weights that have to be fetched:
    in bf16 and fp32. Quantized weights are computed with, too: in a packed model three more tokens cost three quarters
    of a single one. (Its attention rounds no more than that as for each alone, see attention.py.)
    """
    return 15 if precision in ("fp32", "bf16", "fp16", "8bit") else 3


def default_threads(parameters: int) -> int:
    """The most that may help: no more than torch itself would take, which follows what the user has set for OpenMP."""
    most = most_threads(parameters)
    return _noted_threads() if most is None else min(most, _noted_threads())


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
    thread = background.Thread(act, daemon=False)
    thread.start()
    thread.join()
