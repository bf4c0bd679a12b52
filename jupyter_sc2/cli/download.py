"""`jupyter sc2 download`: downloads a model's weights, or verifies those on this disk."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from jupyter_sc2.cli.config import add_config_options
from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.models.cards import EMBEDDED, find_card
from jupyter_sc2.runtime.hardware import format_bytes
from jupyter_sc2.runtime.progress import TerminalBar
from jupyter_sc2.settings import PRECISIONS


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "download",
        help="download a model's weights, or verify and repair those on this disk",
    )
    parser.add_argument("model", help="a name (`jupyter sc2 models`) or a Hub id (owner/name)")
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="Q8_0, Q4_K_M …: the GGUF file of that precision; otherwise the original weights",
    )
    add_config_options(parser, precision="precision")
    parser.set_defaults(run=_download)


def _download(args: argparse.Namespace) -> int:
    from jupyter_sc2.models import files as model_files

    card = find_card(args.model)
    if card.name == EMBEDDED.name:
        raise ModelLoadError("embedded comes with the package: there is nothing to download.")
    if not model_files.bytes_on_disk(card):
        print(f"Licence of {card.name}: {card.licence_line}", file=sys.stderr)
    bar = TerminalBar(sys.stderr, delay=0.0)
    try:
        place = model_files.download(
            card,
            args.precision,
            offline=False,
            progress=lambda state, share: bar.show(state, card.name, share),
            verify=True,
        )
    finally:
        bar.close()
    files = [place] if place.is_file() else [file for file in place.iterdir() if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    print(f"{card.name} is on this disk ({format_bytes(size)}): {place}")
    return 0
