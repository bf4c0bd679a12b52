"""Fingerprints of a sequence of lexemes: a few hashes, chosen so that a long enough common run is never missed.

Winnowing, after Schleimer, Wilkerson and Aiken (2003): each run of `RUN_LEXEMES` lexemes has a hash, and of each
`WINDOW_RUNS` successive hashes the smallest is a fingerprint. So two texts with `GUARANTEED_LEXEMES` lexemes in a row
in common always share a fingerprint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from jupyter_sc2.attribution.lexemes import Numbers

RUN_LEXEMES = 20
WINDOW_RUNS = 21
GUARANTEED_LEXEMES = RUN_LEXEMES + WINDOW_RUNS - 1

_BASE = 0x9E3779B97F4A7C15
_MIX = 0xD6E8FEB86659FD93


def fingerprints(numbers: Numbers) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """The hashes that are chosen, and for each the index of the lexeme at which its run begins."""
    import numpy as np

    if len(numbers) < RUN_LEXEMES:
        return np.empty(0, np.uint32), np.empty(0, np.uint32)
    hashes = _hashes(numbers)
    at = np.arange(len(hashes), dtype=np.uint64)
    # The last of equal hashes, so that the following windows choose it again.
    least = _least(hashes << np.uint64(32) | (np.uint64(0xFFFFFFFF) - at))
    chosen = least[np.append(True, least[1:] != least[:-1])]
    found = (chosen >> np.uint64(32)).astype(np.uint32)
    places = (np.uint64(0xFFFFFFFF) - (chosen & np.uint64(0xFFFFFFFF))).astype(np.uint32)
    # In text that repeats itself every hash is the smallest of some window: one in each `WINDOW_RUNS` is enough.
    again = np.append(False, found[1:] == found[:-1])
    again[1:] &= places[1:] // WINDOW_RUNS == places[:-1] // WINDOW_RUNS
    return found[~again], places[~again]


def _hashes(numbers: Any) -> Any:
    """The 32-bit hash of each run, as 64-bit numbers: a polynomial, computed from those of runs half as long."""
    import numpy as np

    hashes: Any = np.zeros(len(numbers) - RUN_LEXEMES + 1, np.uint64)
    power, length, done = np.uint64(_BASE), 1, 0
    part = numbers
    with np.errstate(over="ignore"):
        while True:
            if RUN_LEXEMES & length:
                hashes = hashes * power + part[done : done + len(hashes)]
                done += length
            if done == RUN_LEXEMES:
                break
            part = part[:-length] * power + part[length:]
            power, length = power * power, 2 * length
        hashes ^= hashes >> np.uint64(32)
        hashes *= np.uint64(_MIX)
    return hashes >> np.uint64(32)


def _least(keys: Any) -> Any:
    """The smallest key of each window, or of all keys if there are fewer."""
    import numpy as np

    window = min(WINDOW_RUNS, len(keys))
    length = 1
    while 2 * length <= window:
        keys = np.minimum(keys[:-length], keys[length:])
        length *= 2
    rest = window - length
    return np.minimum(keys[: len(keys) - rest], keys[rest:]) if rest else keys
