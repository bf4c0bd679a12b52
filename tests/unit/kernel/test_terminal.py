"""Ghost text in a real IPython terminal, typed into over a pseudo-terminal."""

import os
import sys
import time

import pytest

pexpect = pytest.importorskip("pexpect")

STARTUP = """
from tests.unit.kernel.test_terminal import start
start()
del start
"""


def start():
    """Loads the extension in this terminal, with an engine that knows one line."""
    from IPython import get_ipython

    from jupyter_sc2 import extension
    from tests.support.fake_engine import FakeEngine

    class OneLine(FakeEngine):
        line = "values = sorted(range(10))"

        def generate(self, ids, sampling, stop_ids, cancelled, constraint=None, *draft):
            start = constraint.first if constraint is not None else b""
            text = (self.decode_bytes(ids) + start).decode()
            typed = text.rsplit("\n", 1)[-1]
            self.answers = [self.line[len(typed) :] if self.line.startswith(typed) else ""]
            return super().generate(ids, sampling, stop_ids, cancelled, constraint)

    extension.load(get_ipython(), load_engine=lambda model, **_: OneLine())


class Screen:
    """A terminal as its user sees it: what stands in the line of the cursor, and what of it is grey."""

    def __init__(self, folder):
        startup = folder / "profile_default" / "startup"
        startup.mkdir(parents=True)
        (startup / "sc2.py").write_text(STARTUP)
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
        self.child = pexpect.spawn(
            sys.executable,
            ["-m", "IPython", "--no-banner", "--no-confirm-exit", "--colors=linux"],
            env={
                **os.environ,
                "IPYTHONDIR": str(folder),
                "PYTHONPATH": root,
                "TERM": "xterm-256color",
                "PROMPT_TOOLKIT_NO_CPR": "1",
            },
            dimensions=(30, 120),
            encoding="utf-8",
            timeout=30,
        )
        self.child.expect_exact("In [")
        self.raw = ""

    def type(self, text):
        for char in text:
            self.child.send(char)
            time.sleep(0.02)

    def wait(self, text):
        self.child.expect_exact(text)

    def run(self, command):
        """Runs what was typed and what it says is shown in plain text."""
        self.type(command)
        self.child.send("\r")

    def take_and_print(self):
        """Takes all of what is grey, runs the line, and prints what it has made of `values`."""
        self.child.send(RIGHT)
        time.sleep(0.2)
        self.child.send("\r")
        self.run("print('got', values)")

    def close(self):
        self.child.close(force=True)


@pytest.fixture
def screen(tmp_path):
    screen = Screen(tmp_path)
    yield screen
    screen.close()


# What moves the cursor right, in an xterm.
RIGHT, CTRL_RIGHT, ALT_F = "\x1b[C", "\x1b[1;5C", "\x1bf"


@pytest.mark.slow
def test_right_arrow_takes_the_model_s_suggestion(screen):
    screen.type("values = so")
    screen.wait("rted(range(10))")
    screen.take_and_print()
    screen.wait("got [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]")


@pytest.mark.slow
def test_a_word_can_be_taken_and_the_rest_stays(screen):
    screen.type("values = so")
    screen.wait("rted(range(10))")
    screen.child.send(ALT_F)
    time.sleep(0.3)
    screen.take_and_print()
    screen.wait("got [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]")


@pytest.mark.slow
def test_what_the_history_suggests_comes_first(screen):
    screen.run("values = something = 7")
    screen.wait("In [")
    screen.type("values = so")
    screen.wait("mething = 7")
    screen.take_and_print()
    screen.wait("got 7")
