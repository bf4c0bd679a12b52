"""In a real kernel, what follows a suggestion is there once that is accepted, unless a cell runs meanwhile."""

import time

import pytest

from tests.support.kernels import LOAD, OLD, FrontEnd

pytestmark = pytest.mark.kernel

READING_S = 1.0  # longer than it takes to compute what follows


@pytest.fixture(scope="module")
def kernel(version):
    front_end = FrontEnd(old=version == OLD)
    front_end.run("values = [1, 2]")
    front_end.run(LOAD.format(engine="QuickLines"))
    yield front_end
    front_end.close()


def source_after_accepting(comm, text: str) -> str:
    """Who answers on the line below once the suggestion for a text is accepted: the model or the cache."""
    shown = comm.final(comm.ask(text))["content"]["data"]["text"]
    assert shown
    time.sleep(READING_S)
    below = comm.final(comm.ask(f"{text}{shown}\n"))["content"]["data"]
    assert below["text"] == "sum(values)"
    return below["source"]


def test_what_follows_a_suggestion_is_computed_while_it_is_shown(comm):
    assert source_after_accepting(comm, "first = ") == "cache"


def test_nothing_is_computed_ahead_while_a_cell_runs(kernel, comm):
    cell = kernel.start("import time; time.sleep(2.5)")
    try:
        assert source_after_accepting(comm, "second = ") == "model"
    finally:
        kernel.finish(cell)


def test_the_setting_ends_it(kernel, comm):
    comm.say({"type": "configure", "settings": {"next_suggestion": "off"}})
    try:
        assert source_after_accepting(comm, "third = ") == "model"
    finally:
        comm.say({"type": "configure", "settings": {"next_suggestion": "auto"}})
