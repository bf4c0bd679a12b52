"""What each test needs: found out from what it says, and watched where nothing heavy may be needed.

The marks `torch`, `kernel` and `slow` are written at tests. `torch` also comes of itself where a test's module, a
fixture of its or the test says `pytest.importorskip("torch")`, and `browser` in tests/browser.

`pytest --quick` leaves all these out, and fails a test that imports torch or starts a kernel and is not marked so.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Generator, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import CodeType

import pytest

from tests.support import groups
from tests.support.paths import TESTS

HEAVY = ("torch", "transformers")
NOT_QUICK = ("torch", "kernel", "browser", "slow")
# After so long a test is given up; on a machine at rest none takes half of that.
QUICK_SECONDS, SLOW_SECONDS = 30, 300

BROWSER = TESTS / "browser"
_heavy: list[str] = []  # what a quick test should not have done
_SKIPS = re.compile(rf'^(?:\w+ = )?pytest\.importorskip\("(?:{"|".join(HEAVY)})"\)', re.MULTILINE)
_KERNEL = re.compile(r"ipykernel_launcher|jupyter.(?:lab|notebook|execute|console|nbconvert)\b")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick",
        action="store_true",
        help="only what needs neither torch, nor a kernel, nor a browser, and takes no more than seconds",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("quick"):
        sys.addaudithook(_watch)  # for good: there is no way to take one back


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event == "import" and str(arguments[0]).partition(".")[0] in HEAVY:
        _fail(f"imports {arguments[0]}", "torch")
    if event == "subprocess.Popen" and _KERNEL.search(_command(arguments[1])):
        _fail("starts a kernel or a server", "kernel")


def _fail(does: str, mark: str) -> None:
    _heavy.append(f"A quick test {does}. If it has to, mark it: @pytest.mark.{mark}.")
    pytest.fail(_heavy[-1], pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Whatever became of what was raised, maybe in another thread: that line is why the test fails."""
    report = yield
    if _heavy:
        report.outcome, report.longrepr = "failed", _heavy[0]
        _heavy.clear()
    return report


def _command(arguments: object) -> str:
    return arguments if isinstance(arguments, str) else " ".join(map(str, arguments))  # type: ignore[call-overload]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Quick tests are not to wait until a module that needs torch has imported it."""
    if not config.getoption("quick"):
        return None
    heavy = collection_path == BROWSER or (
        collection_path.suffix == ".py" and _module_needs_torch(collection_path)
    )
    return heavy or None


@cache
def _module_needs_torch(path: Path) -> bool:
    return _SKIPS.search(path.read_text("utf-8")) is not None


def pytest_itemcollected(item: pytest.Item) -> None:
    if BROWSER in item.path.parents:
        item.add_marker("browser")
    if needs_torch(item):
        item.add_marker("torch")
    if item.config.getoption("quick"):
        item.add_marker(pytest.mark.timeout(QUICK_SECONDS))
    elif item.get_closest_marker("timeout") is None and any(
        item.get_closest_marker(mark) for mark in ("slow", "browser", "kernel")
    ):
        item.add_marker(pytest.mark.timeout(SLOW_SECONDS))
    # Programs and threads are late now and then on a busy machine: a test has a second try, and the closing lines name
    # it. What is wrong fails twice. The time limit is one for both tries, so after it there is none.
    item.add_marker(pytest.mark.flaky(reruns=1, rerun_except="from pytest-timeout"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for report in terminalreporter.stats.get("rerun", []):
        crash = getattr(report.longrepr, "reprcrash", None)
        why = crash.message.splitlines()[0] if crash else report.longreprtext[-200:]
        terminalreporter.write_line(f"tried again: {report.nodeid}: {why}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("torch") and find_spec("torch") is None:
        pytest.skip("torch is not installed")


def needs_torch(item: pytest.Item) -> bool:
    function = getattr(item, "function", None)
    fixtures = getattr(item, "_fixtureinfo", None)
    said = [function] if function else []
    if fixtures:
        said += [one.func for defined in fixtures.name2fixturedefs.values() for one in defined]
    return _module_needs_torch(item.path) or any(
        "importorskip" in code.co_names and not set(HEAVY).isdisjoint(code.co_consts)
        for one in said
        for code in _codes(getattr(one, "__code__", None))
    )


def _codes(code: CodeType | None) -> Iterator[CodeType]:
    """A function's code, and that of the functions in it."""
    if code is not None:
        yield code
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                yield from _codes(constant)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object | None:
    """Quick tests share next to nothing and are dealt out one by one."""
    return None if config.getoption("quick") else groups.scheduler(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("quick"):
        left_out = {item for item in items if any(item.get_closest_marker(m) for m in NOT_QUICK)}
        config.hook.pytest_deselected(items=[*left_out])
        items[:] = [item for item in items if item not in left_out]
    # The files that take longest come first, or one of them would be left when the other processes are done.
    ranks: dict[Path, int] = {}
    for item in items:
        ranks[item.path] = min(_rank(item), ranks.get(item.path, len(NOT_QUICK)))
    items.sort(key=lambda item: ranks[item.path])


def _rank(item: pytest.Item) -> int:
    order = ("browser", "kernel", "slow", "torch")
    return next((n for n, mark in enumerate(order) if item.get_closest_marker(mark)), len(order))
