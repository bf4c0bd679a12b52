"""`jupyter sc2 plan`: the memory that each precision of a model needs, and the automatic choice."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import Any

from jupyter_sc2.cli.options import print_json
from jupyter_sc2.options import LoadOptions
from jupyter_sc2.settings import ENGINES, SC2


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "plan", help="show memory needs per precision and the automatic choice"
    )
    parser.add_argument(
        "--model",
        default="starcoder2-3b",
        help="a name, a Hub id or a path (default: %(default)s)",
    )
    parser.add_argument("--engine", choices=ENGINES, default="auto")
    parser.add_argument(
        "--tokens",
        type=int,
        default=SC2.context_tokens.default_value,
        metavar="N",
        help="prompt length that the KV cache has room for (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list of rows")
    parser.set_defaults(run=_plan)


def _plan(args: argparse.Namespace) -> int:
    from jupyter_sc2.models.files import plan_for
    from jupyter_sc2.models.plan import lines

    options = LoadOptions(model=args.model, engine=args.engine)
    card, machine, rows = plan_for(options, tokens=args.tokens)
    if args.json:
        print_json([asdict(row) for row in rows])
    else:
        print("\n".join(lines(card.name, machine, rows)))
    return 0
