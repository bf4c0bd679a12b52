"""`jupyter sc2 serve`: one copy of a model for all kernels of a user or a classroom, through llama.cpp's server.

It listens only on the loopback interface and requires a token. The user's kernels find both automatically.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import secrets
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_sc2.cli.config import add_config_options
from jupyter_sc2.cli.options import add_offline_option
from jupyter_sc2.errors import EngineLost, ModelLoadError
from jupyter_sc2.models.cards import EMBEDDED, ModelCard
from jupyter_sc2.runtime.clock import sleep
from jupyter_sc2.settings import PRECISIONS

if TYPE_CHECKING:
    from jupyter_sc2.engines.gguf.header import GGUFHeader
    from jupyter_sc2.engines.llamacpp.server import LlamaServer, ServerOptions

HOST = "127.0.0.1"
# Memory for the KV caches of prompts whose slot another kernel took: they are restored without a prefill.
SPARE_CACHE_MIB = 1024
# A server that ended unexpectedly is restarted after these delays; after one more end within the window it is not.
RESTART_DELAYS_S, RESTART_WINDOW_S = (0.0, 1.0, 5.0, 20.0), 300.0


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("serve", help="share one loaded model among several kernels")
    parser.add_argument(
        "--model",
        default=EMBEDDED.name,
        help="a name, a Hub id, a folder or a .gguf file (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=[name for name in PRECISIONS if name == "auto" or name[0] in "QF"],
        default="auto",
        help="precision of the weights (default: auto)",
    )
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument(
        "--slots",
        type=int,
        default=4,
        metavar="N",
        help="prompts kept in memory, one per kernel (default: %(default)s)",
    )
    parser.add_argument(
        "--context",
        type=int,
        metavar="TOKENS",
        help="maximum length of a prompt with its completion (default: the model's, up to 4096)",
    )
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="CPU threads; 0: as many as help"
    )
    add_offline_option(parser)
    add_config_options(
        parser, model="model", precision="precision", threads="threads", offline="offline"
    )
    parser.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> int:
    if args.slots < 1:
        raise ModelLoadError(f"--slots must be 1 or more, not {args.slots}.")
    if importlib.util.find_spec("xllamacpp") is None:
        raise ModelLoadError(
            'serve needs the package xllamacpp: pip install "jupyter-sc2[llamacpp]".'
        )
    _check_port(args.port)
    from jupyter_sc2.engines.gguf import locate as gguf_locate
    from jupyter_sc2.engines.gguf.header import GGUFHeader
    from jupyter_sc2.engines.llamacpp.server import LlamaServer

    card, file, notice = gguf_locate.find(
        args.model, args.precision, offline=args.offline, progress=_progress_printer(args.model)
    )
    if notice:
        print(notice, file=sys.stderr)
    header = GGUFHeader(file)
    options = _options(args, card, file, header)
    # Not SIGINT's own handler: a shell starts what runs in the background with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        _serve_until_stopped(args, card, header, LlamaServer.start(options))
    except KeyboardInterrupt:
        print("Stopped.", flush=True)
    return 0


def _serve_until_stopped(
    args: argparse.Namespace, card: ModelCard, header: GGUFHeader, started: LlamaServer
) -> None:
    """Prints the server's address, and restarts the server when it ends, as long as that helps."""
    from jupyter_sc2.engines.llamacpp.server import LlamaServer
    from jupyter_sc2.engines.openai.client import KEY_VARIABLE
    from jupyter_sc2.engines.openai.server_files import announced
    from jupyter_sc2.runtime.child_process import Restarts

    server: LlamaServer | None = started
    # At the same address, which kernels know.
    address = started.address
    options = replace(started.options, port=int(address.rpartition(":")[2]))
    path = Path(args.model).expanduser()
    named = str(path.resolve()) if card is not EMBEDDED and path.exists() else args.model
    restarts = Restarts(RESTART_DELAYS_S, RESTART_WINDOW_S)
    try:
        with announced(url=address, token=options.key, model=named):
            print(
                f"{card.name} ({header.precision}) is served on {address} in {options.slots} slots of "
                f"{options.context} tokens; Ctrl-C ends it.\n"
                f'In a notebook of yours:  %config SC2.server = "{address}"\n'
                f"Other users of this machine also need its token in {KEY_VARIABLE}.",
                flush=True,
            )
            if card.beam_width > 1:
                print(
                    f"The server decodes greedily; in a kernel this model is searched with {card.beam_width} beams.",
                    flush=True,
                )
            while server is not None:
                happened = server.wait_until_lost().happened
                server.close()
                server = None
                while server is None:
                    delay = restarts.delay()
                    if delay is None:
                        raise ModelLoadError(
                            f"{happened}, {len(RESTART_DELAYS_S) + 1} times within {RESTART_WINDOW_S / 60:.0f} "
                            "minutes: it is not started again."
                        )
                    print(f"{happened}: it is started again.", file=sys.stderr, flush=True)
                    sleep(delay)
                    try:
                        server = LlamaServer.start(options)
                    except EngineLost as error:
                        happened = error.happened
                    except ModelLoadError as error:
                        happened = str(error).rstrip(".")
    finally:
        if server is not None:
            server.close()


def _options(
    args: argparse.Namespace, card: ModelCard, file: Path, header: GGUFHeader
) -> ServerOptions:
    """The options of the server. Raises ModelLoadError if there is not enough memory."""
    from jupyter_sc2.engines.llamacpp.engine import (
        MAX_CONTEXT_TOKENS,
        default_threads,
        prefill_chunk,
    )
    from jupyter_sc2.engines.llamacpp.server import ServerOptions
    from jupyter_sc2.engines.openai.client import KEY_VARIABLE
    from jupyter_sc2.runtime.hardware import format_bytes, free_memory

    longest = header.number("context_length", card.context)
    context = min(args.context or MAX_CONTEXT_TOKENS, longest)
    needed = header.weight_bytes + args.slots * header.kv_bytes(context)
    free = free_memory()
    if free is not None and needed > free:
        raise ModelLoadError(
            f"{card.name} in {header.precision} with {args.slots} slots of {context} tokens needs about "
            f"{format_bytes(needed)} of memory, and {format_bytes(free)} are free: lower --slots or --context."
        )
    return ServerOptions(
        model=file,
        context=context,
        # Cancelled requests, and all others that decode, wait for one pass over this many tokens.
        chunk=prefill_chunk(header.parameters),
        threads=args.threads or default_threads(header.parameters),
        slots=args.slots,
        host=HOST,
        port=args.port,
        # The administrator's key if there is one; else a new one that only this user can read.
        key=os.environ.get(KEY_VARIABLE, "").strip() or secrets.token_urlsafe(32),
        alias=card.name,
        spare_cache_mib=SPARE_CACHE_MIB,
    )


def _check_port(port: int) -> None:
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
    except (OSError, OverflowError) as error:
        raise ModelLoadError(f"Port {port} cannot be used: {error}.") from error


def _progress_printer(model: str) -> Any:
    shown = -1

    def progress(state: str, share: float | None) -> None:
        nonlocal shown
        percent = int(100 * share) if share is not None else -1
        if percent // 10 != shown // 10:
            shown = percent
            print(f"{state} {model}: {percent} %", file=sys.stderr, flush=True)

    return progress
