"""A shell's variables in the prompts of a session, and what they prevent."""

from __future__ import annotations

import sys
import threading
from types import ModuleType

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from jupyter_sc2.kernel.namespace import MAX_STATE_CHARS, LiveNamespace
from jupyter_sc2.notebook import Cell, Notebook
from jupyter_sc2.options import CompletionOptions
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.settings import SC2
from jupyter_sc2.types import CompletionRequest


@pytest.fixture
def shell():
    return InteractiveShell(config=Config(HistoryManager={"enabled": False}))


@pytest.fixture
def settings():
    return SC2()


@pytest.fixture
def live(shell, settings):
    return LiveNamespace(shell, settings)


@pytest.fixture
def asking(fake_engine, live):
    """A session that knows the shell; gives the final completion of some code."""
    session = Session(load_engine=lambda model, **kwargs: fake_engine, namespace=live)

    def ask(text: str, offset: int | None = None, **fields):
        fields = {"cell_id": "here", **fields}
        *_, final = session.complete(request(text, offset, **fields))
        return final

    ask.session = session
    yield ask
    session.close()


def run(shell, source: str) -> None:
    shell.run_cell(source, store_history=True)


def request(text: str, offset: int | None = None, **fields) -> CompletionRequest:
    fields = {"cell_id": "here", **fields}
    return CompletionRequest(text=text, offset=len(text) if offset is None else offset, **fields)


# What is told


def test_variables_that_the_cell_uses_come_right_before_it_in_the_prompt(
    shell, asking, fake_engine
):
    run(shell, "options = {'sep': 1, 'header': 2}")
    fake_engine.answers = ["1"]
    asking("x = options[")
    assert fake_engine.asked().endswith("# options: dict 'sep', 'header'\nx = options")


def test_a_variable_is_described_once_it_exists(shell, live):
    assert live.state(request("x = rows")) == ""
    run(shell, "rows = [1, 2]")
    assert live.state(request("x = ")) == "# rows: list of 2 int\n"


def test_each_front_end_keeps_the_description_of_its_cell(shell, live):
    run(shell, "rows, names = [1], ['a']")
    assert live.state(request("x = rows", front_end="a")).startswith("# rows")
    shell.user_ns["rows"] = [1.5]  # by a cell that still runs
    live.state(request("y = names", cell_id="there", front_end="b"))
    assert "list of 1 int" in live.state(request("x = rows", front_end="a"))


def test_what_a_running_cell_does_shows_when_it_is_done(shell, live):
    run(shell, "rows = [1]")
    before = live.state(request("rows."))
    shell.user_ns["rows"].append(2)
    shell.user_ns["others"] = [1, 2, 3]
    assert live.state(request("rows.a")) == before
    run(shell, "pass")
    assert live.state(request("rows.a")) == "# rows: list of 2 int\n# others: list of 3 int\n"


def test_a_variable_that_comes_in_while_typing_is_added_behind_the_others(shell, live):
    run(shell, "".join(f"v{n} = [{n}]\n" for n in range(20)))
    before = live.state(request("x = "))
    assert "v3:" not in before
    after = live.state(request("x = v3["))
    assert after == before + "# v3: list of 1 int\n"
    assert live.state(request("x = ")) == after  # as Backspace should not cost a thing


def test_the_word_that_is_being_typed_adds_nothing(shell, live):
    run(shell, "".join(f"v{n} = [{n}]\n" for n in range(20)))
    assert live.state(request("x = v3")) == live.state(request("x = "))


def test_the_description_of_variables_stays_short(shell, live):
    run(shell, "".join(f"variable_{n} = dict.fromkeys('abcdefghij')\n" for n in range(100)))
    text = ""
    for n in range(50):
        text += f"variable_{n}[0]\n"
        assert len(live.state(request(text))) <= MAX_STATE_CHARS


def test_what_the_cells_above_use_is_likelier_than_what_was_made_last(shell, live):
    run(shell, "".join(f"v{n} = [{n}]\n" for n in range(20)))
    notebook = Notebook((Cell(id="1", source="v2.append(v4)"), Cell(id="here", source="")))
    told = live.state(request("", notebook=notebook))
    assert "# v2:" in told and "# v4:" in told


def test_modules_are_described_where_the_notebook_does_not_import_them(shell, live):
    run(shell, "import math as m")
    assert live.state(request("x = m.pi")) == "# m: module math\n"
    notebook = Notebook((Cell(id="1", source="import math as m"), Cell(id="here", source="")))
    assert live.state(request("x = m.pi", notebook=notebook, cell_id="here ")) == ""


def test_values_are_described_only_with_the_setting(shell, live, settings):
    run(shell, "name = 'Ada'")
    assert live.state(request("x = name + ")) == "# name: str\n"
    settings.context_values = True
    assert live.state(request("x = name + ")) == "# name: str = 'Ada'\n"


def test_variables_can_be_switched_off(shell, live, settings):
    run(shell, "rows = [1]")
    settings.context_variables = False
    assert live.state(request("x = rows[")) == ""


@pytest.mark.parametrize("cell", ["%%bash\necho ", "%%html\n<p>"])
def test_a_cell_in_another_language_gets_no_variables(shell, live, cell):
    run(shell, "rows = [1]")
    assert live.state(request(cell)) == ""


def test_the_last_error_is_described_until_a_cell_succeeds(shell, live, capsys):
    run(shell, "options = {}\nx = options['sep']")
    assert "# last error: KeyError at x = options['sep']\n" in live.state(request("x = "))
    run(shell, "pass")
    assert "error" not in live.state(request("x = "))


def test_the_message_of_the_last_error_is_described_only_with_values(shell, live, settings, capsys):
    settings.context_values = True
    run(shell, "options = {}\nx = options['sep']")
    assert "# last error: KeyError sep, at x = options['sep']\n" in live.state(request("x = "))


def test_the_line_of_an_error_is_left_out_where_it_may_hold_a_secret(shell, live, capsys):
    run(shell, "x = {}\nx['age'] + 'pg://b:s3cr@h'")
    assert live.state(request("")).startswith("# last error: KeyError\n")


def test_an_error_that_may_hold_a_secret_is_left_out(shell, live, capsys):
    run(shell, "raise ValueError('bad token abc')")
    assert live.state(request("x = ")) == ""


def test_an_error_is_not_asked_for_its_text(shell, live, capsys):
    run(
        shell,
        "class Loud(Exception):\n"
        "    def __str__(self): raise SystemError\n"
        "try:\n    raise Loud()\nexcept Loud: pass\nimport sys",
    )
    sys.last_value = shell.user_ns["Loud"]()
    shell.last_execution_succeeded = False
    assert live.state(request("x = ")).startswith("# last error: Loud\n")


# What typing costs


def test_a_keystroke_prefills_only_what_was_typed_although_variables_are_described(
    shell, asking, fake_engine
):
    run(shell, "options = {'sep': 1}\nrows = [1]")
    read = []
    for end in range(1, len("x = options['sep'] + rows[0]") + 1):
        fake_engine.answers = ["…"]
        final = asking("x = options['sep'] + rows[0]"[:end])
        read.append(final.stats.prompt_tokens - final.stats.reused_tokens)
    # Left to right, what is healed goes to and fro; the engine has a token for each byte.
    assert max(read[1:]) <= len(" options")


def test_what_was_proposed_before_a_cell_ran_is_asked_for_again(shell, asking, fake_engine):
    fake_engine.answers = ["1", "2"]
    assert asking("x = ").text == "1"
    assert asking("x = ").source == "cache"
    run(shell, "rows = [1]")
    assert asking("x = ").text == "2"


RUNS = [{"store_history": False}, {"silent": True}, {"store_history": True, "silent": True}]


@pytest.mark.parametrize("how", RUNS, ids=str)
def test_the_description_is_renewed_after_an_execution_without_history(shell, live, how):
    run(shell, "rows = [1]")
    assert live.state(request("rows.")) == "# rows: list of 1 int\n"
    shell.run_cell("rows = {'a': 1}", **how)
    assert live.state(request("rows.")) == "# rows: dict 'a'\n"


@pytest.mark.parametrize("how", RUNS, ids=str)
def test_what_was_proposed_before_such_a_run_is_asked_for_again(shell, asking, fake_engine, how):
    fake_engine.answers = ["1", "2"]
    assert asking("x = ").text == "1"
    shell.run_cell("rows = [1]", **how)
    assert asking("x = ").text == "2"


def test_variables_of_a_failed_execution_without_history_are_described(shell, live, capsys):
    run(shell, "rows = [1]")
    live.state(request("rows."))
    shell.run_cell("rows = {'a': 1}\n1 / 0", store_history=False)
    assert "# rows: dict 'a'" in live.state(request("rows."))


def test_variables_that_a_widgets_callback_made_are_described(shell, live):
    run(shell, "rows = [1]")
    live.state(request("rows."))
    shell.events.trigger("pre_execute")  # as comms do around each message
    shell.user_ns["rows"] = {"a": 1}
    shell.events.trigger("post_execute")
    assert live.state(request("rows.")) == "# rows: dict 'a'\n"


def test_a_namespace_that_was_closed_hears_of_no_runs(shell, live):
    live.close()
    shell.run_cell("1")
    assert live.epoch == 0


def test_a_name_that_was_added_to_the_builtins_is_known(shell, live, monkeypatch):
    import builtins

    run(shell, "rows = [1]")
    monkeypatch.setattr(builtins, "translated", str, raising=False)
    assert "translated" in live.facts([], request("")).names


def test_which_names_have_elements_is_known(shell, live):
    run(shell, "total = 3\nrows = [1]")
    assert live.facts([], request("")).collections({"total", "rows", "missing"}) == {"rows"}


def test_which_files_there_are_is_known(live, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sales.csv").touch()
    assert live.facts([], request("")).files("data.csv") == {"sales.csv"}


def test_where_a_shell_runs_in_a_function_the_names_of_its_module_are_known():
    module = ModuleType("outer")
    module.helper = [1]
    inner = InteractiveShell(
        config=Config(HistoryManager={"enabled": False}),
        user_ns={"local": 1},
        user_module=module,
    )
    facts = LiveNamespace(inner, SC2()).facts([("helper",)], request(""))
    assert {"local", "helper"} <= facts.names
    assert "append" in facts.known[("helper",)].attributes


# What is prevented


@pytest.fixture
def frame(shell):
    pytest.importorskip("pandas")
    run(shell, "import pandas as pd\ndf = pd.DataFrame({'age': [1], 'fare': [2.0]})")


def test_a_column_that_is_not_there_becomes_one_that_is(frame, asking, fake_engine):
    fake_engine.answers = ["'agee'].mean()", "].mean()"]
    assert asking("x = df[").text == "'age'].mean()"
    assert len(fake_engine.prompts) == 2


def test_the_second_try_reads_on_where_the_first_was_wrong(frame, asking, fake_engine):
    fake_engine.answers = ["'agee'].mean()", "]"]
    asking("x = df[")
    assert fake_engine.asked(1) == fake_engine.asked(0) + "['"


def test_a_wrong_attribute_keeps_what_the_user_has_typed_of_it(frame, asking, fake_engine):
    fake_engine.answers = ["upp('age')", "('age')"]
    assert asking("x = df.gro").text == "upby('age')"


def test_in_the_middle_of_a_cell_a_word_is_repaired_as_well(frame, asking, fake_engine):
    fake_engine.answers = ["upp('age')", "('age')"]
    assert asking("x = df.gro\nprint(x)", 10).text == "upby('age')"


def test_several_words_of_a_completion_are_repaired(frame, asking, fake_engine):
    fake_engine.answers = ["'agee'].meen()", "].meen()", "()"]
    assert asking("x = df[").text == "'age'].mean()"
    assert len(fake_engine.prompts) == 3


def test_a_word_without_another_in_its_place_is_dropped(frame, asking, fake_engine):
    fake_engine.answers = ["zzzz(df)"]
    final = asking("x = ")
    assert (final.text, final.reason, final.finish_reason) == ("", "refuted", "stop")


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        ("df.head(1), zzzz)", "df.head(1)"),
        ("'a, b', zzzz)", "'a, b'"),
        ("df, df.age + zzzz)", "df"),
        ("zzzz)", ""),
    ],
)
def test_the_arguments_before_a_wrong_one_are_kept(frame, asking, fake_engine, answer, shown):
    fake_engine.answers = [answer]
    assert asking("print(").text == shown


def test_of_several_lines_those_before_the_refuted_one_are_kept(shell, asking, fake_engine):
    run(shell, "rows = [1]")
    fake_engine.answers = ["a = rows[0]\nb = zzzz(a)"]
    assert asking("", trigger="invoke", notebook=ABOVE).text == "a = rows[0]"


ABOVE = Notebook((Cell(id="1", source="rows = [1]"), Cell(id="here", source="")))


def test_before_anything_was_run_any_name_may_come(asking, fake_engine):
    fake_engine.answers = ["np.arange(9)"]
    assert asking("x = ").text == "np.arange(9)"


def test_the_model_is_not_made_to_choose_a_key_that_is_a_secret(shell, asking, fake_engine):
    run(shell, "d = {'AKIAIOSFODNN7EXAMPLE': 1, 'ghp_abcd1234': 2, 'age': 3}")
    fake_engine.answers = ["'AKIB']", "]"]
    assert asking("x = d[").text == "'age']"


def test_what_does_not_parse_is_dropped(asking, fake_engine):
    fake_engine.answers = ["for in x"]
    assert asking("y = ").reason == "refuted"


def test_a_word_that_is_refuted_is_not_shown_on_the_way(frame, asking, fake_engine, monkeypatch):
    monkeypatch.setattr("jupyter_sc2.pipeline.candidate.UPDATE_INTERVAL_S", 0)
    fake_engine.answers = ["'agee'].mean()", "].mean()"]
    texts = [c.text for c in asking.session.complete(request("x = df["))]
    assert not any("agee" in text for text in texts)
    assert texts[-1] == "'age'].mean()"


def test_a_wrong_word_ends_the_decoding_at_once(frame, asking, fake_engine, monkeypatch):
    monkeypatch.setattr("jupyter_sc2.pipeline.candidate.UPDATE_INTERVAL_S", 0)
    fake_engine.answers = ["'zz" + "z" * 40 + "']", "]"]
    assert asking("x = df[").stats.generated_tokens < 20


@pytest.fixture
def probe(shell):
    run(shell, "class Probe:\n    def calibrate(self, gain_db): ...\nprobe = Probe()")


@pytest.mark.parametrize("trigger", ["automatic", "invoke"])
@pytest.mark.parametrize("suffix", ["", ")"])
def test_a_keyword_that_is_begun_is_the_only_one_that_begins_so(
    probe, asking, fake_engine, trigger, suffix
):
    fake_engine.answers = ["=0.1)", "0.5)"]
    text = "probe.calibrate(gain"
    said = asking(text + suffix, len(text), trigger=trigger).text
    assert said == ("_db=0.5" if suffix else "_db=0.5)")


@pytest.mark.parametrize("trigger", ["automatic", "invoke"])
def test_a_column_that_is_begun_is_the_only_one_that_begins_so(frame, asking, fake_engine, trigger):
    fake_engine.answers = ['sum"] = area(df["faresum"])', "] = 1"]
    assert asking('df["far', trigger=trigger).text == 'e"] = 1'


def test_the_only_name_comes_where_the_model_says_nothing(probe, asking, fake_engine):
    fake_engine.answers = ["", ""]
    assert asking("probe.calibrate(gain").text == "_db="


def test_the_only_name_comes_where_the_model_is_unsure(frame, asking, fake_engine):
    asking.session.configure(CompletionOptions(confidence=0.9))
    fake_engine.answers = ["s'] + df['agee']", "] + zzzz"]
    final = asking("x = df['far")
    assert (final.text, final.reason) == ("e'", None)


def test_the_only_name_comes_where_the_rest_is_refuted(probe, asking, fake_engine):
    fake_engine.answers = ["=1", "zzzz)"]
    final = asking("probe.calibrate(gain")
    assert (final.text, final.reason) == ("_db=", None)


def test_the_quote_behind_the_cursor_is_not_written_again(frame, asking, fake_engine):
    fake_engine.answers = ["", ""]
    assert asking('x = df["far"]', 11).text == "e"


def test_a_right_hand_side_names_no_column_that_is_refuted_when_asked_for(
    frame, asking, fake_engine
):
    fake_engine.answers = ["df['ratio'] = df['ratio'] / 2", "] / 2"]
    final = asking("", trigger="invoke", notebook=ABOVE)
    assert final.text == "df['ratio'] = df['age'] / 2"


def imports_of(completion) -> list[str]:
    return [one.code for one in completion.imports]


def test_a_name_that_nothing_binds_comes_with_its_import(shell, asking, fake_engine):
    run(shell, "rows = [1]")
    fake_engine.answers = ["math.sqrt(2)"]
    final = asking("x = ", adds_imports=True)
    assert final.text == "math.sqrt(2)"
    assert imports_of(final) == ["import math"]


def test_a_name_of_the_kernel_needs_no_import_though_the_kernel_has_run_nothing_visible(
    shell, asking, fake_engine
):
    run(shell, "import math")
    shell.user_ns_hidden["math"] = shell.user_ns["math"]  # as from a startup file
    fake_engine.answers = ["math.sqrt(2)"]
    assert imports_of(asking("x = ", adds_imports=True)) == []


def test_a_module_without_such_an_attribute_is_not_imported(shell, asking, fake_engine):
    run(shell, "rows = [1]")
    fake_engine.answers = ["math.squareroot(2)"]
    final = asking("x = ", adds_imports=True)
    assert "math" not in final.text and imports_of(final) == []


def test_the_rest_of_a_suggestion_that_is_typed_keeps_its_import(shell, asking, fake_engine):
    fake_engine.answers = ["math.sqrt(2)"]
    asking("x = ", adds_imports=True)
    final = asking("x = math.s", adds_imports=True)
    assert (final.text, final.source) == ("qrt(2)", "cache")
    assert [(one.code, one.offset) for one in final.imports] == [("import math", 0)]


@pytest.mark.parametrize("path", ["", "long.py"])
def test_no_import_is_offered_where_the_beginning_of_a_long_cell_is_not_looked_at(
    shell, asking, fake_engine, path
):
    fake_engine.answers = ["math.sqrt(2)"]
    long = "import math\n" + "x = 1\n" * 6000 + "y = "
    assert imports_of(asking(long, adds_imports=True, path=path)) == []


@pytest.mark.parametrize("options", [{"imports": "off"}, {"grounding": False}])
def test_imports_can_be_switched_off(shell, asking, fake_engine, options):
    asking.session.configure(CompletionOptions(**options))
    fake_engine.answers = ["math.sqrt(2)"]
    assert imports_of(asking("x = ", adds_imports=True)) == []


def test_without_imports_an_unbound_name_is_refuted(shell, asking, fake_engine):
    run(shell, "rows = [1]")
    asking.session.configure(CompletionOptions(imports="off"))
    fake_engine.answers = ["math.sqrt(2)"]
    assert "math" not in asking("x = ", adds_imports=True).text


def test_grounding_can_be_switched_off(frame, asking, fake_engine):
    asking.session.configure(CompletionOptions(grounding=False))
    fake_engine.answers = ["'agee'].mean()"]
    assert asking("x = df[").text == "'agee'].mean()"


def test_a_cell_that_was_edited_since_it_ran_makes_its_names_unknown(shell, live):
    run(shell, "df = [1]")
    cell = Cell(id="1", source="df = [1]", execution_count=1)
    edited = Cell(id="1", source="df = load()", execution_count=1)
    assert live.facts([], request("", notebook=Notebook((cell,)))).pending == ()
    assert live.facts([], request("", notebook=Notebook((edited,)))).pending == ("df = load()",)


@pytest.mark.parametrize(
    ("line", "path", "has"),
    [
        ("import json as j", ("j",), "dumps"),
        ("import os.path", ("os",), "getcwd"),
        ("from json import decoder", ("decoder",), "JSONDecoder"),
    ],
)
def test_what_a_line_above_imports_is_known_before_it_is_run_if_it_is_loaded(live, line, path, has):
    known = live.facts([path], request(f"{line}\nx = {path[0]}.")).known
    assert has in known[path].attributes


def test_a_variable_counts_more_than_an_import_that_was_not_run(shell, live):
    run(shell, "json = [1]")
    known = live.facts([("json",)], request("import json\njson.")).known
    assert "append" in known[("json",)].attributes


def test_what_is_not_loaded_is_not_imported_to_be_known(live):
    assert not live.facts([("this",)], request("import this\nthis.")).known
    assert "this" not in sys.modules


# Doing no harm


HOSTILE = """
calls = []
class Hostile:
    def __getattribute__(self, name): calls.append(name); raise RuntimeError
    def __repr__(self): calls.append("repr"); import time; time.sleep(9)
    __str__ = __len__ = __iter__ = __eq__ = __bool__ = __call__ = __getitem__ = __repr__
    __hash__ = None
    @property
    def __class__(self): calls.append("class"); raise RuntimeError
class Meta(type):
    def __getattr__(cls, name): calls.append(name); raise RuntimeError
    def __instancecheck__(cls, one): calls.append("instance"); raise RuntimeError
    def __subclasscheck__(cls, one): calls.append("subclass"); raise RuntimeError
    def __repr__(cls): calls.append("repr")
    def __eq__(cls, other): calls.append("eq"); return False
    def __hash__(cls): calls.append("hash"); return 0
class Odd(metaclass=Meta):
    @property
    def value(self): calls.append("value")
class Keys(dict):
    def __getitem__(self, key): calls.append("item")
    __iter__ = __len__ = keys = items = __contains__ = __getitem__
hostile, odd, keys = Hostile(), Odd(), Keys(a=1)
loop = {}
loop["self"] = loop
loop["list"] = [loop]
class Proxy:
    def __init__(self, to): object.__setattr__(self, "to", to)
    def __getattr__(self, name): calls.append(name); return getattr(self.to, name)
proxy = Proxy([1])
"""
USES = "hostile.a; odd.b; Odd.c; keys['x']; loop['y']; proxy.d; hostile(e=1); Odd(f=2); Hostile.g; "


def test_no_code_of_a_hostile_namespace_runs(shell, live, asking, fake_engine):
    run(shell, HOSTILE)
    told = live.state(request(USES))
    assert "# loop: dict 'self', 'list'" in told and "# proxy: Proxy" in told
    for path in ("hostile.a", "odd.value.x", "Odd.c", "keys['x']", "proxy.d", "hostile(e=1)"):
        fake_engine.answers = [path]
        asking(f"{USES}\nx = ")
    assert shell.user_ns["calls"] == []


def test_a_namespace_of_ten_thousand_costs_no_more_looks_than_a_small_one(shell, live, monkeypatch):
    from jupyter_sc2.introspection import variables

    looked = []
    describe = variables.describe_variable
    monkeypatch.setattr(
        variables,
        "describe_variable",
        lambda name, value, **options: looked.append(name) or describe(name, value),
    )
    shell.user_ns.update((f"v{n}", n) for n in range(10_000))
    live.state(request("v1 + v2"))
    assert len(looked) <= variables.MAX_RECENT_NAMES + 2


def test_a_map_of_ten_gigabytes_is_looked_at_and_not_read(shell, live, tmp_path):
    np = pytest.importorskip("numpy")
    file = tmp_path / "large"
    with file.open("wb") as sparse:
        sparse.truncate(10 << 30)
    shell.user_ns["large"] = np.memmap(file, dtype="float32", mode="r", shape=(50_000, 53_687))
    assert live.state(request("large[")) == "# large: memmap (50000, 53687) float32\n"
    del shell.user_ns["large"]


def test_a_cell_that_changes_the_namespace_meanwhile_does_not_disturb(shell, live):
    namespace, done, errors = shell.user_ns, threading.Event(), []

    def mutate():
        n = 0
        while not done.is_set():
            n += 1
            namespace[f"made_{n % 500}"] = [n]
            namespace.pop(f"made_{(n * 7) % 500}", None)

    thread = threading.Thread(target=mutate)
    thread.start()
    try:
        for n in range(200):
            live.state(request(f"made_{n} = made_{n + 1}[", cell_id=str(n)))
            live.facts([("made_1",), ("made_2", "append")], request(""))
    except RuntimeError as error:
        errors.append(error)
    finally:
        done.set()
        thread.join()
    assert errors == []
