"""`jupyter sc2 models`: the known models, and which are on this disk."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from jupyter_sc2.cli.options import print_json
from jupyter_sc2.models.cards import ModelCard, card_errors, cards
from jupyter_sc2.models.plan import file_bytes
from jupyter_sc2.runtime.hardware import format_bytes

# Precisions whose sizes are listed: as published, and the two usual quantizations.
SIZES = ("bf16", "4bit", "Q4_K_M")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("models", help="list the known models, and which are on this disk")
    parser.add_argument("--json", action="store_true", help="print a JSON list")
    parser.set_defaults(run=_models)


def _models(args: argparse.Namespace) -> int:
    for error in card_errors():
        print(f"jupyter sc2: {error}", file=sys.stderr)
    rows = [_row(card) for card in cards().values()]
    if args.json:
        print_json(rows)
        return 0
    for row in rows:
        size = row["disk_bytes"]
        where = f"{format_bytes(size)} on this disk" if size else "not on this disk"
        print(f"{row['name']:<19} {row['parameters']:>4}  {row['licence']:<18}  {where}")
        sizes = ", ".join(f"{format_bytes(size)} in {name}" for name, size in row["sizes"].items())
        if more := " ".join(filter(None, (f"{sizes}." if sizes else "", row["note"]))):
            print(f"    {more}")
    return 0


def _row(card: ModelCard) -> dict[str, Any]:
    from jupyter_sc2.models.files import bytes_on_disk

    return {
        "name": card.name,
        "hub_id": card.hub_id,
        "gguf": card.gguf,
        "parameters": card.parameters,
        "licence": card.licence,
        "languages": card.languages,
        "context": card.context,
        "window": card.window,
        "sizes": {name: file_bytes(card.shape, name) for name in SIZES} if card.shape else {},
        "disk_bytes": bytes_on_disk(card),
        "note": card.note,
    }
