"""The magics in an IPython shell, with a session on a scripted engine."""

import io
import re
import signal
import threading
import time
from dataclasses import replace

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.kernel import subcommands
from jupyter_sc2.kernel.magics import SC2Magics
from jupyter_sc2.kernel.subcommands import SUBCOMMANDS, split_at_cursor
from jupyter_sc2.notebook import Cell, Notebook
from jupyter_sc2.options import CompletionOptions
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.settings import SC2
from jupyter_sc2.types import Attribution, CompletionRequest
from jupyter_sc2.usage import Usage


@pytest.fixture
def shell(session, fake_engine):
    """A terminal shell with the magics in it; `shell.said` is what the cell printed, on both streams."""
    shell = InteractiveShell(config=Config(HistoryManager={"enabled": False}))
    shell.rl_next_input = None
    shell.settings = SC2(parent=shell)
    shell.settings.observe(
        lambda change: session.load(shell.settings.load_options()), ["model", "precision"]
    )
    SC2Magics(shell, shell.settings, session).install()
    yield shell
    shell.magics_manager.magics = {"line": {}, "cell": {}}


@pytest.fixture
def run(shell, capsys):
    def run(cell):
        """What the cell says on stdout and on stderr."""
        capsys.readouterr()
        shell.run_cell(cell, store_history=True)
        return capsys.readouterr()

    return run


def test_a_cell_is_completed_and_put_into_the_next_one(shell, run, fake_engine):
    fake_engine.answers = ["return sum(xs)"]
    assert run("%%complete\ndef total(xs):\n    ").out == "    return sum(xs)\n"
    assert shell.rl_next_input == "def total(xs):\n    return sum(xs)"


def test_a_missing_import_comes_into_the_next_cell_and_is_told(shell, run, fake_engine):
    fake_engine.answers = ["math.sqrt(2)"]
    assert "Adds import math" in run("%%complete\nimport os\nx = ").out
    assert shell.rl_next_input == "import os\nimport math\nx = math.sqrt(2)"


def test_the_possible_source_of_a_completion_is_shown_below_it(shell, run, fake_engine, session):
    class Known:
        active = True

        def matches(self, request, text, threshold, *, certain=False):
            return (
                Attribution(
                    source="acme", licence="MIT", path="a.py", lines=(3, 9), lexemes=threshold
                ),
            )

    session._attributor = Known()
    fake_engine.answers = ["sum(xs)"]
    assert "May come from acme, a.py:3-9 (MIT; 65 words and symbols)" in run("%complete x = ").out


@pytest.mark.parametrize("mark", ["‸", "<cursor>"])
def test_the_cursor_may_stand_in_the_middle(shell, run, fake_engine, mark):
    fake_engine.answers = ["sum(xs)"]
    run(f"%%complete\ndef total(xs):\n    return {mark}\n\nprint(total([1]))")
    assert shell.rl_next_input == "def total(xs):\n    return sum(xs)\n\nprint(total([1]))"


def test_a_line_is_completed_without_expanding_variables(shell, run, fake_engine):
    fake_engine.answers = ["sum(x)"]
    run("y = 7")
    run("%complete total = {y} $y -c")
    assert shell.rl_next_input.startswith("total = {y} $y -c")


def test_what_was_run_is_the_context(run, fake_engine):
    run("import math")
    run("%sc2 help")
    run("%%complete\nx = ")
    assert "import math" in fake_engine.asked()
    assert "%sc2" not in fake_engine.asked() and "%%complete" not in fake_engine.asked()


def test_a_cell_that_completes_a_line_is_not_its_own_context(run, fake_engine):
    run("first = 1")
    run("second = 2\n%complete x = ")
    assert "first = 1" in fake_engine.asked()
    assert "second = 2" not in fake_engine.asked()


def test_options_hold_for_one_completion(shell, run, fake_engine):
    run("%%complete -n 5 --temperature 0.7\nx = ")
    assert (fake_engine.samplings[-1].max_tokens, fake_engine.samplings[-1].temperature) == (5, 0.7)
    assert (shell.settings.max_tokens, shell.settings.temperature) == (64, 0.0)


def test_candidates_are_numbered_and_the_first_is_taken(shell, run, fake_engine):
    fake_engine.answers = ["1", "2", "2", "3"]
    assert run("%%complete -c 3\nx = ").out == "[1]\nx = 1\n[2]\nx = 2\n[3]\nx = 3\n"
    assert shell.rl_next_input == "x = 1"


def test_a_language_that_the_model_is_not_for_is_named(shell, run, fake_engine):
    said = run("%%complete\n%%bash\necho ").out
    assert said.endswith("is not asked for bash: its card does not name that language.\n")
    assert fake_engine.prompts == []


def test_the_lack_of_a_suggestion_is_reported(shell, run):
    assert run("%%complete\nx = 1").out.startswith("No suggestion here")
    assert shell.rl_next_input is None


def test_another_model_is_loaded_first(shell, run, fake_engine):
    fake_engine.answers = ["1"]
    run("%%complete --model owner/name\nx = ")
    assert shell.settings.model == "owner/name"
    assert shell.rl_next_input == "x = 1"


def test_a_notebook_gets_highlighted_html(shell, run, fake_engine, monkeypatch):
    shown = []
    shell.kernel = object()
    monkeypatch.setattr("IPython.display.publish_display_data", shown.append)
    fake_engine.answers = ["return '<b>'"]
    run("%%complete\ndef f():\n    ")
    assert shown[0]["text/plain"] == "    return '<b>'"
    assert "<pre" in shown[0]["text/html"] and "&lt;b&gt;" in shown[0]["text/html"]
    assert 'style="color' in shown[0]["text/html"]
    del shell.kernel


@pytest.mark.parametrize(
    ("cell", "line"),
    [
        ("%%complete -x\nfoo", "unrecognized arguments: -x"),
        ("%%complete -n many\nfoo", "argument -n/--max-tokens: invalid int value: 'many'"),
        ("%%complete -n 0\nfoo", "max_tokens cannot be 0: it must lie between 1 and 1024."),
        ("%%complete -t 3\nfoo", "temperature cannot be 3.0: it must lie between 0.0 and 2.0."),
        ("%%complete -t nan\nfoo", "temperature cannot be nan: it must lie between 0.0 and 2.0."),
        ("%%complete -c 0\nfoo", "candidates must lie between 1 and 10, not 0."),
        ("%%complete -m nobody\nfoo", "There is no model named 'nobody'."),
        ("%%complete\n   \n", "There is nothing to complete"),
        ("%complete", "There is nothing to complete"),
        ("%%complete\na ‸ b <cursor>", "There is more than one cursor"),
        ("%sc2 staus", "There is no %sc2 staus. Did you mean status?"),
        ("%sc2 load nobody", "There is no model named 'nobody'."),
        ("%sc2 load a b", "%sc2 load takes 1 value"),
        ("%sc2 load --precision 3bit", "argument -p/--precision: invalid choice: '3bit'"),
        ("%sc2 status --precision 4bit", "--precision and --no-wait belong to %sc2 load."),
        ("%sc2 unload now", "%sc2 unload takes no value"),
        ("%sc2 settings heat", "There is no setting named 'heat'."),
        ("%sc2 settings heat=1", "There is no setting named 'heat'."),
        (
            "%sc2 settings temperature=hot",
            "temperature cannot be 'hot': it must lie between 0.0 and 2.0.",
        ),
        (
            "%sc2 settings temperature 3",
            "temperature cannot be '3': it must lie between 0.0 and 2.0.",
        ),
        ("%sc2 panel", "The panel needs a notebook"),
        ("%sc2 'open", "No closing quotation"),
    ],
)
def test_a_mistake_is_one_line_on_stderr(run, cell, line):
    said = run(cell)
    assert said.out == ""
    assert said.err.startswith(f"UsageError: {line}")
    assert said.err.count("\n") == 1


def test_load_waits_and_reports_in_one_line(shell, run):
    licence, said = run("%sc2 load owner/name --precision 4bit").out.splitlines()
    assert said.startswith("embedded (fake, fp32, 0.0 MB), loaded in ")
    assert licence == "Licence of owner/name: unknown here; see its page on the hub."
    assert (shell.settings.model, shell.settings.precision) == ("owner/name", "4bit")


def test_a_model_that_cannot_be_loaded_is_one_line(shell, capsys):
    def load_engine(model, **kwargs):
        raise ModelLoadError(f"{model} has no weights.")

    session = Session(load_engine=load_engine)
    SC2Magics(shell, shell.settings, session).install()
    shell.run_cell("%sc2 load")
    assert capsys.readouterr().err == "UsageError: embedded has no weights.\n"
    shell.run_cell("%%complete\nx = ")
    assert capsys.readouterr().err == "UsageError: embedded has no weights.\n"
    session.close()


def slow_session(fake_engine):
    def load_engine(model, progress, **kwargs):
        for step in (*range(1, 10), *[10] * 6, *range(11, 20)):  # a moment at 50 %, to be seen
            time.sleep(0.1)
            progress("downloading", step / 20)
        return fake_engine

    return Session(load_engine=load_engine)


def test_progress_is_a_bar_in_a_terminal_that_is_wiped(shell, fake_engine, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    session = slow_session(fake_engine)
    SC2Magics(shell, shell.settings, session).install()
    shell.run_cell("%sc2 load")
    said = terminal.getvalue()
    assert "downloading embedded:  5" in said and " %|" in said
    assert "\n" not in said and said.rpartition("\r")[0].endswith(" ")
    assert capsys.readouterr().out.count("\n") == 1
    session.close()


def test_progress_is_a_widget_in_a_notebook_that_leaves_nothing(
    shell, fake_engine, monkeypatch, capsys
):
    from IPython.core.displaypub import CapturingDisplayPublisher

    monkeypatch.setattr(shell, "display_pub", CapturingDisplayPublisher())
    shell.kernel = object()
    session = slow_session(fake_engine)
    SC2Magics(shell, shell.settings, session).install()
    shell.run_cell("%sc2 load")
    del shell.kernel
    first, last = (output["data"] for output in shell.display_pub.outputs)
    assert "application/vnd.jupyter.widget-view+json" in first
    assert last == {"text/plain": ""}
    assert capsys.readouterr().err == ""
    session.close()


def test_the_licence_is_shown_before_the_first_download_only(shell, run, monkeypatch):
    from jupyter_sc2.models import files as model_files

    monkeypatch.setattr(model_files, "bytes_on_disk", lambda card: 0)
    assert run("%sc2 load starcoder2-3b").out.startswith(
        "Licence of starcoder2-3b: BigCode OpenRAIL-M. Free to use"
    )
    monkeypatch.setattr(model_files, "bytes_on_disk", lambda card: 10)
    assert "Licence" not in run("%sc2 load starcoder2-3b").out


def test_license_is_about_the_loaded_model_or_the_one_named(run):
    assert run("%sc2 license").out.startswith("Licence of embedded: ")
    said = run("%sc2 license codegemma-2b").out
    assert "Gemma Prohibited Use Policy" in said and "https://ai.google.dev/gemma/terms" in said


@pytest.mark.torch
def test_plan_shows_each_precision_and_the_one_that_loading_takes(run):
    said = run("%sc2 plan starcoder2-3b").out.splitlines()
    assert said[0].startswith("starcoder2-3b on ")
    assert said[1].split() == ["precision", "file", "memory", "fits", "speed", "engine"]
    assert (
        len({line.index(word) for line, word in zip(said[1:3], ("engine", "transf"), strict=True)})
        == 1
    )
    assert said[3].split()[:4] in (["bf16", "6.1", "GB", "6.1"], ["*", "bf16", "6.1", "GB"])
    assert re.search(r"  about [\d.]+ s a line ", said[3])
    assert said[-2].startswith("A line is 10 tokens. ") and " ms for each" in said[-2]
    assert " is what loading takes: " in said[-1]


def test_a_failure_while_completing_is_one_line(run, fake_engine):
    fake_engine.error = RuntimeError("out of memory\nand so on")
    said = run("%%complete\nx = ").err
    assert said == "UsageError: The model failed while completing: RuntimeError: out of memory\n"


@pytest.fixture
def ctrl_c():
    """SIGINT raises KeyboardInterrupt, also where a shell has started the tests in the background with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_an_interrupt_ends_a_completion_in_one_line(run, fake_engine, session):
    fake_engine.answers = ["never"]
    fake_engine.gate.clear()

    def interrupt():
        fake_engine.started.wait(10)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    threading.Thread(target=interrupt).start()
    said = run("%%complete\nx = ")
    assert said.err == "UsageError: Interrupted.\n"
    deadline = time.monotonic() + 10
    while session.status.state == "generating" and time.monotonic() < deadline:
        time.sleep(0.01)
    assert session.status.state == "ready"


def test_status_says_that_the_engine_decodes_greedily_where_others_search(run, fake_engine):
    assert "greedily" not in run("%sc2 load\n%sc2 status").out
    run("%sc2 unload")
    fake_engine.card = replace(fake_engine.card, beam_width=4)
    said = run("%sc2 load\n%sc2 status").out
    assert "This engine decodes greedily; onnxruntime and transformers search 4 beams" in said


def test_status_before_anything_is_loaded(run):
    assert run("%sc2 status").out.splitlines()[0] == "unloaded: embedded"


@pytest.mark.parametrize(
    ("server", "where"),
    [
        ("https://gpu.example.org:8000", "https://gpu.example.org:8000"),
        ("auto", "the newest `jupyter sc2 serve` on this machine"),
        ("https://bob:s3cr@example.org", "the address in the setting server"),
    ],
)
def test_status_says_where_code_goes_before_it_does(shell, run, server, where):
    shell.settings.server = server
    said = run("%sc2 status").out
    assert f"Once the model is loaded, code leaves this kernel: it is sent to {where}.\n" in said


def test_status_and_load_say_that_code_leaves_the_machine(run, fake_engine):
    fake_engine.notice = "Code leaves this machine: it is sent to example.org."
    assert f"{fake_engine.notice}\n" in run("%sc2 load").out
    assert f"{fake_engine.notice}\n" in run("%sc2 status").out


def test_status_shows_engine_precision_memory_and_how_to_load_a_larger_model(run):
    run("%sc2 load")
    lines = run("%sc2").out.splitlines()
    assert lines[0] == "ready: embedded (fake, fp32, 0.0 MB)"
    assert "the small model that ships with the package" in lines[1]
    assert "%sc2 load starcoder2-3b" in lines[1]


def test_unload_frees_the_engine(run, fake_engine):
    run("%sc2 load")
    run("%sc2 unload")
    deadline = time.monotonic() + 10
    while not fake_engine.closed and time.monotonic() < deadline:
        time.sleep(0.01)
    assert fake_engine.closed


def test_settings_are_shown_with_their_help(run):
    said = run("%sc2 settings").out
    head, *lines = said.splitlines()
    assert head.split() == ["setting", "value", "what", "it", "does"]
    assert [line.split()[0] for line in lines] == list(SC2.settings())
    place = head.index("what")
    helps = [trait.help for trait in SC2.settings().values()]
    assert [line[place:] for line in lines] == helps
    assert run("%sc2 settings top_k").out.startswith("top_k = 0: Sample from the k most likely")


@pytest.mark.parametrize("line", ["temperature=0.5", "temperature 0.5"])
def test_a_setting_is_set(shell, run, line):
    assert run(f"%sc2 settings {line}").err == ""
    assert shell.settings.temperature == 0.5


def test_the_current_model_is_marked_among_those_known(shell, run):
    shell.settings.model = "./mine"
    said = run("%sc2 model").out.splitlines()
    assert said[0].split() == ["model", "size", "bf16", "4bit", "licence", "note"]
    assert said[1].startswith("   embedded ") and said[-1] == "*  ./mine"
    starcoder = next(line for line in said if line.startswith("   starcoder2-3b "))
    assert starcoder.index("BigCode") == said[0].index("licence")
    assert starcoder.split()[:6] == ["starcoder2-3b", "3B", "6.1", "GB", "1.8", "GB"]


def test_stats_show_the_usage_and_reset_clears_it(shell, run):
    usage = Usage(lambda: True)
    usage.reset()
    usage.shown("a.ipynb", "1", 12, 40.0)
    usage.flush()
    said = run("%sc2 stats").out.splitlines()
    assert said[0] == "Suggestions accepted                0 of 1 (0%)"
    assert said[-2] == "Typical wait                        0.04 s (95% under 0.04 s)"
    assert said[-1].startswith("shown on each of the last 14 days: ▁")
    assert run("%sc2 stats reset").out == "Usage data cleared.\n"
    assert run("%sc2 stats").out.startswith("No usage data yet")
    assert "%sc2 stats reset" in run("%sc2 stats everything").err


def test_saving_without_a_profile_says_why_not(shell, run):
    shell.profile_dir = None
    assert "no profile" in run("%sc2 save").err


def test_nothing_is_completed_or_loaded_where_the_configuration_forbids_it(shell, run, session):
    shell.settings.allowed = False
    for command in ("%sc2 load", "%complete x ="):
        assert "forbids completion" in run(command).err
    assert session.status.state == "unloaded"


def test_a_decorated_function_is_a_subcommand(run, monkeypatch):
    monkeypatch.setattr(subcommands, "_registry", registry := dict(subcommands.SUBCOMMANDS))
    monkeypatch.setattr(subcommands, "SUBCOMMANDS", registry)

    @subcommands.subcommand("prints its values", max_values=2)
    def echo(kernel, arguments):
        print(*arguments.values)

    assert run("%sc2 echo a b").out == "a b\n"
    assert run("%sc2 echo a b c").err.startswith("UsageError: %sc2 echo takes 2 values")
    assert "--no-wait belong to %sc2 load" in run("%sc2 echo --no-wait").err
    assert "%sc2 echo        prints its values\n" in run("%sc2 help").out


def test_code_may_hold_what_would_be_an_option(run):
    run("import math")
    assert "x = -p 3bit '" in run("%sc2 context x = -p 3bit 'open").out


def test_a_line_of_blanks_is_the_status(run):
    assert run("%sc2   ").out.startswith("unloaded: ")


def test_help_names_every_command(run):
    assert run("%sc2 help").out.count("%sc2 ") == len(SUBCOMMANDS)


def test_the_cursor_is_at_the_end_without_a_mark():
    assert split_at_cursor("a = ") == ("a = ", 4)
    assert split_at_cursor("a‸b") == ("ab", 1)


@pytest.mark.slow
def test_a_folder_is_loaded_in_each_precision_and_status_shows_its_memory(tmp_path, capsys):
    from jupyter_sc2 import extension
    from tests.support.tiny import make_tiny_model

    folder = make_tiny_model(tmp_path / "tiny", hidden=256, layers=2)
    shell = InteractiveShell()
    extension.load(shell)
    megabytes = []
    for precision in ("4bit", "8bit", "bf16", "fp32"):
        shell.run_line_magic("sc2", f"load {folder} --precision {precision}")
        capsys.readouterr()
        shell.run_line_magic("sc2", "status")
        line = capsys.readouterr().out.splitlines()[0]
        assert line.startswith(f"ready: tiny (transformers, {precision}, ")
        megabytes.append(float(line.split(", ")[2].removesuffix(" MB)")))
    extension.unload(shell)
    assert megabytes == sorted(set(megabytes))


# What the model reads


def test_the_context_of_some_code_is_what_the_model_would_read(run, session, fake_engine):
    run("import math")
    said = run("%sc2 context x = math.‸").out
    fake_engine.answers = ["pi"]
    run("%%complete\nx = math.‸")
    assert said.startswith(fake_engine.asked().replace("x = math", "x = math"))
    assert "import math" in said and "tokens: " in said and "code cells above" in said


def test_without_code_it_is_the_context_of_what_was_typed_last(run, session):
    [*session.complete(CompletionRequest(text="total = ", offset=8))]
    [*session.complete(CompletionRequest(text="%sc2 con", offset=8))]
    assert "total =" in run("%sc2 context").out


def test_without_anything_typed_there_is_no_context(run):
    assert run("%sc2 context").err.startswith("UsageError: There was no request yet")


def test_the_context_names_cells_left_out_and_sources_switched_off(shell, run, session):
    session.configure(CompletionOptions(context_tokens=200))
    shell.settings.grounding = False
    for n in range(20):
        run(f"a_variable_{n} = 'a text that takes room in the prompt'")
    said = run("%sc2 context x = ").out
    assert "left out (context_tokens is reached): `a_variable_0" in said
    assert "switched off:" in said and "(grounding)" in said


def test_a_cell_that_was_edited_since_it_ran_is_named(run, session):
    run("first = 1")
    cell = Cell(id="1", source="first = 2", execution_count=1)
    notebook = Notebook((cell, Cell(id="2", source="")))
    [*session.complete(CompletionRequest(text="x = ", offset=4, notebook=notebook, cell_id="2"))]
    assert "edited since they ran: `first = 2`" in run("%sc2 context").out


def test_a_notebook_gets_the_context_in_colours(shell, run, monkeypatch):
    shown = []
    shell.kernel = object()
    monkeypatch.setattr("IPython.display.publish_display_data", shown.append)
    run("%sc2 context tag = '<b>' + ")
    assert "tag = '<b>'" in shown[0]["text/plain"]
    assert "&lt;b&gt;" in shown[0]["text/html"] and "<span style" in shown[0]["text/html"]
    del shell.kernel
