"""Whether a package's licence permits training on it, by the metadata and licence files in its archive."""

from __future__ import annotations

import re
from email.parser import HeaderParser
from pathlib import Path

PERMISSIVE = re.compile(
    r"\b(?:MIT|BSD|0BSD|Apache|ASL|ISC|ISCL|PSF|Python Software Foundation|HPND|Zlib|Unlicense|CC0|NCSA"
    r"|Public Domain)\b",
    re.IGNORECASE,
)
RESTRICTED = re.compile(
    r"\b(?:[AL]?GPL|GNU|MPL|Mozilla|CC-BY|Creative Commons|EUPL|CeCILL|Business Source|Commons Clause"
    r"|Non-?Commercial)",
    re.IGNORECASE,
)
# The permitted licences of public repositories, by SPDX id. CC-BY covers their texts and asks for the authors' names,
# which are in `sources.json`.
LICENCE = re.compile(
    r"MIT(?:-0)?|BSD-[23]-Clause|0BSD|Apache-2\.0|ISC|PSF-2\.0|Zlib|Unlicense|CC0-1\.0|CC-BY-4\.0"
)
# Words that only this licence has, for metadata that do not name it.
WORDINGS = {
    "MIT": r"Permission is hereby granted, free of charge, to any person obtaining a copy of this software",
    "BSD": r"Redistribution and use in source and binary forms, with or without modification, are permitted",
    "Apache-2.0": r"Apache License,? Version 2\.0",
    "ISC": r"Permission to use, copy, modify, and(?:/or)? distribute this software for any purpose with or",
    "CC0-1.0": r"CC0 1\.0 Universal",
}


def permissive_licence(metadata: str, texts: str = "") -> str | None:
    """The licence that a package states, or None if it is not permissive or not clear.

    `metadata` is its PKG-INFO; `texts` are its licence files, which are read if the PKG-INFO names no licence.
    """
    headers = HeaderParser().parsestr(metadata)
    classifiers = [c for c in headers.get_all("Classifier", []) if c.startswith("License ::")]
    names = [c.rpartition(" :: ")[2] for c in classifiers]
    stated = headers.get("License", "").strip()
    for claim in (
        headers.get("License-Expression", ""),
        ", ".join(names),
        stated.partition("\n")[0][:60],
    ):
        if RESTRICTED.search(claim):
            return None
        if PERMISSIVE.search(claim):
            return claim
    return _licence_by_words(f"{stated}\n{texts}")


def is_permissive(expression: str) -> bool:
    """Whether all licences that an SPDX expression joins by AND are permitted ones."""
    return all(LICENCE.fullmatch(name) for name in expression.split(" AND "))


def _licence_by_words(texts: str) -> str | None:
    words = " ".join(texts.split())
    if RESTRICTED.search(words):
        return None
    found = [name for name, wording in WORDINGS.items() if re.search(wording, words, re.IGNORECASE)]
    return " AND ".join(found) or None


def licence_texts(tree: Path) -> str:
    """The licence files at the top of a source tree."""
    names = re.compile(r"(?:LICEN[CS]E|COPYING)", re.IGNORECASE)
    files = sorted(p for p in tree.iterdir() if p.is_file() and names.match(p.name))
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in files)
