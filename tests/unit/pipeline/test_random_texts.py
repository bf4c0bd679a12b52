"""Whatever stands around the cursor and whatever the model says, no request fails.

`SC2_SEED` repeats a run, `SC2_SEQUENCES=4000` makes so many requests.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace

from jupyter_sc2.models.cards import EMBEDDED
from jupyter_sc2.notebook import Cell, Notebook
from jupyter_sc2.options import CompletionOptions, LoadOptions
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.types import CompletionRequest
from tests.support.fake_engine import FakeEngine

REQUESTS = int(os.environ.get("SC2_SEQUENCES", "300"))
SEED = int(os.environ.get("SC2_SEED", random.SystemRandom().randrange(10**6)))
LANGUAGES = ("python", "r", "julia", "bash", "javascript", "rust", "yaml", "sql", "markdown")
# What opens and closes strings, brackets, comments and lines, more often than the rest.
SIGNS = 4 * ("\\", "'", '"', "#", "(", ")", "\n", "\n    ") + ("'''", '"""', "[", "]", "{", "}")
FRAGMENTS = (
    *SIGNS,
    *("\\\n", "\r\n", "\u2028", "\x00", "\t", " ", "f'", "rb'", "//", "/*", "*/", "`", "<-"),
    *("%%bash\n", "!ls ", "?", "->", "= ", ", ", ": ", "; ", "1.", "1e5", "_", "é", "日本", "😀"),
    *("df.", "np.", "x", "print(", "import ", "from a ", "as b", "def f(", "class A:", "return "),
    *("for i in ", "if x:", "else:", "lambda x: "),
)


def test_no_request_fails():
    print(f"\nSC2_SEED={SEED} SC2_SEQUENCES={REQUESTS}")
    chance = random.Random(SEED)

    def text(most: int) -> str:
        return "".join(chance.choices(FRAGMENTS, k=chance.randint(0, most)))

    engine = FakeEngine(card=replace(EMBEDDED, languages=LANGUAGES))
    session = Session(
        load_engine=lambda model, **kwargs: engine,
        options=CompletionOptions(confidence=0.05, next_suggestion="off"),
    )
    session.load(LoadOptions())
    for number in range(REQUESTS):
        engine.answers = [text(14) for _ in range(3)]
        sure = chance.choice((-0.01, -0.5, -2.0))
        engine.logprob = lambda said, sure=sure: sure
        prefix, suffix = text(12), text(5)
        request = CompletionRequest(
            text=prefix + suffix,
            offset=len(prefix),
            notebook=Notebook((Cell(id="above", source=text(8)),)),
            language=chance.choice(("python", chance.choice(LANGUAGES))),
            trigger=chance.choice(("automatic", "automatic", "invoke")),
            candidates=chance.choice((1, 1, 3)),
            id=str(number),
        )
        *_, last = session.complete(request)  # raises GenerationError
        assert last.finish_reason is not None
    session.close()
