"""What a machine with a GPU takes and gives back in one call, and whether something keeps to it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
NAME = re.compile(r"[A-Za-z0-9._-]+")


class OverLimit(Exception):
    """Something that the machine would not take, or not give back."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    transfer: int = 64 * MIB  # what travels there, the rest of the tree included
    spare: int = 2 * MIB  # of it left free, for what an archive adds to its files
    carried: int = 8  # ignored paths that travel with the tree
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
            raise OverLimit(f"{mib(size)} would travel, and {mib(self.transfer)} may.")

    def check_call(self, command: str, carried: Collection[Path], seconds: float) -> None:
        if len(command) > self.command:
            raise OverLimit(f"The command has {len(command)} characters of {self.command}.")
        if len(carried) > self.carried:
            raise OverLimit(f"{len(carried)} ignored paths are named, and {self.carried} may be.")
        if not 1 <= seconds <= self.call:
            raise OverLimit(f"The call takes up to {seconds:g} s, and {self.call:g} s it may.")

    def check_back(self, folder: Path) -> list[Path]:
        """The files in the folder, all of which may come back."""
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if len(files) > self.back_files:
            raise OverLimit(f"{len(files)} files are in {folder.name}, and {self.back_files} may.")
        for path in files:
            inside = path.relative_to(folder)
            if len(inside.parts) > self.back_depth + 1:
                raise OverLimit(f"{inside} is more than {self.back_depth} folders down.")
            if not all(map(NAME.fullmatch, inside.parts)):
                raise OverLimit(f"{inside} is not of letters, digits, '.', '_' and '-' alone.")
            if path.stat().st_size > self.back_file:
                raise OverLimit(f"{inside} has {mib(path.stat().st_size)}: too much for one file.")
        if (size := sum(path.stat().st_size for path in files)) > self.back:
            raise OverLimit(f"{mib(size)} would come back, and {mib(self.back)} may.")
        return files


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Adds the limits that differ between machines, with the defaults of `Limits`."""
    usual = Limits()
    options = (
        (
            "--transfer-mib",
            usual.transfer / MIB,
            "what may travel there in one call, tree included",
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
