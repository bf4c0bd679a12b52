"""Measures the torch engine on a GPU, at the full shape of StarCoder2-3B with random weights, beside `model.generate`.

python -m benchmarks.gpu_check --out FOLDER [--shape small] [--precisions bf16 8bit 4bit] [--seconds 420]

For each precision: seconds to load, and to load again, bytes of the weights and the most that was allocated, prompt
tokens read a second, and milliseconds a token behind a short and a long context. Weights of that shape behave in time
and memory as the real ones do, and need no download; they are made in a temporary folder (6 GB of disk).

Each figure is written to FOLDER/PRECISION.json as soon as it is measured, so that a run which is cut off leaves what it
has; the table is printed last. A precision that cannot be loaded has its error instead, and what there is no time for
(`--seconds`) is missing. Besides torch, transformers, tokenizers and safetensors this needs msgspec, jupyter_core and
its two dependencies (2 MB of wheels, for a machine without a registry), and bitsandbytes for 8bit and 4bit.

With `--shape small` it runs on a CPU in seconds, to try the script and not the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

PRECISIONS = ("bf16", "8bit", "4bit")
Row = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """The shape of the weights, in the terms of StarCoder2's config.json, and what is measured with them."""

    config: dict[str, int]
    prompts: tuple[int, ...]  # tokens that are read
    contexts: tuple[int, ...]  # tokens before those that are decoded
    tokens: int  # to decode


SIZES = {
    "starcoder2-3b": Sizes(
        {
            "vocab_size": 49_152,
            "hidden_size": 3072,
            "intermediate_size": 12_288,
            "num_hidden_layers": 30,
            "num_attention_heads": 24,
            "num_key_value_heads": 2,
            "max_position_embeddings": 16_384,
            "sliding_window": 4096,
        },
        prompts=(512, 4096),
        contexts=(16, 4000),
        tokens=64,
    ),
    "small": Sizes(
        {
            "vocab_size": 16_384,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "sliding_window": 256,
        },
        prompts=(32, 128),
        contexts=(16, 100),
        tokens=4,
    ),
}
COLUMNS = {
    "load_s": "load, s",
    "load_again_s": "again, s",
    "weights_mb": "weights, MB",
    "peak_mb": "peak, MB",
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Measure the torch engine on this machine's GPU.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures")
    parser.add_argument("--shape", choices=SIZES, default="starcoder2-3b")
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing after")
    arguments = parser.parse_args(argv)
    sizes = SIZES[arguments.shape]
    until = time.monotonic() + arguments.seconds
    arguments.out.mkdir(parents=True, exist_ok=True)
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(os.environ, JUPYTER_SC2_CACHE=f"{folder}/cache"),  # of quantized weights
    ):
        weights = make_weights(Path(folder) / arguments.shape, sizes)
        for precision in arguments.precisions:
            row = Record(arguments.out / f"{precision}.json", until)
            try:
                measure(weights, precision, sizes, row)
            except Exception as error:
                row["error"] = " ".join(str(error).split())[:200] or type(error).__name__
            rows.append(row.values)
    print(table(rows, sizes))


class Record:
    """The figures of one precision, in a file that is written again with each of them."""

    def __init__(self, file: Path, until: float) -> None:
        self.values: Row = {"precision": file.stem}
        self._file, self._until = file, until

    def __setitem__(self, name: str, value: object) -> None:
        self.values[name] = value
        self._file.write_text(json.dumps(self.values, indent=1), "utf-8")

    @property
    def has_time(self) -> bool:
        return time.monotonic() < self._until


def make_weights(folder: Path, sizes: Sizes) -> Path:
    """Writes a model with random weights in bf16, one file a layer, and the embedded model's tokenizer."""
    import torch
    from safetensors.torch import save_file
    from transformers import Starcoder2Config, Starcoder2ForCausalLM

    from jupyter_sc2.models.cards import EMBEDDED_FOLDER

    folder.mkdir()
    shutil.copy(EMBEDDED_FOLDER / "tokenizer.json", folder)
    config = Starcoder2Config(
        **sizes.config, tie_word_embeddings=True, use_cache=True, bos_token_id=0, eos_token_id=0
    )
    config.architectures = ["Starcoder2ForCausalLM"]
    (folder / "config.json").write_text(config.to_json_string(use_diff=False), "utf-8")
    with torch.device("meta"):
        shapes = {
            name: one.shape for name, one in Starcoder2ForCausalLM(config).state_dict().items()
        }
    shapes.pop("lm_head.weight", None)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(0)
    parts: dict[str, dict[str, torch.Size]] = {}
    for name, shape in shapes.items():
        parts.setdefault(".".join(name.split(".")[:3]), {})[name] = shape
    files: dict[str, str] = {}
    for number, part in enumerate(parts.values()):
        file = f"model-{number:05}.safetensors"
        tensors = {}
        for name, shape in part.items():
            value = torch.empty(shape, dtype=torch.bfloat16, device=device)
            value.normal_(0.0, 0.02, generator=generator)
            tensors[name] = (value + 1 if "norm" in name and "weight" in name else value).cpu()
        save_file(tensors, folder / file, metadata={"format": "pt"})
        files |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    return folder


def measure(weights: Path, precision: str, sizes: Sizes, row: Record) -> None:
    """Fills a row of the table. Raises whatever the engine raises."""
    import torch

    from jupyter_sc2.engines.torch.engine import load

    if not row.has_time:
        return
    if torch.cuda.is_available():
        row["device"] = torch.cuda.get_device_name()
        torch.cuda.reset_peak_memory_stats()
    engine, seconds = _timed(lambda: load(str(weights), precision=precision, offline=True))
    row["load_s"] = round(seconds, 2)
    if row.has_time:
        engine.close()
        engine, seconds = _timed(lambda: load(str(weights), precision=precision, offline=True))
        row["load_again_s"] = round(seconds, 2)
    try:
        row["weights_mb"] = round(engine.memory_bytes() / 1e6, 1)
        for name, figure in _figures(engine, sizes):
            if not row.has_time:
                break
            row[name] = round(figure(), 2)
            if torch.cuda.is_available():
                row["peak_mb"] = round(torch.cuda.max_memory_allocated() / 1e6, 1)
    finally:
        engine.close()


def _figures(engine: Any, sizes: Sizes) -> Iterator[tuple[str, Callable[[], float]]]:
    """What is measured, by its name: this engine and `model.generate` by turns, each after a first try."""
    rng = Random(0)

    def ids(count: int) -> list[int]:
        return [rng.randrange(1000, 16_000) for _ in range(count)]

    _decode(engine, ids(16), 2)
    _generate(engine, ids(16), 2)
    for count in sizes.prompts:
        yield (
            f"prefill_{count}",
            lambda n=count: n / _timed(lambda: engine.prefill(ids(n), lambda: False))[1],
        )
        yield f"generate_prefill_{count}", lambda n=count: n / _generate(engine, ids(n), 1)
    for count in sizes.contexts:
        yield f"token_ms_{count}", lambda n=count: _decode(engine, ids(n), sizes.tokens)
        yield (
            f"generate_token_ms_{count}",
            lambda n=count: _generate_token(engine, ids(n), sizes.tokens),
        )


def _decode(engine: Any, ids: Sequence[int], tokens: int) -> float:
    """Milliseconds a token, without the prompt."""
    from jupyter_sc2.types import SamplingParams

    sampling = SamplingParams(max_tokens=tokens + 1)
    at = [time.perf_counter() for _ in engine.generate(ids, sampling, (), lambda: False)]
    return (at[-1] - at[0]) / (len(at) - 1) * 1000


def _generate_token(engine: Any, ids: Sequence[int], tokens: int) -> float:
    """The same of `model.generate`: what more tokens take."""
    return (_generate(engine, ids, tokens + 1) - _generate(engine, ids, 1)) / tokens * 1000


def _generate(engine: Any, ids: Sequence[int], tokens: int) -> float:
    """Seconds that `model.generate` takes to read a prompt and decode so many tokens."""
    import torch

    prompt = torch.tensor([list(ids)], device=engine._device)

    def generate() -> None:
        with torch.inference_mode():
            engine._model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
            )

    return _timed(generate)[1]


def _timed(act: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, and the seconds until the device has computed it."""
    import torch

    start = time.perf_counter()
    result = act()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return result, time.perf_counter() - start


def table(rows: Sequence[Row], sizes: Sizes) -> str:
    """A Markdown table; of each pair this engine first, then `model.generate`."""
    titles = ["precision", *COLUMNS.values()]
    titles += [f"prefill {count}, tok/s" for count in sizes.prompts]
    titles += [f"ms a token after {count}" for count in sizes.contexts]
    lines = ["| " + " | ".join(titles) + " |", "|" + " --- |" * len(titles)]
    pairs = [f"prefill_{count}" for count in sizes.prompts]
    pairs += [f"token_ms_{count}" for count in sizes.contexts]
    for row in rows:
        cells = [str(row["precision"]), *(_cell(row.get(name)) for name in COLUMNS)]
        cells += [
            f"{_cell(row.get(name))} / {_cell(row.get(f'generate_{name}'))}" for name in pairs
        ]
        lines.append("| " + " | ".join(cells) + " |" + f" {row.get('error', '')}".rstrip())
    return "\n".join(lines)


def _cell(value: object) -> str:
    return "" if value is None else f"{value:,}"


if __name__ == "__main__":
    main()
