"""Cells that hold far more than anybody writes by hand, and keys that are typed in them.

`python -m tests.support.long_cells SIZE` types one key at each place of each kind of cell. The tests run this under a
time limit that ends it where some work grows with the square of a cell.
"""

from __future__ import annotations

import base64
import json
import random
import sys
from collections.abc import Iterator

from jupyter_sc2.kernel.comm import protocol
from jupyter_sc2.notebook import Cell, Notebook
from jupyter_sc2.options import CompletionOptions
from jupyter_sc2.pipeline.completer import Completer
from jupyter_sc2.pipeline.generation import Generation
from jupyter_sc2.pipeline.grounding import Namespace
from jupyter_sc2.pipeline.job import Job
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.types import Completion

# What is typed below a long line: some lines that call, open a block and import.
ANSWER = "foo(a, b) + bar[1]\nprint(x)\nfor i in y:\n    pass\nimport os\nx = 3 + 4"


def kinds(size: int) -> dict[str, str]:
    """Cells of about so many characters, by what fills them."""
    chance = random.Random(0)
    data = base64.b64encode(chance.randbytes(size * 3 // 4)).decode()
    rows = [{"name": f"n{i}", "value": [i, i / 3, None]} for i in range(size // 50)]
    return {
        "one letter": f"s = '{'x' * size}",
        "a word": "x" * size,
        "hex": f"s = '{chance.randbytes(size // 2).hex()}",
        "dashes": f"# {'-' * size}",
        "base64": f"s = '{data}",
        "a data URI": f"s = 'data:image/png;base64,{data}",
        "JSON": f"d = {json.dumps(rows)}",
        "digits": f"x = {'1' * size}",
        "blanks": f"x = 1{' ' * size}",
        "tabs": "\t" * size,
        "brackets": f"x = {'[' * size}",
        "pairs of brackets": f"x = {'[]' * (size // 2)}",
        "calls": "f(" * (size // 2),
        "attributes": "a." * (size // 2),
        "subscripts": "a" + "[0]" * (size // 3),
        "quotes": f"x = {chr(39) * size}",
        "quotes of two kinds": "x = " + "'\"" * (size // 2),
        "backslashes": f"x = '{chr(92) * size}",
        "nested f-strings": "x = " + "f'{" * (size // 3),
        "many scripts": f"s = '{'ж漢🙂' * (size // 3)}",
        "words": "f(" + " ".join(f"w{i}" for i in range(size // 7)),
        "keywords": "f(" + ",".join(f"a{i}=1" for i in range(size // 8)),
        "minus signs": "x = " + "-1" * (size // 2),
        "questions": "x" * size + "?",
        "a magic": "%%" + "x" * size,
        "a command": "!ls " + "a, " * (size // 3),
        "lines": "a = 1\n" * (size // 6),
        "empty lines": "\n" * size,
        "commands": "!ls\n" * (size // 4),
        "imports": "import os\n" * (size // 10),
        "blocks": "try:\n x\n" * (size // 8),
    }


def places(text: str) -> dict[str, tuple[str, int]]:
    """The cell with a cursor at its end, inside, at its start, and in a line below."""
    middle = len(text) // 2
    return {
        "end": (text, len(text)),
        "middle": (f"{text[:middle]} {text[middle:]}", middle + 1),
        "start": (f"z = {text}", 4),
        "below": (f"{text}\ny = o\nprint(1)\n", len(text) + 6),
    }


class Typist:
    """Types keys in the cell "here" of a notebook, each of them a message as it comes over the wire."""

    def __init__(self, engine: object, namespace: Namespace | None = None, cells=()) -> None:
        self.notebook = Notebook((*cells, Cell(id="here", source="")), 1)
        self._session = Session(load_engine=lambda model, **kwargs: engine)
        self._completer = Completer(engine, self._session._debounce, namespace)

    def key(self, text: str, offset: int, trigger: str = "automatic") -> Completion:
        """All work of a key on this thread, as far as it is not the engine's; the last completion."""
        message = {"type": "complete", "id": "1", "text": text, "offset": offset, "cell_id": "here"}
        asked = protocol.parse({**message, "trigger": trigger})
        request = self._session._with_sampling(asked.request(self.notebook, "1"))
        job, options = Job(request, print, print), CompletionOptions(confidence=0.0)
        completion = self._completer.complete_from_cache(job, options)
        if completion is None:
            generation = Generation(job, options)
            self._completer.prefill(generation)
            *_, completion = self._completer.run(generation)
        assert completion is not None and completion.finish_reason is not None
        return completion


def type_everywhere(typist: Typist, size: int) -> Iterator[str]:
    """Types one key at each place of each kind of cell, and tells where."""
    for kind, text in kinds(size).items():
        for place, (whole, offset) in places(text).items():
            typist.key(whole, offset, "invoke")
            yield f"{kind}, {place}"


def main() -> None:
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    from jupyter_sc2.kernel.namespace import LiveNamespace
    from jupyter_sc2.settings import SC2
    from tests.support.fake_engine import FakeEngine

    shell = InteractiveShell(config=Config(HistoryManager={"enabled": False}))
    shell.run_cell("import os\nrows = [1]")
    size = int(sys.argv[1])
    engine = FakeEngine()
    long = [Cell(id=kind, source=text) for kind, text in kinds(size).items()]
    typist = Typist(engine, LiveNamespace(shell, SC2()), long)
    engine.answers = [ANSWER] * 1000
    for place in type_everywhere(typist, size):
        print(place, flush=True)


if __name__ == "__main__":
    main()
