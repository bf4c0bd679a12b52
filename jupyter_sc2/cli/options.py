"""Options that several commands share."""

from __future__ import annotations

import argparse
import json

from jupyter_sc2.cli.config import add_config_options
from jupyter_sc2.errors import SettingsError
from jupyter_sc2.models.cards import EMBEDDED
from jupyter_sc2.options import LoadOptions
from jupyter_sc2.settings import ENGINES, PRECISIONS, SC2

MODEL_OPTIONS = ("model", "engine", "precision", "server", "threads", "offline")


def add_model_options(parser: argparse.ArgumentParser, *more: str) -> None:
    """Adds the options that choose a model and its engine; their defaults come from the config.

    `more` are other options of the command that are named like a setting and have its value as their default.
    """
    parser.add_argument(
        "--model", default=EMBEDDED.name, help="a name, a Hub id or a path (default: %(default)s)"
    )
    parser.add_argument(
        "--engine",
        type=engine_name,
        metavar=f"{{{','.join(ENGINES)}}}",
        default="auto",
        help="inference engine; other packages may add names (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="precision of the weights (default: auto)",
    )
    parser.add_argument("--server", default="", metavar="URL", help="completions server to use")
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="CPU threads; 0: as many as help"
    )
    add_offline_option(parser)
    add_config_options(parser, **{name: name for name in (*MODEL_OPTIONS, *more)})


def add_offline_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--offline",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="never use the network",
    )


def engine_name(text: str) -> str:
    """For argparse: the name of an engine, of this package or of another."""
    try:
        SC2().set("engine", text)
    except SettingsError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


def load_options(args: argparse.Namespace) -> LoadOptions:
    return LoadOptions.of(args)


def print_json(value: object) -> None:
    """Prints the only output of `--json` on stdout."""
    print(json.dumps(value, ensure_ascii=False))
