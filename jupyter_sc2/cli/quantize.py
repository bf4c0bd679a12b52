"""`jupyter sc2 quantize`: quantizes the original weights and puts the result where loading finds it."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from jupyter_sc2.cli.config import add_config_options
from jupyter_sc2.cli.options import add_offline_option, print_json
from jupyter_sc2.engines import runs_without_torch
from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.models.cards import ModelCard
from jupyter_sc2.models.plan import GGUF
from jupyter_sc2.runtime.hardware import format_bytes
from jupyter_sc2.runtime.output_filter import silence
from jupyter_sc2.runtime.progress import TerminalBar

# The precisions of loading by the names of their formats.
TORCH = {"int4": "int4", "nf4": "4bit", "int8": "8bit"}


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "quantize", help="make a GGUF file, or 8-bit or 4-bit weights, from the original weights"
    )
    parser.add_argument("model", help="a name (`jupyter sc2 models`), a Hub id or a folder")
    parser.add_argument(
        "--to",
        choices=(*GGUF, *TORCH),
        required=True,
        help="Q4_K_M and the like for llama.cpp, int4 for CPUs, nf4 and int8 for transformers",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="where to write the GGUF file (default: where loading looks for it)",
    )
    add_offline_option(parser)
    add_config_options(parser, offline="offline")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=_quantize)


def _quantize(args: argparse.Namespace) -> int:
    from jupyter_sc2.models import files as model_files

    if args.output is not None and args.to in TORCH:
        raise ModelLoadError(f"--output is for GGUF files; {args.to} is kept where loading looks.")
    if _is_gguf(args.model):
        raise ModelLoadError(
            f"{args.model} is a GGUF file, and quantizing twice adds up the errors: give the original weights, "
            "a name, a hub id or a folder."
        )
    began = time.monotonic()
    bar = TerminalBar(sys.stderr, delay=0.0)
    try:
        card, folder = model_files.find(
            args.model,
            offline=args.offline,
            progress=lambda state, share: bar.show(state, args.model, share),
        )
        place = _make(card, folder, args, bar)
    finally:
        bar.close()
    files = [place] if place.is_file() else [file for file in place.iterdir() if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    seconds = time.monotonic() - began
    if args.json:
        found = {"model": card.name, "precision": args.to, "path": str(place), "bytes": size}
        print_json({**found, "seconds": round(seconds, 1)})
    else:
        print(f"{card.name} in {args.to} ({format_bytes(size)}, {seconds:.0f} s): {place}")
    return 0


def _make(card: ModelCard, folder: Path, args: argparse.Namespace, bar: TerminalBar) -> Path:
    if args.to == "int4" and runs_without_torch(folder, "int4"):
        from jupyter_sc2.engines.onnx import int4

        return int4.make(folder, lambda state, share: bar.show("quantizing", card.name, share))
    if args.to in TORCH:
        with silence:
            from jupyter_sc2.engines.torch import quantized_cache

        return quantized_cache.make(
            folder,
            TORCH[args.to],
            lambda state, share: bar.show("quantizing", card.name, share),
        )
    with silence:
        from jupyter_sc2.engines.gguf import locate as gguf_locate
        from jupyter_sc2.engines.gguf import writer as gguf_writer

    if args.output is not None and args.output.is_dir():
        raise ModelLoadError(f"{args.output} is a folder: name the file to write.")

    def show(share: float) -> None:
        bar.show("quantizing", card.name, share)

    if args.output is None:
        return gguf_locate.make(card, folder, args.to, show)
    gguf_writer.write_gguf(folder, args.output, args.to, name=card.name, progress=show)
    return Path(args.output)


def _is_gguf(model: str) -> bool:
    path = Path(model).expanduser()
    if path.is_dir():
        return any(path.glob("*.gguf")) and not any(path.glob("*.safetensors"))
    return model.lower().endswith(".gguf")
