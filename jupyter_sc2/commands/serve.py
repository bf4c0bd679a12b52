"""`jupyter sc2 serve`: one copy of a model for all kernels of a user or a classroom, through llama.cpp's server.

It listens on the loopback alone and wants a token. The user's own kernels find both by themselves.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import secrets
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.models import EMBEDDED, ModelCard
from jupyter_sc2.settings import PRECISIONS

HOST = "127.0.0.1"
# Prompts whose slot another kernel took are kept in this much memory, and come back without being read again.
SPARE_CACHE_MIB = 1024


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("serve", help="share one loaded model among several kernels")
    parser.add_argument(
        "--model",
        default=EMBEDDED.name,
        help="a name, a hub id, a folder or a .gguf file (default: %(default)s)",
    )
    parser.add_argument(
        "--precision",
        choices=[name for name in PRECISIONS if name == "auto" or name[0] in "QF"],
        default="auto",
        help="of the weights (default: auto)",
    )
    parser.add_argument("--port", type=int, default=0, help="default: one that is free")
    parser.add_argument(
        "--slots",
        type=int,
        default=4,
        metavar="N",
        help="how many kernels keep a prompt each (default: %(default)s)",
    )
    parser.add_argument(
        "--context",
        type=int,
        metavar="TOKENS",
        help="of a prompt and its completion (default: the model's, up to 4096)",
    )
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="CPU threads")
    parser.add_argument("--offline", action="store_true", help="never use the network")
    parser.set_defaults(run=_serve)


def _serve(args: argparse.Namespace) -> int:
    if args.slots < 1:
        raise ModelLoadError(f"--slots must be 1 or more, not {args.slots}.")
    if importlib.util.find_spec("xllamacpp") is None:
        raise ModelLoadError(
            'serve needs the package xllamacpp: pip install "jupyter-sc2[llamacpp]".'
        )
    _check_port(args.port)
    from jupyter_sc2.engines import gguffiles
    from jupyter_sc2.engines.ggufheader import GGUFHeader
    from jupyter_sc2.engines.http import KEY_VARIABLE
    from jupyter_sc2.engines.runfile import announced

    card, file, notice = gguffiles.find(
        args.model, args.precision, offline=args.offline, progress=_tell(args.model)
    )
    if notice:
        print(notice, file=sys.stderr)
    header = GGUFHeader(file)
    # One key for all where the machine's administrator names it; else one that only this user can read.
    token = os.environ.get(KEY_VARIABLE, "").strip() or secrets.token_urlsafe(32)
    server, context = _start(args, card, file, header, token)
    url = server.listening_address
    # Not SIGINT's own handler: a shell starts what runs in the background with SIGINT ignored.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    path = Path(args.model).expanduser()
    named = str(path.resolve()) if card is not EMBEDDED and path.exists() else args.model
    with suppress(KeyboardInterrupt), announced(url=url, token=token, model=named):
        print(
            f"{card.name} ({header.precision}) is served on {url} in {args.slots} slots of {context} tokens; "
            "Ctrl-C ends it.\n"
            f'In a notebook of yours:  %config SC2.server = "{url}"\n'
            f"Other users of this machine also need its token in {KEY_VARIABLE}.",
            flush=True,
        )
        while True:
            time.sleep(1)  # a signal that comes just before a wait without an end would be lost
    print("Stopped.", flush=True)
    os._exit(0)  # the server's threads may be in the middle of a pass, which cannot be unwound


def _start(
    args: argparse.Namespace, card: ModelCard, file: Path, header: Any, token: str
) -> tuple[Any, int]:
    """The running server, and the tokens of each slot. Raises ModelLoadError."""
    import xllamacpp

    from jupyter_sc2.engines.llamacpp import CONTEXT, default_threads, prefill_chunk
    from jupyter_sc2.hardware import free_memory, in_words

    longest = header.number("context_length", card.context)
    context = min(args.context or CONTEXT, longest)
    needed = header.weight_bytes + args.slots * header.kv_bytes(context)
    free = free_memory()
    if free is not None and needed > free:
        raise ModelLoadError(
            f"{card.name} in {header.precision} with {args.slots} slots of {context} tokens needs about "
            f"{in_words(needed)} of memory, and {in_words(free)} are free: lower --slots or --context."
        )
    params = xllamacpp.CommonParams()
    params.model.path = str(file)
    params.model_alias = {card.name}
    params.hostnames, params.port, params.api_keys = [HOST], args.port, [token]
    params.n_parallel, params.n_ctx = args.slots, args.slots * context
    params.kv_unified = False  # nobody's long prompt takes the room of another's
    threads = args.threads or default_threads(header.parameters)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    # A request that is cancelled, and every other that decodes, waits for one pass over so many tokens.
    params.n_batch = params.n_ubatch = max(args.slots, prefill_chunk(header.parameters))
    params.cache_ram_mib = SPARE_CACHE_MIB
    params.swa_full = True  # a prompt can be cut back anywhere
    params.ctx_shift = False
    params.n_ctx_checkpoints = 0
    params.n_threads_http = 2 * args.slots + 2
    params.ui = False
    params.verbosity = 1  # errors
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)  # loading lets no Python run
    try:
        return xllamacpp.Server(params), context
    except Exception as error:
        raise ModelLoadError(f"llama.cpp could not serve {file}: {error}") from error
    finally:
        signal.signal(signal.SIGINT, handler)


def _check_port(port: int) -> None:
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
    except (OSError, OverflowError) as error:
        raise ModelLoadError(f"Port {port} cannot be used: {error}.") from error


def _tell(model: str) -> Any:
    shown = -1

    def progress(state: str, share: float | None) -> None:
        nonlocal shown
        percent = int(100 * share) if share is not None else -1
        if percent // 10 != shown // 10:
            shown = percent
            print(f"{state} {model}: {percent} %", file=sys.stderr, flush=True)

    return progress
