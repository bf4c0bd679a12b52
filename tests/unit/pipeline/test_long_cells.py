"""What a key causes grows no faster than its cell, and not with what is around: operations are counted, not seconds."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from jupyter_sc2.kernel import history
from jupyter_sc2.kernel import namespace as kernel_namespace
from jupyter_sc2.kernel.namespace import LiveNamespace
from jupyter_sc2.kernel.terminal import Terminal
from jupyter_sc2.notebook import Cell
from jupyter_sc2.pipeline import candidate
from jupyter_sc2.prompt.builder import last_part, split_at_boundary
from jupyter_sc2.prompt.excerpt import MAX_PREFIX_CHARS, MAX_SUFFIX_CHARS, excerpt
from jupyter_sc2.settings import SC2
from jupyter_sc2.source.brackets import CLOSING, open_at_end, scan
from jupyter_sc2.source.incomplete import complete_tree, is_magic_line
from jupyter_sc2.source.languages import of_cell_magic
from jupyter_sc2.types import CompletionRequest
from tests.support.fake_engine import FakeEngine
from tests.support.long_cells import Typist, kinds, places

# Where work grows with the square of a cell, one key in a cell of so many characters would take hours.
LONG = 500_000  # characters: what grows with the square takes an hour
LIMIT = 110  # seconds for all of them; it takes some three
SIZE = 60_000


def operations(work: Callable[[], object]) -> int:
    """How many lines of Python are run and functions called, those written in C included."""
    count = 0

    def trace(frame, event, arg):
        nonlocal count
        count += 1
        return trace

    def profile(frame, event, arg):
        nonlocal count
        count += event == "c_call"

    sys.settrace(trace)
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.settrace(None)
        sys.setprofile(None)
    return count


@pytest.fixture
def shell():
    shell = InteractiveShell(config=Config(HistoryManager={"enabled": False}))
    shell.run_cell("rows = [1]")
    return shell


@pytest.fixture(autouse=True)
def all_is_shown(monkeypatch):
    """Else it depends on the clock which tokens there is something to do for."""
    monkeypatch.setattr(candidate, "UPDATE_INTERVAL_S", 0)


def typist(shell: InteractiveShell, cells=()) -> Typist:
    engine = FakeEngine(*["foo(a, y)\nx = [1]"] * 20)
    return Typist(engine, LiveNamespace(shell, SC2()), cells)


def of_a_second_key(shell: InteractiveShell, cells=(), text: str = "x = o", offset=None) -> int:
    """The operations of a key in a cell where some were typed before."""
    typing = typist(shell, cells)
    offset = len(text) if offset is None else offset
    typing.key(text[: offset - 1] + text[offset:], offset - 1, "invoke")
    typing.key(text[:offset] + "a" + text[offset:], offset + 1, "invoke")
    return operations(lambda: typing.key(text, offset, "invoke"))


# The cell


def test_a_key_in_a_very_long_cell_ends():
    command = [sys.executable, "-m", "tests.support.long_cells", str(LONG)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(kinds(50)) * 4


@pytest.mark.parametrize("kind", kinds(50))
def test_a_key_takes_no_more_operations_in_a_cell_that_is_twice_as_long(shell, kind):
    for place in places(""):
        small, large = (
            of_a_second_key(shell, (), *places(kinds(size)[kind])[place])
            for size in (SIZE, 2 * SIZE)
        )
        assert large <= 1.3 * small + 500, place


@pytest.mark.parametrize("kind", kinds(50))
def test_a_key_in_a_cell_that_is_still_looked_at_takes_no_more_than_twice_for_twice_its_length(
    shell, kind
):
    for place in places(""):
        small, large = (
            of_a_second_key(shell, (), *places(kinds(size)[kind])[place]) for size in (3000, 6000)
        )
        assert large <= 2.3 * small + 2000, place  # a square makes it four times as many


def test_an_engine_encodes_only_so_much_of_a_long_cell(shell):
    typing = typist(shell)
    engine = typing._completer.engine
    encode, longest = engine.encode, 0

    def encoding(text: str) -> list[int]:
        nonlocal longest
        longest = max(longest, len(text))
        return encode(text)

    engine.encode = encoding
    for kind, text in kinds(SIZE).items():
        Typist(engine).key(text, len(text), "invoke")
        assert longest < 10_000, kind


def test_what_is_typed_in_a_long_line_only_appends_to_the_prompt():
    engine = FakeEngine(*["x"] * 200)
    typing = Typist(engine)
    text = kinds(SIZE)["hex"]
    for end in range(len(text) - 150, len(text)):
        typing.key(text[:end], end, "invoke")
    beginnings = {prompt[:500] for prompt in engine.prompts}
    assert len(beginnings) <= 4


# What is around it


def test_a_key_takes_no_more_operations_in_a_notebook_of_twice_as_many_cells(shell):
    def cells(count: int) -> list[Cell]:
        return [
            Cell(id=str(i), source=f"import a{i}\nx{i} = {i}  # {'-' * 20}") for i in range(count)
        ]

    small, large = (of_a_second_key(shell, cells(count)) for count in (2_000, 4_000))
    assert large <= 1.1 * small


def test_a_key_takes_no_more_operations_above_cells_that_hold_twice_as_much(shell):
    small, large = (
        of_a_second_key(shell, [Cell(id=kind, source=text) for kind, text in kinds(size).items()])
        for size in (10_000, 20_000)
    )
    assert large <= 1.1 * small


def test_a_key_takes_no_more_operations_with_twice_as_many_variables(shell):
    counts = []
    for count in (2_000, 4_000):
        shell.user_ns.update((f"v{i}", [i]) for i in range(count))
        counts.append(of_a_second_key(shell))
    assert counts[1] <= 1.1 * counts[0]


def test_variables_that_find_no_room_are_looked_at_once(shell, monkeypatch):
    for index in range(60):
        shell.user_ns[f"variable_{index}"] = {f"field_{index}_{n}": 1 for n in range(12)}
    text = "print(" + ", ".join(f"variable_{index}" for index in range(60)) + ", x"
    namespace = LiveNamespace(shell, SC2())

    def ask(end: int) -> str:
        return namespace.state(CompletionRequest(text=text[:end], offset=end, cell_id="here"))

    ask(20)
    told = ask(len(text) - 1)
    looks = []
    for name in ("describe_name", "choose"):
        monkeypatch.setattr(kernel_namespace, name, lambda *args, **kwargs: looks.append(args))
    assert ask(len(text)) == told
    assert not looks


def test_the_history_of_a_terminal_is_read_when_something_has_run(shell):
    terminal = Terminal(shell, Typist(FakeEngine())._session, SC2())
    before = terminal._notebook(*history.length(shell))
    assert terminal._notebook(*history.length(shell)) is before
    shell.run_cell("x = 1", store_history=True)
    assert len(terminal._notebook(*history.length(shell)).cells) == len(before.cells) + 1


# The part of a cell that is near


def test_a_cell_that_is_not_long_stays_as_it_is():
    request = CompletionRequest(
        text="x" * MAX_PREFIX_CHARS + "y" * MAX_SUFFIX_CHARS, offset=MAX_PREFIX_CHARS
    )
    assert excerpt(request) is request


@pytest.mark.parametrize("kind", kinds(50))
def test_of_a_long_cell_there_is_a_bounded_part(kind):
    text = kinds(300_000)[kind]
    for whole, offset in places(text).values():
        request = CompletionRequest(text=whole, offset=offset)
        part = excerpt(request)
        assert len(part.prefix) <= MAX_PREFIX_CHARS
        assert len(part.suffix) <= MAX_SUFFIX_CHARS
        assert whole[:offset].endswith(part.prefix[-1000:])
        assert whole[offset:].startswith(part.suffix)
        assert excerpt(part) is part


@pytest.mark.parametrize(
    ("head", "filling"),
    [
        ("d = [{'a': (", "1, "),
        ("s = '", "x"),
        ('s = """\n', "it's a (line\n"),
        ("# ", "("),
        ("x = f({", "'(': 1,\n"),
        ("s = '" + "\\", "\\"),
        ("", "f(')')\n"),
    ],
)
def test_what_is_open_at_the_cursor_is_told_as_in_the_whole_cell(head, filling):
    for more in range(3):
        text = head + filling * (70_000 // len(filling) + more)
        part = excerpt(CompletionRequest(text=text, offset=len(text)))
        assert len(part.prefix) < len(text)
        assert open_at_end(part.prefix) == open_at_end(text)


def test_a_long_cell_keeps_the_language_of_its_magic():
    text = "%%bash\n" + "echo 'x'\n" * 10_000
    assert of_cell_magic(excerpt(CompletionRequest(text=text, offset=len(text))))[0] == "bash"


def test_a_long_command_is_still_one():
    text = "x = 1\n!ls " + "a " * 40_000
    part = excerpt(CompletionRequest(text=text, offset=len(text)))
    assert is_magic_line(part.prefix.rpartition("\n")[2])


def test_the_cut_stays_in_one_place_while_somebody_types():
    text = "x = 1\n" * 20_000
    cuts = {
        excerpt(CompletionRequest(text=text, offset=end)).prefix[:50]
        for end in range(99_000, 99_900)
    }
    assert len(cuts) <= 2


@pytest.mark.parametrize("length", [20, 100, 1000])
def test_the_last_part_of_a_text_is_bounded_and_moves_in_steps(length):
    text = "".join(f"line {i}\n" for i in range(500)) + "x" * 3000
    ends = range(3000, len(text))
    parts = [last_part(text[:end], length) for end in ends]
    assert all(
        0 < len(part) <= length and text[:end].endswith(part)
        for end, part in zip(ends, parts, strict=True)
    )
    starts = {end - len(part) for end, part in zip(ends, parts, strict=True)}
    assert len(starts) <= 4 + len(ends) // (length * 2 // 5)


# Expressions that were replaced say what they said


def test_brackets_and_quotes_are_told_sign_by_sign_or_at_once():
    chance = random.Random(0)
    signs = ["'", '"', "\\", "\n", "#", *"()[]{}", "a", " ", "'''", '"""']
    for _ in range(20_000):
        source = "".join(chance.choices(signs, k=chance.randrange(14)))
        opened: list[str] = []
        inside = ""
        for _, char, quote in scan(source):
            inside = quote
            if not quote and char in CLOSING:
                opened.append(char)
            elif not quote and char in CLOSING.values() and opened:
                opened.pop()
        assert open_at_end(source) == (opened, inside), source


@pytest.mark.parametrize(
    ("prefix", "cut"),
    [
        ("import numpy as ", " "),
        ("x = " + "a" * 24, ""),
        ("x = " + "a" * 23, " " + "a" * 23),
        ("x = " + "a" * 25, ""),
        ("a" * 100_000, ""),
        ("x" + " " * 100_000, ""),
        ("-" * 100_000 + " foo", " foo"),
        ("'" * 30, ""),
    ],
)
def test_a_prompt_is_cut_before_its_last_word_unless_that_is_long(prefix, cut):
    assert split_at_boundary(prefix) == (prefix[: len(prefix) - len(cut)], cut)


@pytest.mark.parametrize(
    ("line", "is_magic"),
    [
        ("%time x", True),
        ("  !ls", True),
        ("?x", True),
        ("x?", True),
        ("x??  ", True),
        ("files = !ls", True),
        ("a, b.c = %time 1", True),
        ("'x?'", False),
        ("x = 1 # why?", False),
        ("x != y", False),
        ("x == !y", False),
        ("f(x) = %y", False),
        (" " * 100_000 + "x", False),
        ("a" * 100_000, False),
    ],
)
def test_what_ipython_takes_and_python_does_not(line, is_magic):
    assert is_magic_line(line) == is_magic


@pytest.mark.parametrize(
    "source", ["a." * 3000, "!ls\n" * 1500, "x = " + "-1" * 3000, "f(" * 2000, "[" * 7000]
)
def test_code_that_python_or_ipython_gives_up_on_is_no_failure(shell, source):
    complete_tree(source, "x", "")
    assert typist(shell).key(source, len(source), "invoke").finish_reason in ("stop", "length")
