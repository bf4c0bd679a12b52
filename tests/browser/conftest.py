"""A real JupyterLab on a free port, driven in the system's Chromium. Nothing here is a stand-in."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, sync_playwright

EXAMPLES = Path(__file__).parents[2] / "examples"
# Nothing of the user's own settings, and no background traffic of Chromium's.
CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
LAB = "lab/workspaces/{}/tree"
# By module: `-m jupyter lab` would take the first jupyter-lab on PATH.
MODULES = {"lab": "jupyterlab", "notebook": "notebook"}
# Another environment's JupyterLab and kernel may be tried, such as that of `make oldest`.
SERVER_PYTHON = os.environ.get("SC2_SERVER_PYTHON", sys.executable)
# All ghost text on the screen; line breaks in it are elements.
SHOWN_GHOST = """() => {
  const text = node => node.nodeName === 'BR' ? '\\n' : node.nodeType === Node.TEXT_NODE ? node.data
    : [...node.childNodes].map(text).join('');
  const ghosts = '.jp-GhostText:not(.jp-GhostText-lineSpacer):not(.jp-GhostText-letterSpacer)';
  return [...document.querySelectorAll(ghosts)].filter(ghost => ghost.offsetParent).map(text).join('');
}"""
CLOSE_DOCUMENTS = """async () => {
  for (const widget of [...(window.jupyterapp?.shell.widgets('main') ?? [])]) {
    await widget.sessionContext?.shutdown();
    widget.dispose();
  }
}"""
# A kernel that starts with this completes known text slowly.
SLOW_ENGINE = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from tests.browser.slow_engine import start
start()
del sys, start
"""
# A loaded machine may take its time; a passing test does not wait for this.
PATIENCE_MS = int(os.environ.get("SC2_PATIENCE_MS", "60000"))


class Server:
    """`jupyter lab`, or `jupyter notebook`, in a folder of its own."""

    def __init__(
        self,
        folder: Path,
        app: str = "lab",
        startup: str = "",
        overrides: dict[str, Any] | None = None,
        without: tuple[str, ...] = (),
    ) -> None:
        """`without` are variables of the environment that it does not get."""
        self.root = folder / "notebooks"
        self.root.mkdir(parents=True)
        home = folder / "home"
        self.settings = home / "settings"
        self.changes, self.stopped = 0, False
        # A JupyterLab with these settings whose documents a test has closed: the next test need not load one.
        self.left: Page | None = None
        start = home / "ipython" / "profile_default" / "startup"
        start.mkdir(parents=True)
        # Else JupyterLab asks, over the lower right corner.
        self.set("@jupyterlab/apputils-extension:notification", fetchNews="false")
        # JupyterLab throws away what a busy kernel offers Tab after a second.
        self.set("@jupyterlab/completer-extension:manager", providerTimeout=PATIENCE_MS)
        if overrides:  # what an administrator writes to share/jupyter/lab/settings
            app_settings = folder / "app-settings"
            app_settings.mkdir()
            (app_settings / "overrides.json").write_text(json.dumps(overrides))
        if startup:
            (start / "scripted.py").write_text(startup)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.context: BrowserContext | None = None  # of all its pages: JupyterLab is fetched once
        self.log = folder / "server.log"
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    SERVER_PYTHON,
                    "-m",
                    MODULES[app],
                    "--no-browser",
                    "--allow-root",
                    f"--ServerApp.port={port}",
                    "--ServerApp.port_retries=0",
                    "--IdentityProvider.token=",
                    f"--ServerApp.root_dir={self.root}",
                    "--expose-app-in-browser",
                    *([f"--LabApp.app_settings_dir={app_settings}"] if overrides else []),
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **{name: value for name, value in os.environ.items() if name not in without},
                    "PATH": os.path.dirname(sys.executable) + os.pathsep + os.environ["PATH"],
                    "JUPYTER_CONFIG_DIR": str(home / "config"),
                    "JUPYTER_DATA_DIR": str(home / "data"),
                    "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
                    "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
                    "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
                    "IPYTHONDIR": str(home / "ipython"),
                    "HF_HUB_OFFLINE": "1",
                },
            )
        deadline = time.monotonic() + 3 * PATIENCE_MS / 1000  # where many others compute
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/api/status", timeout=1).close()
                return
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    self.stop()
                    raise RuntimeError(
                        f"jupyter {app} did not start:\n{self.log.read_text()}"
                    ) from None
                time.sleep(0.2)

    def notebook(
        self, name: str, *sources: str, kernel: str = "python3", language: str = "python"
    ) -> str:
        """Writes a notebook with these code cells; returns its name."""
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        document = nbformat.v4.new_notebook(cells=cells)
        document.metadata["kernelspec"] = {
            "name": kernel,
            "display_name": "Python 3 (ipykernel)" if kernel == "python3" else kernel,
            "language": language,
        }
        nbformat.write(document, self.root / name)
        return name

    def kernel(self, name: str, code: str = "", language: str = "python") -> str:
        """Adds a Python kernel that runs this code before all else; returns its name."""
        self._change()
        run = "from ipykernel.kernelapp import launch_new_instance as run; run()"
        folder = self.root.parent / "home/data/kernels" / name
        folder.mkdir(parents=True)
        argv = [sys.executable, "-c", f"{code}\n{run}", "-f", "{connection_file}"]
        spec = {"argv": argv, "display_name": name, "language": language}
        (folder / "kernel.json").write_text(json.dumps(spec))
        return name

    def set(self, plugin: str = "jupyter-sc2:plugin", **values: object) -> None:
        """What stands in the user's settings for pages that are opened from now on; nothing for none."""
        self._change()
        package, _, name = plugin.partition(":")
        file = self.settings / package / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))

    def _change(self) -> None:
        """Pages that are open do not know what is added now."""
        if self.left:
            self.left.close()
        self.changes, self.left = self.changes + 1, None

    def stop(self) -> None:
        self.stopped = True
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()


class NotebookPage:
    """One open notebook, seen as its user sees it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        # Of a page that several tests share: what opens it anew once one of them has failed.
        self.reopen: Callable[[], NotebookPage] | None = None

    def cell(self, index: int) -> Locator:
        return self._panel.locator(".jp-Notebook-cell").nth(index)

    def enter(self, index: int) -> None:
        """Puts the cursor at the end of a cell."""
        self.cell(index).locator(".cm-content").click()
        self.page.keyboard.press("Control+End")

    def type(self, text: str, delay: float = 40) -> None:
        self.page.keyboard.type(text, delay=delay)

    def run(self, index: int) -> None:
        """Runs a cell and stays in it."""
        self.enter(index)
        self.page.keyboard.press("Control+Enter")

    def source(self, index: int) -> str:
        """What really stands in a cell, ghost text excluded."""
        return str(
            self.page.evaluate(
                "index => window.jupyterapp.shell.currentWidget.content.widgets[index]"
                ".model.sharedModel.getSource()",
                index,
            )
        )

    def fill(self, index: int, source: str) -> None:
        """Puts text into a cell in one go, and the cursor at its end."""
        self.page.evaluate(
            "([index, source]) => window.jupyterapp.shell.currentWidget.content.widgets[index]"
            ".model.sharedModel.setSource(source)",
            [index, source],
        )
        self.enter(index)

    def shown_ghost(self) -> str:
        """The ghost text that is on the screen; JupyterLab also keeps empty spacers for a second."""
        return str(self.page.evaluate(SHOWN_GHOST)).strip("\n")

    def ghost_text(self) -> str:
        """The ghost text once there is some."""
        self.page.wait_for_function(
            "() => [...document.querySelectorAll('.jp-GhostText')]"
            ".some(ghost => ghost.offsetParent && ghost.textContent.trim())",
            timeout=PATIENCE_MS,
        )
        return self.shown_ghost()

    def wait_ghost(self, text: str) -> None:
        """Until the ghost text is this."""
        for _ in range(PATIENCE_MS // 50):
            if self.shown_ghost() == text.strip("\n"):
                return
            self.page.wait_for_timeout(50)
        raise AssertionError(f"The ghost text is {self.shown_ghost()!r}, not {text!r}.")

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def execute(self, code: str, *, counts: bool = False) -> None:
        """Runs code in the kernel without a cell, and without a number unless it `counts`."""
        self.page.wait_for_function(
            "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel"
        )
        self.page.evaluate(
            "([code, store_history]) => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
            ".requestExecute({code, store_history}).done",
            [code, counts],
        )

    def value(self, expression: str) -> str:
        """What an expression comes to in the kernel, as it would be printed."""
        return str(
            self.page.evaluate(
                "expression => window.jupyterapp.shell.currentWidget.sessionContext.session.kernel"
                ".requestExecute({code: '', silent: true, store_history: false,"
                " user_expressions: {it: expression}}).done"
                ".then(reply => reply.content.user_expressions.it.data['text/plain'])",
                expression,
            )
        )

    def slow(self, **values: object) -> None:
        """Sets what the slow engine does from now on."""
        sets = "; ".join(f"_e.{name} = {value!r}" for name, value in values.items())
        self.execute(f"import tests.browser.slow_engine as _e; {sets}; del _e")

    def wait_idle(self) -> None:
        self.wait_kernel("idle")

    def wait_kernel(self, status: str) -> None:
        self.page.wait_for_function(
            "status => window.jupyterapp?.shell.currentWidget?.sessionContext?.session"
            "?.kernel?.status === status",
            arg=status,
            timeout=PATIENCE_MS,
        )

    def wait_ready(self) -> None:
        """Until the status bar says that a model is there."""
        self.page.locator(".jp-sc2-StatusItem", has_text="ready").wait_for(timeout=PATIENCE_MS)

    def leave(self) -> None:
        """Ends the kernels and closes the page."""
        self.close_documents()
        self.page.close()

    def close_documents(self) -> None:
        """Kernels end, too; they would only keep the processor from other tests."""
        self.page.evaluate(CLOSE_DOCUMENTS)

    @property
    def _panel(self) -> Locator:
        return self.page.locator(".jp-NotebookPanel:visible")


def chromium_path() -> str:
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    assert path, "The browser tests need Chromium: install Debian's `chromium`, or set CHROMIUM."
    return path


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_path(), args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("lab"))
    shutil.copy(EXAMPLES / "quickstart.ipynb", server.root)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def slow_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("slow-lab"), startup=SLOW_ENGINE)
    yield server
    server.stop()


@pytest.fixture
def settings(slow_lab: Server) -> Iterator[Callable[..., None]]:
    """Sets settings of the slow lab's JupyterLab for one test."""
    yield slow_lab.set
    slow_lab.set()


def new_page(chromium: Browser, server: Server) -> Page:
    if server.context is None:
        server.context = chromium.new_context(viewport={"width": 1100, "height": 750})
    page = server.context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    return page


def open_page(chromium: Browser, server: Server, name: str, path: str) -> NotebookPage:
    """Opens a notebook in a JupyterLab without other documents, and waits for its kernel."""
    if path == LAB and server.left:
        page, server.left = server.left, None
        page.evaluate("path => window.jupyterapp.commands.execute('docmanager:open', {path})", name)
    else:
        page = new_page(chromium, server)
        page.goto(f"{server.url}/{path.format(f'w{time.monotonic_ns()}')}/{name}")
    notebook = NotebookPage(page)
    notebook.cell(0).wait_for()
    notebook.wait_idle()
    return notebook


def keep_screenshot(request: pytest.FixtureRequest, page: Page, number: int = 0) -> None:
    """What a failing test saw."""
    if getattr(request.node, "failed", False):
        folder = Path(__file__).parent / "screenshots"
        folder.mkdir(exist_ok=True)
        page.screenshot(path=folder / f"{request.node.name}-{number}.png")


@pytest.fixture
def open_notebook(
    chromium: Browser, request: pytest.FixtureRequest
) -> Iterator[Callable[..., NotebookPage]]:
    """Opens a notebook, its kernel started; a failing test leaves a screenshot."""
    opened = []

    def open_(server: Server, name: str, path: str = LAB) -> NotebookPage:
        notebook = open_page(chromium, server, name, path)
        opened.append((notebook, server, server.changes, path))
        return notebook

    yield open_
    failed = getattr(request.node, "failed", False)
    for number, (notebook, server, changes, path) in enumerate(opened):
        keep_screenshot(request, notebook.page, number)
        if server.stopped:
            notebook.page.close()
            continue
        notebook.close_documents()
        if path == LAB and not failed and not server.left and server.changes == changes:
            server.left = notebook.page
        else:
            notebook.page.close()


def shared(open_: Callable[[], NotebookPage]) -> Iterator[NotebookPage]:
    """A page for several tests, which is opened anew after each of them that fails."""
    notebook = open_()
    notebook.reopen = open_
    yield notebook
    notebook.leave()


@pytest.fixture(autouse=True)
def fresh_page_after_failure(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a failed test leaves open, a dialog for instance, must not fail the tests after it."""
    yield
    if not getattr(request.node, "failed", False):
        return
    for page in [one for one in request.node.funcargs.values() if isinstance(one, NotebookPage)]:
        if page.reopen and not page.page.is_closed():
            page.leave()
            page.page = page.reopen().page


@pytest.fixture(scope="module")
def one_notebook(chromium: Browser, slow_lab: Server) -> Iterator[NotebookPage]:
    """One notebook for a module's tests, which take a cell of it each."""

    def open_() -> NotebookPage:
        notebook = open_page(chromium, slow_lab, slow_lab.notebook("one.ipynb", ""), LAB)
        notebook.wait_ready()
        return notebook

    yield from shared(open_)


def begin_block(notebook: NotebookPage) -> None:
    """Types what a block follows, the ":" so late that it has been shown as the end of the line."""
    notebook.type("for name in names")
    notebook.wait_ghost(":")
    notebook.type(":")


@pytest.fixture
def quick_cell(
    one_notebook: NotebookPage, request: pytest.FixtureRequest
) -> Iterator[NotebookPage]:
    """The notebook with an empty cell in front, and an engine that is not slow."""
    one_notebook.slow(pace=0.002, loading=None, load_failure=None, failure=None, sure_until=None)
    one_notebook.enter(0)
    one_notebook.press("Control+a", "Delete", "Escape")
    one_notebook.enter(0)
    yield one_notebook
    keep_screenshot(request, one_notebook.page)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    outcome = yield
    if call.when == "setup":  # of a second try, maybe
        item.failed = False  # type: ignore[attr-defined]
    if outcome.get_result().failed:  # type: ignore[attr-defined]
        item.failed = True  # type: ignore[attr-defined]


def kernels(server: Server) -> list[dict[str, str]]:
    with urllib.request.urlopen(f"{server.url}/api/kernels") as answer:
        return list(json.load(answer))


def request_of(server: Server, method: str, path: str) -> None:
    """Asks the server for something, as one of its pages would."""
    request = urllib.request.Request(f"{server.url}/api/{path}", method=method, data=b"{}")
    cookie = "; ".join(f"{one['name']}={one['value']}" for one in server.context.cookies())  # type: ignore[union-attr]
    token = next(one["value"] for one in server.context.cookies() if one["name"] == "_xsrf")  # type: ignore[union-attr]
    request.add_header("Cookie", cookie)
    request.add_header("X-XSRFToken", token)
    urllib.request.urlopen(request).close()
