"""What all tests have: the small model, folders of their own, and a session on a scripted engine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

# The first embedded model: a twentieth of today's, so that what is tested is not how quick the model is. Kernels and
# servers that are started inherit this.
os.environ["JUPYTER_SC2_EMBEDDED"] = str(Path(__file__).parent / "data" / "model")

from jupyter_sc2.options import CompletionOptions
from jupyter_sc2.pipeline.session import Session
from tests.support.fake_engine import FakeEngine
from tests.support.needs import (  # noqa: F401
    pytest_addoption,
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_ignore_collect,
    pytest_itemcollected,
    pytest_runtest_makereport,
    pytest_runtest_setup,
    pytest_terminal_summary,
    pytest_xdist_make_scheduler,
)


@pytest.fixture(scope="session", autouse=True)
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The developer's numbers and history are not those of the tests; kernels that are started inherit this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        yield


@pytest.fixture(scope="session", autouse=True)
def shells_end_at_once() -> Iterator[None]:
    """Some 150 shells would each collect all garbage when the process ends: most of a minute."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(InteractiveShell, "atexit_operations", lambda shell: None)
        yield


@pytest.fixture(autouse=True)
def signals_stay() -> Iterator[None]:
    """Processes that later tests start would inherit a signal that is ignored, and not end when they are told to."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    assert {number: signal.getsignal(number) for number in before} == before


@pytest.fixture
def fake_engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def session(fake_engine: FakeEngine) -> Iterator[Session]:
    """A session that loads the fake engine, whatever model is asked for, and asks it for nothing on its own."""
    session = Session(
        load_engine=lambda model, **kwargs: fake_engine,
        options=CompletionOptions(next_suggestion="off"),
    )
    yield session
    session.close()
