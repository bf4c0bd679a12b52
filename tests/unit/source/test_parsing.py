"""Python's parser, where warnings belong to the user's code."""

from __future__ import annotations

import ast
import threading
import warnings

import pytest

from jupyter_sc2.source.parsing import parse


@pytest.mark.parametrize(
    "source", ['x = "\\d"', "x = '''\\\n\\ \\'''' ", 'f"\\N{BULLET}\\w{1}"', 'b"\\e\\x00"']
)
def test_an_escape_that_python_does_not_know_is_no_matter(source):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert parse(source) is not None


def test_the_escapes_that_it_knows_stay():
    source = r'x = "\t\\d\x41\101\u00e9\"\N{BULLET}"'
    assert ast.dump(parse(source)) == ast.dump(ast.parse(source))


def test_a_filter_of_warnings_that_is_set_meanwhile_stays():
    ended = threading.Event()

    def parse_on() -> None:
        while not ended.is_set():
            parse('x = "\\d"\n' * 50)

    with warnings.catch_warnings():
        thread = threading.Thread(target=parse_on)
        thread.start()
        for number in range(200):
            warnings.filterwarnings("ignore", message=f"number {number}")
        ended.set()
        thread.join()
        assert len([one for one in warnings.filters if "number" in str(one[1])]) == 200


@pytest.mark.parametrize("source", ["x = (", "x = \0", "(" * 5000])
def test_what_is_no_python_has_no_tree(source):
    assert parse(source) is None
