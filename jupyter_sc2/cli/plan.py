"""`jupyter sc2 plan`: the memory that each precision of a model needs, and the automatic choice."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from jupyter_sc2.cli.config import add_config_options
from jupyter_sc2.cli.options import engine_name, print_json
from jupyter_sc2.options import LoadOptions
from jupyter_sc2.settings import ENGINES, PRECISIONS, SC2

LENGTHS = ("context_tokens", "max_tokens")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "plan", help="show memory needs per precision and the automatic choice"
    )
    parser.add_argument(
        "--model",
        default="starcoder2-3b",
        help="a name, a Hub id or a path (default: %(default)s)",
    )
    parser.add_argument(
        "--engine", type=engine_name, metavar=f"{{{','.join(ENGINES)}}}", default="auto"
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="precision to choose (default: %(default)s)",
    )
    parser.add_argument(
        "--tokens",
        type=int,
        metavar="N",
        help="prompt length that the KV cache has room for (default: the setting context_tokens)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list of rows")
    add_config_options(parser, model="model", engine="engine", precision="precision")
    parser.set_defaults(run=_plan)


def _plan(args: argparse.Namespace) -> int:
    from jupyter_sc2.models.files import plan_for
    from jupyter_sc2.models.plan import lines

    options = LoadOptions(model=args.model, engine=args.engine, precision=args.precision)
    tokens = _prompt_tokens(args.configured) if args.tokens is None else args.tokens
    card, machine, rows = plan_for(options, tokens=tokens)
    if args.json:
        print_json([asdict(row) for row in rows])
    else:
        print("\n".join(lines(card.name, machine, rows)))
    return 0


def _prompt_tokens(configured: dict[str, Any]) -> int:
    """The tokens that a kernel with this config plans for: the prompt and, where the config says, the completion."""
    settings = SC2(**{name: configured[name] for name in LENGTHS if name in configured})
    tokens = int(settings.context_tokens)
    return tokens + int(settings.max_tokens) if configured else tokens
