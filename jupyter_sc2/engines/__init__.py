"""Engines turn prompt ids into completion ids; they know no notebook and no IPython.

Only one thread calls an engine at a time, so none of them has a lock. An engine keeps the KV cache of what
it last read and reads again only from the first id that differs.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from jupyter_sc2.engines.packed import GRAPH
from jupyter_sc2.errors import EngineLost, GenerationError, ModelLoadError
from jupyter_sc2.hardware import address_space_left, in_words
from jupyter_sc2.models import EMBEDDED, EMBEDDED_FOLDER, PACKED, QUANTIZED

if TYPE_CHECKING:
    from jupyter_sc2.completion import SamplingParams, Token
    from jupyter_sc2.models import ModelCard

# Bytes of address space that have to be left when a model is loaded in this process: the embedded one and its libraries
# take 530 MB, most of which is never touched.
ADDRESS_SPACE = 640 << 20

Cancelled = Callable[[], bool]
# From the ids drawn so far to those that may come next: guesses that an engine may check, several in one pass.
Guess = Callable[[Sequence[int]], Sequence[int]]
# Called with "importing", "downloading", "waiting" (for another process), "quantizing" or "loading", and the share done
# from 0 to 1, or None. What it raises ends the loading.
Progress = Callable[[str, float | None], None]


def no_guess(drawn: Sequence[int]) -> Sequence[int]:
    return ()


class Engine(Protocol):
    """A loaded model."""

    card: ModelCard
    precision: str  # "fp32", "bf16", "8bit", "4bit", "Q4_K_M", …; "" where a server does not tell
    name: str  # "onnxruntime", "transformers", "llamacpp", "openai"
    notice: str  # what the user should know about this load, in a sentence; or ""

    @property
    def special_ids(self) -> dict[str, int]:
        """Special tokens by their text, as this model's tokenizer has them."""

    def encode(self, text: str) -> list[int]:
        """The ids of plain text: never a special id, whatever the text says, and nothing added around it."""

    def decode_bytes(self, ids: Sequence[int]) -> bytes:
        """The bytes of the tokens; special tokens give none."""

    def prefill(self, ids: Sequence[int], cancelled: Cancelled) -> int:
        """Reads `ids` into the KV cache; returns how many had to be read. Stops early when cancelled."""

    def generate(
        self,
        ids: Sequence[int],
        sampling: SamplingParams,
        stop_ids: Collection[int],
        cancelled: Cancelled,
        healed: bytes = b"",
        guess: Guess = no_guess,
    ) -> Iterator[Token]:
        """Reads `ids`, then decodes up to `sampling.max_tokens` tokens, a stop id last where one came.

        `healed` are bytes cut from the end of the prompt to reach a token boundary: the first tokens are
        constrained to spell them out again (token healing), and they count towards the output. `guess` may
        save passes; it never changes what is decoded.
        """

    def use_threads(self, count: int) -> None:
        """Computes with so many threads at most in what the calling thread asks for from now on, if it can."""

    def memory_bytes(self) -> int:
        """What the weights and the KV cache take."""

    def close(self) -> None:
        """Gives the memory back."""


@runtime_checkable
class MayBeLost(Protocol):
    """An engine whose model is elsewhere, in a process of its own say, and may end there by itself.

    What is asked of it then raises EngineLost.
    """

    def when_lost(self, tell: Callable[[EngineLost], None]) -> None:
        """Has `tell` called, once and on another thread, when that has happened."""


def load_engine(
    model: str,
    *,
    engine: str = "auto",
    precision: str = "auto",
    server: str = "",
    threads: int | None = None,
    offline: bool = False,
    progress: Progress = lambda state, share: None,
) -> Engine:
    """Loads a model by its name, its hub id, a local folder or a GGUF file, or asks a server for it.

    Raises ModelLoadError in the user's terms.
    """
    match choose_engine(model, engine, precision, server):
        case "openai":
            from jupyter_sc2.engines import openai

            progress("loading", None)
            return openai.load(model, server=server, offline=offline, progress=progress)
        case "llamacpp":
            from jupyter_sc2.engines import llamacpp

            progress("loading", None)
            return llamacpp.load(
                model, precision=precision, threads=threads, offline=offline, progress=progress
            )
        case "onnxruntime":
            _check_room(model)
            from jupyter_sc2.engines import onnx

            progress("loading", None)
            return onnx.load(model, threads=threads, offline=offline, progress=progress)
    _check_room(model)
    from jupyter_sc2.engines.docstrings import with_docstrings

    with with_docstrings("transformers"):
        from jupyter_sc2.engines import transformers

        progress("loading", None)
        return transformers.load(
            model, precision=precision, threads=threads, offline=offline, progress=progress
        )


def _check_room(model: str) -> None:
    """Raises ModelLoadError, caused by a MemoryError, where a library might end the kernel for want of address space.

    OpenBLAS and the tokenizers do that, at their import and in the middle of a load.
    """
    left = address_space_left()
    if left is not None and left < ADDRESS_SPACE:
        raise ModelLoadError(
            f"{model} is not loaded, as this process may take only {in_words(left)} more of address space (ulimit "
            f"-v), and libraries end a kernel that reaches its limit: {in_words(ADDRESS_SPACE)} are needed."
        ) from MemoryError()


def choose_engine(model: str, engine: str, precision: str, server: str) -> str:
    """The engine that is named, else the one that the server, the file or the precision asks for."""
    if engine != "auto":
        return engine
    if server:
        return "openai"
    if model.endswith(".gguf") or precision[:1] in "QF":
        return "llamacpp"
    if precision in ("auto", PACKED, *QUANTIZED) and _is_packed(model):
        return "onnxruntime"
    return "transformers"


def _is_packed(model: str) -> bool:
    """Whether it is the embedded model, or a folder, that ONNX Runtime can compute with and is there to do so."""
    folder = EMBEDDED_FOLDER if model == EMBEDDED.name else Path(model).expanduser()
    try:
        return (folder / GRAPH).is_file() and find_spec("onnxruntime") is not None
    except ValueError:  # something else of the user's by that name is in sys.modules
        return True


def check_length(ids: Sequence[int], card: ModelCard, *, where: str = "") -> None:
    """Raises GenerationError for a prompt that is empty, or longer than the model reaches (on the server `where`)."""
    if not ids:
        raise GenerationError("There is nothing to complete: the prompt is empty.")
    if len(ids) >= card.context:
        on = f" on {where}" if where else ""
        raise GenerationError(
            f"The prompt has {len(ids)} tokens and {card.name}{on} reaches {card.context}: lower context_tokens."
        )
