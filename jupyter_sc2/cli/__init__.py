"""The command line `jupyter sc2`: its commands and their exit status.

The exit status is 0 on success, and 1 with one line on stderr for an error that the user can correct, never a
traceback. With `--json` stdout carries one object and nothing else.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from jupyter_sc2.cli import (
    attribution,
    bench,
    complete,
    download,
    evaluate,
    models,
    plan,
    quantize,
    serve,
    train,
)
from jupyter_sc2.cli.config import with_config
from jupyter_sc2.errors import SC2Error

COMMANDS = (complete, models, plan, download, quantize, train, evaluate, bench, serve, attribution)


def main(argv: Sequence[str] | None = None) -> int:
    try:
        args = with_config(_parser(), sys.argv[1:] if argv is None else list(argv))
        return int(args.run(args) or 0)
    except SC2Error as error:
        print(f"jupyter sc2: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of the pipe is gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:  # a disk that is full, or that a command was not told of
        where = f"{error.filename}: " if error.filename else ""
        print(f"jupyter sc2: {where}{error.strerror or error}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("jupyter sc2: interrupted.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jupyter sc2", description="Code completion for Jupyter from a model on this machine."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        command.add_parser(commands)
    return parser
