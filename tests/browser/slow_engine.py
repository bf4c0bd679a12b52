"""An engine that writes one known line slowly: what a large model on a laptop looks like, but repeatable."""

from __future__ import annotations

import time
from collections.abc import Iterator

from jupyter_sc2.completion import Token
from tests.conftest import FakeEngine

LINE = "result = np.arange(10).reshape(2, 5).sum(axis=0)"


class SlowEngine(FakeEngine):
    """Goes on with LINE from wherever the prompt's last line stands, a character every 60 ms."""

    def generate(self, ids, *args) -> Iterator[Token]:  # type: ignore[no-untyped-def,override]
        healed = args[3] if len(args) > 3 else b""
        typed = self.decode_bytes(ids).decode().rsplit("\n", 1)[-1] + healed.decode()
        self.answers = [LINE[len(typed) :] if LINE.startswith(typed) else ""]
        for token in super().generate(ids, *args):
            time.sleep(0.06)
            yield token


def start() -> None:
    """Loads the extension in this kernel with the slow engine."""
    from IPython import get_ipython

    from jupyter_sc2 import extension

    extension.load(get_ipython(), load_engine=lambda model, **_: SlowEngine())
