"""The words of the panel: a label and a line of help for each setting, and names for the choices of lists.

No text is longer than MAX_TEXT characters. The full help of a setting is that of its trait, in `%sc2 settings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from jupyter_sc2.prompt.sources import SETTINGS

MAX_TEXT = 60


class Label(NamedTuple):
    text: str
    help: str


LABELS: Mapping[str, Label] = {
    "mode": Label("Show", "When ghost text appears."),
    "after_enter": Label("After Enter", "Ghost text on a new line, before you type."),
    "model": Label("Model name", "A known name, owner/name on the Hub, or ./folder."),
    "engine": Label("Engine", "The library that runs the model."),
    "precision": Label("Precision", "Fewer bits need less memory."),
    "server": Label("Server", "A URL, or auto for a running `jupyter sc2 serve`."),
    "max_tokens": Label("Length", "The most tokens of a suggestion; a line has about ten."),
    "temperature": Label("Creativity", "Temperature; 0 takes the most likely token."),
    "top_k": Label("Top k", "Sample from the k most likely tokens; 0 for all."),
    "top_p": Label("Top p", "Sample from the tokens that sum to this probability."),
    "seed": Label("Seed", "A number makes sampling repeatable."),
    "context_tokens": Label("Prompt length", "The most tokens of a prompt; longer is slower."),
    **{name: Label(setting.label, setting.help) for name, setting in SETTINGS.items()},
    "context_files": Label("Other open files", "Those that a text file names, or beside it."),
    "grounding": Label(
        "Validate against live variables", "Repairs or drops what contradicts them."
    ),
    "imports": Label("Missing imports", "`import numpy as np` and the like, added on Tab."),
    "confidence": Label("Confidence", "From how sure a word is shown while you type."),
    "adaptive_confidence": Label("Learn from what you accept", "Adjusts the confidence a little."),
    "prose": Label("Complete text cells", "Markdown and raw cells, while you type."),
    "next_suggestion": Label("Compute ahead", "The next suggestion, while you read one."),
    "threads": Label("CPU threads", "0 for as many as help."),
    "offline": Label("Stay offline", "Loads only models that are on this disk."),
    "attribution": Label("Matching code", "When a suggestion matches indexed code."),
    "attribution_lexemes": Label("Minimum match length", "In names, operators and literals."),
    "statistics": Label("Keep usage statistics", "Counts and times, on this machine; no code."),
}
CHOICES: Mapping[str, Mapping[str, str]] = {
    "mode": {"automatic": "While typing", "manual": "On request (Alt+\\)", "off": "Never"},
    "after_enter": {"smart": "Below : ( and #", "always": "Always", "off": "Never"},
    "precision": {"auto": "Automatic"},
    "imports": {"off": "Leave out", "ask": "Show and add", "on": "Add"},
    "next_suggestion": {"auto": "Local models", "on": "Always", "off": "Never"},
    "engine": {
        "auto": "Automatic",
        "onnxruntime": "ONNX Runtime",
        "transformers": "PyTorch",
        "llamacpp": "llama.cpp",
        "openai": "Server",
    },
    "attribution": {
        "off": "Ignore",
        "show": "Show the source",
        "warn": "Show and warn",
        "block": "Block",
    },
}
# Placeholders of empty text fields.
HINTS: Mapping[str, str] = {"model": "owner/name, ./folder", "server": "none", "seed": "random"}
STATES: Mapping[str, str] = {
    "unloaded": "Not loaded",
    "downloading": "Downloading",
    "loading": "Loading",
    "ready": "Ready",
    "generating": "Generating",
    "error": "Error",
}


def label(name: str) -> Label:
    """Also for a setting without words of its own."""
    return LABELS.get(name) or Label(name.replace("_", " ").capitalize(), "")
