"""An engine that knows the next words of a few lines in each language, with the card of any model.

It writes Python where the prompt names no other language: a test sees at once if a prompt does not.
"""

from __future__ import annotations

from collections.abc import Iterator

from jupyter_sc2.models.cards import cards
from jupyter_sc2.types import Token
from tests.support.fake_engine import FakeEngine

LINES = {
    "py": "result = compute_the_mean(values)",
    "r": "result <- mean(values, na.rm = TRUE)",
    "jl": "result = sum(values) / length(values)",
    "sql": "SELECT name, sum(amount) FROM sales;",
    "md": "A sentence that goes on and ends here.",
    "rs": "let result = values.iter().sum::<f64>();",
    "sh": "ls -la | wc -l",
}


class ScriptedEngine(FakeEngine):
    """Goes on with the line of the language that the prompt's last file name has."""

    def generate(self, ids, sampling, *args) -> Iterator[Token]:  # type: ignore[no-untyped-def,override]
        constraint = args[2] if len(args) > 2 else None
        start = constraint.first if constraint is not None else b""
        text = (self.decode_bytes(ids) + start).decode()
        line = LINES[last_ending(text)]
        begun = max((n for n in range(len(line)) if text.endswith(line[:n])), default=0)
        self.answers = [line[begun:] if begun >= 3 else ""]
        yield from super().generate(ids, sampling, *args)


def last_ending(prompt: str) -> str:
    """The ending of the last line that is a file's name; "py" if there is none."""
    names = [line for line in prompt.split("\n") if line.partition(".")[0] and " " not in line]
    endings = [name.rpartition(".")[2].lower() for name in names]
    return next((ending for ending in reversed(endings) if ending in LINES), "py")


def start(model: str) -> None:
    """Loads the extension in this kernel with this engine, which has the card of the model that is set.

    That is `model` until a setting says otherwise.
    """
    from IPython import get_ipython

    from jupyter_sc2 import extension

    def load_engine(name, *, progress, **options):  # type: ignore[no-untyped-def]
        return ScriptedEngine(card=cards()[name])

    shell = get_ipython()
    shell.config.SC2.model = model
    extension.load(shell, load_engine=load_engine)
