"""The limits of one call to a machine with a GPU: what it takes and gives back; and the checks against them."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
NAME = re.compile(r"[A-Za-z0-9._-]+")


class OverLimit(Exception):
    """The machine would not take something, or not give it back."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    transfer: int = 64 * MIB  # what is sent in one call, the tree included
    spare: int = 2 * MIB  # of a transfer, left free for what an archive adds to its files
    carried: int = 8  # ignored paths that are sent with the tree
    command: int = 2_000  # characters
    call: float = 600.0
    back: int = 64 * MIB
    back_file: int = 16 * MIB
    back_files: int = 8
    back_depth: int = 2  # folders

    @classmethod
    def of(cls, args: argparse.Namespace) -> Limits:
        return cls(
            transfer=int(args.transfer_mib * MIB),
            back=int(args.back_mib * MIB),
            back_file=int(args.back_file_mib * MIB),
            back_files=args.back_files,
        )

    def check_transfer(self, size: int) -> None:
        if size > self.transfer:
            raise OverLimit(f"{mib(size)} would be sent; the limit is {mib(self.transfer)}.")

    def check_call(self, command: str, carried: Collection[Path], seconds: float) -> None:
        if len(command) > self.command:
            raise OverLimit(
                f"The command has {len(command)} characters; the limit is {self.command}."
            )
        if len(carried) > self.carried:
            raise OverLimit(f"{len(carried)} ignored paths are named; the limit is {self.carried}.")
        if not 1 <= seconds <= self.call:
            raise OverLimit(f"The call takes up to {seconds:g} s; the limit is {self.call:g} s.")

    def check_back(self, folder: Path) -> list[Path]:
        """The files in the folder, all of which may come back."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if len(files) > self.back_files:
            raise OverLimit(
                f"{len(files)} files are in {folder.name}; the limit is {self.back_files}."
            )
        for path in files:
            inside = path.relative_to(folder)
            if len(inside.parts) > self.back_depth + 1:
                raise OverLimit(f"{inside} is more than {self.back_depth} folders deep.")
            if not all(map(NAME.fullmatch, inside.parts)):
                raise OverLimit(
                    f"{inside} has characters other than letters, digits, '.', '_', '-'."
                )
            if path.stat().st_size > self.back_file:
                raise OverLimit(f"{inside} has {mib(path.stat().st_size)}: too much for one file.")
        if (size := sum(path.stat().st_size for path in files)) > self.back:
            raise OverLimit(f"{mib(size)} would come back; the limit is {mib(self.back)}.")
        return files


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Adds the limits that differ between machines, with the defaults of `Limits`."""
    usual = Limits()
    options = (
        (
            "--transfer-mib",
            usual.transfer / MIB,
            "what may be sent in one call, tree included",
        ),
        ("--back-mib", usual.back / MIB, "what may come back from one call"),
        ("--back-file-mib", usual.back_file / MIB, "the largest file that may come back"),
    )
    group = parser.add_argument_group("limits of the machine")
    for name, default, help in options:
        group.add_argument(
            name, type=float, default=default, metavar="MIB", help=f"{help} (default: %(default)g)"
        )
    group.add_argument(
        "--back-files",
        type=int,
        default=usual.back_files,
        metavar="N",
        help="how many files may come back from one call (default: %(default)d)",
    )


def mib(size: float) -> str:
    return f"{size / MIB:.2f} MiB"
