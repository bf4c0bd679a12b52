"""Tables are aligned text in a terminal and HTML in a notebook."""

from types import SimpleNamespace
from unittest import mock

from jupyter_sc2.kernel.views.table import Markup, Table, show

TABLE = Table(
    head=("model", "size", "note"),
    rows=[("embedded", "109M", "small and fast"), ("big", "3B", "better, and slower")],
    right=(1,),
    bold=(1,),
)


def test_columns_are_aligned_numbers_to_the_right():
    assert TABLE.text().splitlines() == [
        "model     size  note",
        "embedded  109M  small and fast",
        "big         3B  better, and slower",
    ]


def test_the_last_column_is_wrapped_below_itself():
    table = Table(rows=[("mode", "When ghost text appears: while typing, on request or never.")])
    assert table.text(width=40).splitlines() == [
        "mode  When ghost text appears: while",
        "      typing, on request or never.",
    ]


def test_a_narrow_terminal_leaves_the_last_column_some_room():
    table = Table(rows=[("attribution_lexemes", "one two three four five six seven")])
    assert len(table.text(width=20).splitlines()) == 2


def test_what_is_in_a_cell_is_no_markup():
    table = Table(rows=[("<b>", "a & b")])
    assert "&lt;b&gt;" in table.html() and "a &amp; b" in table.html()


def test_the_row_that_stands_out_is_bold():
    rows = TABLE.html().split("<tr>")[1:]
    assert ["bold" in row for row in rows] == [False, False, True]


def test_a_shell_without_a_kernel_gets_text(capsys):
    show(SimpleNamespace(), "Heading", TABLE, Markup("plain", "<i>rich</i>"))
    assert capsys.readouterr().out == f"Heading\n{TABLE.text()}\nplain\n"


def test_a_notebook_gets_html_and_the_text_beside_it():
    with mock.patch("IPython.display.publish_display_data") as publish:
        show(SimpleNamespace(kernel=object()), "1 < 2", TABLE, Markup("plain", "<i>rich</i>"))
    (data,) = publish.call_args.args
    assert data["text/plain"] == f"1 < 2\n{TABLE.text()}\nplain"
    assert data["text/html"].startswith("<div>1 &lt; 2</div><table")
    assert data["text/html"].endswith("<i>rich</i>")
