"""`jupyter sc2 attribution`: indexes code, and reports where notebooks match it. Nothing leaves the machine."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from jupyter_sc2.cli.config import add_config_options
from jupyter_sc2.cli.options import print_json
from jupyter_sc2.errors import RequestError
from jupyter_sc2.runtime.hardware import format_bytes
from jupyter_sc2.settings import SC2

LEXEMES = SC2.settings()["attribution_lexemes"]  # the minimum length of a match


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "attribution", help="index code, and report where notebooks match it"
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    index = actions.add_parser(
        "index", help="index installed packages, folders, files and archives; run again to update"
    )
    index.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help="a folder, a source file, a .zip, .whl, .tar.gz or .jsonl (default: the installed packages)",
    )
    index.add_argument("--packages", action="store_true", help="also index the installed packages")
    index.add_argument("--name", help="name of the source, for one PATH (default: its file name)")
    index.add_argument(
        "--license", metavar="SPDX", help="licence of the source, if none of its files names one"
    )
    index.add_argument("--json", action="store_true", help="print one JSON object")
    index.set_defaults(run=_index)

    listing = actions.add_parser("list", help="list what is indexed")
    listing.add_argument("--json", action="store_true", help="print a JSON list")
    listing.set_defaults(run=_list)

    remove = actions.add_parser("remove", help="remove sources from the index")
    remove.add_argument("names", nargs="+", metavar="NAME", help="a name from the list, or a path")
    remove.set_defaults(run=_remove)

    report = actions.add_parser(
        "report",
        help="report which cells contain accepted suggestions, what they match, and its licence",
    )
    report.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    report.add_argument(
        "--lexemes",
        type=int,
        default=LEXEMES.default_value,
        metavar="N",
        help="minimum length of a match, in words and symbols (default: %(default)s)",
    )
    kinds = report.add_mutually_exclusive_group()
    kinds.add_argument("--html", action="store_true", help="print an HTML page")
    kinds.add_argument("--json", action="store_true", help="print one JSON object")
    kinds.add_argument("--spdx", action="store_true", help="print an SPDX 2.3 document")
    report.add_argument("--output", type=Path, metavar="FILE", help="write to this file")
    add_config_options(report, lexemes="attribution_lexemes")
    report.set_defaults(run=_report)

    strip = actions.add_parser(
        "strip", help="remove the record of accepted suggestions from notebooks"
    )
    strip.add_argument("notebooks", nargs="+", type=Path, metavar="NOTEBOOK")
    strip.set_defaults(run=_strip)


def _index(args: argparse.Namespace) -> int:
    from tqdm import tqdm

    from jupyter_sc2.attribution import sources
    from jupyter_sc2.attribution.index import default_folder, writing

    if (args.name or args.license) and len(args.paths) != 1:
        raise RequestError("--name and --license need exactly one PATH.")
    chosen = [sources.named(path, args.name, args.license) for path in args.paths]
    packages = sources.installed() if args.packages or not chosen else []
    chosen += packages
    # On a terminal: the source that is being indexed.
    progress = tqdm(bar_format="{desc}", leave=False, disable=None)
    with writing(default_folder(), progress.set_description_str) as writer:
        known = {source.key for source in packages}
        roots = {source.root for source in packages}
        uninstalled = [
            key
            for key, entry in writer.contents.sources.items()
            if entry.kind == "package" and entry.root in roots and key not in known
        ]
        if uninstalled:
            writer.remove(uninstalled)
        done = writer.update(chosen)
        progress.close()
        packs = writer.index.packs
        size = sum(pack.disk_bytes for pack in packs)
        lexemes = writer.index.lexemes
    if writer.notice:
        print(writer.notice, file=sys.stderr)
    if args.json:
        print_json(
            {
                "sources": len(chosen),
                "files": done.files,
                "unchanged": done.unchanged,
                "gone": done.gone,
                "left_out": dict(done.left_out),
                "lexemes": done.lexemes,
                "bytes": done.bytes,
                "seconds": round(done.seconds, 2),
                "index_lexemes": lexemes,
                "index_bytes": size,
                "packs": len(packs),
            }
        )
        return 0
    rate = f", {done.lexemes / done.seconds:,.0f} a second" if done.lexemes else ""
    print(
        f"{done.files:,} files read ({done.lexemes:,} words and symbols{rate}), {done.unchanged:,} unchanged, "
        f"{done.gone:,} gone."
    )
    if done.left_out:
        print(
            "Left out: " + ", ".join(f"{n:,} {why}" for why, n in done.left_out.most_common()) + "."
        )
    print(f"The index has {lexemes:,} words and symbols and takes {format_bytes(size)}.")
    return 0


def _list(args: argparse.Namespace) -> int:
    index = _opened()
    rows = sorted(index.contents.sources.values(), key=lambda source: source.name.lower())
    if args.json:
        names = ("name", "version", "licence", "kind", "root", "files", "lexemes")
        print_json([{name: getattr(row, name) for name in names} for row in rows])
        return 0
    for row in rows:
        name = f"{row.name} {row.version}".rstrip()
        print(f"{name:<36} {row.lexemes:>12,}  {row.licence:<20}  {row.root}")
    return 0


def _remove(args: argparse.Namespace) -> int:
    from jupyter_sc2.attribution.index import default_folder, writing

    with writing(default_folder()) as writer:
        known = writer.contents.sources
        keys = []
        for name in args.names:
            found = [k for k, one in known.items() if name in (one.name, one.root, k)]
            if not found:
                raise RequestError(
                    f"{name} is not indexed: `jupyter sc2 attribution list` lists what is."
                )
            keys += found
        writer.remove(keys)
    if writer.notice:
        print(writer.notice, file=sys.stderr)
    print(f"Removed {len(keys)}.")
    return 0


def _report(args: argparse.Namespace) -> int:
    from jupyter_sc2 import __version__
    from jupyter_sc2.attribution import render, report, spdx
    from jupyter_sc2.attribution.index import Index
    from jupyter_sc2.attribution.match import Matcher

    if args.lexemes < LEXEMES.min:
        raise RequestError(
            f"--lexemes must be {LEXEMES.min} or more: shorter runs are not all found."
        )
    index = Index(verified=True)
    matcher = Matcher(index)
    reports = [report.of_file(path, matcher, args.lexemes) for path in args.notebooks]
    if index.problem:
        print(index.problem, file=sys.stderr)
    if args.json:
        text = json.dumps(
            {"notebooks": [render.as_json(one) for one in reports]}, ensure_ascii=False
        )
    elif args.spdx:
        text = json.dumps(spdx.document(reports, __version__), indent=1, ensure_ascii=False)
    else:
        text = render.page(reports) if args.html else render.text(reports)
    if args.output is None:
        print(text)
        return 0
    from jupyter_sc2.runtime.atomic_write import atomic_write

    try:
        atomic_write(args.output, text.encode("utf-8", "replace"))
    except OSError as error:
        raise RequestError(f"Cannot write {args.output}: {error.strerror or error}.") from error
    return 0


def _strip(args: argparse.Namespace) -> int:
    from jupyter_sc2.attribution import record

    for path in args.notebooks:
        count = record.strip(path)
        print(f"{path}: {count or 'no'} cell{'s' * (count != 1)} had a record.")
    return 0


def _opened() -> Any:
    from jupyter_sc2.attribution.index import Index

    index = Index()
    if not index.refresh():
        raise RequestError(
            index.problem or "Nothing is indexed yet: `jupyter sc2 attribution index` does that."
        )
    if index.problem:
        print(index.problem, file=sys.stderr)
    return index
