"""What can go wrong, in the user's terms.

    SC2Error
    ├── SettingsError      a setting has a value that cannot be used
    ├── RequestError       a request cannot be understood: a malformed message, an offset outside the text
    ├── ModelLoadError     a model cannot be found, downloaded or read
    └── GenerationError    a loaded model failed while it was completing
        └── EngineLost     what runs the model has ended by itself

The message of each is one sentence or two, fit to be shown as it stands: what happened, and what to do.
"""

from __future__ import annotations

from jupyter_sc2.runtime.characters import escaped


class SC2Error(Exception):
    """The base of every error this package raises on purpose.

    Its text is one line, in which names and words from outside have nothing that nobody can see.
    """

    def __str__(self) -> str:
        return escaped(super().__str__())


class SettingsError(SC2Error):
    """A setting has a value that cannot be used."""


class RequestError(SC2Error):
    """A request cannot be understood."""


class ModelLoadError(SC2Error):
    """A model cannot be found, downloaded or read."""


class GenerationError(SC2Error):
    """A loaded model failed while it was completing."""


class EngineLost(GenerationError):
    """What runs the model has ended by itself, or does not answer any more: it has to be started again.

    `happened` is that, without what to do about it.
    """

    def __init__(self, happened: str) -> None:
        super().__init__(f"{happened}: load the model again.")
        self.happened = happened


def in_one_line(error: Exception) -> str:
    """What an error of another package's says, in 200 characters at most; its class if that is nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:200] or type(error).__name__
