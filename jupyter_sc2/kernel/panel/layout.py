"""How the widgets of the panel are arranged: sections, rows and their classes, which the extension styles."""

from __future__ import annotations

import ipywidgets as widgets

from jupyter_sc2.kernel.panel import markup
from jupyter_sc2.kernel.panel.labels import label
from jupyter_sc2.kernel.views import wording
from jupyter_sc2.models.cards import ModelCard
from jupyter_sc2.models.plan import PrecisionOption
from jupyter_sc2.runtime.hardware import format_bytes


def panel(*sections: widgets.Widget) -> widgets.VBox:
    return _box("jp-sc2-Panel", *sections, layout={"max_width": "48em"})


def section(title: str, *children: widgets.Widget) -> widgets.VBox:
    heading = [widgets.HTML(markup.heading(title))] if title else []
    return _box("jp-sc2-Panel-section", *heading, *children)


def group(*children: widgets.Widget) -> widgets.VBox:
    return _box("jp-sc2-Panel-group", *children)


def row(*children: widgets.Widget) -> widgets.HBox:
    return widgets.HBox(list(children), layout={"flex_flow": "row wrap"})


def source(name: str, switch: widgets.Widget, count: widgets.Widget) -> widgets.HBox:
    """A source of the prompt: its colour in the bar, its switch, and its tokens."""
    box = widgets.HBox([switch, count])
    box.add_class("jp-sc2-Source")
    box.add_class(f"jp-mod-{name}")
    count.add_class("jp-sc2-Source-tokens")
    switch.layout.flex = "1 1 auto"
    return box


def fixed(words: str) -> widgets.Label:
    """A source that is always in the prompt."""
    return widgets.Label(words)


def explained(field: widgets.Widget, name: str) -> widgets.Widget:
    """A field with its help in a line below."""
    words = label(name).help
    if not words:
        return field
    help = widgets.HTML(words)
    help.add_class("jp-sc2-Panel-help")
    return _box("jp-sc2-Panel-explained", field, help)


def slider_ends(left: str, right: str) -> widgets.HTML:
    ends = widgets.HTML(markup.ends(left, right))
    ends.add_class("jp-sc2-Panel-ends")
    return ends


def button(text: str, tooltip: str) -> widgets.Button:
    return widgets.Button(
        description=text, tooltip=tooltip, layout={"width": "auto", "flex": "0 0 auto"}
    )


def fold(button: widgets.Button, content: widgets.Box) -> None:
    """Lets the button fold and unfold the content, which is folded at first."""

    def toggle(_: object = None) -> None:
        opens = content.layout.display == "none"
        content.layout.display = "" if opens else "none"
        (button.add_class if opens else button.remove_class)("jp-mod-open")

    button.add_class("jp-sc2-Panel-fold")
    content.layout.display = "none"
    button.on_click(toggle)


def set_line(widget: widgets.HTML, words: str, role: str = "status") -> None:
    """Shows a message, or takes it away."""
    widget.value = markup.line(words, role) if words else ""
    widget.layout.display = "" if words else "none"


def memory(row: PrecisionOption) -> str:
    """A precision with the memory that it needs."""
    large = ", too large" if row.fits is False else ""
    return f"{wording.precision(row.precision)}, {format_bytes(row.memory_bytes)}{large}"


def model_details(card: ModelCard, row: PrecisionOption) -> str:
    """Size, speed and memory of a model; its name may tell the size already."""
    known = card.parameters == "?" or card.parameters.lower() in card.name.lower()
    speed = "too large" if row.fits is False else _a_line(row)
    return ", ".join([*([] if known else [card.parameters]), speed, format_bytes(row.memory_bytes)])


def _a_line(row: PrecisionOption) -> str:
    """The time for a line, as short as the list of models needs it: "0.9 s/line"."""
    seconds = max(row.line_seconds, 0.1)
    return f"{seconds:.0f} s/line" if seconds >= 9.95 else f"{seconds:.1f} s/line"


def _box(name: str, *children: widgets.Widget, **options: object) -> widgets.VBox:
    box = widgets.VBox(list(children), **options)
    box.add_class(name)
    return box
