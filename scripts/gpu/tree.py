"""Makes the working tree small for a transfer, and restores it.

    python -m scripts.gpu.tree size           # shows what would be sent
    python -m scripts.gpu.tree aside          # moves large files to runs/aside, and leaves links
    python -m scripts.gpu.tree restore        # moves the files back
    python -m scripts.gpu.tree aside -- CMD…  # moves them away while a command runs

Tests and kernels keep working, because they follow the links; a transfer that sends links as links leaves the files
behind. No file is removed before there is a copy with the same checksum, and no file is overwritten that somebody has
changed meanwhile. Do not commit with `-a` before the files are back.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from scripts.gpu.limits import MIB, mib
from scripts.gpu.pieces import read_json, sha256, write_json

ROOT = Path(__file__).resolve().parents[2]
ASIDE = Path("runs/aside")  # which git ignores
LARGE = 256 * 1024  # bytes: weights and tokenizers


class TreeError(Exception):
    """The tree is not in the state that an action needs."""


def files(root: Path) -> list[Path]:
    """The files that are sent: tracked ones and others that git does not ignore. A link is sent as a link."""
    command = ["git", "-C", str(root), "ls-files", "-coz", "--exclude-standard"]
    listed = subprocess.run(command, check=True, capture_output=True).stdout
    paths = {root / name.decode() for name in listed.split(b"\0") if name}
    return sorted(path for path in paths if path.is_symlink() or path.is_file())


def size(root: Path, *, below: int | None = None) -> int:
    """The bytes that are sent; with `below`, only those of files smaller than that."""
    sizes = (path.lstat().st_size for path in files(root))
    return sum(n for n in sizes if below is None or n < below)


def put_aside(root: Path, *, at_least: int = LARGE) -> list[Path]:
    """Moves the tree's large files to `runs/aside` and leaves links; returns the paths in the tree."""
    folder = root / ASIDE
    ledger = folder / "ledger.json"
    if ledger.exists():
        raise TreeError(f"{ledger} says that files are aside already: restore them first.")
    ignored = subprocess.run(["git", "-C", str(root), "check-ignore", "-q", str(ASIDE / "x")])
    if ignored.returncode:
        raise TreeError(f"git does not ignore {ASIDE}: files there would be sent.")
    large = [p for p in files(root) if not p.is_symlink() and p.stat().st_size >= at_least]
    need = sum(path.stat().st_size for path in large)
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < need + 100 * MIB:
        raise TreeError(f"{folder} has no room for copies of {mib(need)}.")
    entries = {path.relative_to(root).as_posix(): sha256(path) for path in large}
    write_json(ledger, entries)
    for name, digest in entries.items():
        path, copy = root / name, folder / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
        if sha256(copy) != digest or sha256(path) != digest:
            raise TreeError(f"The copy of {name} differs from the file, which stays where it is.")
        link = path.with_name(f"{path.name}.link")
        link.symlink_to(os.path.relpath(copy, path.parent))
        os.replace(link, path)
    return large


def restore(root: Path) -> list[Path]:
    """Moves back what `put_aside` moved; returns the paths in the tree.

    Files that cannot be moved back safely stay aside; the TreeError at the end names them.
    """
    folder = root / ASIDE
    ledger = folder / "ledger.json"
    entries = read_json(ledger)
    if not isinstance(entries, dict):
        raise TreeError(f"Nothing is aside: there is no {ledger}.")
    problems = []
    for name, digest in entries.items():
        path, copy = root / name, folder / name
        if path.is_file() and not path.is_symlink():
            if sha256(path) != digest:
                problems.append(f"{name} was changed; its copy stays as {copy}")
        elif not copy.is_file() or sha256(copy) != digest:
            problems.append(f"{copy} is missing or changed; `git checkout -- {name}` restores it")
        else:
            part = path.with_name(f"{path.name}.part")
            shutil.copy2(copy, part)
            if sha256(part) != digest:
                part.unlink()
                problems.append(f"{name} could not be copied back")
            else:
                os.replace(part, path)
    if problems:
        raise TreeError("; ".join(problems) + ".")
    for name in entries:
        (folder / name).unlink(missing_ok=True)
    ledger.unlink()
    folders = sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True)
    for below in [*folders, folder]:
        if not any(below.iterdir()):
            below.rmdir()
    return [root / name for name in entries]


@contextmanager
def light(root: Path) -> Iterator[None]:
    """Keeps the tree small inside the block."""
    put_aside(root)
    try:
        yield
    finally:
        restore(root)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=["size", "aside", "restore"])
    parser.add_argument("command", nargs="*", help="with aside: run this, then restore")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    root = args.root
    try:
        if args.action == "aside" and args.command:
            with light(root):
                return subprocess.run(args.command, cwd=root).returncode
        if args.action == "aside":
            for path in put_aside(root):
                print(f"aside: {path.relative_to(root)}")
        elif args.action == "restore":
            for path in restore(root):
                print(f"back: {path.relative_to(root)}")
    except TreeError as error:
        print(error, file=sys.stderr)
        return 1
    small, now = size(root, below=LARGE), size(root)
    print(f"{mib(now)} would be sent, {mib(small)} without large files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
