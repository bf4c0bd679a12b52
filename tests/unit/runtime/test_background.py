"""Threads and processes of ours are left alone by debuggers, tracers and profilers."""

import ast
import sys
import threading
from pathlib import Path

import pytest

import jupyter_sc2
from jupyter_sc2.runtime import background

PACKAGE = Path(jupyter_sc2.__file__).parent
MAKERS = {"Thread", "Timer", "ThreadPoolExecutor", "start_new_thread"}


def makers(path):
    """What of MAKERS a module takes from the standard library."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in ("threading", "_thread", "futures") and node.attr in MAKERS:
                yield node.attr
        elif isinstance(node, ast.ImportFrom) and node.module in ("threading", "_thread"):
            yield from MAKERS & {alias.name for alias in node.names}
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            yield from MAKERS & {node.func.id}


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_threads_are_made_in_one_place(path):
    if path != Path(background.__file__):
        assert list(makers(path)) == []


def on_a_thread(make):
    """What `make` makes of a function that notes the thread it runs on, and what watches it there."""
    seen = []
    make(lambda: seen.append((threading.current_thread(), sys.gettrace(), sys.getprofile())))
    return seen[0]


def run_thread(act):
    thread = background.Thread(act)
    thread.start()
    thread.join()


def run_timer(act):
    timer = background.Timer(0.001, act)
    timer.start()
    timer.join()


def run_pool(act):
    with background.pool(1) as pool:
        pool.submit(act).result()


@pytest.mark.parametrize("make", [run_thread, run_timer, run_pool])
def test_a_thread_bears_the_marks_that_debuggers_pass_by(make):
    thread, _, _ = on_a_thread(make)
    assert all(getattr(thread, mark) is True for mark in background.MARKS)


@pytest.mark.parametrize("make", [run_thread, run_timer, run_pool])
def test_tracers_and_profilers_of_the_users_are_not_on_a_thread(make):
    trace, profile = threading.gettrace(), threading.getprofile()
    threading.settrace(lambda frame, event, argument: None)
    threading.setprofile(lambda frame, event, argument: None)
    try:
        assert on_a_thread(make)[1:] == (None, None)
    finally:
        threading.settrace(trace)
        threading.setprofile(profile)


def test_a_cancelled_timer_does_nothing():
    called = []
    timer = background.Timer(0.05, lambda: called.append(1))
    timer.start()
    timer.cancel()
    timer.join()
    assert called == []
