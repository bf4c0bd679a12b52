"""The engine on ONNX Runtime, for packed models (packed.py): the embedded one, what `jupyter sc2 train` makes, and
StarCoder2 in `int4` (int4.py).

It needs neither torch nor transformers. A pass is one call without the GIL, so a running cell hardly slows it. The keys
and values are one array, which each pass reads and extends in place; its valid length is an input of the graph, so
truncating it is free.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_sc2.engines.decoding.beam_search import Hypothesis
from jupyter_sc2.engines.decoding.loop import (
    LONG_PROMPT_TOKENS,
    DecodingEngine,
    LayerCache,
    Logits,
)
from jupyter_sc2.engines.decoding.tokenizer import Tokenizer
from jupyter_sc2.engines.onnx import int4, int8, prefill, prepacked
from jupyter_sc2.engines.onnx.graph import rope_theta, rotations
from jupyter_sc2.engines.onnx.prefill import Prefill
from jupyter_sc2.engines.onnx.telemetry import without_telemetry
from jupyter_sc2.errors import GenerationError, ModelLoadError, in_one_line
from jupyter_sc2.models import files as model_files
from jupyter_sc2.models import plan
from jupyter_sc2.models.cards import PACKED, ModelCard, Shape, with_known_layout
from jupyter_sc2.models.packed import GRAPH
from jupyter_sc2.runtime import background
from jupyter_sc2.runtime.exit_gate import gate
from jupyter_sc2.runtime.hardware import Machine, give_back_memory
from jupyter_sc2.runtime.progress import Cancelled, Progress
from jupyter_sc2.runtime.threads import cores_here, threads_that_help

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
else:
    from jupyter_sc2.runtime.own_numpy import np

# Tokens: the arrays of keys and values grow by so many. Memory that nothing was written to costs nothing.
BLOCK_TOKENS = 1024
# Of stashed prompts, in half precision: 1,500 tokens of the embedded model, and 4,300 of StarCoder2-3B.
MAX_STASHED_BYTES = 32 << 20
MAX_STASHED_BYTES_OF_LARGE = 128 << 20
# Tokens of a prompt that one pass reads. A pass cannot be interrupted, and with 128 a token takes a tenth less.
CHUNK_TOKENS = 64
# A pass over four tokens takes 1.4 times as long as one over a single token.
MAX_DRAFT_TOKENS = 3
# More threads wait for one another longer than they compute: a pass is some 400 operations. Those of a large model are
# longer.
MAX_THREADS = 4
MAX_THREADS_OF_LARGE = 8
# From so many bytes of weights on a model is a large one. A pass over 32 tokens of StarCoder2-3B takes nearly a second
# on two cores, and a token no longer than in one over 64.
LARGE_BYTES = 1 << 30
CHUNK_TOKENS_OF_LARGE = 32
# The same where prompts are read with weights in 8 bits (prefill.py), and from how many tokens on they are. A pass of a
# large model takes seconds, and can be aborted.
CHUNK_TOKENS_OF_PREFILL = 128
CHUNK_TOKENS_OF_LARGE_PREFILL = 256
MIN_PREFILL_TOKENS = 24
# From how many on the first time, as its session takes 0.15 s to open.
MIN_FIRST_PREFILL_TOKENS = 128
# Seconds between two looks whether a pass of a large model is aborted.
ABORT_CHECK_S = 0.02
# Microseconds: a thread that has nothing to do looks out for more for so long before it sleeps. Waking one up takes
# longer than most operations of a pass; looking out for longer would take the time from others on a busy machine.
SPIN_US = 50
# The first version that takes SPIN_US; an earlier one would look out for as long as a pass takes.
MIN_SPIN_VERSION = (1, 32)


class KeysAndValues(LayerCache):
    """One array (2 x layers, kv heads, capacity, head size) of float32: of each layer first keys, then values."""

    def __init__(
        self, layers: int, kv_heads: int, head_size: int, stashed_bytes: int = MAX_STASHED_BYTES
    ) -> None:
        super().__init__(stashed_bytes)
        self._shape = (2 * layers, kv_heads, BLOCK_TOKENS, head_size)
        self._length = 0
        self.array = zeros(self._shape)

    @property
    def length(self) -> int:
        return self._length

    def make_room(self, count: int) -> None:
        """Makes room for `count` more tokens, if need be in a larger array."""
        needed = self._length + count
        if needed <= self.array.shape[2]:
            return
        capacity = -(-needed // BLOCK_TOKENS) * BLOCK_TOKENS
        larger = zeros((*self._shape[:2], capacity, self._shape[3]))
        larger[:, :, : self._length] = self.array[:, :, : self._length]
        self.array = larger

    def extend(self, count: int) -> None:
        """Counts the `count` tokens that a pass has written."""
        self._length += count

    def select(self, places: Sequence[int], ids: Sequence[int]) -> None:
        start = len(self.ids)
        self._length = start + len(ids)
        if places:
            self.array[:, :, start : self._length] = self.array[:, :, list(places)]
        self.ids.extend(ids)

    def clear(self) -> None:
        super().clear()
        self._length = 0

    def memory_bytes(self) -> int:
        """Of the array what was written to at some time may be more than counts now; that is not known here."""
        return self.array[:, :, :1].nbytes * self._length + self._stash.nbytes()

    def _set_length(self, length: int) -> None:
        self._length = length

    def _snapshot(self, length: int) -> tuple[NDArray[np.float16], int]:
        # Activations are rounded to 8 bits in each layer, so half precision loses nothing that counts.
        copy = self.array[:, :, :length].astype(np.float16)
        return copy, copy.nbytes

    def _restore(self, payload: NDArray[np.float16]) -> None:
        self._length = payload.shape[2]
        self.array[:, :, : self._length] = payload


class Computation:
    """An InferenceSession and the arrays that are bound to its inputs and outputs."""

    def __init__(self, session: Any) -> None:
        self.session, self._binding = session, session.io_binding()
        self._bound: tuple[Any, Any] | None = None  # what the binding knows of the next two

    def run(
        self,
        cache: Floats,
        rotations: tuple[Floats, Floats],
        inputs: dict[str, NDArray[Any]],
        logits: Floats | None = None,
        options: Any = None,
    ) -> None:
        """Reads and extends `cache`; fills `logits`, where the graph has them. `options` are RunOptions."""
        if self._bound is None or self._bound[0] is not cache or self._bound[1] is not rotations:
            self._bind(cache, rotations)
        # By address: `bind_cpu_input` would copy each.
        for name, array in inputs.items():
            self._binding.bind_input(name, "cpu", 0, array.dtype, array.shape, address(array))
        if logits is not None:
            self._binding.bind_output("logits", "cpu", 0, np.float32, logits.shape, address(logits))
        self.session.run_with_iobinding(self._binding, options)

    def _bind(self, cache: Floats, rotations: tuple[Floats, Floats]) -> None:
        """Binds the keys and values as inputs and outputs of the graph, and the tables of the rotary embedding."""
        self._bound = None  # there may be no memory for the rest, and the array before is gone
        shape = (1, *cache.shape[1:])
        for index, block in enumerate(cache):
            name = f"{('keys', 'values')[index % 2]}.{index // 2}"
            self._binding.bind_input(name, "cpu", 0, np.float32, shape, address(block))
            self._binding.bind_output(f"new_{name}", "cpu", 0, np.float32, shape, address(block))
        for name, table in zip(("cos", "sin"), rotations, strict=True):
            self._binding.bind_input(name, "cpu", 0, np.float32, table.shape, address(table))
        self._bound = cache, rotations


class OnnxEngine(DecodingEngine):
    """A loaded model and its KV cache."""

    name = "onnxruntime"

    _cache: KeysAndValues

    def __init__(
        self,
        open_session: Callable[[int], Any],
        threads: int,
        tokenizer: Tokenizer,
        card: ModelCard,
        shape: Shape,
        *,
        rope_theta: float,
        weight_bytes: int,
        precision: str = PACKED,
        eight_bits: bool = False,
        prefill: Prefill | None = None,
        window: int | None = None,
    ) -> None:
        """`open_session` opens one for a number of threads, or returns None where it would take its own memory.

        They compute in 8 bits (int8.py) if so said. With `prefill`, what is new in a prompt is read by that, unless it
        is short.
        """
        self._large = weight_bytes >= LARGE_BYTES
        stashed = MAX_STASHED_BYTES_OF_LARGE if self._large else MAX_STASHED_BYTES
        cache = KeysAndValues(shape.layers, shape.kv_heads, shape.head_dim, stashed)
        chunk = CHUNK_TOKENS_OF_LARGE if self._large else CHUNK_TOKENS
        if eight_bits or prefill is not None:
            chunk = CHUNK_TOKENS_OF_LARGE_PREFILL if self._large else CHUNK_TOKENS_OF_PREFILL
        super().__init__(tokenizer, card, cache, chunk=chunk, max_draft_tokens=MAX_DRAFT_TOKENS)
        self.precision = precision
        self._open_session = open_session
        self._threads = self._used = threads
        # By their number of threads, which is fixed when a session is opened.
        self._decoding: dict[int, Computation] = {threads: Computation(open_session(threads))}
        self._reading: dict[int, Computation] = {}
        self._prefill = prefill
        self._weight_bytes = weight_bytes
        self._vocabulary = shape.vocab
        self._window = window  # tokens that a layer looks back, the newest included
        self._rope_theta, self._head_size = rope_theta, shape.head_dim
        self._rotations: tuple[Floats, Floats] | None = None

    def use_threads(self, count: int) -> None:
        """See Engine: one thread, or as many as it was loaded with, in sessions of their own.

        The second is opened when it is first asked for, in 0.15 s. Both map the same weights where these are kept
        packed (prepacked.py); else there is one session, and this does nothing.
        """
        count = self._threads if count >= self._threads else 1
        if count == self._used or not self._decoding:
            return
        with gate:
            if count not in self._decoding:
                session = self._open_session(count)
                if session is None:
                    return
                self._decoding[count] = Computation(session)
            self._used = count

    def memory_bytes(self) -> int:
        return self._weight_bytes + self._cache.memory_bytes() if self._decoding else 0

    def close(self) -> None:
        """Releases the memory, and returns it to the system where that is possible."""
        with gate:
            self._decoding.clear()
            self._reading.clear()
            self._prefill = self._rotations = None
            self._open_session = lambda threads: None  # the one before holds a session, too
            self._forget()
            self._cache.array = zeros((1, 1, 1, 1))
        give_back_memory()

    def _read_prompt(self, ids: Sequence[int], cancelled: Cancelled) -> int:
        read = super()._read_prompt(ids, cancelled)
        # What a large model has read with would take too long to map again after each short piece.
        if self._prefill is not None and read >= (LONG_PROMPT_TOKENS if self._large else 1):
            self._prefill.give_back_memory()
        return read

    def _pass(
        self,
        ids: Sequence[int],
        aborted: Cancelled | None,
        *,
        logits: Logits = "all",
        hypotheses: Sequence[Hypothesis] = (),
    ) -> bool:
        if not self._decoding:
            raise GenerationError(f"{self.card.name} is not loaded any more.")
        rest = list(ids)
        with gate:
            if logits != "all" and (reading := self._reader(len(ids))):
                assert self._prefill is not None
                ahead = rest if logits == "none" else rest[:-1]
                states = {"states": self._prefill.embeddings(ahead)}
                if not self._compute(reading, len(ahead), states, aborted=aborted):
                    return False
                rest = rest[len(ahead) :]
            if rest:
                wanted = len(rest) if logits == "all" else 1
                found = np.empty((wanted, self._vocabulary), np.float32)
                rows = np.array(range(len(rest) - wanted, len(rest)), np.int64)
                inputs = {"ids": np.array(rest, np.int64), "rows": rows}
                self._compute(self._decoding[self._used], len(rest), inputs, found, hypotheses)
                self._logits = found
        return True

    def _reader(self, count: int) -> Computation | None:
        """What reads `count` tokens with weights in 8 bits; None where 4 bits are as quick, or all there is."""
        found = self._reading.get(self._used)
        if self._prefill is None or count < (
            MIN_PREFILL_TOKENS if found else MIN_FIRST_PREFILL_TOKENS
        ):
            return None
        if found is None:
            session = self._prefill.open_session(session_options(self._prefill.runtime, self._used))
            if session is None:
                self._prefill = None
                return None
            found = self._reading[self._used] = Computation(session)
        return found

    def _compute(
        self,
        computation: Computation,
        count: int,
        inputs: dict[str, NDArray[Any]],
        logits: Floats | None = None,
        hypotheses: Sequence[Hypothesis] = (),
        aborted: Cancelled | None = None,
    ) -> bool:
        """Computes `count` tokens after the cache; False if that was aborted, which a small model's pass never is."""
        self._cache.make_room(count)
        start, before = self._cache.length, len(self._cache.ids)
        positions = [before + len(hypothesis.tokens) - 1 for hypothesis in hypotheses] or [
            *range(start, start + count)
        ]
        common: dict[str, NDArray[Any]] = {
            "positions": np.array([positions], np.int64),
            "last": np.array([start + count - 1], np.int32),
            "total": np.array(start + count, np.int32),
            "attention_bias": self._bias(positions, hypotheses),
        }
        cache = self._cache.array
        rotations = self._rotations_for(cache.shape[2])

        def run(options: Any = None) -> None:
            computation.run(cache, rotations, {**inputs, **common}, logits, options)

        if aborted is None or not self._large or self._prefill is None:
            run()
        elif not run_until(aborted, self._prefill.runtime.RunOptions(), run):
            return False
        self._cache.extend(count)
        return True

    def _bias(self, positions: Sequence[int], hypotheses: Sequence[Hypothesis]) -> Floats:
        """(1, 1, T, L): 0 where a token sees another, -inf where not. Causality is the graph's own.

        So is the window, which in ONNX Runtime 1.23 is a token longer than the graph says.
        """
        before, length, count = len(self._cache.ids), self._cache.length, len(positions)
        bias = np.zeros((1, 1, count, length + count), np.float32)
        if self._window is not None and length + count > self._window:
            for row, position in enumerate(positions):
                bias[0, 0, row, : max(0, position + 1 - self._window)] = -np.inf
        for row, hypothesis in enumerate(hypotheses):
            bias[0, 0, row, before:] = -np.inf
            for position in (*hypothesis.cache_positions, length + row):
                bias[0, 0, row, position] = 0
        return bias

    def _rotations_for(self, positions: int) -> tuple[Floats, Floats]:
        """The tables of the rotary embedding for so many positions: cosines and sines."""
        if self._rotations is None or len(self._rotations[0]) != positions:
            self._rotations = rotations(self._rope_theta, self._head_size, positions)
        return self._rotations


def run_until(aborted: Cancelled, options: Any, run: Callable[[Any], None]) -> bool:
    """Runs a pass with these RunOptions, which ends after its present operation once it is aborted; False if it was."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(ABORT_CHECK_S):
            if aborted():
                options.terminate = True
                return

    background.Thread(look).start()
    try:
        run(options)
    except Exception:
        if options.terminate:
            return False
        raise
    finally:
        over.set()
    return True


def address(array: NDArray[Any]) -> int:
    """Of its first byte. `array.ctypes` would import NumPy anew, which is kept apart (runtime/import_isolation.py)."""
    place: int = array.__array_interface__["data"][0]
    return place


def zeros(shape: tuple[int, ...]) -> Floats:
    """An array of float32 that takes as much memory as is written to, in pages of the usual size.

    NumPy asks for huge pages, and the few tokens at the beginning of each head's part would take one each.
    """
    size = 4 * math.prod(shape)
    if sys.platform == "win32":
        memory = mmap.mmap(-1, size)
    else:
        memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            with contextlib.suppress(OSError):  # a system without huge pages
                memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, np.float32).reshape(shape)


def load(
    model: str,
    *,
    precision: str = "auto",
    threads: int | None = None,
    offline: bool = False,
    progress: Progress = lambda state, share: None,
) -> OnnxEngine:
    """Loads a packed model by its name or folder, or the original weights of a StarCoder2 in `int4`.

    Raises ModelLoadError in the user's terms, in one line.
    """
    card, folder = model_files.find(model, offline=offline, progress=progress)
    config = model_files.read_config(folder)
    shape, asked = Shape.from_config(config), precision
    precision = PACKED
    if shape is not None and int4.can_make(config):
        precision = "int4"
        if asked not in ("auto", precision):
            raise ModelLoadError(
                f"ONNX Runtime has {card.name} in int4 only: for {asked} set the engine to transformers."
            )
        model_files.check_memory(plan.weights(shape, precision, Machine()), card.name, precision)
        folder = int4.make(folder, progress, lambda made: prepacked.is_stored(_runtime(), made))
        config = model_files.read_config(folder)
        shape = Shape.from_config(config)
    model_files.read_headers(folder)  # tells what is damaged
    if not (folder / GRAPH).is_file() or shape is None or not shape.packed:
        raise ModelLoadError(
            f"{folder} has no {GRAPH}, which ONNX Runtime needs: `jupyter sc2 train --pack` writes one."
        )
    with gate:
        tokenizer = Tokenizer(folder / "tokenizer.json")
    card = with_known_layout(
        model_files.describe(card, config, shape.parameters), tokenizer.special_ids
    )
    if len(tokenizer) > shape.vocab:
        raise ModelLoadError(
            f"The tokenizer of {card.name} has {len(tokenizer)} tokens and its model {shape.vocab}: "
            "they do not belong together."
        )
    size = plan.weights(shape, precision, Machine())
    if precision == PACKED:
        model_files.check_memory(size, card.name, precision)
    most = MAX_THREADS if size < LARGE_BYTES else MAX_THREADS_OF_LARGE
    threads = threads or threads_that_help(cores_here, cell_runs=False, most=most)
    runtime = _runtime()

    def is_stored(made: Path) -> bool:
        return prepacked.is_stored(runtime, made)

    eight_bits = int8.make(runtime, folder, progress, is_stored) if precision == PACKED else None
    reading = prefill.make(runtime, folder, progress) if eight_bits is None else None
    folder = eight_bits or folder
    try:
        first = _session(runtime, folder, threads)
    except prepacked.Damaged:  # what was not checked because of it is, this time
        return load(model, precision=asked, threads=threads, offline=offline, progress=progress)

    def open_session(count: int) -> Any:
        if count == threads:
            return first
        with contextlib.suppress(prepacked.Damaged):
            if is_stored(folder):
                return _session(runtime, folder, count)
        return None

    engine = OnnxEngine(
        open_session,
        threads,
        tokenizer,
        card,
        shape,
        rope_theta=rope_theta(config),
        weight_bytes=size,
        precision=precision,
        eight_bits=eight_bits is not None,
        prefill=reading,
        window=config.get("sliding_window"),
    )
    engine._forward([0, 0])  # shows what does not run
    engine._forget()
    give_back_memory()  # what the weights took before they were packed for this processor
    return engine


def _runtime() -> Any:
    """The module onnxruntime; kept, as the user may import something else by that name. Raises ModelLoadError."""
    try:
        with without_telemetry():
            import onnxruntime
    except ImportError as error:
        raise ModelLoadError(
            f"ONNX Runtime cannot be imported ({in_one_line(error)}): pip install onnxruntime."
        ) from error
    return onnxruntime


def _session(runtime: Any, folder: Path, threads: int) -> Any:
    """An InferenceSession that computes with so many threads. Raises ModelLoadError."""
    try:
        with gate:
            return prepacked.open_session(
                runtime, folder, lambda: session_options(runtime, threads)
            )
    except prepacked.Damaged:
        raise
    except Exception as error:  # it raises a dozen classes, some of them plain RuntimeError
        raise ModelLoadError(
            f"ONNX Runtime {runtime.__version__} cannot load {folder / GRAPH}: {in_one_line(error)}"
        ) from error


def session_options(runtime: Any, threads: int) -> Any:
    """New SessionOptions for so many threads."""
    version = tuple(int(part) for part in runtime.__version__.split(".")[:2])
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # fatal ones; errors are raised as well
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Passes have many lengths: plans of their memory would be kept for each.
    options.enable_mem_pattern = False
    options.enable_cpu_mem_arena = False
    settings = {
        "intra_op.allow_spinning": "1" if version >= MIN_SPIN_VERSION else "0",
        "intra_op.spin_duration_us": str(SPIN_US),
        "force_spinning_stop": "1",
    }
    for name, value in settings.items():
        options.add_session_config_entry(f"session.{name}", value)
    return options
