"""Whatever is typed, deleted, accepted, moved and undone, and whenever completions come, the text is what it has to be.

`SC2_SEQUENCES=500` runs that many random sequences, `SC2_SEED` repeats a run, and `SC2_FROM` leaves its first ones out.
"""

from __future__ import annotations

import os
import random
import re

import pytest

from tests.browser.conftest import SHOWN_GHOST, Server
from tests.browser.slow_engine import AFTER_ENTER, BLOCK, LINE, OTHERS

SEQUENCES = int(os.environ.get("SC2_SEQUENCES", "10"))
SEED = int(os.environ.get("SC2_SEED", random.SystemRandom().randrange(10**6)))
FROM = int(os.environ.get("SC2_FROM", "0"))
ACTIONS = 12

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 + 20 * SEQUENCES)]

# Tells how things stood when the newest key went down, before anybody else has heard of it, and stand now.
WATCH = f"""() => {{
  const ghost = {SHOWN_GHOST};
  const editor = () => window.jupyterapp.shell.currentWidget.content.widgets[0].editor;
  window.now = () => ({{
    text: editor().model.sharedModel.getSource(),
    shown: editor().editor.state.doc.toString(),
    head: editor().editor.state.selection.main.head,
    ghost: ghost()
  }});
  window.addEventListener('keydown', () => {{ window.before = window.now(); }}, true);
}}"""

WORD = re.compile(r"\s*(?:\w+|[^\w\s]+)")
KEYS = {"all": "Tab", "word": "Alt+.", "line": "Alt+Shift+."}


def part(kind: str, ghost: str) -> str:
    if kind == "word":
        found = WORD.match(ghost)
        return found[0] if found else ghost
    return re.match(r"\s*[^\n]*", ghost)[0] if kind == "line" else ghost  # type: ignore[index]


class Typist:
    """Does one thing after another, and says after each what the text may be."""

    def __init__(self, notebook, chance: random.Random) -> None:
        self.notebook, self.chance = notebook, chance
        self.log: list[str] = []
        self.seen: list[str] = []
        self.accepted = 0

    def start(self, accept: bool) -> None:
        """Types the beginning of a script, and accepts some of its ghost text if told to."""
        self.log, self.seen = [], []
        self.notebook.press("Control+a", "Delete")
        self.notebook.page.evaluate(
            "window.jupyterapp.shell.currentWidget.content.widgets[0].model.sharedModel"
            ".clearUndoHistory()"
        )
        self.script = self.chance.choice([LINE, BLOCK, *OTHERS])
        start = self.script[: self.chance.randrange(3, 9)]
        self.notebook.type(start, delay=0)
        self.seen = [start[:length] for length in range(len(start) + 1)]
        # What is typed at random seldom goes on as a script does, so a beginning is let come to its ghost text: not
        # always, or none would come between two keys.
        if accept:
            self.notebook.ghost_text()
            self.accept(self.chance.choice(list(KEYS)))
            assert self.accepted, "Nothing was accepted."
        elif self.chance.random() < 0.5:
            self.notebook.page.wait_for_timeout(300)

    def press(self, key: str, allowed) -> None:
        """Presses a key. `allowed` tells, of how things stood before, all texts and cursors that may come."""
        expected = self.seen[-1] if self.seen else None
        self.notebook.page.keyboard.press(key)
        before, after = self.notebook.page.evaluate("[window.before, window.now()]")
        self.log.append(f"{key}: {before} -> {after}")
        assert expected in (None, before["text"]), "The text has changed without a key."
        assert after["text"] == after["shown"], "The editor shows another text than there is."
        if allowed is not None:
            may = allowed(before)
            assert (after["text"], after["head"]) in may, f"It should be one of {may}."
        self.seen.append(after["text"])

    def typed(self, char: str):
        pair = {"(": ")", "[": "]"}.get(char)

        def may(before):
            text, head = before["text"], before["head"]
            found = {(text[:head] + char + text[head:], head + 1)}
            if pair:
                found.add((text[:head] + char + pair + text[head:], head + 1))
            if char in ")]" and text[head : head + 1] == char:
                found.add((text, head + 1))  # over the one that the editor closed
            return found

        return may

    def act(self) -> None:
        now = self.notebook.page.evaluate("window.now()")
        kinds = ["follow"] * 5 + ["other"] * 2 + ["back"] * 2 + ["move", "undo", "enter", "wait"]
        if now["ghost"]:
            kinds += ["all", "word", "word", "word", "line", "line", "escape"]
        kind = self.chance.choice(kinds)
        if kind in KEYS:
            self.accept(kind)
        elif kind == "follow":
            char = now["ghost"][:1] or self.rest_of_script(now)
            self.press(*(("Enter", self.entered) if char == "\n" else (char, self.typed(char))))
        elif kind == "other":
            char = self.chance.choice("xy .=+(")
            self.press(char, self.typed(char))
        elif kind == "back":
            self.press("Backspace", self.deleted)
        elif kind == "move":
            key = self.chance.choice(["ArrowLeft", "ArrowRight", "Home", "End", "ArrowUp"])
            self.press(key, lambda before: AnyHead(before["text"]))
        elif kind == "undo":
            self.press("Control+z", lambda before: AnyHead(*self.seen, ""))
        elif kind == "enter":
            self.press("Enter", self.entered)
        elif kind == "escape":
            self.press("Escape", lambda before: AnyHead(before["text"]))
            self.notebook.enter(0)
        else:
            self.notebook.page.wait_for_timeout(self.chance.randrange(50, 300))

    def accept(self, kind: str) -> None:
        def may(before):
            text, head, taken = before["text"], before["head"], part(kind, before["ghost"])
            self.accepted += bool(taken)
            if not taken:  # it went just now, and the key is the editor's
                return AnyHead(text, text[:head] + "    " + text[head:])
            if taken == before["ghost"]:
                return Grown(text, head, taken)
            return {(text[:head] + taken + text[head:], head + len(taken))}

        # A letter that was typed through leaves the ghost text only when JupyterLab's timer has run; what is accepted
        # is right before, but one could not tell from the page.
        self.notebook.page.evaluate("new Promise(done => setTimeout(done))")
        now = self.notebook.page.evaluate("window.now()")
        self.press(KEYS[kind], may)
        if self.chance.random() < 0.3 and self.seen[-1] != now["text"]:
            self.press("Control+z", lambda before: AnyHead(now["text"]))

    def rest_of_script(self, now) -> str:
        line = now["text"][: now["head"]].rsplit("\n", 1)[-1]
        if self.script.startswith(line) and len(line) < len(self.script):
            return self.script[len(line)]
        return "r"

    def entered(self, before):
        text, head = before["text"], before["head"]
        behind = text[head:]
        return {
            (
                text[:head].rstrip(" ") * trim
                + text[:head] * (not trim)
                + "\n"
                + " " * indent
                + rest,
                len(text[:head].rstrip(" ") if trim else text[:head]) + 1 + indent,
            )
            for indent in range(72)
            for trim in (True, False)
            for rest in (behind, behind.lstrip(" "), "\n" + behind)
        } | AnyBetween(text, head)

    def deleted(self, before):
        text, head = before["text"], before["head"]
        found = {(text, 0)} if head == 0 else set()
        for count in range(1, 5):
            gone = text[max(0, head - count) : head]
            if count == 1 or gone == " " * count:
                found.add((text[: head - count] + text[head:], head - count))
        if text[head - 1 : head + 1] in ("()", "[]"):
            found.add((text[: head - 1] + text[head + 1 :], head - 1))
        return found


class AnyHead:
    """These texts, with the cursor anywhere."""

    def __init__(self, *texts: str) -> None:
        self.texts = texts

    def __contains__(self, state) -> bool:
        return state[0] in self.texts

    def __repr__(self) -> str:
        return repr(self.texts)


class Grown:
    """All that was shown is accepted, and with it what came of its word or line while the key was on its way."""

    def __init__(self, text: str, head: int, taken: str) -> None:
        self.before, self.taken, self.behind = text[:head], taken, text[head:]

    def __contains__(self, state) -> bool:
        text, head = state
        accepted = text[len(self.before) : head]
        return (
            text == self.before + accepted + self.behind
            and accepted.startswith(self.taken)
            and (
                accepted == self.taken
                or any(accepted in script for script in (LINE, BLOCK, *OTHERS, AFTER_ENTER))
            )
        )

    def __repr__(self) -> str:
        return repr(self.before + self.taken + "…" + self.behind)


def AnyBetween(text: str, head: int) -> set:
    """Enter between brackets opens a line of its own for the cursor."""
    if text[head - 1 : head + 1] not in ("()", "[]"):
        return set()
    return {
        (text[:head] + "\n" + " " * inner + "\n" + " " * outer + text[head:], head + 1 + inner)
        for inner in range(72)
        for outer in range(72)
    }


def test_typed_text_is_never_lost_or_doubled(slow_lab: Server, open_notebook, settings):
    print(f"\nSC2_SEED={SEED} SC2_SEQUENCES={SEQUENCES}")
    settings(debounce=20)
    notebook = open_notebook(slow_lab, slow_lab.notebook("random.ipynb", ""))
    notebook.wait_ready()
    notebook.execute("import tests.browser.slow_engine as _e; _e.pace = (0.0, 0.02); del _e")
    notebook.enter(0)
    notebook.page.evaluate(WATCH)
    accepted = 0
    for number in range(FROM, SEQUENCES):
        typist = Typist(notebook, random.Random(f"{SEED}-{number}"))
        try:
            # The dice alone accept next to nothing in some short runs, which would then say little.
            typist.start(accept=number % 3 == 0)
            for _ in range(ACTIONS):
                typist.act()
                notebook.page.wait_for_timeout(typist.chance.choice([0, 0, 10, 40, 120]))
        except AssertionError as error:
            steps = "\n".join(typist.log)
            raise AssertionError(f"seed {SEED}, sequence {number}: {error}\n{steps}") from None
        accepted += typist.accepted
    print(f"{accepted} parts accepted in {SEQUENCES - FROM} sequences")
    assert accepted > (SEQUENCES - FROM) // 4
