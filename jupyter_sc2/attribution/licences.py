"""Licences by their SPDX ids: which one a package states, and the texts that have to be reproduced."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

UNKNOWN = "NOASSERTION"

# Names that metadata give instead of an id. A bare "BSD" may be any of several: there the text decides.
_COMMON_NAMES = {
    "mit": "MIT",
    "expat": "MIT",
    "mit license": "MIT",
    "the mit license": "MIT",
    "mit-cmu": "MIT-CMU",
    "apache": "Apache-2.0",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "apache software license 2.0": "Apache-2.0",
    "new bsd": "BSD-3-Clause",
    "modified bsd": "BSD-3-Clause",
    "bsd 3-clause": "BSD-3-Clause",
    "bsd-3": "BSD-3-Clause",
    "3-clause bsd": "BSD-3-Clause",
    "bsd 3-clause license": "BSD-3-Clause",
    "bsd 2-clause": "BSD-2-Clause",
    "simplified bsd": "BSD-2-Clause",
    "2-clause bsd": "BSD-2-Clause",
    "isc": "ISC",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "psf": "PSF-2.0",
    "psf license": "PSF-2.0",
    "psfl": "PSF-2.0",
    "python software foundation license": "PSF-2.0",
    "historical permission notice and disclaimer (hpnd)": "HPND",
    "mpl 2.0": "MPL-2.0",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "zlib/libpng license": "Zlib",
    "the unlicense (unlicense)": "Unlicense",
    "cc0 1.0 universal (cc0 1.0) public domain dedication": "CC0-1.0",
    "university of illinois/ncsa open source license": "NCSA",
    "gnu general public license v2 (gplv2)": "GPL-2.0-only",
    "gnu general public license v2 or later (gplv2+)": "GPL-2.0-or-later",
    "gnu general public license v3 (gplv3)": "GPL-3.0-only",
    "gnu general public license v3 or later (gplv3+)": "GPL-3.0-or-later",
    "gnu lesser general public license v2 or later (lgplv2+)": "LGPL-2.0-or-later",
    "gnu lesser general public license v3 (lgplv3)": "LGPL-3.0-only",
    "gnu lesser general public license v3 or later (lgplv3+)": "LGPL-3.0-or-later",
    "gnu affero general public license v3": "AGPL-3.0-only",
    "gnu affero general public license v3 or later (agplv3+)": "AGPL-3.0-or-later",
}
# The licences that are recognised by their text.
_TEXTS = (
    *("Apache-2.0", "MPL-2.0", "GPL-3.0", "GPL-2.0", "AGPL-3.0", "LGPL-3.0", "LGPL-2.1"),
    *("BSD-3-Clause", "BSD-2-Clause", "MIT", "ISC", "Unlicense", "CC0-1.0", "Zlib", "BSL-1.0", "HPND"),
)  # fmt: skip
_MIN_SHARE = 0.8  # of a licence's runs of words, for a text to be taken for it
_RUN_WORDS = 5
_VARIABLE = re.compile(r"<<var;.*?original=(.*?);match=.*?>>", re.DOTALL)
_IDENTIFIER = re.compile(rb"SPDX-License-Identifier:[ \t]*([\w.+ ()-]{1,120})")


def canonical(words: str) -> str | None:
    """The SPDX expression that these words are or stand for; None if there is none."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    known = _COMMON_NAMES.get(" ".join(words.lower().split()).rstrip("."))
    if known is not None:
        return known
    if len(words) > 200:
        return None
    try:
        return str(canonicalize_license_expression(words))
    except InvalidLicenseExpression:
        return None


def of_metadata(
    expression: str, licence: str, classifiers: Iterable[str], texts: Iterable[str] = ()
) -> str:
    """A package's licence as an SPDX expression, by its metadata or, if they are not clear, by its licence files."""
    for words in (expression, licence):
        if words.strip() and (found := canonical(words.strip())) is not None:
            return found
    names = [c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License ::")]
    found_by_name = list(dict.fromkeys(filter(None, map(canonical, names))))
    if found_by_name:
        return " OR ".join(found_by_name)
    return of_text(licence) or next(filter(None, map(of_text, texts)), UNKNOWN)


def of_text(text: str) -> str | None:
    """The SPDX id of the licence whose text this is; None if it is not one of `_TEXTS`."""
    words = set(_runs(text))

    def score(id: str) -> float:
        """The runs of words that were found, less the missing ones: some licences contain most of another."""
        wanted = _runs_of(id)
        found = len(wanted & words)
        return 2 * found - len(wanted) if found >= _MIN_SHARE * len(wanted) else 0

    best = max(_TEXTS, key=score)
    if score(best) <= 0:
        return None
    return f"{best}-only" if best.startswith(("GPL", "LGPL", "AGPL")) else best


def of_file(code: bytes) -> str | None:
    """The licence in the SPDX-License-Identifier near the top of a source file; None if there is none."""
    match = _IDENTIFIER.search(code[:4096])
    return canonical(match[1].decode().strip()) if match else None


def ids(expression: str) -> list[str]:
    """The licences that an expression names, without exceptions."""
    words = re.sub(r"\bWITH\s+[\w.+-]+", "", expression, flags=re.IGNORECASE)
    found = re.findall(r"[\w.+-]+", words)
    return [w for w in dict.fromkeys(found) if w.upper() not in ("AND", "OR") and w != UNKNOWN]


def text_of(id: str) -> str | None:
    """A licence's text by its SPDX id, with placeholders such as `<year>`; None if the package spdx lacks it."""
    import spdx

    name = _template_name(id)
    known = _database()
    if name not in known:
        return None
    text = spdx.License(known[name]).template
    text = _VARIABLE.sub(lambda match: match[1], text)
    return re.sub(r"<<(?:begin|end)Optional[^>]*>>", "", text).strip()


def url_of(id: str) -> str | None:
    """The page on which SPDX describes a licence; None for ids of one's own (LicenseRef-…)."""
    return None if id.startswith("LicenseRef-") else f"https://spdx.org/licenses/{id}.html"


def _template_name(id: str) -> str:
    return re.sub(r"^([AL]?GPL-[\d.]+)(?:-only|-or-later|\+)$", r"\1", id)


@cache
def _database() -> dict[str, dict[str, str]]:
    import spdx

    return {record["id"]: record for record in spdx.licenses()}


@cache
def _runs_of(id: str) -> frozenset[str]:
    text = text_of(id) or ""
    return frozenset(_runs(text.partition("END OF TERMS")[0]))


def _runs(text: str) -> Iterable[str]:
    words = re.findall(r"[a-z]+", text.lower())
    return (" ".join(words[at : at + _RUN_WORDS]) for at in range(len(words) - _RUN_WORDS + 1))
