"""Checks that a tag can be released: it names the version, and CHANGELOG.md says what is new in it.

    python scripts/release_check.py v0.2.0           # prints one line; exits with 1 if something is wrong
    python scripts/release_check.py --notes v0.2.0   # prints the changelog's section instead, for the release's page

Without a tag it takes the one that the version will have, to look before one tags. Needs nothing but Python's
standard library.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class NotReady(Exception):
    """What keeps the tag from being released, in one line."""


def check(tag: str | None, root: Path) -> tuple[str, str]:
    """The version and what CHANGELOG.md says about it."""
    package = json.loads((root / "labextension/package.json").read_text(encoding="utf-8"))
    version = package["version"]
    if tag is not None and tag != f"v{version}":
        raise NotReady(
            f"The tag is {tag}, but labextension/package.json has the version {version}, "
            f"whose tag is v{version}."
        )
    path = root / "CHANGELOG.md"
    if not path.is_file():
        raise NotReady("There is no CHANGELOG.md.")
    return version, section(path.read_text(encoding="utf-8"), version)


def section(changelog: str, version: str) -> str:
    """What stands under the heading of a version: `## 0.2.0`, `## [0.2.0] - 2026-01-31`, `## v0.2.0 (…)`."""
    heading = re.compile(rf"## +\[?v?{re.escape(version)}\]?(?![\w.+-])(?P<rest>.*)")
    body: list[str] = []
    found = None
    is_code = False
    for line in changelog.splitlines():
        is_code ^= line.startswith("```")
        if not is_code and line.startswith("## "):
            if found:
                break
            found = heading.fullmatch(line.rstrip())
        elif found:
            body.append(line)
    if not found:
        raise NotReady(f"CHANGELOG.md has no section `## {version}`.")
    if "unreleased" in found["rest"].lower():
        raise NotReady(f"CHANGELOG.md still calls {version} unreleased.")
    text = "\n".join(body).strip()
    if not text:
        raise NotReady(f"The section of {version} in CHANGELOG.md is empty.")
    return text


def main(argv: list[str], root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("tag", nargs="?", help="such as v0.2.0; that of the version if left out")
    parser.add_argument("--notes", action="store_true", help="print the changelog's section")
    options = parser.parse_args(argv)
    try:
        version, notes = check(options.tag, root)
    except NotReady as problem:
        print(problem, file=sys.stderr)
        return 1
    print(notes if options.notes else f"v{version} can be released: CHANGELOG.md has its section.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
