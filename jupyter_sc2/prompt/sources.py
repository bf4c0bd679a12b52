"""The sources of a prompt: where each part of its text comes from, which setting includes it, how it is shown.

A new source of text in the cells above is one entry here, with a function that writes it (see cell_text.py). A new
source that only the kernel knows is one entry here, with a function in kernel/namespace.py. Settings, prompts,
`%sc2 context`, the panel and `jupyter sc2 eval live` read this table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from jupyter_sc2.notebook import Cell
from jupyter_sc2.prompt.cell_text import code_text, file_text, markdown_text, output_text


class Render(Protocol):
    """Writes the text that a cell above contributes, "" if none; `comment` asks for comments of `language`."""

    def __call__(self, cell: Cell, language: str = "python", *, comment: bool = True) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The setting that includes a source in the prompt."""

    name: str
    default: bool
    help: str
    label: str  # of its checkbox in the panel
    advanced: bool = False  # folded away in the panel


@dataclass(frozen=True, kw_only=True)
class ContextSource:
    """One source of text in a prompt.

    A source that is `part_of` another has no text of its own in the prompt's plan: its lines are in the other's
    text, and those that begin with `line_start` are counted for it. `imports` have their own text and the setting of
    `cells`.
    """

    name: str
    label: str
    colour: str = ""  # on the light background of the HTML
    terminal_colour: str = ""  # the parameter of the SGR escape sequence
    setting: Setting | None = None
    part_of: str = ""
    line_start: str = ""
    role: str = "jupyter_code"  # of the token that opens its text in StarCoder2's notebook format
    render: Render | None = None
    measured: bool = False  # by `jupyter sc2 eval live`, with and without it


_SOURCES = (
    ContextSource(name="layout", label="special tokens", colour="#8a8a8a", terminal_colour="2"),
    ContextSource(
        name="imports",
        label="imports of cells that did not fit",
        colour="#7b5ea7",
        terminal_colour="35",
        part_of="cells",
    ),
    ContextSource(
        name="cells",
        label="code cells above",
        colour="#1a5fb4",
        terminal_colour="34",
        setting=Setting(
            name="context_cells",
            default=True,
            help="Include the code cells above in the prompt.",
            label="Code cells above",
        ),
        render=code_text,
    ),
    ContextSource(
        name="files",
        label="other open files",
        colour="#0f7285",
        terminal_colour="34;1",
        setting=Setting(
            name="context_files",
            default=True,
            help="Include files that a text file names, or open beside it.",
            label="Other open files",
        ),
        render=file_text,
    ),
    ContextSource(
        name="markdown",
        label="Markdown cells above",
        colour="#26734d",
        terminal_colour="32",
        setting=Setting(
            name="context_markdown",
            default=True,
            help="Include the Markdown cells above.",
            label="Markdown cells above",
        ),
        role="jupyter_text",
        render=markdown_text,
    ),
    ContextSource(
        name="outputs",
        label="cell outputs",
        colour="#8f5902",
        terminal_colour="36",
        setting=Setting(
            name="context_outputs",
            default=False,
            help="Include the first lines of the outputs above.",
            label="Cell outputs",
        ),
        role="jupyter_output",
        render=output_text,
        measured=True,
    ),
    # What the kernel knows, as comment lines: its sources are the next three.
    ContextSource(name="state", label="live variables", colour="#b3541e", terminal_colour="33"),
    ContextSource(
        name="variables",
        label="live variables",
        setting=Setting(
            name="context_variables",
            default=True,
            help="Include the live variables: types, shapes, columns.",
            label="Live variables",
        ),
        part_of="state",
        measured=True,
    ),
    ContextSource(
        name="values",
        label="sample values",
        setting=Setting(
            name="context_values",
            default=False,
            help="Include small samples of their values, but no secrets.",
            label="Sample values",
            advanced=True,
        ),
        part_of="variables",
    ),
    ContextSource(
        name="error",
        label="last error message",
        setting=Setting(
            name="context_error",
            default=True,
            help="Include the last cell's error, if any.",
            label="Last error message",
        ),
        part_of="state",
        line_start="# last error: ",
    ),
    ContextSource(name="cell", label="this cell", colour="#212121", terminal_colour="0"),
)
SOURCES: Mapping[str, ContextSource] = {source.name: source for source in _SOURCES}
SETTINGS: Mapping[str, Setting] = {
    source.setting.name: source.setting for source in _SOURCES if source.setting is not None
}
# Those that each cell above is written from, in the order of their texts.
CELL_SOURCES: Mapping[str, Render] = {
    source.name: source.render for source in _SOURCES if source.render is not None
}
DEFAULT_EXCLUDED = frozenset(
    name
    for name in CELL_SOURCES
    if (setting := SOURCES[name].setting) is not None and not setting.default
)


def setting_of(source: ContextSource) -> str:
    """The name of the setting that includes this source; "" for one that is always there."""
    if source.setting is not None:
        return source.setting.name
    return setting_of(SOURCES[source.part_of]) if source.part_of else ""


def tokens_by_setting(texts: Iterable[tuple[str, str, int]]) -> dict[str, int]:
    """Tokens by the setting that includes them; `texts` are texts with their sources and tokens.

    The tokens of a text with several sources are shared out by their characters.
    """
    counts: dict[str, int] = {}
    for text, name, tokens in texts:
        for setting, share in _shared_out(text, SOURCES[name], tokens).items():
            counts[setting] = counts.get(setting, 0) + share
    return counts


def _shared_out(text: str, source: ContextSource, tokens: int) -> dict[str, int]:
    parts = [one for one in _SOURCES if one.part_of == source.name]
    whole = next((one for one in parts if not one.line_start), source)
    if source.setting is not None or not parts:
        return {setting_of(source): tokens}
    shares = {}
    lines = text.splitlines(keepends=True)
    for part in parts:
        if part.line_start:
            characters = sum(len(line) for line in lines if line.startswith(part.line_start))
            shares[setting_of(part)] = round(tokens * characters / len(text))
    shares[setting_of(whole)] = tokens - sum(shares.values())
    return shares
