"""The exceptions, in the user's terms.

    SC2Error
    ├── SettingsError      a setting has a value that cannot be used
    ├── RequestError       a request is not valid: a malformed message, an offset outside the text
    ├── ModelLoadError     a model cannot be found, downloaded or read
    └── GenerationError    a loaded model failed while it was completing
        └── EngineLost     the process that runs the model has ended unexpectedly
            └── ServerLost a server that runs the model is away

Each message is one or two sentences that can be shown to the user as they are: what happened, and what to do.
"""

from __future__ import annotations

import re

from jupyter_sc2.runtime.characters import escaped


class SC2Error(Exception):
    """The base of all errors that this package raises on purpose.

    The text is one line; invisible characters in names and texts from outside are escaped.
    """

    def __str__(self) -> str:
        return escaped(super().__str__())


class SettingsError(SC2Error):
    """A setting has a value that cannot be used."""


class RequestError(SC2Error):
    """A request is not valid."""


class ModelLoadError(SC2Error):
    """A model cannot be found, downloaded or read."""


class GenerationError(SC2Error):
    """A loaded model failed while it was completing."""


class EngineLost(GenerationError):
    """The process or server that runs the model has ended or stopped answering, and must be started again.

    `happened` says what happened, without the advice.
    """

    def __init__(self, happened: str) -> None:
        super().__init__(f"{happened}: load the model again.")
        self.happened = happened


class ServerLost(EngineLost):
    """A server cannot be reached, or does not answer; it may come back by itself."""

    def __init__(self, happened: str, advice: str = "") -> None:
        super().__init__(happened)
        self.args = (f"{happened}{advice}",)


def in_one_line(error: Exception) -> str:
    """The text of another package's error, at most 200 characters; its class if there is no text.

    Names of classes within, such as "TypeError: ", are left out.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return re.sub(r"\b\w+Error: ", "", " ".join(lines))[:200] or type(error).__name__
