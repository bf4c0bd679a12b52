"""Packs what a training on another machine needs into transfers.

    python -m scripts.gpu.pack CORPUS.jsonl jupyter_sc2/embedded/model --to runs/lease
    python -m scripts.gpu.pack --again NAME… --to runs/lease     # pieces that did not arrive whole

`runs/lease/transfer-1`, `transfer-2`… each have pieces that fit into one transfer next to the small tree, and the
manifest: each piece's size and checksum, and the loss of the start weights here, which has to be the same there. Code,
tokenizer, rows for measuring and some text come first, so that a trial can be made before the rest has arrived; then
the weights as shipped, then as much of the corpus as fits. Each piece of the corpus can be used without the others.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import random
import shutil
import subprocess
import sys
import tarfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.gpu import tree
from scripts.gpu.limits import Limits, OverLimit, add_limits, mib
from scripts.gpu.pieces import (
    RAW_PIECE,
    Piece,
    cut,
    fill,
    read_json,
    sha256,
    write_json,
    write_piece,
)

ROOT = tree.ROOT
MANIFEST = "manifest.json"
CODE = "code.tar.xz"
# The modules that run there, also those that functions import, and the packages that they must not need, as these are
# absent there.
MODULES = (
    "runtime.own_numpy",
    "training.train",
    "training.run",
    "training.feed",
    "training.weights",
    "engines.onnx.packing",
    "models.packed",
    "training.attention",
    "training.loss",
    "training.meter",
    "training.recipe",
    "training.rows",
)
ABSENT = (
    "traitlets",
    "msgspec",
    "jupyter_core",
    "IPython",
    "ipykernel",
    "ipywidgets",
    "nbformat",
    "comm",
)
DATA = ("training/packages.txt",)
MODEL = ("config.json", "tokenizer.json", "tokenizer_config.json", "training.json")
RAW_CORPUS_PIECE = 16_000_000  # bytes of JSON lines: some 3 MB when compressed
MEASURED_ROWS, MEASURED_LENGTH = 8, 1024
PACK_ROWS = 48  # rows of 512 tokens for rounding the weights

# Code that, when it is run first, makes imports of the absent packages fail as they do there.
BLOCK = """\
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""
IMPORT = (
    BLOCK
    + """\
sys.path.insert(0, {root!r})
import importlib
for name in {modules!r}:
    importlib.import_module("jupyter_sc2." + name)
for name, module in sorted(sys.modules.items()):
    if name.partition(".")[0] == "jupyter_sc2":
        print(module.__file__)
"""
)


def imported(root: Path) -> list[Path]:
    """The project's modules that the training imports from the tree at `root`, with what is absent there blocked."""
    root = root.resolve()
    code = IMPORT.format(absent=set(ABSENT), root=str(root), modules=MODULES)
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"The training cannot be imported alone:\n{done.stderr}")
    paths = [Path(line) for line in done.stdout.split()]
    if outside := [path for path in paths if root not in path.parents]:
        raise SystemExit(f"{outside[0]} was imported, which is outside {root}.")
    return paths


def archive(paths: Mapping[str, Path]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:xz", preset=9) as tar:
        for name, path in paths.items():
            tar.add(path, name, recursive=False)
    return buffer.getvalue()


def code(to: Path, *, tried: bool = True) -> bytes:
    """An archive of the code that runs there. If `tried`, it is imported from a folder that has nothing else."""
    package = ROOT / "jupyter_sc2"
    paths = [*imported(ROOT), *(package / name for name in DATA)]
    paths += sorted(Path(__file__).parent.glob("*.py"))
    packed = archive({path.relative_to(ROOT).as_posix(): path for path in sorted(paths)})
    if tried:
        alone = to / "code"
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            tar.extractall(alone, filter="data")
        imported(alone)
        shutil.rmtree(alone)
    return packed


Line = tuple[str, str, int]  # kind, package, and index in `Corpus.lines`


class Corpus:
    """The lines of a corpus, by kind and package."""

    def __init__(self, path: Path, held_out: frozenset[str], most: float = float("inf")) -> None:
        self.lines: list[bytes] = []
        self.held_out: list[Line] = []
        self.rest: list[Line] = []
        size = 0
        with lzma.open(path) if path.suffix == ".xz" else path.open("rb") as file:
            for text in file:
                row = json.loads(text)
                line = (row["kind"], row["package"], len(self.lines))
                out = row["package"] in held_out
                if not out and size + len(text) > most:
                    continue
                size += len(text)
                (self.held_out if out else self.rest).append(line)
                self.lines.append(text)

    def size(self, lines: Sequence[Line]) -> int:
        return sum(len(self.lines[n]) for _, _, n in lines)

    def text(self, lines: Sequence[Line]) -> bytes:
        return b"".join(self.lines[n] for _, _, n in lines)


def choose(corpus: Corpus, most: float, mix: Mapping[str, float]) -> list[Line]:
    """Lines of at most `most` bytes in all. Where not all fit, kinds that are large for their share of `mix` lose text.

    A training samples the kind first, so each text of a kind that is twice as large is read half as often.
    """
    kinds: dict[str, list[Line]] = defaultdict(list)
    for line in corpus.rest:
        kinds[line[0]].append(line)
    sizes = {kind: corpus.size(lines) for kind, lines in kinds.items()}
    other = min(mix.values())
    low, high = 0.0, max((n / mix.get(kind, other) for kind, n in sizes.items()), default=0.0)
    if sum(sizes.values()) <= most:
        return corpus.rest
    for _ in range(50):  # bisection of the bytes for each unit of the mix
        middle = (low + high) / 2
        kept = sum(min(n, middle * mix.get(kind, other)) for kind, n in sizes.items())
        low, high = (middle, high) if kept <= most else (low, middle)
    chosen = []
    for kind, lines in kinds.items():
        room = min(sizes[kind], low * mix.get(kind, other))
        random.Random(kind).shuffle(lines)
        for line in lines:
            if (room := room - len(corpus.lines[line[2]])) >= 0:
                chosen.append(line)
    return chosen


def groups(corpus: Corpus, lines: Sequence[Line], size: int) -> Iterator[list[Line]]:
    """Groups of lines, each of about `size` bytes, sorted by package: similar text compresses better together."""
    names = sorted({package for _, package, _ in lines})
    random.Random("packages").shuffle(names)
    order = {name: n for n, name in enumerate(names)}
    group: list[Line] = []
    held = 0
    for line in sorted(lines, key=lambda line: (order[line[1]], line[2])):
        group.append(line)
        held += len(corpus.lines[line[2]])
        if held >= size:
            yield group
            group, held = [], 0
    if group:
        yield group


def measured(corpus: Corpus, start: Path, count: int, length: int) -> dict[str, Any]:
    """Rows of held-out packages, on which losses are measured here and there, and rows for rounding the weights."""
    from jupyter_sc2.training.corpus import parse
    from jupyter_sc2.training.rows import Sampler, prompts, rows
    from jupyter_sc2.training.tokenizer import encoder, load_tokenizer

    encode = encoder(load_tokenizer(start))
    some = random.Random(0).sample(corpus.rest, min(4_000, len(corpus.rest)))
    rest = Sampler([parse(corpus.lines[n]) for _, _, n in some])
    out = Sampler([parse(corpus.lines[n]) for _, _, n in corpus.held_out] or [])
    source = out if corpus.held_out else rest
    return {
        "measured": rows(source, encode, random.Random(1), count=count, length=length),
        "pack": prompts(rest, encode, random.Random("pack"), count=PACK_ROWS, length=512),
    }


def write(args: argparse.Namespace, limits: Limits) -> None:
    """Writes the transfers: code, model, measured rows, weights, and as much of the corpus as fits."""
    to: Path = args.to
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {text}", flush=True)

    from jupyter_sc2.training.corpus import HELD_OUT

    if to.exists() and any(to.iterdir()) and not (to / MANIFEST).exists():
        raise SystemExit(f"{to} is not empty, and has no {MANIFEST}: choose another folder.")
    for old in [*to.glob("transfer-*"), to / "pieces"]:
        shutil.rmtree(old, ignore_errors=True)
    folder = to / "pieces"
    folder.mkdir(parents=True)
    small = tree.size(ROOT, below=tree.LARGE) if args.tree_mib is None else args.tree_mib * 2**20
    room = limits.transfer - limits.spare - int(small)
    say(f"the small tree has {mib(small)}, which leaves {mib(room)} in each transfer")

    corpus = Corpus(args.corpus, HELD_OUT, args.most_mib * 2**20)
    say(f"corpus: {len(corpus.rest)} documents, {len(corpus.held_out)} held out")
    first, manifest = fixed_pieces(args, corpus, folder, say)
    weights = args.start / "model.safetensors"
    heavy = cut(weights, folder, "weights", "weights", raw=min(RAW_PIECE, room // 4))
    taken = sum(piece.bytes for piece in (*first, *heavy))
    say(
        f"code, rows, held-out text {mib(sum(p.bytes for p in first))}; {mib(taken)} with the weights"
    )
    left = args.transfers * room - taken
    if left < 0:
        raise OverLimit(
            f"Code and weights do not fit into {args.transfers} transfers of {mib(room)}."
        )
    placed, written = place_corpus(args, corpus, folder, say, first, heavy, room, left)

    kinds = Counter[str]()
    for kind, _, n in written:
        kinds[kind] += len(corpus.lines[n])
    manifest["corpus"] = {"documents": len(written), "bytes": dict(kinds)}
    manifest["pieces"] = listed(placed)
    for n in range(args.transfers):
        transfer = to / f"transfer-{n + 1}"
        transfer.mkdir()
        for where, piece in placed:
            if where == n:
                (folder / piece.name).rename(transfer / piece.name)
        write_json(transfer / MANIFEST, manifest)
        size = sum(path.stat().st_size for path in transfer.iterdir())
        limits.check_transfer(size + int(small) + limits.spare)
        say(f"{transfer}: {len(list(transfer.iterdir()))} files, {mib(size)}")
    folder.rmdir()
    write_json(to / MANIFEST, manifest)
    whole = corpus.size(corpus.rest)
    say(f"corpus: {sum(kinds.values()) / 1e6:.1f} of {whole / 1e6:.1f} MB are sent, {dict(kinds)}")


def listed(placed: Sequence[tuple[int, Piece]]) -> list[dict[str, Any]]:
    """The manifest's rows, in the order in which the pieces of a file are joined.

    That need not be the order of the transfers: a small last piece may be sent before larger ones.
    """
    return [{**vars(piece), "transfer": n + 1} for n, piece in placed]


def compress(corpus: Corpus, folder: Path, name: str, lines: Sequence[Line], preset: int) -> Piece:
    packed = lzma.compress(corpus.text(lines), preset=preset)
    return write_piece(folder, f"{name}.jsonl.xz", "corpus", packed)


def fixed_pieces(
    args: argparse.Namespace, corpus: Corpus, folder: Path, say: Callable[[str], None]
) -> tuple[list[Piece], dict[str, Any]]:
    """Code, model files, measured rows and held-out text, and the manifest with the loss of the start weights."""
    first = [write_piece(folder, CODE, "code", code(args.to, tried=not args.untried))]
    names = {name: args.start / name for name in MODEL if (args.start / name).exists()}
    first.append(write_piece(folder, "model.tar.xz", "model", archive(names)))
    say(f"code: {mib(first[0].bytes)}{'' if args.untried else ', which can be imported alone'}")
    rows = measured(corpus, args.start, args.measured_rows, MEASURED_LENGTH)
    text = json.dumps(rows).encode()
    first.append(write_piece(folder, "rows.json.xz", "rows", lzma.compress(text, preset=6)))
    weights = args.start / "model.safetensors"
    manifest: dict[str, Any] = {
        "weights": {"bytes": weights.stat().st_size, "sha256": sha256(weights)},
        "start_loss": None,
        "parts": {},
    }
    if not args.no_loss:
        from scripts.gpu.there import loss_of

        manifest["start_loss"] = loss_of(args.start, rows["measured"], "cpu")
        say(f"loss of the start weights on {len(rows['measured'])} rows: {manifest['start_loss']}")
    if corpus.held_out:
        first.append(compress(corpus, folder, "corpus-held-out", corpus.held_out, args.preset))
    return first, manifest


def place_corpus(
    args: argparse.Namespace,
    corpus: Corpus,
    folder: Path,
    say: Callable[[str], None],
    first: Sequence[Piece],
    heavy: Sequence[Piece],
    room: int,
    left: int,
) -> tuple[list[tuple[int, Piece]], list[Line]]:
    """All pieces with the transfer that each goes into, and the lines of the corpus in them.

    `room` is the bytes of a transfer, `left` the bytes of all transfers that the other pieces leave free.
    """
    from jupyter_sc2.training.rows import MIX

    sample = random.Random("ratio").sample(corpus.rest, min(1_500, len(corpus.rest)))
    probe = b"".join(corpus.lines[line[2]] for line in sorted(sample, key=lambda line: line[1]))
    ratio = len(probe) / len(lzma.compress(probe, preset=6)) if probe else 1.0
    texts: list[Piece] = []
    chosen = choose(corpus, left * ratio * 1.15, MIX)  # larger groups compress better
    gathered = list(groups(corpus, chosen, args.raw_piece))
    written: list[Line] = []
    rooms = [room] * args.transfers
    placed: list[tuple[int, Piece]] = []
    for n, group in enumerate(gathered):
        piece = compress(corpus, folder, f"corpus-{n:02d}", group, args.preset)
        # The first text is sent with the first pieces, for the trial; the rest where there is room.
        trial = [*first, *texts[:1], *heavy, *texts[1:]] if texts else [*first, piece, *heavy]
        tried = list(fill([*trial, piece] if texts else trial, rooms))
        if not any(p == piece for _, p in tried):
            (folder / piece.name).unlink()
            say(
                f"{piece.name}: no room for {mib(piece.bytes)}; {len(gathered) - n} pieces are left out"
            )
            break
        placed = tried
        if lost := {p.name for p in trial} - {p.name for _, p in tried}:
            raise OverLimit(f"The transfers have no room for {', '.join(sorted(lost))}.")
        texts.append(piece)
        written += group
        raw = corpus.size(group)
        say(f"{piece.name}: {len(group)} documents, {raw / 1e6:.1f} MB as {mib(piece.bytes)}")
    return placed, written


def again(names: Sequence[str], to: Path) -> None:
    """Copies the pieces with these names into a transfer of their own; the code is packed as it is now."""
    manifest = read_json(to / MANIFEST)
    if CODE in names:
        row = next(row for row in manifest["pieces"] if row["name"] == CODE)
        row |= vars(write_piece(to / f"transfer-{row['transfer']}", CODE, "code", code(to)))
        for path in (to, *to.glob("transfer-[0-9]*")):
            write_json(path / MANIFEST, manifest)
    target = to / "transfer-again"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    shutil.copy(to / MANIFEST, target / MANIFEST)
    transfers = {row["name"]: row["transfer"] for row in manifest["pieces"]}
    for name in names:
        if name not in transfers:
            raise SystemExit(f"There is no piece {name}; there are {', '.join(transfers)}.")
        shutil.copy(to / f"transfer-{transfers[name]}" / name, target / name)
    print(f"{target}: {mib(sum(p.stat().st_size for p in target.iterdir()))}")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path, nargs="?", help="documents.jsonl, or its .xz")
    parser.add_argument("start", type=Path, nargs="?", help="the model to start from")
    parser.add_argument("--to", type=Path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--again", nargs="+", metavar="NAME", help="only make a transfer of these pieces"
    )
    parser.add_argument("--transfers", type=int, default=2, help="how many (default: %(default)d)")
    parser.add_argument(
        "--tree-mib", type=float, help="what else is sent (default: the tree without large files)"
    )
    parser.add_argument(
        "--most-mib", type=float, default=float("inf"), help="part of the corpus, for a rehearsal"
    )
    parser.add_argument("--raw-piece", type=int, default=RAW_CORPUS_PIECE, help=argparse.SUPPRESS)
    parser.add_argument("--preset", type=int, default=9, help="xz's preset (default: %(default)d)")
    parser.add_argument(
        "--untried", action="store_true", help="do not try to import the code alone"
    )
    parser.add_argument("--no-loss", action="store_true", help="do not measure the start weights")
    parser.add_argument(
        "--measured-rows", type=int, default=MEASURED_ROWS, help="rows on which losses are measured"
    )
    add_limits(parser)
    args = parser.parse_args(argv)
    if args.again:
        again(args.again, args.to)
        return 0
    if not args.corpus or not args.start:
        parser.error("a corpus and a model to start from are needed")
    try:
        write(args, Limits.of(args))
    except OverLimit as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
