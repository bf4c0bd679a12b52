import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from jupyter_sc2.errors import GenerationError, ModelLoadError, SC2Error
from jupyter_sc2.models.cards import ModelCard
from jupyter_sc2.notebook import Cell, Notebook
from jupyter_sc2.options import CompletionOptions, LoadOptions
from jupyter_sc2.pipeline.feedback import Feedback
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.pipeline.status import Status
from jupyter_sc2.runtime.exit_gate import gate
from jupyter_sc2.types import Completion, CompletionRequest, SamplingParams
from tests.support.fake_engine import FakeEngine


def request(text: str = "x = ", offset: int | None = None, **fields) -> CompletionRequest:
    return CompletionRequest(text=text, offset=len(text) if offset is None else offset, **fields)


def invoke(text: str = "x = ", **fields) -> CompletionRequest:
    return request(text, trigger="invoke", **fields)


class Answers:
    """What came back for one request."""

    def __init__(self) -> None:
        self.updates: list[Completion] = []
        self.error: SC2Error | None = None
        self.done = threading.Event()

    def update(self, completion: Completion) -> None:
        self.updates.append(completion)
        if completion.finish_reason is not None:
            self.done.set()

    def fail(self, error: SC2Error) -> None:
        self.error = error
        self.done.set()

    @property
    def final(self) -> Completion:
        assert self.done.wait(5), "no final update"
        assert self.error is None
        return self.updates[-1]


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def submit(session: Session, request: CompletionRequest) -> Answers:
    answers = Answers()
    session.submit(request, answers.update, answers.fail)
    return answers


def test_text_grows_until_stop(session, fake_engine):
    fake_engine.answers = ["1 + 2"]
    *partial, final = session.complete(invoke())
    assert (final.text, final.finish_reason, final.source) == ("1 + 2", "stop", "model")
    assert all(
        final.text.startswith(update.text) and update.finish_reason is None for update in partial
    )


def test_a_completion_ends_with_its_line_without_decoding_on(session, fake_engine):
    fake_engine.answers = ["1\n" + "y = 2\n" * 20]
    final = submit(session, request()).final
    assert final.text == "1"
    assert final.stats.generated_tokens < 10


def test_max_tokens_ends_with_length(session, fake_engine):
    fake_engine.answers = ["abcdefgh"]
    *_, final = session.complete(invoke(sampling=SamplingParams(max_tokens=3)))
    assert (final.text, final.finish_reason) == ("abc", "length")


def test_a_character_split_over_tokens_comes_whole(session, fake_engine):
    fake_engine.answers = ["'é🎉'"]
    *partial, final = session.complete(invoke())
    assert final.text == "'é🎉'"
    assert not any("\ufffd" in update.text for update in partial)


@pytest.mark.parametrize("char", ["\x1b]0;x\x07", "\u202e", "\u200b", "\u2028", "\r", "\U000e0041"])
def test_no_update_ever_has_what_nobody_sees(session, fake_engine, char):
    fake_engine.answers.append(f"12{char}34")
    answers = submit(session, invoke())
    assert answers.final.text == "12"
    assert all(update.text in ("1", "12") for update in answers.updates)


def test_the_status_names_a_model_without_what_nobody_sees():
    status = Status(model="./a\x1b[31m\u202e", message="one \x07\ntwo")
    assert (status.model, status.message) == (r"./a\x1b[31m\u202e", "one \\x07\ntwo")


def test_the_stats_count_what_was_read_and_what_was_reused(session, fake_engine):
    fake_engine.answers = ["1", "2"]
    *_, first = session.complete(invoke("a = "))
    *_, second = session.complete(invoke("a = b + "))
    assert first.stats.reused_tokens == 0
    assert 0 < second.stats.reused_tokens < second.stats.prompt_tokens
    assert second.stats.first_token_ms <= second.stats.total_ms


def test_a_newer_automatic_request_cancels_the_older(session, fake_engine):
    fake_engine.answers = ["old", "new"]
    fake_engine.gate.clear()
    older = submit(session, request("x = ", id="1"))
    assert fake_engine.started.wait(5)
    newer = submit(session, request("y = ", id="2"))
    assert older.final.finish_reason == "cancelled"
    fake_engine.gate.set()
    assert newer.final.text == "new"


def test_typing_what_is_being_said_goes_on_with_it(session, fake_engine):
    fake_engine.answers = ["np.zeros(3)"]
    fake_engine.hold_after("np.z")
    older = submit(session, request("x = "))
    wait_until(lambda: fake_engine.held)
    newer = submit(session, request("x = np."))
    fake_engine.hold_after(None)
    assert older.final.finish_reason == "cancelled"
    assert (newer.final.text, newer.final.source) == ("zeros(3)", "model")
    assert len(fake_engine.prompts) == 1


def test_who_types_faster_than_it_is_said_waits_for_it(session, fake_engine):
    fake_engine.answers = ["np.zeros(3)"]
    fake_engine.hold_after("n")
    submit(session, request("x = "))
    wait_until(lambda: fake_engine.held)
    newer = submit(session, request("x = np.ze"))
    fake_engine.hold_after(None)
    assert newer.final.text == "ros(3)"
    assert not any(update.text.startswith("np") for update in newer.updates)


def test_what_turns_out_to_be_something_else_is_asked_anew(session, fake_engine):
    fake_engine.answers = ["np.zeros(3)", "ones(3)"]
    fake_engine.hold_after("n")
    submit(session, request("x = "))
    wait_until(lambda: fake_engine.held)
    newer = submit(session, request("x = np."))
    newest = submit(session, request("x = np.o"))
    fake_engine.hold_after(None)
    assert newer.final.finish_reason == "cancelled"
    assert newest.final.text == "ones(3)"
    assert len(fake_engine.prompts) == 2


def test_what_somebody_went_on_with_is_found_again_after_backspace(session, fake_engine):
    fake_engine.answers = ["np.zeros(3)"]
    fake_engine.hold_after("np.z")
    submit(session, request("x = "))
    wait_until(lambda: fake_engine.held)
    newer = submit(session, request("x = np."))
    fake_engine.hold_after(None)
    assert newer.final
    final = submit(session, request("x = n")).final
    assert (final.text, final.source) == ("p.zeros(3)", "cache")


def test_a_bracket_that_the_editor_closed_is_no_reason_to_ask_again(session, fake_engine):
    fake_engine.answers = ["print(x)"]
    assert submit(session, request("")).final.text == ""  # an empty notebook is not asked about
    assert submit(session, request("a\n")).final.text == "print(x)"
    final = submit(session, request("a\nprint()", 8)).final
    assert (final.text, final.source) == ("x", "cache")


def test_a_line_that_was_typed_to_its_end_is_not_asked_about_again(session, fake_engine):
    fake_engine.answers = ["1\nmore"]
    assert submit(session, request("x = ")).final.text == "1"
    final = submit(session, request("x = 1")).final
    assert (final.text, final.reason, final.source) == ("", "nothing_to_add", "cache")
    assert submit(session, request("x = 1\n")).final.source == "model"


@pytest.mark.parametrize("opener", [":", "(", "(["])
def test_a_line_that_opens_something_is_asked_about_again_when_it_is_typed(
    session, fake_engine, opener
):
    fake_engine.answers = [f"{opener}\n    first()", "second()\n"]
    before = "if total > 3" if opener == ":" else "total = sum"
    assert submit(session, request(before)).final.text == opener
    assert submit(session, request(before + opener)).final.text == "second()"


def test_a_colon_that_is_typed_while_it_is_said_has_its_block_said_as_well(session, fake_engine):
    fake_engine.answers = [":\n    print('many')"]
    fake_engine.hold_after(":")
    line = submit(session, request("if total > 3"))
    wait_until(lambda: fake_engine.held)
    block = submit(session, request("if total > 3:"))
    fake_engine.hold_after(None)
    assert (line.final.text, block.final.text) == (":", "\n    print('many')")
    assert len(fake_engine.prompts) == 1


# How much of a text is shown


def surely(said: str) -> float:
    return -0.001


def doubtful_after(*parts: str) -> Callable[[str], float]:
    return lambda said: -4.0 if said in parts else -0.001


@pytest.mark.parametrize(
    "asked, sure, text", [(0.9, -0.5, ""), (0.3, -0.001, "np.zeros(3)"), (0.0, -9.0, "np.zeros(3)")]
)
def test_ghost_text_is_shown_where_the_model_is_sure_enough(
    session, fake_engine, asked, sure, text
):
    session.configure(CompletionOptions(confidence=asked))
    fake_engine.answers = ["np.zeros(3)"]
    fake_engine.logprob = lambda said: sure
    assert submit(session, request()).final.text == text


def test_where_the_model_is_not_sure_it_says_so_at_once(session, fake_engine):
    session.configure(CompletionOptions(confidence=0.7))
    fake_engine.answers = ["np.zeros(3)"]
    answers = submit(session, request())
    # One for the blank that is typed, and one that is judged.
    assert (answers.final.reason, answers.final.stats.generated_tokens) == ("low_confidence", 2)
    assert not any(update.text for update in answers.updates)


def test_a_doubtful_rest_is_left_out(session, fake_engine):
    session.configure(CompletionOptions(confidence=0.3))
    fake_engine.answers = ["np.zeros(3)[index]"]
    fake_engine.logprob = doubtful_after("np.zeros(3)")
    final = submit(session, request()).final
    assert (final.text, final.finish_reason) == ("np.zeros(3)", "stop")


def test_the_rest_comes_without_the_model_once_what_is_before_it_was_accepted(session, fake_engine):
    session.configure(CompletionOptions(confidence=0.3))
    fake_engine.answers = ["np.zeros(3) + other.mean()"]
    fake_engine.logprob = lambda said: {"": -0.3, "np.zeros(3)": -1.1}.get(said, -0.0001)
    assert submit(session, request()).final.text == "np.zeros(3)"
    later = submit(session, request("x = np.zeros(3)")).final
    assert (later.text, later.source) == (" + other.mean()", "cache")


def test_what_the_model_doubts_too_much_is_asked_for_again(session, fake_engine):
    session.configure(CompletionOptions(confidence=0.3))
    fake_engine.answers = ["np.zeros(3)[index]", ".T"]
    fake_engine.logprob = doubtful_after("np.zeros(3)")
    submit(session, request()).final  # noqa: B018
    later = submit(session, request("x = np.zeros(3)")).final
    assert (later.text, later.source) == (".T", "model")


def test_what_is_shown_stays_while_it_is_typed(session, fake_engine):
    session.configure(CompletionOptions(confidence=0.3))
    fake_engine.answers = ["np.zeros(3)"]
    fake_engine.logprob = surely
    submit(session, request()).final  # noqa: B018
    for count in range(1, len("np.zeros(3)")):
        left = submit(session, request("x = " + "np.zeros(3)"[:count])).final
        assert left.text == "np.zeros(3)"[count:]


def test_streamed_text_only_grows(session, fake_engine):
    session.configure(CompletionOptions(confidence=0.2))
    fake_engine.answers = ["np.zeros(3).reshape(shape)[index]"]
    fake_engine.logprob = lambda said: -1.0 if said.endswith((".", "(", "[")) else -0.01
    texts = [update.text for update in submit(session, request()).updates]
    assert all(later.startswith(text) for text, later in pairwise(texts))


def test_the_confidence_is_the_probability_of_all_that_is_shown(session, fake_engine):
    fake_engine.answers = ["np.zeros(3)"]
    fake_engine.logprob = surely
    sure = submit(session, request()).final.confidence
    fake_engine.answers = ["np.zeros(4)"]
    fake_engine.logprob = doubtful_after("np.zeros(")
    doubtful = submit(session, request("y = ")).final.confidence
    assert 0 < doubtful < sure < 1


def test_what_the_user_accepts_and_types_past_moves_the_threshold(fake_engine):
    feedback = Feedback()
    session = Session(load_engine=lambda model, **kwargs: fake_engine, feedback=feedback)
    fake_engine.answers = ["np.zeros(3)"]
    fake_engine.logprob = surely
    submit(session, request()).final  # noqa: B018
    session.accepted()
    assert feedback.threshold(fake_engine.card.name, 0.3) < 0.3
    submit(session, request("x = pd.concat(")).final  # noqa: B018
    assert feedback.correction(fake_engine.card.name).suggestions == 1
    session.close()


def test_without_a_setting_the_models_own_confidence_counts(session, fake_engine):
    fake_engine.card = replace(fake_engine.card, confidence=0.7)
    fake_engine.answers = ["np.zeros(3)"]
    assert submit(session, request()).final.reason == "low_confidence"


def test_what_was_said_under_other_settings_is_asked_for_again(session, fake_engine):
    fake_engine.answers = ["np.zeros(3)", "np.zeros(3)"]
    assert submit(session, request()).final.text == "np.zeros(3)"
    session.configure(CompletionOptions(confidence=0.7))
    assert submit(session, request()).final.reason == "low_confidence"


def test_who_asks_by_a_key_of_their_own_sees_what_the_model_is_not_sure_of(session, fake_engine):
    session.configure(CompletionOptions(confidence=0.7))
    fake_engine.answers = ["np.zeros(3)"]
    assert submit(session, invoke()).final.text == "np.zeros(3)"


@pytest.mark.parametrize("ask", [request, invoke])
@pytest.mark.parametrize(
    "cell", ["%%bash\necho ", "!ls ", "x = !ls ", "%%julia\n", "%%mermaid\n", "%%my_timer\necho "]
)
def test_a_model_is_asked_only_for_languages_that_its_card_names(session, fake_engine, ask, cell):
    final = submit(session, ask(cell)).final
    assert (final.text, final.finish_reason, final.reason) == ("", "stop", "other_language")
    assert fake_engine.prompts == []


def test_a_kernels_language_counts_as_a_magics_does(session, fake_engine):
    assert submit(session, request(language="R")).final.reason == "other_language"
    assert fake_engine.prompts == []


def test_a_model_whose_card_names_the_language_reads_the_cell_in_it(session, fake_engine):
    fake_engine.card = replace(fake_engine.card, languages=("Python", "Shell"))
    fake_engine.answers = ["$HOME"]
    assert submit(session, request("%%sh\necho ")).final.text == "$HOME"
    assert "notebook.sh" in fake_engine.asked()


def test_a_line_for_the_system_is_read_as_the_notebook_has_it(session, fake_engine):
    fake_engine.card = replace(fake_engine.card, languages=("python", "bash"))
    fake_engine.answers = ["-la"]
    assert submit(session, request("x = 1\n!ls ")).final.text == "-la"
    assert "notebook.py" in fake_engine.asked()
    assert "x = 1\n!ls" in fake_engine.asked()


@pytest.mark.parametrize(
    "cell", ["%%time\nx = ", "%time x = ", "%matplotlib ", "%%writefile a.py\n1"]
)
def test_what_is_python_below_and_behind_a_magic_is_asked_for(session, fake_engine, cell):
    fake_engine.answers = ["inline"]
    assert submit(session, request(cell)).final.text == "inline"


def test_who_asks_below_a_magic_of_their_own_is_answered_in_python(session, fake_engine):
    fake_engine.answers = ["time.time()"]
    cell = "%%my_timer\nimport time\nt = "
    assert submit(session, request(cell)).final.reason == "other_language"
    assert submit(session, invoke(cell)).final.text == "time.time()"


def test_text_cells_are_asked_for_where_prose_is(session, fake_engine):
    session.configure(CompletionOptions(prose=True))
    fake_engine.answers = ["world"]
    book = Notebook((Cell(id="m", source="", cell_type="markdown"),))
    asked = request("%%bash hello ", cell_id="m", notebook=book)
    assert submit(session, asked).final.text == "world"


def test_nothing_is_read_ahead_in_a_language_that_is_not_asked_for(session, fake_engine):
    session.load()
    session.wait_ready()
    session.prefetch(request("%%bash\necho "))
    wait_until(lambda: session.idle)
    assert session.tokens_read == 0
    session.prefetch(request("%%time\nx = "))
    wait_until(lambda: session.tokens_read > 0)


def test_what_is_said_for_python_is_not_gone_on_with_in_a_command(session, fake_engine):
    fake_engine.answers = ["!pip install x"]
    fake_engine.gate.clear()
    first = submit(session, request("\n", notebook=Notebook((Cell(id="a", source="x = 1"),))))
    assert fake_engine.started.wait(5)
    second = submit(session, request("\n!", notebook=Notebook((Cell(id="a", source="x = 1"),))))
    fake_engine.gate.set()
    assert first.final.finish_reason == "cancelled"
    assert second.final.reason == "other_language"


def test_a_model_that_is_done_at_once_has_nothing_to_add(session, fake_engine):
    session.configure(CompletionOptions(confidence=0.7))
    fake_engine.answers = [""]
    assert submit(session, request()).final.reason == "nothing_to_add"


def test_what_may_be_asked_next_is_read_when_there_is_nothing_else_to_do(session, fake_engine):
    session.load()
    session.wait_ready(5)
    session.prefetch(request("import numpy as np\n"))
    wait_until(lambda: len(fake_engine._read) > 10)
    stats = submit(session, request("import numpy as np\nx = ")).final.stats
    assert stats.reused_tokens > 10


def test_nothing_is_read_ahead_while_a_cell_runs(session, fake_engine):
    session.load()
    session.wait_ready(5)
    session.set_kernel_busy(True)
    session.prefetch(request("import numpy as np\n"))
    time.sleep(0.05)
    assert fake_engine._read == ()
    session.set_kernel_busy(False)
    wait_until(lambda: len(fake_engine._read) > 10)


def test_who_asks_does_not_wait_for_what_is_read_ahead(session, fake_engine):
    session.load()
    session.wait_ready(5)
    fake_engine.slow_prefill = True  # until cancelled
    session.prefetch(request("import numpy as np\n"))
    wait_until(lambda: fake_engine.reading)
    fake_engine.answers = ["1"]
    assert submit(session, request()).final.text == "1"


def test_what_was_to_be_read_ahead_is_not_read_once_something_is_asked(session, fake_engine):
    session.load()
    session.wait_ready(5)
    fake_engine.slow_prefill = True  # until cancelled
    session.prefetch(request("import numpy as np\n"))
    wait_until(lambda: fake_engine.reading)
    fake_engine.answers = ["1"]
    assert submit(session, request("y = ")).final.text == "1"
    wait_until(lambda: session.idle)
    assert b"numpy" not in fake_engine.decode_bytes(fake_engine._read)


def test_what_a_cell_has_interrupted_is_read_ahead_when_it_has_ended(session, fake_engine):
    session.load()
    session.wait_ready(5)
    fake_engine.slow_prefill = True
    session.prefetch(request("import numpy as np\n"))
    wait_until(lambda: fake_engine.reading)
    fake_engine._read = ()
    session.set_kernel_busy(True)
    wait_until(lambda: not fake_engine.reading)
    fake_engine._read = ()
    session.set_kernel_busy(False)
    wait_until(lambda: len(fake_engine._read) > 10)


def test_an_invoked_request_survives_ghost_text(session, fake_engine):
    fake_engine.answers = ["asked", "ghost"]
    fake_engine.gate.clear()
    invoked = submit(session, invoke(id="1"))
    assert fake_engine.started.wait(5)
    ghost = submit(session, request("y = ", id="2"))
    fake_engine.gate.set()
    assert (invoked.final.text, ghost.final.text) == ("asked", "ghost")


def test_cancel_ends_a_running_request(session, fake_engine):
    fake_engine.answers = ["never"]
    fake_engine.gate.clear()
    answers = submit(session, invoke(id="7"))
    assert fake_engine.started.wait(5)
    session.cancel("7")
    assert answers.final.finish_reason == "cancelled"


def test_every_request_of_a_burst_gets_exactly_one_end(session, fake_engine):
    fake_engine.answers = ["x"] * 100
    asked = [submit(session, request("a" * n + " = ", id=str(n))) for n in range(1, 40)]
    for answers in asked:
        assert answers.final
    wait_until(lambda: session.idle)
    assert [sum(u.finish_reason is not None for u in answers.updates) for answers in asked] == [
        1
    ] * len(asked)


def test_closing_the_iterator_cancels(session, fake_engine):
    fake_engine.answers = ["never ending"]
    stream = session.complete(invoke())
    next(stream)
    fake_engine.gate.clear()
    stream.close()
    fake_engine.gate.set()
    fake_engine.answers = ["next"]
    assert [*session.complete(invoke("y = "))][-1].text == "next"


def test_a_failing_model_is_one_error_and_the_session_lives_on(session, fake_engine):
    fake_engine.error = RuntimeError("bad\nvery long story")
    with pytest.raises(
        GenerationError, match=r"^The model failed while completing: RuntimeError: bad$"
    ):
        list(session.complete(invoke()))
    fake_engine.answers = ["fine"]
    assert [*session.complete(invoke())][-1].text == "fine"


def test_candidates_differ_and_the_last_one_ends_the_request(session, fake_engine):
    fake_engine.answers = ["one", "one", "two", "three"]
    updates = [*session.complete(invoke(candidates=3))]
    texts = {update.index: update.text for update in updates}
    assert texts == {0: "one", 1: "two", 2: "three"}
    assert [update.finish_reason for update in updates if update.finish_reason] == ["stop"]


def test_only_the_first_candidate_is_greedy(session, fake_engine):
    fake_engine.answers = ["one", "two"]
    list(session.complete(invoke(candidates=2)))
    assert [sampling.temperature > 0 for sampling in fake_engine.samplings] == [False, True]


def test_typing_what_was_proposed_is_answered_without_the_model(session, fake_engine):
    fake_engine.answers = ["np.array(a)"]
    submit(session, request("x = ")).final  # noqa: B018
    final = submit(session, request("x = np.ar")).final
    assert (final.text, final.source) == ("ray(a)", "cache")
    assert len(fake_engine.prompts) == 1


def test_backspace_finds_the_older_completion_again(session, fake_engine):
    fake_engine.answers = ["np.zeros(3)", "other"]
    submit(session, request("x = ")).final  # noqa: B018
    submit(session, request("x = q")).final  # noqa: B018
    assert submit(session, request("x = n")).final.text == "p.zeros(3)"


def test_the_cache_is_not_asked_when_another_cell_changed(session, fake_engine):
    fake_engine.answers = ["1", "2"]
    for source in ("a", "b"):
        notebook = Notebook((Cell(id="1", source=source), Cell(id="2", source="")))
        final = submit(session, request("x = ", notebook=notebook, cell_id="2")).final
    assert (final.text, final.source) == ("2", "model")


def test_the_cache_is_not_asked_when_the_settings_changed(session, fake_engine):
    fake_engine.answers = ["1", "2"]
    submit(session, request()).final  # noqa: B018
    session.configure(CompletionOptions(sampling=SamplingParams(temperature=0.9)))
    assert submit(session, request()).final.text == "2"


def test_settings_reach_the_next_completion(session, fake_engine):
    fake_engine.answers = ["1", "2"]
    list(session.complete(invoke()))
    session.configure(CompletionOptions(sampling=SamplingParams(temperature=0.9, max_tokens=5)))
    list(session.complete(invoke()))
    assert fake_engine.samplings[1] == SamplingParams(temperature=0.9, max_tokens=5)


def test_nothing_is_loaded_before_it_is_wanted():
    loads: list[str] = []
    session = Session(load_engine=lambda model, **_: loads.append(model) or FakeEngine())
    time.sleep(0.05)
    assert (loads, session.status.state) == ([], "unloaded")
    session.ensure_loaded()
    session.wait_ready(5)
    assert loads == ["embedded"]
    session.close()


def test_what_is_asked_while_loading_is_answered_when_loaded():
    ready = threading.Event()
    engine = FakeEngine("late")

    def load(model, **_):
        ready.wait(5)
        return engine

    session = Session(load_engine=load)
    answers = submit(session, request())
    assert session.status.state in ("unloaded", "loading")
    ready.set()
    assert answers.final.text == "late"
    session.close()


def test_a_model_that_cannot_be_loaded_leaves_the_embedded_one_answering():
    def load(model, **_):
        if model != "embedded":
            raise ModelLoadError("There is no such model.")
        return FakeEngine("still here")

    session = Session(load_engine=load)
    session.load(LoadOptions(model="nonsense"))
    with pytest.raises(ModelLoadError, match=r"There is no such model\."):
        session.wait_ready(5)
    wait_until(lambda: session.status.state == "ready")
    assert session.status.message == "There is no such model. The embedded model answers instead."
    assert submit(session, request()).final.text == "still here"
    session.close()


def test_foreign_exceptions_of_a_load_become_one_line():
    def load(model, **_):
        raise KeyError("first\nsecond")

    session = Session(load_engine=load)
    session.load()
    with pytest.raises(ModelLoadError, match=r"embedded could not be loaded: KeyError: .first"):
        session.wait_ready(5)
    wait_until(lambda: session.status.state == "error")
    session.close()


def test_a_newer_load_ends_the_older_one():
    def load(model, *, progress, **_):
        while model == "slow":
            time.sleep(0.01)
            progress("downloading", 0.5)
        return FakeEngine()

    session = Session(load_engine=load)
    session.load(LoadOptions(model="slow"))
    while session.status.state != "downloading":
        time.sleep(0.01)
    session.load(LoadOptions(model="quick"))
    assert session.wait_ready(5).state == "ready"
    session.close()


def test_an_unloaded_model_stays_away_until_it_is_asked_for(session, fake_engine):
    session.load()
    session.wait_ready(5)
    session.unload()
    final = submit(session, request()).final
    assert (final.text, final.reason) == ("", "not_ready")
    fake_engine.answers = ["back"]
    assert [*session.complete(invoke())][-1].text == "back"


def test_unloading_closes_the_engine(session, fake_engine):
    session.load()
    session.wait_ready(5)
    session.unload()
    wait_until(lambda: fake_engine.closed and session.status.state == "unloaded")


def test_listeners_hear_each_state(session, fake_engine):
    states: list[str] = []
    session.subscribe(lambda status: states.append(status.state))
    fake_engine.answers = ["1"]
    list(session.complete(invoke()))
    session.unload()
    wait_until(lambda: states[-1] == "unloaded")
    assert states == ["loading", "ready", "generating", "ready", "unloaded"]


def test_what_is_asked_of_a_closed_session_fails_at_once(session):
    session.close()
    with pytest.raises(GenerationError, match="was unloaded"):
        list(session.complete(invoke()))


def test_close_returns_at_once_while_the_model_works(session, fake_engine):
    fake_engine.answers = ["never"]
    fake_engine.gate.clear()
    submit(session, invoke())
    assert fake_engine.started.wait(5)
    session.close()
    fake_engine.gate.set()


# A large model loads while another answers


class SlowLoads:
    """Loads "large" when told to, and anything else at once; each engine's thread is noted when it is used."""

    def __init__(self) -> None:
        self.ready = threading.Event()
        self.started = threading.Event()
        self.fails = False
        self.large = FakeEngine("from large", "more", card=ModelCard(name="large"))
        self.small = FakeEngine("from small", "again")
        self.loaded_by: dict[str, int] = {}

    def __call__(self, model, *, progress, **_):
        self.loaded_by[model] = threading.get_ident()
        if model != "large":
            return self.small
        self.started.set()
        while not self.ready.wait(0.01):
            progress("downloading", 0.5)
        if self.fails:
            raise ModelLoadError("large is broken.")
        return self.large


@pytest.fixture
def slow():
    return SlowLoads()


@pytest.fixture
def loading(slow):
    """A session that loads the large model, with nothing loaded before."""
    options = CompletionOptions(next_suggestion="off")  # which would use up an answer
    session = Session(load_engine=slow, options=options, load_options=LoadOptions(model="large"))
    session.load()
    assert slow.started.wait(5)
    yield session
    slow.ready.set()
    session.close()


def test_the_licence_is_told_while_a_model_is_downloaded():
    ready = threading.Event()

    def load(model, *, progress, **_):
        while not ready.wait(0.01):
            progress("downloading", 0.5)
        return FakeEngine()

    session = Session(load_engine=load, load_options=LoadOptions(model="starcoder2-3b"))
    session.load()
    try:
        wait_until(lambda: "no medical advice" in (session.status.message or ""))
    finally:
        ready.set()
        session.close()


def test_the_embedded_model_answers_while_a_large_one_loads_and_then_hands_over(loading, slow):
    assert submit(loading, request()).final.text == "from small"
    wait_until(lambda: loading.status.progress == 0.5 and loading.status.message is not None)
    assert loading.status.state == "downloading"
    assert loading.status.message == "The embedded model answers meanwhile."
    slow.ready.set()
    status = loading.wait_ready(5)
    assert (status.state, status.model, status.message) == ("ready", "large", None)
    assert submit(loading, request("y = ")).final.text == "from large"
    wait_until(lambda: slow.small.closed)


def test_what_was_loaded_answers_while_another_loads(slow):
    session = Session(load_engine=slow)
    session.load()
    session.wait_ready(5)
    session.load(LoadOptions(model="large"))
    assert slow.started.wait(5)
    assert submit(session, request()).final.text == "from small"
    slow.ready.set()
    session.wait_ready(5)
    assert submit(session, request()).final.text == "from large"  # not from the other one's cache
    session.close()


def test_no_embedded_model_is_loaded_as_long_as_nothing_is_asked(loading, slow):
    slow.ready.set()
    loading.wait_ready(5)
    assert list(slow.loaded_by) == ["large"]


def test_an_engine_is_used_by_the_thread_that_loaded_it(loading, slow):
    used_by = {}
    for name, engine in (("embedded", slow.small), ("large", slow.large)):
        generate = engine.generate

        def noting(*args, name=name, generate=generate):
            used_by[name] = threading.get_ident()
            return generate(*args)

        engine.generate = noting
    submit(loading, request()).final  # noqa: B018
    slow.ready.set()
    loading.wait_ready(5)
    submit(loading, request("y = ")).final  # noqa: B018
    assert used_by == slow.loaded_by and len(set(used_by.values())) == 2


def test_a_load_that_fails_leaves_the_one_that_answered_meanwhile(loading, slow):
    submit(loading, request()).final  # noqa: B018
    slow.fails = True
    slow.ready.set()
    with pytest.raises(ModelLoadError, match=r"large is broken\."):
        loading.wait_ready(5)
    wait_until(lambda: loading.status.state == "ready")
    assert loading.status.message == "large is broken. The embedded model answers instead."
    assert submit(loading, request("y = ")).final.text == "again"


def test_unloading_ends_the_load_and_who_answered_meanwhile(loading, slow):
    submit(loading, request()).final  # noqa: B018
    loading.unload()
    wait_until(lambda: loading.status.state == "unloaded" and slow.small.closed)
    assert submit(loading, request("y = ")).final.reason == "not_ready"


def test_a_large_model_is_gone_before_its_successor_loads(slow):
    class Large(FakeEngine):
        def memory_bytes(self):
            return 2 << 30

    old = Large()
    closed_before = []

    def load(model, **options):
        if model == "large":
            closed_before.append(old.closed)
            return slow.large
        return old

    session = Session(load_engine=load)
    session.load()
    session.wait_ready(5)
    session.load(LoadOptions(model="large"))
    session.wait_ready(5)
    assert closed_before == [True]
    session.close()


def test_waiting_for_another_process_is_said():
    go_on = threading.Event()

    def load(model, *, progress, **_):
        while not go_on.wait(0.01):
            progress("waiting", None)
        return FakeEngine()

    session = Session(load_engine=load)
    session.load()
    wait_until(lambda: session.status.state == "downloading")
    assert session.status.message == "Another process downloads it; this one waits."
    go_on.set()
    session.wait_ready(5)
    session.close()


def test_who_waits_hears_the_status_now_and_then(loading, slow):
    heard = []

    def listen(status):
        heard.append((status.state, status.progress))
        slow.ready.set()

    loading.wait_ready(5, waiting=listen)
    assert heard == [("downloading", 0.5)]


def test_closing_answers_those_who_still_wait(slow):
    session = Session(load_engine=slow, load_options=LoadOptions(model="embedded-not"))
    slow.small.gate.clear()
    slow.small.answers = ["never"]
    running = submit(session, invoke())
    assert slow.small.started.wait(5)
    waiting = submit(session, invoke("y = "))
    session.close()
    assert running.final.finish_reason == "cancelled"
    assert waiting.done.wait(5) and isinstance(waiting.error, GenerationError)


def test_what_an_engine_has_to_tell_is_in_the_status(session, fake_engine):
    fake_engine.notice = "Code is sent to example.org."
    session.load()
    assert session.wait_ready().message == "Code is sent to example.org."


def test_while_another_model_loads_the_status_says_what_the_one_that_answers_does(slow):
    slow.small.notice = "Code leaves this machine: it is sent to example.org."
    session = Session(load_engine=slow)
    try:
        session.load()
        session.wait_ready()
        session.load(LoadOptions(model="large"))
        wait_until(lambda: "answers meanwhile" in (session.status.message or ""))
        assert session.status.message.endswith(slow.small.notice)
    finally:
        slow.ready.set()
        session.close()


def test_a_model_that_stays_loaded_goes_on_telling_that_code_leaves_the_machine(fake_engine):
    fake_engine.notice = "Code leaves this machine: it is sent to example.org."

    def load(model, **_):
        if model != "embedded":
            raise ModelLoadError(f"{model} could not be loaded.")
        return fake_engine

    session = Session(load_engine=load)
    try:
        session.load()
        session.wait_ready()
        session.load(LoadOptions(model="other"))
        wait_until(lambda: "stays loaded" in (session.status.message or ""))
        assert session.status.message.endswith(fake_engine.notice)
    finally:
        session.close()


def test_a_server_that_is_gone_leaves_the_embedded_model_of_this_kernel(fake_engine):
    def load(model, *, server, **_):
        if server:
            raise ModelLoadError("127.0.0.1:1 cannot be reached.")
        return fake_engine

    session = Session(load_engine=load, load_options=LoadOptions(server="http://127.0.0.1:1"))
    try:
        fake_engine.answers = ["pd"]
        text = "import pandas as "
        request = CompletionRequest(text=text, offset=len(text), trigger="automatic")
        assert [completion.text for completion in session.complete(request)][-1] == "pd"
        wait_until(lambda: "127.0.0.1:1 cannot be reached." in (session.status.message or ""))
    finally:
        session.close()


def test_a_load_that_fails_just_as_the_stopgap_takes_over_is_told(fake_engine):
    begun = threading.Event()

    def load(model, *, server, **_):
        if server:
            begun.wait(5)
            raise ModelLoadError("127.0.0.1:1 cannot be reached.")
        return fake_engine

    session = Session(load_engine=load, load_options=LoadOptions(server="http://127.0.0.1:1"))

    class Telling:
        """The lock around telling, for which the stopgap has to wait until the other load has failed."""

        lock = session._workers.board.lock

        def __enter__(self):
            if (
                session._workers.fallback is None
                and session._workers.serving is not None
                and not begun.is_set()
            ):
                begun.set()
                wait_until(lambda: "cannot be reached" in (session.status.message or ""))
            self.lock.acquire()

        def __exit__(self, *_):
            self.lock.release()

    session._workers.board.lock = Telling()
    try:
        request = CompletionRequest(text="import ", offset=7, trigger="automatic")
        list(session.complete(request))
        assert "127.0.0.1:1 cannot be reached." in (session.status.message or "")
    finally:
        session.close()


def test_what_is_left_of_an_engine_is_freed_where_an_exit_waits_for_it():
    freed_inside = []

    class Tensor:
        def __del__(self):
            freed_inside.append(gate._inside)

    engines = [FakeEngine()]
    engines[0].tensor = Tensor()
    session = Session(load_engine=lambda model, **kwargs: engines.pop())
    session.load()
    session.wait_ready()
    session.close()
    wait_until(lambda: bool(freed_inside))
    assert freed_inside == [1]
