"""Ghost text that is shown is not taken back, but by what the user types.

`SC2_SEQUENCES=300` types that many random sequences, `SC2_SEED` repeats a run.
"""

from __future__ import annotations

import os
import random

import pytest

from tests.browser.conftest import SHOWN_GHOST
from tests.browser.slow_engine import LINE

SEQUENCES = int(os.environ.get("SC2_SEQUENCES", "3"))
SEED = int(os.environ.get("SC2_SEED", random.SystemRandom().randrange(10**6)))
KEYS = 8

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300 + 20 * SEQUENCES)]

# Compares each frame with the one before. What was typed of the ghost text is gone from it; all else has to be there
# still, but for the brackets and quotes at its end, which the editor may have closed itself. After a key that does not
# type a character, and one that is not the ghost text's next, anything may come.
WATCH = f"""() => {{
  const ghost = {SHOWN_GHOST};
  const editor = () => window.jupyterapp.shell.currentWidget.content.widgets[0].editor;
  window.takenBack = [];
  let last = null;
  let free = true;
  window.addEventListener('keydown', event => {{
    free ||= event.key.length !== 1 || event.altKey || event.ctrlKey;
  }}, true);
  const look = () => {{
    const now = {{
      text: editor().model.sharedModel.getSource(),
      head: editor().editor.state.selection.main.head,
      ghost: ghost()
    }};
    if (last && last.ghost && !free) {{
      const typed = now.text.slice(last.head, Math.max(last.head, now.head));
      const left = last.ghost.slice(typed.length).replace(/[)\\]}}'"]+$/, '');
      if (last.ghost.startsWith(typed) && !now.ghost.startsWith(left)) {{
        window.takenBack.push([last, now]);
      }}
    }}
    free = false;
    last = now;
    requestAnimationFrame(look);
  }};
  requestAnimationFrame(look);
}}"""

HEAD = "window.jupyterapp.shell.currentWidget.content.widgets[0].editor.editor.state.selection.main.head"


def test_what_is_shown_is_taken_back_by_the_users_keys_only(quick_cell):
    print(f"\nSC2_SEED={SEED} SC2_SEQUENCES={SEQUENCES}")
    quick_cell.execute("get_ipython().run_line_magic('config', 'SC2.confidence = 0.3')")
    quick_cell.page.evaluate(WATCH)
    try:
        for number in range(SEQUENCES):
            chance = random.Random(f"{SEED}-{number}")
            sure_until = LINE[: chance.randrange(12, len(LINE))] if number else LINE[:30]
            quick_cell.slow(pace=(0.0, 0.02), sure_until=sure_until)
            quick_cell.press("Control+a", "Delete")
            typed = LINE[: chance.randrange(4, 24)] if number else "result = "
            quick_cell.type(typed, delay=chance.choice([0, 20]))
            if not number:  # something has to be shown at all
                quick_cell.ghost_text()
            for _ in range(KEYS):
                quick_cell.page.wait_for_timeout(chance.choice([20, 100, 400, 800]))
                now = quick_cell.shown_ghost()
                head = quick_cell.page.evaluate(HEAD)
                right = now[:1] or LINE[head : head + 1]
                if not right:  # the line's end
                    break
                key = chance.choice([right] * 5 + (["Tab"] * 2 if now else []) + ["y"])
                quick_cell.press(key)
                if key == "y":
                    break
            taken_back = quick_cell.page.evaluate("window.takenBack")
            assert not taken_back, f"seed {SEED}, sequence {number}"
    finally:
        quick_cell.execute("get_ipython().run_line_magic('config', 'SC2.confidence = None')")
