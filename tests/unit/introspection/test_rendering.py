"""Live variables as comment lines, and how training guesses them."""

from random import Random

from jupyter_sc2.introspection.rendering import MAX_LINE_CHARS, Variable, describe, table_detail
from jupyter_sc2.training.state import infer_state


def test_each_variable_is_one_line_of_comment():
    variables = [Variable("x", "ndarray", "(3,) float64"), Variable("f(a, b=1)", "function")]
    assert describe(variables) == "# x: ndarray (3,) float64\n# f(a, b=1): function\n"


def test_a_line_break_in_a_detail_does_not_break_the_comment():
    assert describe([Variable("d", "dict", "'a\nb'")]) == "# d: dict 'a b'\n"


def test_columns_are_grouped_by_dtype_in_the_order_in_which_they_come():
    columns = [("a", "int64"), ("b", "object"), ("c", "int64")]
    assert table_detail((10, 3), columns) == "(10, 3) int64 a, c; object b"


def test_a_length_that_is_not_known_is_a_question_mark():
    assert table_detail((-1, 1), [("a", "i64")]) == "(?, 1) i64 a"


def test_a_long_line_ends_behind_a_whole_item():
    line = describe([Variable("df", "DataFrame", ", ".join(f"column_{n}" for n in range(100)))])
    assert len(line) <= MAX_LINE_CHARS + 1
    assert line.endswith(" …\n")
    assert line.split(" …")[0].rpartition(" ")[2].removeprefix("column_").isdigit()


def test_lines_that_do_not_fit_are_left_out_whole():
    variables = [Variable(name, "int") for name in "abcdef"]
    assert describe(variables, limit=18) == "# a: int\n# b: int\n"


ABOVE = ["import pandas as pd", 'df = pd.read_csv("x.csv")\nn = 3', "def clean(t):\n    'Cleans.'"]
CELL = 'df["age"].hist()'


def guessed(above=ABOVE, cell=CELL) -> str:
    return describe(infer_state(above, [*above, cell], cell, Random(0)))


def test_a_table_gets_the_columns_that_code_takes_from_it_anywhere():
    assert "# df: DataFrame" in guessed()
    assert " age" in guessed()


def test_a_function_is_guessed_with_its_signature_and_first_line():
    assert "# clean(t): function, Cleans.\n" in guessed()


def test_what_is_defined_only_later_is_not_guessed():
    assert guessed(above=ABOVE[:1]) == ""


def test_code_that_does_not_parse_is_passed_over():
    assert "# n: int" in guessed(above=[*ABOVE, "this is no python"])
