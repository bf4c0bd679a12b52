"""An engine that writes known text slowly: what a large model on a laptop looks like, but repeatable."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.types import Token
from tests.support.fake_engine import FakeEngine

LINE = "result = np.arange(10).reshape(2, 5).sum(axis=0)"
OTHERS = ("result = np.ones(3)", "result = None  # later")
BLOCK = "for name in names:\n    print(name)\n    total += len(name)"
AFTER_ENTER = "if total > 3:\n    print('many')"
TWO_LINES = "first = np.zeros(2)\nsecond = np.zeros(3)"

# Cells may change these. Seconds for each character: one number, or the two between which it is drawn.
pace: float | tuple[float, float] = 0.06
# The beginning of LINE after which the engine is not sure of what comes; else it is equally sure of all.
sure_until: str | None = None
# While there is one, a load goes on and tells this: a state, and how far it is.
loading: tuple[str, float] | None = None
# The one that was loaded last.
engine: SlowEngine | None = None
# What every load, or every completion, fails with.
load_failure: str | None = None
failure: str | None = None


class SlowEngine(FakeEngine):
    """Goes on with one of these texts from wherever the prompt stands in it."""

    def __init__(self) -> None:
        super().__init__()
        self._attempts = 0

    def generate(self, ids, sampling, *args) -> Iterator[Token]:  # type: ignore[no-untyped-def,override]
        if failure is not None:
            raise RuntimeError(failure)
        constraint = args[2] if len(args) > 2 else None
        start = constraint.first if constraint is not None else b""
        text = (self.decode_bytes(ids) + start).decode()
        self._attempts = self._attempts + 1 if sampling.temperature > 0 else 0
        texts = (LINE, *OTHERS)
        turn = self._attempts % len(texts)
        ranked = (*texts[turn:], *texts[:turn], BLOCK, AFTER_ENTER, TWO_LINES)
        self.answers = [max((rest(one, text) for one in ranked), key=lambda found: found[0])[1]]
        if sure_until is not None:
            self.logprob = doubtful_after(LINE.removesuffix(self.answers[0]), sure_until)
        for token in super().generate(ids, sampling, *args):
            time.sleep(pace if isinstance(pace, float | int) else random.uniform(*pace))
            yield token


def doubtful_after(there: str, sure_until: str) -> Callable[[str], float]:
    """Log-probabilities of what comes after a text that begins with what is `there`."""
    return lambda said: -0.85 if there + said == sure_until else -0.0001 if said else -0.3


def rest(script: str, text: str) -> tuple[int, str]:
    """How far the text stands in the script, and what of the script is left there."""
    for length in range(len(script), 2, -1):
        if text.endswith(script[:length]):
            return length, script[length:]
    return 0, ""


def read() -> str:
    """What the engine has read."""
    return engine.decode_bytes(engine._read).decode() if engine is not None else ""


def start() -> None:
    """Loads the extension in this kernel with the slow engine."""
    from IPython import get_ipython

    from jupyter_sc2 import extension

    def load_engine(model, *, progress, **options):  # type: ignore[no-untyped-def]
        while loading is not None:
            progress(*loading)
            time.sleep(0.05)
        if load_failure is not None:
            raise ModelLoadError(load_failure)
        global engine
        engine = SlowEngine()
        return engine

    shell = get_ipython()
    shell.config.SC2.grounding = False  # its line is about things that are not there
    shell.config.SC2.adaptive_confidence = False  # one test does not move what another one shows
    extension.load(shell, load_engine=load_engine)
