"""Takes pictures of the interface with the real model, in the light and the dark theme.

`python -m tests.browser.take_screenshots FOLDER` writes all of them there; without a folder it writes those that
the README shows, into examples/.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from jupyter_sc2.attribution.index import writing
from jupyter_sc2.attribution.sources import installed
from tests.browser.conftest import CHROMIUM_FLAGS, EXAMPLES, NotebookPage, Server, chromium_path
from tests.browser.test_panel_layout import USAGE

CELLS = (
    "import numpy as np\nimport pandas as pd",
    "heights = np.array([1.62, 1.75, 1.81, 1.68, 1.93])\nheights.mean()",
    "",
)
# What anybody writes who has to search in a sorted list.
BISECT = """def bisect_right(a, x, lo=0, hi=None, *, key=None):
    if lo < 0:
        raise ValueError("lo must be non-negative")
    if hi is None:
        hi = len(a)
    if key is None:
        while lo < hi:
            mid = (lo + hi) // 2
            if x < a[mid]:
                hi = mid
            else:
                lo = mid + 1
    else:
        while lo < hi:
            mid = (lo + hi) // 2
            if x < key(a[mid]):
                hi = mid
            else:
                """
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
README = {"ghost-light": "ghost-text", "panel-light": "panel", "attribution-light": "attribution"}
# What is typed for the animated picture, up to each suggestion that Tab accepts; the last one comes after Enter.
TYPED = (
    "import numpy as ",
    "import matplotlib.pyplot as ",
    "x = np.linspace(0, 10)\nplt.plot(x, np.",
    'plt.xlabel("x")\n',
    "",
)
FRAME_MS = 90
PAUSE_MS = 1200


def main(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as home, sync_playwright() as playwright:
        # The kernels have the model that ships with the package, whatever this process has.
        server = Server(Path(home), without=("JUPYTER_SC2_EMBEDDED",))
        server.set(hint=False)
        with writing(server.root.parent / "home/data/jupyter_sc2/attribution") as writer:
            writer.update([source for source in installed() if source.name == "Python"])
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": 900, "height": 420}, device_scale_factor=2)
        page.set_default_timeout(120_000)
        try:
            name = server.notebook("heights.ipynb", *CELLS)
            notebook = open_notebook(page, f"{server.url}/lab/workspaces/picture/tree/{name}")
            page.keyboard.press("Control+b")  # the file browser away
            notebook.run(0)
            notebook.run(1)
            for theme, title in THEMES.items():
                run(page, "apputils:change-theme", theme=title)
                page.wait_for_timeout(1000)
                take_all(notebook, folder, theme)
            run(page, "apputils:change-theme", theme=THEMES["light"])
            page.wait_for_timeout(1000)
            name = server.notebook("typing.ipynb", "")
            notebook = open_notebook(page, f"{server.url}/lab/workspaces/typing/tree/{name}")
            page.keyboard.press("Control+b")
            take_typing(notebook, folder / "typing.gif")
            name = server.notebook("search.ipynb", "")
            notebook = open_notebook(page, f"{server.url}/lab/workspaces/another/tree/{name}")
            page.keyboard.press("Control+b")
            page.set_viewport_size({"width": 900, "height": 560})
            for theme, title in THEMES.items():
                run(page, "apputils:change-theme", theme=title)
                page.wait_for_timeout(1000)
                take_attribution(notebook, folder / f"attribution-{theme}.png")
        finally:
            browser.close()
            server.stop()


def open_notebook(page: Page, url: str) -> NotebookPage:
    page.goto(url)
    notebook = NotebookPage(page)
    notebook.cell(0).wait_for()
    notebook.wait_idle()
    notebook.wait_ready()
    return notebook


def take_typing(notebook: NotebookPage, picture: Path) -> None:
    """An animated picture of typing and accepting, a frame for each key."""
    from PIL import Image

    page = notebook.page
    frames: list[tuple[bytes, int]] = []

    def shoot(duration: int) -> None:
        frames.append((page.screenshot(clip=clip), duration))

    page.set_viewport_size({"width": 760, "height": 380})
    notebook.enter(0)
    clip = {"x": 40, "y": 60, "width": 720, "height": 240}
    for text in TYPED:
        for character in text:
            page.keyboard.type(character)
            page.wait_for_timeout(30)
            shoot(FRAME_MS)
        notebook.ghost_text()
        page.wait_for_timeout(700)
        shoot(PAUSE_MS)
        page.keyboard.press("Tab")
        page.wait_for_timeout(200)
        shoot(PAUSE_MS // 2)
        notebook.press("Escape")
        notebook.enter(0)
        page.keyboard.press("Enter")
        page.wait_for_timeout(100)
    images = [Image.open(io.BytesIO(data)).convert("RGB") for data, _ in frames]
    small = [image.quantize(64) for image in images]
    small[0].save(
        picture,
        save_all=True,
        append_images=small[1:],
        duration=[duration for _, duration in frames],
        loop=0,
        optimize=True,
    )


def take_attribution(notebook: NotebookPage, picture: Path) -> None:
    """Ghost text that stands in Python's own library, too."""
    page = notebook.page
    notebook.fill(0, BISECT)
    notebook.type("lo")
    notebook.ghost_text()
    page.locator(".jp-sc2-Attribution").hover()
    page.wait_for_timeout(1000)
    page.screenshot(path=picture)
    page.mouse.move(400, 5)


def take_all(notebook: NotebookPage, folder: Path, theme: str) -> None:
    page = notebook.page

    def shoot(what: str) -> None:
        if what != "candidates":  # the bar with the keys comes where the mouse is
            page.mouse.move(400, 5)
        page.wait_for_timeout(1000)
        page.screenshot(path=folder / f"{what}-{theme}.png")

    notebook.enter(2)
    notebook.press("Control+a", "Delete")
    notebook.type("import matplotlib.pyplot as ")
    notebook.ghost_text()
    shoot("ghost")
    notebook.press("Escape", "Control+a", "Delete")
    notebook.type("for height in heights")
    notebook.press("Alt+\\")
    notebook.ghost_text()
    page.wait_for_timeout(2000)
    page.locator(".jp-GhostText:visible").first.hover()
    shoot("candidates")
    page.mouse.move(400, 5)  # or the bar stays for the next ghost text
    page.wait_for_timeout(500)
    notebook.press("Escape")
    page.locator(".jp-sc2-StatusItem-button").click()
    shoot("menu")
    page.keyboard.press("Escape")
    page.set_viewport_size({"width": 900, "height": 1120})
    notebook.execute(USAGE)
    run(page, "jupyter_sc2:open-panel")
    page.locator(".jp-sc2-Sidebar .jp-sc2-Badge", has_text="Ready").wait_for()
    page.locator(".jp-sc2-Sidebar .jp-sc2-Tokens").wait_for()
    page.locator(".jp-sc2-Sidebar .jp-sc2-Chart").wait_for()
    shoot("panel")
    run(page, "application:toggle-right-area")
    page.set_viewport_size({"width": 900, "height": 420})


def run(page, command: str, **args: str) -> None:  # type: ignore[no-untyped-def]
    page.evaluate(
        "([id, args]) => void window.jupyterapp.commands.execute(id, args)", [command, args]
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        Path(sys.argv[1]).mkdir(parents=True, exist_ok=True)
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder))
            for name, readme in README.items():
                (EXAMPLES / f"{readme}.png").write_bytes(
                    (Path(folder) / f"{name}.png").read_bytes()
                )
            (EXAMPLES / "typing.gif").write_bytes((Path(folder) / "typing.gif").read_bytes())
