"""What an editor closes by itself, and what it does not."""

import pytest

from jupyter_sc2.source.brackets import open_closers, scan, strip_auto_closers


@pytest.mark.parametrize(
    ("line", "closers"),
    [
        ("x = foo(bar[", "])"),
        ('df["', '"]'),
        ("f(a)", ""),
        ("f('it\\'s", "')"),
        ("f(')'", ")"),
        ("x = 1  # (", ""),
        ("'#' + f(", ")"),
        ("d = {'a': [", "]}"),
        (")", ""),
    ],
)
def test_what_would_close_a_line(line, closers):
    assert open_closers(line) == closers


@pytest.mark.parametrize(
    ("prefix", "suffix", "without"),
    [
        ("print(", ")", ""),
        ("y = 1\nprint(", ")\nz = 2", "\nz = 2"),
        ("foo(bar[", "])", ""),
        ('df["', '"] + 1', " + 1"),
        ("f(g(", ")), 1", ", 1"),
        ("f(", "a)", "a)"),
        ("f(", ").mean()", ").mean()"),
        ("f(a", ", b)", ", b)"),
        ("x", ")", ")"),
        ("f(\n    ", "\n)", "\n)"),
    ],
)
def test_a_suffix_without_what_the_editor_closed(prefix, suffix, without):
    assert strip_auto_closers(prefix, suffix) == without


@pytest.mark.parametrize("source", ["'a\\", '"""a\\', "\\", "# \\"])
def test_behind_a_backslash_at_the_end_there_is_no_character(source):
    assert [char for _, char, _ in scan(source)][-1] == "\\"
