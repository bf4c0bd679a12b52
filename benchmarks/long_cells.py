"""Measures what a key costs in a cell with a long line, in milliseconds of CPU: `python -m benchmarks.long_cells`.

For each kind of line and each position of the cursor ten keys are typed, and the median is printed. It includes all
work from the message to the prompt, and the work for each decoded token; the model's own computation is left out: the
engine only encodes, with the embedded model's tokenizer, and returns a fixed line.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import jupyter_sc2
from jupyter_sc2.engines.base import Capabilities
from jupyter_sc2.engines.decoding.tokenizer import Tokenizer
from jupyter_sc2.kernel.namespace import LiveNamespace
from jupyter_sc2.models.cards import EMBEDDED
from jupyter_sc2.settings import SC2
from jupyter_sc2.types import Token
from tests.support.long_cells import Typist, kinds, places

MODEL = Path(jupyter_sc2.__file__).parent / "embedded" / "model" / "tokenizer.json"
OUTPUT = "value = compute(a, b) + rows[1]"
KEYS = 10


class Speaker:
    """An engine without a model: it encodes like the embedded one, and returns the same tokens each time."""

    name, precision, notice, card = "none", "fp32", "", EMBEDDED
    capabilities = Capabilities()

    def __init__(self) -> None:
        self._tokenizer = Tokenizer(MODEL)
        self.special_ids = self._tokenizer.special_ids
        self.encode, self.decode_bytes = self._tokenizer.encode, self._tokenizer.decode_bytes
        self._said = self._tokenizer.encode(OUTPUT)
        self.decode_bytes(self._said)  # makes its table

    def prefill(self, ids, cancelled):
        return len(ids)

    def generate(self, ids, sampling, stop_ids, cancelled, constraint=None, draft=None):
        start = constraint.first.decode() if constraint is not None else ""
        for id in [*self.encode(start), *self._said]:
            yield Token(id, -0.1)

    def use_threads(self, count):
        pass


def cost(typist: Typist, text: str, offset: int) -> float:
    """The median of some keys, in milliseconds, after two warm-up keys."""
    costs = []
    for key in range(KEYS + 2):
        written = text[:offset] + "abcdefghijkl"[: key + 1] + text[offset:]
        began = time.process_time()
        typist.key(written, offset + key + 1, "invoke")
        costs.append(1000 * (time.process_time() - began))
    return statistics.median(costs[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=200_000, help="characters of the line")
    size = parser.parse_args().size
    shell = InteractiveShell(config=Config(HistoryManager={"enabled": False}))
    shell.run_cell("rows = [1]")
    names = list(places(""))
    print(f"{size:,} characters".ljust(20), *(name.rjust(8) for name in names))
    most = 0.0
    for kind, text in kinds(size).items():
        typist = Typist(Speaker(), LiveNamespace(shell, SC2()))
        costs = [cost(typist, *place) for place in places(text).values()]
        most = max(most, *costs)
        print(kind.ljust(20), *(f"{ms:8.1f}" for ms in costs), flush=True)
    print(f"at most {most:.1f} ms")


if __name__ == "__main__":
    main()
