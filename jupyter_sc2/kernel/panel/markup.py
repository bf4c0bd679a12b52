"""The parts of the panel that are HTML: the header, the licence, the bar of the prompt's tokens.

Their classes are those of the extension's stylesheet. All texts are escaped here.
"""

from __future__ import annotations

import html
from collections.abc import Mapping

from jupyter_sc2.kernel.panel.labels import CHOICES, STATES
from jupyter_sc2.kernel.views import wording
from jupyter_sc2.kernel.views.text import memory
from jupyter_sc2.models.cards import ModelCard
from jupyter_sc2.models.plan import PrecisionOption, a_line
from jupyter_sc2.pipeline.status import Status
from jupyter_sc2.prompt.sources import SETTINGS
from jupyter_sc2.runtime.hardware import format_bytes

TITLE = "Code completion"
OTHER = "other"  # the tokens of no setting: this cell, and the format's special tokens


def header(status: Status, model: str) -> str:
    """The name, the state as a badge, what runs, and how far a load is."""
    state = STATES.get(status.state, status.state)
    if status.progress is not None:
        state += f" {status.progress:.0%}"
    running = status.state in ("ready", "generating")
    facts = [
        status.model or model,
        CHOICES["engine"].get(status.engine, status.engine) if running else "",
        wording.precision(status.precision) if running else "",
        memory(status.memory_bytes) if running and status.memory_bytes else "",
    ]
    loading = status.state in ("loading", "downloading")
    value = "" if status.progress is None else f' value="{status.progress:.3f}"'
    bar = (
        f'<progress max="1"{value} aria-label="{html.escape(state)}"></progress>' if loading else ""
    )
    return (
        f'<div class="jp-sc2-Panel-header"><div class="jp-sc2-Panel-title" role="heading" aria-level="2">{TITLE}</div>'
        f'<div class="jp-sc2-Badge jp-mod-{html.escape(status.state)}" role="status">{html.escape(state)}</div></div>'
        f'<div class="jp-sc2-Panel-facts">{html.escape(" · ".join(filter(None, facts)))}</div>{bar}'
    )


def heading(words: str) -> str:
    return f'<div class="jp-sc2-Panel-heading" role="heading" aria-level="3">{words}</div>'


def line(words: str, role: str) -> str:
    """A message; `role` is "alert" for what went wrong, else "status"."""
    return f'<div role="{role}">{html.escape(words)}</div>'


def licence(card: ModelCard) -> str:
    """The licence, with its conditions folded: those of a model that is downloaded are open at first."""
    name = html.escape(f"Licence: {card.licence}")
    if not (card.licence_summary or card.licence_url):
        return f"<div>{name}</div>"
    link = ""
    if card.licence_url.startswith(("http://", "https://")):
        url = html.escape(card.licence_url)
        link = f' <a href="{url}" target="_blank" rel="noopener">Full text</a>'
    opened = "" if card.hub_id is None else " open"
    return (
        f"<details{opened}><summary>{name}</summary>"
        f"<div>{html.escape(card.licence_summary)}{link}</div></details>"
    )


def model_facts(card: ModelCard, row: PrecisionOption) -> str:
    """Size, speed and memory of the model that is set, with their units."""
    size = "" if card.parameters == "?" else f"{card.parameters} parameters"
    facts = [size, a_line(row), f"{format_bytes(row.memory_bytes)} of memory"]
    warning = " · more than is free" if row.fits is False else ""
    return f'<div class="jp-sc2-Panel-facts">{html.escape(" · ".join(filter(None, facts)))}{warning}</div>'


def ends(left: str, right: str) -> str:
    """What the ends of a slider stand for."""
    return f"<div><span>{left}</span><span>{right}</span></div>"


def token_bar(counts: Mapping[str, int], limit: int) -> str:
    """The shares of a prompt's tokens by setting, and how many they are; nothing before the first prompt."""
    total = sum(counts.values())
    if not total:
        return '<div class="jp-sc2-Tokens-total">Tokens are counted at the first request.</div>'
    words = f"{wording.number(total)} of {wording.number(limit)} tokens"
    parts = "".join(
        f'<div class="jp-sc2-Tokens-part" data-source="{name}" style="flex-grow: {counts[name]}" '
        f'title="{html.escape(source_name(name))}: {wording.number(counts[name])}"></div>'
        for name in (*SETTINGS, OTHER)
        if counts.get(name)
    )
    shares = ", ".join(f"{source_name(name)} {count}" for name, count in counts.items() if count)
    return (
        f'<div class="jp-sc2-Tokens" role="img" aria-label="{html.escape(f"{words}: {shares}")}">{parts}</div>'
        f'<div class="jp-sc2-Tokens-total">{words}</div>'
    )


def token_count(count: int) -> str:
    return f'<div title="tokens">{wording.number(count)}</div>' if count else ""


def source_name(setting: str) -> str:
    return SETTINGS[setting].label if setting in SETTINGS else "This cell"
