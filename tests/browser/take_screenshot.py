"""Takes the README's picture, examples/ghost-text.png: `python -m tests.browser.take_screenshot`."""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser.conftest import CHROMIUM_FLAGS, EXAMPLES, NotebookPage, Server, chromium_path

CELLS = (
    "import numpy as np\nimport pandas as pd",
    "heights = np.array([1.62, 1.75, 1.81, 1.68, 1.93])\nheights.mean()",
    "",
)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = Server(Path(folder))
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": 900, "height": 420}, device_scale_factor=2)
        try:
            name = server.notebook("heights.ipynb", *CELLS)
            page.goto(f"{server.url}/lab/workspaces/picture/tree/{name}")
            notebook = NotebookPage(page)
            notebook.cell(0).wait_for()
            notebook.wait_idle()
            notebook.wait_ready()
            page.keyboard.press("Control+b")  # the file browser away
            notebook.run(0)
            notebook.run(1)
            notebook.enter(2)
            notebook.type("import matplotlib.pyplot as ")
            notebook.ghost_text()
            page.wait_for_timeout(1000)
            page.screenshot(path=EXAMPLES / "ghost-text.png")
        finally:
            browser.close()
            server.stop()


if __name__ == "__main__":
    main()
