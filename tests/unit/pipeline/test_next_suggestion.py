import time
from dataclasses import replace

import pytest

from jupyter_sc2.notebook import Cell, Notebook
from jupyter_sc2.options import CompletionOptions
from jupyter_sc2.pipeline.feedback import Feedback
from jupyter_sc2.pipeline.next_suggestion import ShownText, line_below
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.types import CompletionRequest
from tests.support.fake_engine import FakeEngine
from tests.unit.pipeline.test_session import request, submit, wait_until

ABOVE = Notebook((Cell(id="above", source="import math"), Cell(id="a", source="")))


def ask(text: str, offset: int | None = None, **fields) -> CompletionRequest:
    return request(text, offset, cell_id="a", notebook=ABOVE, front_end="lab", **fields)


def at(text: str, **fields) -> CompletionRequest:
    """The request where the text has a bar."""
    return ask(text.replace("|", ""), text.index("|"), **fields)


@pytest.fixture
def ahead(session: Session) -> Session:
    session.configure(CompletionOptions(next_suggestion="on"))
    return session


def computed(session: Session, count: int) -> None:
    """Waits until the engine was asked so often, and has nothing left to do."""
    wait_until(lambda: len(session.engine.prompts) >= count and session.idle)


@pytest.mark.parametrize(
    ("cursor", "below"),
    [
        ("x = f(1)|", "x = f(1)\n|"),
        ("    x = 1|\ny = 2", "    x = 1\n    |\ny = 2"),
        ("for x in y:|", "for x in y:\n    |"),
        ("\tif x:|", "\tif x:\n\t\t|"),
        ('print("a|")', 'print("a")\n|'),
        ("print(a|)\nb = 1", "print(a)\n|\nb = 1"),
        ("x = 1|  \n", "x = 1\n|\n"),
        ("f(a,|", "f(a,\n  |"),
        ("    f(|", "    f(\n        |"),
        ("f(  # why\n    a,|", "f(  # why\n    a,\n    |"),
        ("f(a, [1|])", "f(a, [1])\n|"),
        ("  # why:|", "  # why:\n  |"),
        ("f(\n    g(1|)\n)", "f(\n    g(1)\n    |\n)"),
        ("x = {'(': [|", "x = {'(': [\n    |"),
    ],
)
def test_the_line_below_is_where_enter_leads(cursor, below):
    found = line_below(at(cursor))
    assert found is not None
    assert found.prefix + "|" + found.suffix == below


@pytest.mark.parametrize("cursor", ["f(a|, b)", "|", "    |", "x = '''a|", "y| = 2", "f(a|]"])
def test_where_enter_leads_is_unknown_inside_a_line_or_a_string(cursor):
    assert line_below(at(cursor)) is None


@pytest.mark.parametrize("language", ["r", "julia"])
def test_a_colon_indents_in_python_only(language):
    found = line_below(at("x:|", language=language))
    assert found is not None
    assert found.text == "x:\n"


def test_the_request_after_an_accept_is_automatic_and_for_one_candidate():
    shown = ShownText(at("x = |\n", trigger="invoke", candidates=3, id="7"), "1 + é", 0.0)
    accepted = shown.accepted
    assert (accepted.text, accepted.offset) == ("x = 1 + é\n", 9)
    assert (accepted.trigger, accepted.candidates, accepted.id) == ("automatic", 1, "")


def test_what_follows_an_accept_is_there_before_it_is_requested(ahead, fake_engine):
    fake_engine.answers = ["1\n", "y = 2"]
    assert submit(ahead, ask("x = ")).final.text == "1"
    computed(ahead, 2)
    assert submit(ahead, ask("x = 1")).final.reason == "nothing_to_add"
    final = submit(ahead, ask("x = 1\n")).final
    assert (final.text, final.source) == ("y = 2", "cache")
    assert len(fake_engine.prompts) == 2


@pytest.mark.parametrize(
    ("cursor", "answer", "after"),
    [
        ("print(|)", "x", "print(x)\n|"),
        ('print("|")', "x", 'print("x")\n|'),
        ("x = |\nz = 3", "1", "x = 1\n|\nz = 3"),
    ],
)
def test_the_line_below_is_found_with_the_closers_of_the_editor(
    ahead, fake_engine, cursor, answer, after
):
    fake_engine.answers = [f"{answer}\n", "y = 2"]
    assert submit(ahead, at(cursor)).final.text == answer
    computed(ahead, 2)
    final = submit(ahead, at(after)).final
    assert (final.text, final.source) == ("y = 2", "cache")


def test_a_block_is_computed_where_its_line_ends(ahead, fake_engine):
    fake_engine.answers = [" > 1:\n", "\n    y = 2\n"]
    assert submit(ahead, ask("if x")).final.text == " > 1:"
    computed(ahead, 2)
    assert submit(ahead, ask("if x > 1:")).final.source == "cache"
    assert submit(ahead, ask("if x > 1:\n    ")).final.text == "y = 2"


def test_accepting_word_by_word_costs_no_further_request(ahead, fake_engine):
    fake_engine.answers = ["a + b\n", "y = 2"]
    submit(ahead, ask("x = ")).final  # noqa: B018
    computed(ahead, 2)
    assert submit(ahead, ask("x = a")).final.text == " + b"
    assert submit(ahead, ask("x = a + ")).final.text == "b"
    time.sleep(0.4)
    assert submit(ahead, ask("x = a + b\n")).final.text == "y = 2"
    assert len(fake_engine.prompts) == 2


def test_a_text_that_is_shown_again_is_not_computed_for_again(ahead, fake_engine):
    fake_engine.answers = ["1\n"]
    submit(ahead, ask("x = ")).final  # noqa: B018
    computed(ahead, 2)
    submit(ahead, ask("x = ")).final  # noqa: B018
    time.sleep(0.4)
    assert ahead.idle
    assert len(fake_engine.prompts) == 2


def test_a_request_for_something_else_ends_it_at_once(ahead, fake_engine):
    fake_engine.answers = ["1\n", "y = 22", "3"]
    submit(ahead, ask("x = ")).final  # noqa: B018
    fake_engine.gate.clear()
    wait_until(lambda: len(fake_engine.prompts) == 2)
    answers = submit(ahead, ask("z = "))
    wait_until(lambda: len(fake_engine.prompts) == 3)
    fake_engine.gate.set()
    assert answers.final.text == "3"


def test_a_request_of_another_front_end_ends_it_at_once(ahead, fake_engine):
    fake_engine.answers = ["1\n", "y = 22", "3"]
    submit(ahead, ask("x = ")).final  # noqa: B018
    fake_engine.gate.clear()
    wait_until(lambda: len(fake_engine.prompts) == 2)
    answers = submit(ahead, request("z = ", front_end="console"))
    wait_until(lambda: len(fake_engine.prompts) == 3)
    fake_engine.gate.set()
    assert answers.final.text == "3"


def test_an_accept_takes_over_what_is_being_computed(ahead, fake_engine):
    fake_engine.answers = ["1\n", "y = 22"]
    submit(ahead, ask("x = ")).final  # noqa: B018
    fake_engine.hold_after("y = ")
    wait_until(lambda: fake_engine.held)
    answers = submit(ahead, ask("x = 1\n"))
    fake_engine.hold_after(None)
    assert answers.final.text == "y = 22"
    assert len(fake_engine.prompts) == 2


def test_nothing_is_computed_ahead_while_a_cell_runs(ahead, fake_engine):
    fake_engine.answers = ["1\n"]
    ahead.set_kernel_busy(True)
    submit(ahead, ask("x = ")).final  # noqa: B018
    time.sleep(0.4)
    assert len(fake_engine.prompts) == 1


def test_a_cell_that_starts_ends_it(ahead, fake_engine):
    fake_engine.answers = ["1\n", "y = 2", "3"]
    submit(ahead, ask("x = ")).final  # noqa: B018
    fake_engine.gate.clear()
    wait_until(lambda: len(fake_engine.prompts) == 2)
    ahead.set_kernel_busy(True)
    wait_until(lambda: ahead.idle)
    fake_engine.gate.set()
    assert submit(ahead, ask("x = 1\n")).final.text == "3"


@pytest.mark.parametrize(
    ("setting", "remote", "prompts"),
    [("auto", False, 2), ("auto", True, 1), ("on", True, 2), ("off", False, 1)],
)
def test_a_server_is_asked_ahead_only_where_that_is_set(
    session, fake_engine, setting, remote, prompts
):
    fake_engine.capabilities = replace(fake_engine.capabilities, remote=remote)
    fake_engine.answers = ["1\n"]
    session.configure(CompletionOptions(next_suggestion=setting))
    submit(session, ask("x = ")).final  # noqa: B018
    time.sleep(0.4)
    wait_until(lambda: session.idle)
    assert len(fake_engine.prompts) == prompts


def test_nothing_is_computed_ahead_after_the_model_was_unloaded(ahead, fake_engine):
    fake_engine.answers = ["1\n"]
    submit(ahead, ask("x = ")).final  # noqa: B018
    ahead.unload()
    ahead.load()
    ahead.wait_ready(5)
    time.sleep(0.4)
    assert len(fake_engine.prompts) == 1


def test_nothing_is_computed_for_a_text_that_is_not_shown(session, fake_engine):
    session.configure(CompletionOptions(next_suggestion="on", confidence=0.99))
    fake_engine.answers = ["1\n"]
    assert submit(session, ask("x = ")).final.reason == "low_confidence"
    time.sleep(0.4)
    assert len(fake_engine.prompts) == 1


def test_what_is_computed_ahead_teaches_nothing_about_the_user(fake_engine):
    feedback = Feedback()
    session = Session(
        load_engine=lambda model, **kwargs: fake_engine,
        options=CompletionOptions(next_suggestion="on"),
        feedback=feedback,
    )
    try:
        fake_engine.answers = ["1\n", "y = 2"]
        submit(session, ask("x = ")).final  # noqa: B018
        computed(session, 2)
        assert feedback.correction(fake_engine.card.name).suggestions == 0
        submit(session, ask("x = 1\n")).final  # noqa: B018
        assert feedback.correction(fake_engine.card.name).suggestions == 1
    finally:
        session.close()


def test_a_failure_ahead_is_nobodys(ahead, fake_engine):
    fake_engine.answers = ["1\n"]
    submit(ahead, ask("x = ")).final  # noqa: B018
    fake_engine.error = RuntimeError("out of memory")
    computed(ahead, 2)
    assert ahead.status.state == "ready"
    fake_engine.answers = ["3"]
    assert submit(ahead, ask("z = ")).final.text == "3"


def test_the_status_does_not_flicker_while_it_computes_ahead(ahead, fake_engine):
    fake_engine.answers = ["1\n", "y = 2"]
    submit(ahead, ask("x = ")).final  # noqa: B018
    states: list[str] = []
    ahead.subscribe(lambda status: states.append(status.state))
    computed(ahead, 2)
    assert states == []


def test_tokens_computed_ahead_are_counted_and_so_are_those_that_were_used(ahead, fake_engine):
    fake_engine.answers = ["1\n", "y = 2"]
    submit(ahead, ask("x = ")).final  # noqa: B018
    computed(ahead, 2)
    decoded, used = ahead.tokens_ahead
    assert decoded >= len("y = 2")
    assert used == 0
    submit(ahead, ask("x = 1\n")).final  # noqa: B018
    assert ahead.tokens_ahead[1] > 0


def test_a_notebook_is_not_read_again_for_what_nobody_has_requested(ahead, fake_engine):
    fake_engine.answers = ["1\n", "y = 2"]
    long = "# " + "a" * 2000
    submit(ahead, ask(f"{long}\nx = ")).final  # noqa: B018
    shown = ShownText(request("z = ", front_end="lab"), "1", 0.0)
    with ahead._workers.changed:
        ahead._scheduler.shown.clear()
        ahead._scheduler.shown.add(replace(shown, request=ask(f"# {'b' * 2000}\nx = ")))
        ahead._workers.changed.notify_all()
    wait_until(lambda: ahead.idle)
    assert len(fake_engine.prompts) == 1


@pytest.fixture
def fake_engine() -> FakeEngine:
    return FakeEngine()
