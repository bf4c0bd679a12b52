"""What fits this machine: for each precision the size of the file, the memory it takes, and how fast it would be.

All of it follows from the model's shape. The automatic choice of a precision is made here too, so that `plan`
shows what loading does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.models.cards import PACKED, PRECISION_NAMES, QUANTIZED, Shape
from jupyter_sc2.models.machine_speed import Speed
from jupyter_sc2.models.quant_mix import tensor_type
from jupyter_sc2.runtime.hardware import Machine, format_bytes

TORCH = ("fp32", "bf16", "8bit", "int4", "4bit")
TORCH_PACKED = (PACKED, "fp32", "bf16")  # the first on ONNX Runtime
GGUF = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K")
# What `auto` chooses from, the most exact first. A GGUF file of more bits is hardly better and slower.
AUTO_GGUF = ("Q4_K_M", "Q3_K_M", "Q2_K")

# Tokens of the prompt that there has to be memory for when a precision is chosen.
PLANNED_TOKENS = 2048
# Below this many parameters a pass is more overhead than arithmetic, and fp32 is the fastest.
SMALL_MODEL_PARAMS = 50_000_000
# The share of the free memory that is left for activations and for the user's data.
RESERVED_MEMORY_SHARE = 0.1

# Nanoseconds for each weight and decoded token: StarCoder2-3B's shape on two cores with AVX-512 and AMX.
NS_PER_WEIGHT = {
    "fp32": 0.26,
    "bf16": 0.13,
    "8bit": 0.12,
    "int4": 0.053,
    "int4 on ONNX Runtime": 0.033,  # in turn with that of torch 60 and 98 ms a token, on other cores
    "4bit": 0.053,
    PACKED: 0.13,  # the embedded model on ONNX Runtime, another shape on other cores
    "gguf": 0.044,
}
MEASURED_ON_CORES = 2
# More cores than that wait for the memory.
MAX_USEFUL_CORES = 8
GPU_BYTES_PER_SECOND = 3e11
# Where the machine's own speed is known (machine_speed.py): nanoseconds of one core for each weight, while the weights
# come from its cache, on a core that multiplies so many float32 numbers a second; the share of the memory's speed that
# engines reach; and milliseconds for each layer besides its matrices.
NS_OF_ONE_CORE = {
    "fp32": 0.31,
    "bf16": 0.154,
    "8bit": 0.23,
    "int4": 0.072,
    "int4 on ONNX Runtime": 0.045,
    "4bit": 0.074,
    PACKED: 0.03,
    "gguf": 0.087,
}
REFERENCE_PRODUCTS_PER_SECOND = 4.1e9
REACHED_MEMORY_SHARE = 0.6
LAYER_MS = {"transformers": 0.45, "onnxruntime": 0.25, "llamacpp": 0.1}
# Tokens of a line of code, of which the time for a line is made.
LINE_TOKENS = 10
# Bytes of kept or mapped weights that a load checks and reads in a second, and the seconds that come before that.
LOADED_BYTES_PER_SECOND = 1.5e9
LOAD_START_S = 0.5
# Up to so many milliseconds a token: what ghost text can wait for, what it can hardly.
SPEED_CLASSES_MS = ((40.0, "fast"), (200.0, "fair"), (500.0, "slow"), (float("inf"), "very slow"))

# For files, whose size is a matter of taste in the scales' precision only.
REFERENCE_MACHINE = Machine(features=("AVX512-BF16",))

# Bits per weight of llama.cpp's types, with their scales.
TYPE_BITS = {
    **{"F16": 16.0, "Q8_0": 8.5, "Q6_K": 6.5625, "Q5_1": 6.0, "Q5_0": 5.5, "Q5_K": 5.5},
    **{"Q4_K": 4.5, "Q4_0": 4.5, "Q3_K": 3.4375, "Q2_K": 2.625},
}
# Bytes per weight of a packed layer: 4 bits, and for 32 weights a scale of 4 bytes and a middle of 2; and in memory,
# where for 32 weights there are three numbers of 4 bytes.
PACKED_FILE_BYTES_PER_WEIGHT = 0.6875
PACKED_MEMORY_BYTES_PER_WEIGHT = 0.875
# The same for `int4`, which has these for 64 weights.
INT4_FILE_BYTES_PER_WEIGHT = 0.59375
INT4_MEMORY_BYTES_PER_WEIGHT = 0.6875
# Bytes of a GGUF file for each token of the vocabulary: its text, its kind, its merge.
VOCABULARY_ENTRY_BYTES = 36


@dataclass(frozen=True, kw_only=True)
class PrecisionOption:
    """One precision. `memory_bytes` includes the KV cache; `speed` is a class of the time for a token.

    The times are predictions for this machine: milliseconds for a token, seconds for a line of `LINE_TOKENS` tokens
    below what is read already, and for loading what is on this disk and, if it has to be, quantized already.
    """

    engine: str
    precision: str
    file_bytes: int
    memory_bytes: int
    fits: bool | None
    speed: str
    ms_per_token: float
    line_seconds: float
    load_seconds: float
    chosen: bool = False
    why: str = ""


def plan(
    shape: Shape,
    machine: Machine,
    *,
    tokens: int,
    engine: str = "auto",
    precision: str = "auto",
    speed: Speed | None = None,
) -> list[PrecisionOption]:
    """All precisions for a model of this shape that reads `tokens` tokens, the chosen one marked.

    `engine` and `precision` are what is set; with "auto" the choice is the one that loading makes. `speed` is what was
    measured on this machine; without it, times are those of a usual one with as many cores.
    """
    torch: tuple[str, ...] = TORCH_PACKED if shape.packed else TORCH
    if not has_int4(machine, shape):
        torch = tuple(name for name in torch if name != "int4")
    rows = [_row(shape, name, machine, tokens, speed) for name in (*torch, *GGUF)]
    if precision == "auto":
        gguf = engine == "llamacpp"
        name, why = choose_gguf(shape, machine, tokens) if gguf else choose(shape, machine, tokens)
    elif shape.packed and precision in QUANTIZED:
        name, why = PACKED, "its weights come in 4 bits already"
    else:
        name, why = precision, "it is set"
        if name not in torch + GGUF:
            rows.insert(len(torch), _row(shape, name, machine, tokens, speed))
    return [replace(r, chosen=True, why=why) if r.precision == name else r for r in rows]


def choose(shape: Shape, machine: Machine, tokens: int) -> tuple[str, str]:
    """The precision that the torch engine chooses automatically, and why.

    The most exact one that fits in memory and is not too slow for ghost text; if all are, the fastest that
    fits; if none fits, the smallest.
    """
    if shape.packed:
        return PACKED, "its weights come in 4 bits"
    if shape.parameters < SMALL_MODEL_PARAMS:
        return "fp32", "a model this small gains nothing from fewer bits"
    exact = "bf16" if machine.quick_bf16 else "fp32"
    names = (exact, "8bit", _in_4_bits(machine, shape))
    fitting = [name for name in names if _fits(memory(shape, name, machine, tokens), machine)]
    if not fitting:
        return names[-1], "it is the smallest, and even that may not fit"
    in_time = [name for name in fitting if _ms(shape, name, machine) <= SPEED_CLASSES_MS[1][0]]
    if in_time:
        return in_time[0], "the most exact one that fits and keeps up with typing"
    return (
        min(fitting, key=lambda name: _ms(shape, name, machine)),
        "the fastest one that fits",
    )


def has_int4(machine: Machine, shape: Shape | None = None) -> bool:
    """Whether there is a product for 4-bit weights on this machine: for StarCoder2 always, else torch's with AVX2."""
    if machine.gpu:
        return False
    torchs = not {"AVX2", "AVX-512"}.isdisjoint(machine.features)
    return torchs or (shape is not None and on_onnxruntime(shape, "int4"))


def on_onnxruntime(shape: Shape, precision: str) -> bool:
    """Whether ONNX Runtime computes this on a CPU, without torch."""
    return precision == PACKED or (precision == "int4" and not shape.gated)


def _in_4_bits(machine: Machine, shape: Shape | None = None) -> str:
    return "int4" if has_int4(machine, shape) else "4bit"


def choose_gguf(shape: Shape, machine: Machine, tokens: int) -> tuple[str, str]:
    """The same for llama.cpp."""
    for name in AUTO_GGUF:
        if _fits(memory(shape, name, machine, tokens), machine):
            return name, "the usual balance of size and quality" if name == AUTO_GGUF[0] else (
                "the most exact one that fits"
            )
    return AUTO_GGUF[-1], "it is the smallest, and even that may not fit"


def check(shape: Shape, machine: Machine, *, name: str, precision: str, tokens: int) -> None:
    """Refuses what would make the machine swap or kill the kernel. Raises ModelLoadError."""
    needed, free = memory(shape, precision, machine, tokens), machine.usable
    if free is not None and needed > free:
        hint = smaller(precision, machine, packed=shape.packed)
        raise ModelLoadError(
            f"{name} in {precision} needs about {format_bytes(needed)} of memory, and {format_bytes(free)} are free. "
            f"Try {hint}."
        )


def smaller(precision: str, machine: Machine = REFERENCE_MACHINE, *, packed: bool = False) -> str:
    """What to try where a model in this precision takes too much memory: one of fewer bits, else a smaller model.

    `packed` models have no other precision that takes less than the one they come in. The machine matters only where
    torch's precisions are tried.
    """
    if precision in ("fp32", "bf16", "fp16", "8bit") and not packed:
        return f"precision {_in_4_bits(machine)}"
    if precision in GGUF:
        fewer = [name for name in AUTO_GGUF if GGUF.index(name) > GGUF.index(precision)]
        return f"precision {fewer[0]}" if fewer else "a smaller model"
    return "a smaller model"


# Sizes, in bytes


def memory(shape: Shape, precision: str, machine: Machine, tokens: int) -> int:
    """Bytes of the weights and of the KV cache for `tokens` tokens."""
    value = 2 if precision in GGUF else _value_bytes(precision, machine.quick_bf16)
    if on_onnxruntime(shape, precision):
        value = 4  # it computes in float32
    return weights(shape, precision, machine) + tokens * shape.kv_bytes(value)


def weights(shape: Shape, precision: str, machine: Machine) -> int:
    """Bytes of the weights in memory, with the scales of quantized ones.

    Quantized weights leave the embedding and the output layer in what is computed in: fp32 where bf16 is slow.
    """
    if precision in GGUF:
        return _gguf_file(shape, precision)
    value = _value_bytes(precision, machine.quick_bf16)
    if precision in ("fp32", "bf16", "fp16"):
        return shape.parameters * value
    if on_onnxruntime(shape, precision):
        per_weight, per_embedding = INT4_MEMORY_BYTES_PER_WEIGHT, 1.125
        if precision == PACKED:
            per_weight, per_embedding = PACKED_MEMORY_BYTES_PER_WEIGHT, 1.25
        return int(shape.linear * per_weight + shape.embedding * per_embedding) + shape.rest * 4
    if (
        precision == "int4"
    ):  # a scale and a middle for 64 weights, embeddings in 8 bits with a scale for each token
        tables = 1 if shape.tied else 2
        embeddings = shape.embedding + shape.vocab * tables * value
        return int(shape.linear * (0.5 + 2 * value / 64)) + embeddings + shape.rest * value
    exact = (shape.embedding + shape.rest) * value
    if precision == "8bit":
        heads = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
        rows = heads + 2 * shape.hidden + (2 if shape.gated else 1) * shape.intermediate
        return shape.linear + 4 * shape.layers * rows + exact
    # nf4 has a scale for 64 weights, of 4 bytes; double quantization makes it 1 byte, and 4 for 256 of those. The
    # kernel for CPUs with AVX512-BF16 takes scales of 2 bytes.
    scale = 1 + 4 / 256 if precision == "4bit-double" else 4.0
    if "AVX512-BF16" in machine.features and not machine.gpu:
        scale = 2.0
    return int(shape.linear * (0.5 + scale / 64)) + exact


def _value_bytes(precision: str, quick_bf16: bool) -> int:
    if precision in ("bf16", "fp16"):
        return 2
    return 4 if precision == "fp32" or not quick_bf16 else 2


def file_bytes(shape: Shape, precision: str) -> int:
    """Bytes of a file with weights of this precision."""
    if precision == PACKED:
        return int(shape.linear * PACKED_FILE_BYTES_PER_WEIGHT) + shape.embedding + shape.rest * 2
    if on_onnxruntime(shape, precision):
        return int(shape.linear * INT4_FILE_BYTES_PER_WEIGHT) + shape.embedding + shape.rest * 4
    return weights(shape, precision, REFERENCE_MACHINE)


def _gguf_file(shape: Shape, precision: str) -> int:
    group = shape.heads // shape.kv_heads
    bits = 0.0
    for name, rows, columns in _matrices(shape):
        kind = tensor_type(
            name,
            (rows, columns),
            precision,
            layers=shape.layers,
            group=group,
            tied=shape.tied,
        )
        bits += rows * columns * TYPE_BITS[kind]
    return int(bits / 8) + 4 * shape.rest + VOCABULARY_ENTRY_BYTES * shape.vocab


def _matrices(shape: Shape) -> Iterator[tuple[str, int, int]]:
    """Name in GGUF, rows and columns."""
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    wide, hidden = shape.intermediate, shape.hidden
    layer = {
        "attn_q": (queries, hidden),
        "attn_k": (keys, hidden),
        "attn_v": (keys, hidden),
        "attn_output": (hidden, queries),
        "ffn_up": (wide, hidden),
        "ffn_down": (hidden, wide),
        **({"ffn_gate": (wide, hidden)} if shape.gated else {}),
    }
    for index in range(shape.layers):
        for name, (rows, columns) in layer.items():
            yield f"blk.{index}.{name}.weight", rows, columns
    yield "token_embd.weight", shape.vocab, hidden
    if not shape.tied:
        yield "output.weight", shape.vocab, hidden


# Fit and speed


def _engine(shape: Shape, precision: str, machine: Machine) -> str:
    if precision in GGUF:
        return "llamacpp"
    return "onnxruntime" if on_onnxruntime(shape, precision) else "transformers"


def _row(
    shape: Shape, precision: str, machine: Machine, tokens: int, speed: Speed | None
) -> PrecisionOption:
    needed = memory(shape, precision, machine, tokens)
    ms = _ms(shape, precision, machine)
    predicted = predicted_ms(shape, precision, machine, speed)
    return PrecisionOption(
        engine=_engine(shape, precision, machine),
        precision=precision,
        file_bytes=file_bytes(shape, precision),
        memory_bytes=needed,
        fits=None if machine.usable is None else _fits(needed, machine),
        speed=next(name for limit, name in SPEED_CLASSES_MS if ms <= limit),
        ms_per_token=round(predicted, 1),
        line_seconds=round(LINE_TOKENS * predicted / 1e3, 3),
        load_seconds=round(
            LOAD_START_S + file_bytes(shape, precision) / LOADED_BYTES_PER_SECOND, 1
        ),
    )


def _fits(needed: int, machine: Machine) -> bool:
    return machine.usable is None or needed < machine.usable * (1 - RESERVED_MEMORY_SHARE)


def _ms(shape: Shape, precision: str, machine: Machine) -> float:
    """An estimate of the milliseconds for a decoded token."""
    if machine.gpu:
        return weights(shape, precision, machine) / GPU_BYTES_PER_SECOND * 1e3
    if precision in GGUF:  # in step with their size
        ns = NS_PER_WEIGHT["gguf"] * file_bytes(shape, precision) / file_bytes(shape, "Q4_K_M")
    else:
        ns = NS_PER_WEIGHT[_product(shape, precision, machine)]
        if precision in ("bf16", "fp16") and not machine.quick_bf16:
            ns = 4 * NS_PER_WEIGHT["fp32"]  # emulated
    cores = min(machine.cores, MAX_USEFUL_CORES) / MEASURED_ON_CORES
    return shape.parameters * ns / cores / 1e6


def _product(shape: Shape, precision: str, machine: Machine) -> str:
    """Whose matrix product is used, as the tables of speeds name it."""
    if precision == "int4" and on_onnxruntime(shape, precision):
        return "int4 on ONNX Runtime"
    return precision.removesuffix("-double").replace("fp16", "bf16")


def predicted_ms(
    shape: Shape, precision: str, machine: Machine, speed: Speed | None = None
) -> float:
    """The milliseconds for a token, below a short prompt; from what was measured on this machine, if there is such.

    Weights come from memory as quickly as that goes, or are decoded and multiplied as quickly as the cores can. (The
    choice of a precision does not follow from these: it would change from day to day.)
    """
    if speed is None or machine.gpu:
        return _ms(shape, precision, machine)
    cores = min(machine.cores, MAX_USEFUL_CORES)
    slower = REFERENCE_PRODUCTS_PER_SECOND / speed.products_per_second
    size = weights(shape, precision, machine)
    if precision in GGUF:
        ns = NS_OF_ONE_CORE["gguf"] * size / file_bytes(shape, "Q4_K_M")
    else:
        ns = NS_OF_ONE_CORE[_product(shape, precision, machine)]
        if precision in ("bf16", "fp16") and not machine.quick_bf16:
            ns = 4 * NS_OF_ONE_CORE["fp32"]  # emulated
    computing = shape.parameters * ns * slower / cores / 1e6
    reading = size / (speed.bytes_per_second * REACHED_MEMORY_SHARE) * 1e3
    return (
        max(computing, reading)
        + shape.layers * LAYER_MS[_engine(shape, precision, machine)] * slower
    )


def a_line(row: PrecisionOption) -> str:
    """The time for a line: "about 0.9 s a line"."""
    seconds = row.line_seconds
    digits = (
        f"{seconds:.0f}"
        if seconds >= 9.95
        else f"{seconds:.1f}"
        if seconds >= 0.095
        else f"{seconds:.2f}"
    )
    return f"about {digits} s a line"


def lines(name: str, machine: Machine, rows: Sequence[PrecisionOption]) -> list[str]:
    """The plan as a table of text, and under it the choice with its reason."""
    table = cells(rows)
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    texts = [
        " ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    return [f"{name} on {machine}", *texts, *choice(rows)]


def cells(rows: Sequence[PrecisionOption]) -> list[tuple[str, ...]]:
    """The head of the table, and a row of texts for each precision; a star marks the chosen one."""
    table: list[tuple[str, ...]] = [("", "precision", "file", "memory", "fits", "speed", "engine")]
    for row in rows:
        fits = {True: "yes", False: "no", None: "?"}[row.fits]
        sizes = format_bytes(row.file_bytes), format_bytes(row.memory_bytes)
        mark = "*" if row.chosen else ""
        name = PRECISION_NAMES.get(row.precision, row.precision)
        table.append((mark, name, *sizes, fits, a_line(row), row.engine))
    return table


def choice(rows: Sequence[PrecisionOption]) -> list[str]:
    """The times of what loading takes, in a sentence; and that it is taken, and why, in another."""
    return [
        sentence
        for row in rows
        if row.chosen
        for name in [PRECISION_NAMES.get(row.precision, row.precision)]
        for sentence in (_times(name, row), f"* {name} is what loading takes: {row.why}.")
    ]


def _times(name: str, row: PrecisionOption) -> str:
    first = ", the first time in minutes" if row.precision in QUANTIZED else ""
    return (
        f"A line is {LINE_TOKENS} tokens. {name} takes about {row.ms_per_token:.0f} ms for each, and loads "
        f"in about {row.load_seconds:.0f} s{first}."
    )
