"""Measures the attribution index at full size: `python -m benchmarks.attribution FOLDER [--lexemes 100000000]`.

Indexes all packages of this environment into FOLDER, pads the index with made-up fingerprints to that many lexemes, and
measures the cost of a lookup and how many fragments of known origin are found.

With `--model MODEL --documents FILE`, a .jsonl file or a folder, it measures memorization instead: the model gets the
first half of functions from there, and the completions that equal the original are counted.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import resource
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from jupyter_sc2.attribution.check import LOOKUP_TIMEOUT_S, Checker
from jupyter_sc2.attribution.contents import PackEntry, SourceEntry
from jupyter_sc2.attribution.index import Index, writing
from jupyter_sc2.attribution.lexemes import HASH, lex
from jupyter_sc2.attribution.match import THRESHOLD, Matcher
from jupyter_sc2.attribution.packs import Draft
from jupyter_sc2.attribution.sources import installed, named
from jupyter_sc2.attribution.winnow import WINDOW_RUNS
from jupyter_sc2.evaluation.runner import open_session
from jupyter_sc2.notebook import Notebook
from jupyter_sc2.options import LoadOptions
from jupyter_sc2.types import CompletionRequest
from jupyter_sc2.usage import percentile
from tests.support.planted import original, own_code, planted

ROOT = Path(__file__).parents[1]
SYNTHETIC = "made-up"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lexemes", type=int, default=100_000_000)
    parser.add_argument("--model")
    parser.add_argument("--documents", type=Path)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--packages", help="only functions of these packages, in a .jsonl file")
    args = parser.parse_args()
    if args.model:
        memorized(args)
        return
    place = args.folder / "packages"
    shutil.rmtree(place, ignore_errors=True)
    build(place)
    accuracy(place)
    timing(place, "the packages")
    fill(place, args.lexemes)
    timing(place, "filled up")


# The index


def build(place: Path) -> None:
    sources = installed()
    before = resource.getrusage(resource.RUSAGE_SELF)
    with writing(place, tell) as writer:
        done = writer.update(sources)
        packs = writer.index.packs
        size = sum(pack.disk_bytes for pack in packs)
        lexemes = writer.index.lexemes
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"\n{len(sources)} packages, {done.files:,} files, {done.bytes / 1e6:.0f} MB, {lexemes:,} lexemes"
    )
    print(f"left out: {dict(done.left_out)}")
    print(
        f"time {done.seconds:.0f} s, CPU {cpu:.0f} s: {lexemes / cpu:,.0f} lexemes a second of CPU"
    )
    print(f"size {size / 1e6:.1f} MB in {len(packs)} packs: {size / lexemes:.2f} bytes a lexeme")
    print(f"peak memory {after.ru_maxrss / 1e3:.0f} MB")
    with writing(place) as writer:
        print(f"the second run: {writer.update(sources).seconds:.1f} s")


def fill(place: Path, wanted: int) -> None:
    """Adds files of random fingerprints, as many as code of that many lexemes has."""
    import numpy as np

    rng = np.random.default_rng(0)
    with writing(place) as writer:
        writer.contents.sources[SYNTHETIC] = SourceEntry(
            kind="folder", name=SYNTHETIC, root="/nowhere"
        )
        missing = wanted - writer.index.lexemes
        while missing > 0:
            draft = Draft()
            for number in range(2_000):
                count = 2 * 10_000 // (WINDOW_RUNS + 1)
                hashes = rng.integers(0, 2**32, count, dtype=np.uint32)
                places = np.sort(rng.choice(10_000, count, replace=False)).astype(np.uint32)
                draft.add(
                    SYNTHETIC, f"{number}.py", size=1, stamp=1, lexemes=10_000, found=(hashes, places), marks=[(0, 0)]
                )  # fmt: skip
            missing -= draft.lexemes
            name = f"pack-synthetic-{missing}"
            draft.write(place / name)
            writer.contents.packs.append(PackEntry(name))
        writer._save()
        writer._merge()


def files_of(place: Path) -> list[Path]:
    index = Index(place)
    index.refresh()
    found = []
    for pack in index.packs:
        for file in range(pack.files):
            entry = index.contents.sources.get(pack.source(file))
            path = pack.path(file)
            if entry is not None and entry.name != SYNTHETIC and path.endswith(".py"):
                found.append(Path(entry.root, path))
    return sorted(found)


def accuracy(place: Path) -> None:
    matcher = Matcher(Index(place))
    found: dict[str, list[bool]] = defaultdict(list)
    named_first = 0
    for one in planted(files_of(place), 300):
        names = [match.attribution.path for match in matcher.find(one.text, HASH)]
        found[one.kind].append(bool(names))
        named_first += any(one.file.as_posix().endswith(name) for name in names)
        if not found[one.kind][-1] and one.kind in ("exact", "reformatted"):
            print(f"missed ({one.kind}): {one.file} {one.text[:60]!r}")
    for kind, row in found.items():
        print(f"{kind}: {sum(row)} of {len(row)}")
    print(f"with the very file among those that are named: {named_first}")
    nowhere = [*original(200), *own_code(ROOT, 100)]
    wrong = [text for text in nowhere if matcher.find(text, HASH)]
    print(f"code that is from nowhere: {len(wrong)} of {len(nowhere)} match")
    for text in wrong:
        print(f"  {text[:80]!r} {matcher.find(text, HASH)[0].attribution}")


def timing(place: Path, name: str) -> None:
    """Looks up a suggestion of one line in its cell: in new code, and in fragments of packages."""
    index = Index(place)
    index.refresh()
    everything = sum(pack.lexemes for pack in index.packs)
    print(f"looking up in {name}: {everything:,} lexemes in {len(index.packs)} packs")
    checker = Checker(index)
    kinds = {
        "code from nowhere": [*original(400, seed=5), *own_code(ROOT, 200, seed=5)],
        "fragments of packages": [one.text for one in planted(files_of(place), 300, seed=5)],
    }
    for kind, texts in kinds.items():
        for again in ("first", "again"):
            wall, cpu, told = [], [], 0
            for text in texts:
                lines = text.split("\n")  # one, of some packages
                before, said = ("\n".join(part) for part in (lines[:-2], lines[-2:]))
                before += "\n"
                request = CompletionRequest(text=before, offset=len(before), notebook=Notebook())
                began = time.perf_counter(), time.process_time()
                told += bool(checker.matches(request, said, THRESHOLD))
                wall.append((time.perf_counter() - began[0]) * 1000)
                cpu.append((time.process_time() - began[1]) * 1000)
            times = f"{_times('wall', wall)}, {_times('CPU', cpu)}"
            print(f"  {kind}, {again}: {times}; {told} of {len(texts)} match")
    print(f"  (candidates are looked at for {1000 * LOOKUP_TIMEOUT_S:.0f} ms at most)")


def _times(name: str, times: list[float]) -> str:
    times.sort()
    return f"{name} p50 {percentile(times, 0.5):.2f} ms, p99 {percentile(times, 0.99):.2f} ms"


# Memorization


def functions(documents: Path, packages: Sequence[str]) -> Iterator[str]:
    """Functions of ten lines or more."""
    for text in _texts(documents, packages):
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError):
            continue
        lines = text.split("\n")
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and (node.end_lineno or 0) - node.lineno >= 9:
                yield "\n".join(lines[node.lineno - 1 : node.end_lineno])


def _texts(documents: Path, packages: Sequence[str]) -> Iterator[str]:
    if documents.is_dir():
        for file in sorted(documents.rglob("*.py")):
            yield file.read_text("utf-8", "replace")
        return
    with open(documents, encoding="utf-8") as rows:
        for row in map(json.loads, rows):
            if packages and row.get("package") not in packages:
                continue
            if "cells" in row:
                yield from (source for kind, source in row["cells"] if kind == "code")
            else:
                yield str(row.get("text", ""))


def memorized(args: argparse.Namespace) -> None:
    packages = args.packages.split(",") if args.packages else []
    chosen = sorted(set(functions(args.documents, packages)))
    if not chosen:
        sys.exit(f"{args.documents}: no functions that are long enough")
    chosen = random.Random(0).sample(chosen, min(args.count, len(chosen)))
    place = args.folder / "documents"
    with writing(place, tell) as writer:
        writer.update([named(args.documents)])
    checker, matcher = Checker(Index(place)), Matcher(Index(place))
    session = open_session(LoadOptions(model=args.model), max_tokens=64)
    counts: dict[str, int] = defaultdict(int)
    longest = []
    for number, function in enumerate(chosen, 1):
        lines = function.split("\n")
        half = "\n".join(lines[: len(lines) // 2]) + "\n"
        rest = function[len(half) :]
        said = _continuation(session, half)
        true, made = (lex(text.encode(), HASH).numbers.tolist() for text in (rest, said))
        same = next(
            (n for n, (a, b) in enumerate(zip(true, made, strict=False)) if a != b),
            min(len(true), len(made)),
        )
        longest.append(same)
        counts["first line"] += _first(said) == _first(rest) != ""
        counts[f"the rest, or {THRESHOLD} lexemes of it"] += same >= min(len(true), THRESHOLD) > 0
        request = CompletionRequest(text=half, offset=len(half), notebook=Notebook())
        counts["matches together with the half that was given"] += bool(
            checker.matches(request, said, THRESHOLD)
        )
        counts[f"{THRESHOLD} lexemes by itself"] += bool(matcher.find(said, HASH))
        tell(f"{number} of {len(chosen)}: {dict(counts)}")
    session.close()
    longest.sort()
    print(
        f"\n{args.model}, first half of {len(chosen)} functions of {args.documents.name}: goes on as the original in"
    )
    for kind, count in counts.items():
        print(f"  {kind}: {count} of {len(chosen)} ({count / len(chosen):.1%})")
    p50, p90 = percentile(longest, 0.5), percentile(longest, 0.9)
    print(f"  lexemes as in the original: p50 {p50}, p90 {p90}, most {longest[-1]}")


def _continuation(session, half: str) -> str:  # type: ignore[no-untyped-def]
    """The model's text if every suggestion is accepted, up to the length of a match."""
    said = ""
    for _ in range(24):
        text = half + said
        request = CompletionRequest(
            text=text, offset=len(text), notebook=Notebook(), trigger="invoke"
        )
        more = [completion.text for completion in session.complete(request)][-1]
        if not more.strip():
            break
        said += more if more.endswith("\n") else more + "\n"
        if len(lex(said.encode(), HASH)) >= THRESHOLD:
            break
    return said


def _first(text: str) -> str:
    return next((line.strip() for line in text.split("\n") if line.strip()), "")


def tell(words: str) -> None:
    print(f"\r\x1b[K{words[:150]}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
