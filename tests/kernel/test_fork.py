"""Children that are forked while a model loads or decodes do what they are for. `tests.support.forking` has more."""

from __future__ import annotations

import os
import sys
import threading
import time

import pytest

from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.runtime.import_isolation import OwnImports
from tests.support import forking

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")

QUICK = [kind for kind in forking.available() if kind not in forking.NEEDS]


@pytest.mark.kernel
@pytest.mark.parametrize("kind", QUICK)
def test_children_come_back_that_are_forked_while_our_modules_are_imported(kind):
    came = forking.in_a_kernel(kind, "while_loading", 4)
    assert came["back"] and not came["failed"] and not came["hung"]


@pytest.mark.kernel
@pytest.mark.parametrize("kind", QUICK)
def test_children_come_back_that_are_forked_while_the_model_decodes(kind):
    came = forking.in_a_kernel(kind, "while_decoding", 4)
    assert came["back"] >= 4 and not came["failed"] and not came["hung"]


def child_ends(act) -> bool:
    """Whether a forked child that does this ends by itself, without an error."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            act()
            code = 0
        finally:
            os._exit(code)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return False


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_can_close_a_session_whose_lock_a_thread_held_at_the_fork(session: Session):
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with session._workers.changed, session._workers.board.lock:
            held.set()
            let_go.wait(20)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    try:
        assert child_ends(session.close)
    finally:
        let_go.set()
        thread.join()


@pytest.fixture
def importing(tmp_path, monkeypatch):
    """A thread of ours in the middle of an import, until the file `go` is there."""
    (tmp_path / "sc2_slow.py").write_text(
        "import os, time\n"
        f"while not os.path.exists({str(tmp_path / 'go')!r}): time.sleep(0.005)\n"
        "done = True\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sc2_slow", raising=False)
    imports = OwnImports()

    def work() -> None:
        with imports:
            import sc2_slow  # noqa: F401

    thread = threading.Thread(target=work)
    thread.start()
    while not imports.importing():
        assert thread.is_alive()
        time.sleep(0.001)
    yield imports, tmp_path / "go"
    (tmp_path / "go").touch()
    thread.join()


def test_a_fork_waits_for_the_end_of_an_import_of_ours(importing):
    imports, go = importing
    threading.Timer(0.2, go.touch).start()
    started = time.monotonic()
    imports.before_fork()
    assert time.monotonic() - started > 0.15
    assert not imports.importing()


def test_a_fork_does_not_wait_for_ever(importing, monkeypatch):
    imports, _ = importing
    monkeypatch.setattr("jupyter_sc2.runtime.import_isolation.FORK_WAIT_S", 0.1)
    imports.before_fork()
    assert imports.importing()


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_can_import_what_a_thread_of_ours_was_importing_for_too_long(importing):
    imports, go = importing

    def act() -> None:
        imports.after_fork_in_child()
        go.touch()
        import sc2_slow

        assert sc2_slow.done

    assert child_ends(act)
