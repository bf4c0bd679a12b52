"""`jupyter sc2 train`: fine-tunes the embedded model on the user's notebooks or on open code."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jupyter_sc2.errors import ModelLoadError, RequestError
from jupyter_sc2.models.cards import EMBEDDED_FOLDER
from jupyter_sc2.runtime.output_filter import silence

if TYPE_CHECKING:
    from jupyter_sc2.training.document import Document


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("train", help="fine-tune the embedded model")
    parser.add_argument(
        "corpus",
        type=Path,
        help="a folder of notebooks and scripts; an empty one is filled with open code from PyPI",
    )
    parser.add_argument(
        "output", type=Path, help="a folder for the model; an interrupted run is resumed there"
    )
    parser.add_argument(
        "--start",
        default="embedded",
        metavar="MODEL",
        help="the model to start from: embedded (ships with the package), smollm2 (which it was made from) or a folder",
    )
    parser.add_argument(
        "--minutes", type=float, help="how long to train (default: 60, unless --tokens are given)"
    )
    parser.add_argument(
        "--tokens",
        type=float,
        help="how many tokens to train on, such as 2e8; fewer if --minutes are over",
    )
    parser.add_argument(
        "--device", help="cuda, cuda:1, mps or cpu (default: cuda where there is one, else cpu)"
    )
    parser.add_argument(
        "--processes",
        type=int,
        metavar="N",
        help="processes that compute, on a CPU (default: one for each core, as far as memory allows)",
    )
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that prepare training rows (default: none on a CPU, else all cores but one)",
    )
    parser.add_argument(
        "--exclude",
        type=Path,
        metavar="FILE",
        help="rows of an evaluation (JSON lines) whose solutions are excluded from a gathered corpus",
    )
    parser.add_argument(
        "--notebooks",
        type=Path,
        metavar="FILE",
        help="more notebooks for a gathered corpus: X.jsonl or X.jsonl.xz, one document per line, next to "
        "X-sources.json, which names their repositories and licences",
    )
    parser.add_argument(
        "--pack", action="store_true", help="also write the model in 4 bits, to OUTPUT/packed"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.set_defaults(run=_train)


def _train(args: argparse.Namespace) -> int:
    with silence:
        from jupyter_sc2.training.train import train

    if args.minutes is None and args.tokens is None:
        args.minutes = 60.0
    for name in ("minutes", "tokens", "processes"):
        value = getattr(args, name)
        if value is not None and value <= 0:
            raise RequestError(f"--{name} must be more than 0, not {value:g}.")
    if args.pack:
        from jupyter_sc2.engines.onnx.graph import check_onnx

        check_onnx()  # now, and not after hours
    start = EMBEDDED_FOLDER if args.start == "embedded" else Path(args.start)
    if args.start != "smollm2" and not (start / "config.json").is_file():
        raise RequestError(f"{args.start} is not a model to start from: it has no config.json.")
    documents = _read(args.corpus, args.exclude, args.notebooks)
    if args.start == "smollm2":
        start = _cut_down_smollm(documents, args.output / "start")
    train(
        documents,
        start,
        args.output,
        minutes=args.minutes,
        tokens=None if args.tokens is None else int(args.tokens),
        seed=args.seed,
        device=args.device,
        processes=args.processes,
        workers=args.workers,
    )
    made = args.output
    if args.pack:
        from jupyter_sc2.engines.onnx.graph import write_graph
        from jupyter_sc2.engines.onnx.packing import pack
        from jupyter_sc2.training.train import draw_rows

        made = args.output / "packed"
        pack(args.output, made, draw_rows(documents, made.parent))
        try:
            write_graph(made)
        except ModelLoadError as error:  # the trained model is kept
            print(f"{made} runs on torch only: {error}", file=sys.stderr)
    print(f"The model is in {made}; load it with: %sc2 load {made.absolute()}")
    return 0


def _read(corpus: Path, exclude: Path | None, notebooks: Path | None) -> Sequence[Document]:
    """The documents of a gathered corpus, or those of a user's own folder."""
    from jupyter_sc2.training.corpus import PACKAGES, build_corpus, fetch, load_documents, read_tree

    gathered = corpus / "documents.jsonl"
    begun = (corpus / "archives" / ".bare").exists()  # by `fetch`, and cut off
    own = not begun and any(
        path.suffix in (".ipynb", ".py", ".md", ".rst") for path in corpus.rglob("*")
    )
    if own and not gathered.exists():
        documents = list(read_tree(corpus, corpus.resolve().name, own=True))
        if not documents:
            raise RequestError(f"{corpus} holds no notebook or script with Python to learn from.")
        return documents
    if not gathered.exists():
        print(f"gathering source archives of {len(PACKAGES)} packages in {corpus}")
        fetch(PACKAGES, corpus / "archives")
        build_corpus(corpus / "archives", corpus, exclude=exclude or (), notebooks=notebooks)
    return list(load_documents(gathered))


def _cut_down_smollm(documents: Sequence[Document], folder: Path) -> Path:
    from random import Random

    from jupyter_sc2.training.smollm import LAYERS, VOCABULARY, cut_down, fetch_smollm
    from jupyter_sc2.training.train import draw_texts

    if not (folder / "config.json").exists():
        source = fetch_smollm(folder)
        texts = draw_texts(documents, Random(0), count=25_000)
        cut_down(source, folder, texts, vocabulary=VOCABULARY, layers=LAYERS)
    return folder
