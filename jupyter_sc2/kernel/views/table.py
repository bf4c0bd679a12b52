"""Tables: aligned text in a terminal, an HTML table in a notebook."""

from __future__ import annotations

import html
import shutil
import sys
import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from IPython.core.interactiveshell import InteractiveShell

GAP = "  "
# The last column is not made narrower than this.
MIN_WRAP = 30
CELL = "text-align: {}; vertical-align: top; padding: 2px 12px 2px 0; white-space: {}"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of texts, under a head if there is one. The last column may be wrapped.

    `right` are the columns of numbers; `bold` are the rows that stand out.
    """

    rows: Sequence[Sequence[str]]
    head: Sequence[str] = ()
    right: Collection[int] = field(default=())
    bold: Collection[int] = field(default=())

    def text(self, width: int | None = None) -> str:
        """`width` is that of the terminal, None for lines of any length."""
        lines = [*([self.head] if self.head else []), *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(self._line(cells, widths, width) for cells in lines)

    def _line(self, cells: Sequence[str], widths: Sequence[int], width: int | None) -> str:
        padded = [
            cell.rjust(size) if index in self.right else cell.ljust(size)
            for index, (cell, size) in enumerate(zip(cells, widths, strict=True))
        ]
        begin = "".join(cell + GAP for cell in padded[:-1])
        room = None if width is None else max(MIN_WRAP, width - len(begin) - 1)
        if room is None or len(cells[-1]) <= room:
            return (begin + padded[-1]).rstrip()
        wrapped = textwrap.wrap(cells[-1], room, break_long_words=False, break_on_hyphens=False)
        return ("\n" + " " * len(begin)).join([begin + wrapped[0], *wrapped[1:]])

    def html(self) -> str:
        head = f"<thead>{self._row(self.head, 'th')}</thead>" if self.head else ""
        body = "".join(
            self._row(cells, "td", index in self.bold) for index, cells in enumerate(self.rows)
        )
        return f'<table style="border-collapse: collapse">{head}<tbody>{body}</tbody></table>'

    def _row(self, cells: Sequence[str], tag: str, bold: bool = False) -> str:
        weight = "; font-weight: bold" if bold else ""
        found = []
        for index, cell in enumerate(cells):
            side = "right" if index in self.right else "left"
            space = "normal" if index == len(cells) - 1 else "nowrap"
            style = CELL.format(side, space) + weight
            found.append(f'<{tag} style="{style}">{html.escape(cell)}</{tag}>')
        return f"<tr>{''.join(found)}</tr>"


@dataclass(frozen=True)
class Markup:
    """What a notebook shows as HTML, and a terminal as text."""

    plain: str
    markup: str


Block = str | Table | Markup


def show(shell: InteractiveShell, *blocks: Block) -> None:
    """Shows texts and tables one below the other."""
    if not hasattr(shell, "kernel"):
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print("\n".join(_text(block, width) for block in blocks))
        return
    from IPython.display import publish_display_data

    plain = "\n".join(_text(block, None) for block in blocks)
    data = {"text/plain": plain, "text/html": "".join(map(_html, blocks))}
    publish_display_data(data)  # type: ignore[no-untyped-call]


def _text(block: Block, width: int | None) -> str:
    if isinstance(block, Table):
        return block.text(width)
    return block.plain if isinstance(block, Markup) else block


def _html(block: Block) -> str:
    if isinstance(block, Table):
        return block.html()
    if isinstance(block, Markup):
        return block.markup
    return f"<div>{'<br>'.join(html.escape(line) for line in block.splitlines())}</div>"
