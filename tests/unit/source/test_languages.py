"""Which language the cursor stands in, and that everything goes by it. `├` is the cursor."""

import itertools

import pytest

from jupyter_sc2.models.cards import cards
from jupyter_sc2.pipeline import grounding
from jupyter_sc2.source import languages
from jupyter_sc2.source.languages import (
    IPYTHON,
    LANGUAGES,
    UNKNOWN,
    canonical,
    language_at,
    not_asked,
    of_cell_magic,
    of_file,
    runs_here,
)
from jupyter_sc2.types import CompletionRequest


def at(cell: str, **fields) -> CompletionRequest:
    before, _, behind = cell.partition("├")
    return CompletionRequest(text=before + behind, offset=len(before), **fields)


@pytest.mark.parametrize(
    ("magic", "language"),
    [
        ("bash", "bash"),
        ("sh", "bash"),
        ("sx", "bash"),
        ("system", "bash"),
        ("!", "bash"),
        ("cmd", "batchfile"),
        ("powershell", "powershell"),
        ("sql sqlite://", "sql"),
        ("SQL", "sql"),
        ("bigquery df", "sql"),
        ("html", "html"),
        ("HTML", "html"),
        ("SVG", "svg"),
        ("css", "css"),
        ("js", "javascript"),
        ("R -i df", "r"),
        ("julia", "julia"),
        ("cython -a", "cython"),
        ("latex", "latex"),
        ("mermaid", "mermaid"),
        ("constructor", UNKNOWN),
        ("__proto__", UNKNOWN),
        ("my_timer 3", UNKNOWN),
        ("ai chatgpt", UNKNOWN),
        ("script bash -e", "bash"),
        ("script --out text --bg /usr/bin/perl", "perl"),
        ("script /usr/bin/env Rscript", "r"),
        ("script python3.11", "python"),
        ("script bc", UNKNOWN),
        ("script", UNKNOWN),
    ],
)
def test_a_cell_is_in_the_language_of_its_magic(magic, language):
    assert language_at(at(f"%%{magic}\nx├")) == language


@pytest.mark.parametrize(
    "magics",
    [
        "%%time",
        "%%timeit -n 3",
        "%%capture out",
        "%%prun -s cumulative",
        "%%debug",
        "%%memit",
        "%%time\n%%capture",
        "\n\n  %%time\n\n%%prun",
        "%%script false --no-raise-error",  # keeps the cell from being run
    ],
)
def test_below_a_magic_that_runs_the_cell_it_is_python_with_the_kernels_variables(magics):
    request = at(f"{magics}\nx = ├")
    assert language_at(request) == "python"
    assert runs_here(request)


@pytest.mark.parametrize(
    "magic", ["python3", "python", "pypy", "script python", "writefile x.py", "px"]
)
def test_python_that_another_process_runs_does_not_see_the_kernels_variables(magic):
    request = at(f"%%{magic}\nx = ├")
    assert language_at(request) == "python"
    assert not runs_here(request)
    assert not grounding.applies(request)


def test_a_magic_below_one_that_runs_the_cell_counts():
    request = at("%%time\n%%bash\nls ├ x")
    assert of_cell_magic(request) == ("bash", "ls ", " x")


@pytest.mark.parametrize(
    ("line", "language"),
    [
        ("writefile run.sh", "bash"),
        ("writefile -a run.sh", "bash"),
        ("writefile --append 'my folder/run me.sh'", "bash"),
        ('file "C:\\work\\query.SQL"', "sql"),
        ("file src/app.tsx", "typescript"),
        ("writefile {folder}/index.html", "html"),
        ("writefile x.tar.gz", "text"),
        ("writefile py", "text"),
        ("writefile Makefile", "makefile"),
        ("writefile docker/Dockerfile", "dockerfile"),
        ("writefile README.md", "markdown"),
        ("writefile 'half", "text"),
        ("writefile", "text"),
    ],
)
def test_a_cell_that_is_written_to_a_file_goes_by_the_files_name(line, language):
    assert language_at(at(f"%%{line}\n├")) == language


@pytest.mark.parametrize(
    "cell",
    [
        "!ls ├",
        "!├",
        "    !ls ├",
        "!!ls ├",
        "x = !ls ├",
        "self.a, c['x'] = !ls ├",
        "%sx ls ├",
        "%system ls ├",
        "%cd ├",
        "%pip install ├",
        "%time !ls ├",
        "x = %sx ls ├",
        "!echo \\\n  a├",
        "x = !echo \\\n  a \\\n  b├",
        "!echo (\n!ls ├",
        "%%time\n!ls ├",
    ],
)
def test_a_line_for_the_system_is_bash(cell):
    assert language_at(at(cell)) == "bash"


@pytest.mark.parametrize(
    "cell",
    [
        "%time x = ├",
        "%timeit -n 3 f(├",
        "x = %time f(├",
        "%prun f(├",
        "%%timeit x = ├",
        "x = 5 % ├",
        "x = (a\n     % b├",
        "x = a \\\n    % b├",
        'x = """\n!ls ├',
        "print('x = !ls ├",
        "s = 'what?├",
        "if a != b├",
        "!echo (\nx = ├",
        "!echo 'it\nx = ├",
        "# a comment\n%%bash\n├",  # an error to IPython
        "├\n!ls",
        "├",
    ],
)
def test_code_stays_python(cell):
    assert language_at(at(cell)) == "python"


@pytest.mark.parametrize("cell", ["%├", "%matpl├", "%%ti├", "%matplotlib ├", "%load_ext auto├"])
def test_a_magics_name_and_what_every_notebook_says_to_one_are_ipythons(cell):
    assert language_at(at(cell)) == IPYTHON
    assert cards()["embedded"].knows(IPYTHON)


@pytest.mark.parametrize(
    "cell",
    ["df?├", "df.head??├", "?df├", "%%bash?├", "%run ├", "%env A=├", "%%bash -├", "%nobody x├"],
)
def test_nobody_can_tell_what_stands_in_questions_and_in_the_options_of_magics(cell):
    assert language_at(at(cell)) == UNKNOWN


def test_a_line_magic_that_names_a_language_is_in_it():
    assert language_at(at("%sql SELECT ├")) == "sql"
    assert language_at(at("df = %sql SELECT ├")) == "sql"
    assert language_at(at("%R x <- ├")) == "r"


@pytest.mark.parametrize("language", ["R", "julia", "SQL", "c++17"])
def test_a_kernel_of_another_language_stays_in_it(language):
    for cell in ("x <- 5 %├", "!ls ├", "%%section\nx = ├", "├"):
        assert language_at(at(cell, language=language)) == canonical(language)


def test_a_front_end_may_name_the_cells_language_itself():
    assert of_cell_magic(at("%%bash\nls ├", language="bash"))[:2] == ("bash", "ls ")


def test_below_an_unknown_magic_who_asks_gets_what_stands_above():
    body = "import time\nt = ├"
    assert language_at(at(f"%%my_timer\n{body}")) == UNKNOWN
    assert language_at(at(f"%%my_timer\n{body}", trigger="invoke")) == "python"
    for other in ("echo ├", "graph TD\nA├", "A --> B\nA├", "ls\necho├"):
        assert language_at(at(f"%%my_timer\n{other}", trigger="invoke")) == UNKNOWN


def test_each_name_means_one_language_that_is_known():
    assert not languages.OTHER_NAMES.keys() & LANGUAGES.keys()
    assert set(languages.OTHER_NAMES.values()) | set(languages.ENDINGS.values()) <= LANGUAGES.keys()
    endings = [ending for ending, _ in LANGUAGES.values()]
    assert len(endings) == len(set(endings))
    for name, (ending, _) in LANGUAGES.items():
        assert of_file(f"x.{ending}") == name


def test_cards_name_languages_that_are_known():
    named = itertools.chain.from_iterable(card.languages for card in cards().values())
    assert {canonical(name) for name in named} - {"*"} <= LANGUAGES.keys()


def test_the_embedded_model_is_for_python_alone_and_starcoder2_15b_for_all():
    known = cards()
    assert [name for name in LANGUAGES if known["embedded"].knows(name)] == ["python"]
    assert all(known["starcoder2-15b"].knows(name) for name in LANGUAGES)
    assert not known["starcoder2-15b"].knows(UNKNOWN)
    assert known["starcoder2-3b"].knows("bash")
    assert not known["starcoder2-3b"].knows("julia")


def test_who_is_not_answered_is_told_the_model_and_the_language():
    assert not_asked(at("%%julia\n├"), "embedded") == (
        "embedded is not asked for julia: its card does not name that language."
    )
    assert "nothing tells which language" in not_asked(at("%%nobody\n├"), "embedded")


@pytest.mark.parametrize(
    "line", ["%%" + "x" * 9, " " * 9, "a" * 9, "!" * 9, "x, " * 9, "\\\n" * 9, "\n" * 9]
)
def test_looking_is_linear_in_the_cell(line, monkeypatch):
    """Counted are the characters that are looked at one by one; the rest is in C, and without backtracking."""
    looked = []
    scan = languages.scan

    def counted(source, quote=""):
        for sign in scan(source, quote):
            looked[-1] += 1
            yield sign

    monkeypatch.setattr(languages, "scan", counted)
    for times in (100, 200):
        looked.append(0)
        language_at(at(line * times + "\n!ls├"))
    assert looked[1] <= 2.1 * looked[0] + 10
