"""The wire protocol, version 1: every message in both directions, as a type.

docs/protocol.md describes it for authors of front ends. tests/unit/kernel/test_protocol.py compares that document,
these types and the page's types (labextension/src/kernel/protocol.ts).

JSON both ways; `type` tells messages apart, unknown fields are ignored, offsets are code points. A message
that is not one of these raises `BadMessage`, whose `code` the front end can act on.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any, Literal, cast, get_args

import msgspec
from msgspec import UNSET, UnsetType, to_builtins
from msgspec.structs import replace

from jupyter_sc2.errors import (
    GenerationError,
    ModelLoadError,
    RequestError,
    SC2Error,
    SettingsError,
)
from jupyter_sc2.notebook import Cell, CellType, Notebook, output_texts, replace_surrogates
from jupyter_sc2.pipeline.status import Status as SessionStatus
from jupyter_sc2.source import languages
from jupyter_sc2.source.syntax import syntax_of
from jupyter_sc2.types import Completion, CompletionRequest, FinishReason, Source, Trigger

PROTOCOL = 1
# Longest quotation, in characters, of text from outside in an error message.
MAX_QUOTE_CHARS = 300
# Longest message of a status, in characters: it may hold the conditions of a licence.
MAX_MESSAGE_CHARS = 900

# The channel that carried a message into the kernel.
Channel = Literal["control", "subshell", "shell"]
State = Literal["unloaded", "downloading", "loading", "ready", "generating", "error"]
# The current step of loading a model.
Stage = Literal["importing", "waiting", "downloading", "quantizing", "loading"]
# Why the last update has no text, or no more text.
Reason = Literal[
    "cancelled",
    "disabled",
    "low_confidence",
    "matches_indexed_code",
    "not_allowed",
    "not_ready",
    "nothing_to_add",
    "other_language",
    "queue_full",
    "refuted",
]
# What to do about a suggestion that matches indexed code.
Policy = Literal["show", "warn", "block"]
Code = Literal[
    "bad_message",
    "unknown_type",
    "unknown_base",
    "bad_request",
    "bad_setting",
    "model",
    "generation",
    "internal",
]


# Up: from the front end to the kernel


class Message(msgspec.Struct, tag_field="type", frozen=True):
    """The base of all messages from the front end."""


class Hello(Message, tag="hello", frozen=True):
    protocol: int = PROTOCOL
    client: str = ""
    notebook: str = ""  # the notebook's path
    settings: dict[str, Any] | None = None  # the front end's settings for all kernels
    companion: bool = False  # the kernel does not run this front end's document


class CellState(msgspec.Struct, frozen=True):
    id: str
    source: str = ""
    cell_type: CellType = "code"
    execution_count: int | None = None
    outputs: list[Any] = []
    path: str = ""  # of a text file

    def cell(self) -> Cell:
        return Cell(
            id=self.id,
            source=self.source,
            cell_type=self.cell_type,
            execution_count=self.execution_count,
            outputs=output_texts(self.outputs),
            path=replace_surrogates(self.path),
        )


class NotebookState(Message, tag="notebook", frozen=True):
    """The whole notebook or, with `base`, the cells that changed since that revision and the order of all."""

    rev: int
    cells: list[CellState]
    base: int | None = None
    order: list[str] | None = None
    active: str | None = None  # the cell in which the cursor is idle
    offset: int | None = None  # the cursor's offset in it; its end by default
    language: str | None = None  # the kernel's, if it is not Python

    def notebook(self, known: Notebook | None) -> Notebook:
        """The notebook after this message. Raises BadMessage if it builds on a revision that is not `known`."""
        cells = tuple(state.cell() for state in self.cells)
        if self.base is None:
            return Notebook(cells, self.rev)
        if known is None or known.rev != self.base:
            raise ProtocolError(
                "unknown_base",
                f"Revision {self.base} of the notebook is not known here. Send it whole.",
            )
        try:
            return known.changed(cells, order=self.order, rev=self.rev)
        except RequestError as error:
            raise ProtocolError("unknown_base", f"{error} Send the notebook whole.") from error


class Complete(Message, tag="complete", frozen=True):
    id: str
    text: str
    offset: int
    trigger: Trigger = "automatic"
    cell_id: str | None = None
    candidates: int = 1
    language: str | None = None
    rev: int | None = None
    waited: float = 0.0  # milliseconds since the keystroke
    languages_off: list[str] = []  # disabled languages, by any of their names
    path: str = ""  # of a text file
    file_extension: str = ""  # of the kernel's language, as its kernel_info has it

    def request(
        self, notebook: Notebook, id: str, front_end: str = "", *, companion: bool = False
    ) -> CompletionRequest:
        path = replace_surrogates(self.path)
        language = self.language or "python"
        return CompletionRequest(
            text=self.text,
            offset=self.offset,
            notebook=notebook,
            cell_id=self.cell_id,
            language=languages.of_text_file(path, language) if path else language,
            trigger=self.trigger,
            candidates=self.candidates,
            id=id,
            waited_s=self.waited / 1000,
            front_end=front_end,
            companion=companion,
            path=path,
            file_extension=replace_surrogates(self.file_extension).lstrip("."),
            adds_imports=True,
        )


class Cancel(Message, tag="cancel", frozen=True):
    id: str


class Accepted(Message, tag="accepted", frozen=True):
    """Text was accepted; with `when`, whether text accepted earlier is still in its cell."""

    id: str
    index: int = 0
    text: str = ""
    part: Literal["all", "word", "line"] = "all"
    when: Literal["30s", "run"] | None = None
    kept: bool = False


class Configure(Message, tag="configure", frozen=True):
    """Changes settings; with `load` true or false, also loads or unloads the model.

    With `scope` "all" they are all of the front end's settings for all kernels (see settings_sync.py).
    """

    settings: dict[str, Any]
    load: bool | None = None
    scope: Literal["kernel", "all"] = "kernel"


UpMessage = Hello | NotebookState | Complete | Cancel | Accepted | Configure
TYPES = tuple(type.__struct_config__.tag for type in get_args(UpMessage))


class ProtocolError(SC2Error):
    """A message that cannot be understood or acted on."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


def parse(data: object) -> Message:
    """The message in a comm's `data`. Raises BadMessage."""
    if not isinstance(data, Mapping):
        raise ProtocolError("bad_message", f"A message is a JSON object, not {_json_type(data)}.")
    type = data.get("type")
    if not isinstance(type, str) or type not in TYPES:
        known = ", ".join(TYPES)
        raise ProtocolError(
            "unknown_type", f"There is no message of type {_quoted(type)}. Types are: {known}."
        )
    try:
        message: Message = msgspec.convert(data, UpMessage)
    except (msgspec.ValidationError, RecursionError, ValueError, OverflowError) as error:
        raise ProtocolError("bad_message", f"The {type} message is malformed: {error}.") from error
    return message


# Down: from the kernel to the front end. Fields that are UNSET are left out.


class Reply(msgspec.Struct, tag_field="type", gc=False):
    """The base of all messages from the kernel."""


class AfterEnter(msgspec.Struct):
    """After which lines a new line is completed, in one language."""

    comment: str  # what a comment begins with
    openers: str  # a regular expression for the end of a line that opens something


class Languages(msgspec.Struct):
    """Which cells are in another language than the notebook: the table of source/languages.py."""

    magics: dict[str, str]  # the language below each cell magic, by the magic's name without %%
    own: list[str]  # cell magics whose cells are in the notebook's own language
    files: list[str]  # cell magics that write a file, whose ending says the language
    endings: dict[str, str]  # the language of a file, by its ending without the dot
    models: dict[str, list[str]]  # the languages of each model that is known by name; "*" for all
    after_enter: dict[str, AfterEnter]  # by language


class HelloReply(Reply, tag="hello"):
    protocol: int
    version: str  # of this package
    channel: Channel
    model: str
    engine: str
    precision: str
    state: State
    models: list[str]  # those known by name
    allowed: bool  # whether the configuration lets anything be completed
    settings: dict[str, Any]
    languages: Languages
    companion: bool | UnsetType = UNSET  # true for a front end whose hello says so
    stage: Stage | UnsetType = UNSET
    seconds: float | UnsetType = UNSET
    message: str | UnsetType = UNSET


class Settings(Reply, tag="settings"):
    """The settings of this kernel; `saved` is true after they were saved for new kernels, false after a reset."""

    settings: dict[str, Any]
    saved: bool | UnsetType = UNSET


class Status(Reply, tag="status"):
    state: State
    model: str
    engine: str
    precision: str
    stage: Stage | UnsetType = UNSET  # of loading a model
    seconds: float | UnsetType = UNSET  # that loading has taken so far, or took
    progress: float | UnsetType = UNSET  # from 0 to 1
    message: str | UnsetType = UNSET


class Attribution(msgspec.Struct):
    """Indexed code that a suggestion matches (see types.Attribution)."""

    source: str
    version: str
    licence: str
    path: str
    lines: tuple[int, int] | None
    lexemes: int
    verified: bool


class Import(msgspec.Struct):
    """An import that a suggestion lacks (see types.MissingImport)."""

    name: str
    code: str
    offset: int  # in code points of the suggestion


class Stats(msgspec.Struct):
    prompt_tokens: int
    reused_tokens: int
    generated_tokens: int
    first_token_ms: float | None
    total_ms: float
    load_ms: float | UnsetType = UNSET


class Update(Reply, tag="update"):
    """The whole suggestion so far, never a delta. The last update has a `finish_reason`, and more fields."""

    id: str
    index: int
    text: str
    finish_reason: FinishReason | None
    source: Source
    mean_logprob: float | UnsetType = UNSET
    attribution: list[Attribution] | UnsetType = UNSET
    policy: Policy | UnsetType = UNSET  # with an attribution
    imports: list[Import] | UnsetType = UNSET  # to be added when the suggestion is accepted
    # Only in the last update.
    reason: Reason | UnsetType | None = UNSET
    model: str | UnsetType = UNSET
    engine: str | UnsetType = UNSET
    revision: str | UnsetType = UNSET  # of the weights, where it is known
    stats: Stats | UnsetType = UNSET


class Error(Reply, tag="error"):
    code: Code
    message: str
    id: str | UnsetType = UNSET  # of the request


DownMessage = HelloReply | Settings | Status | Update | Error
_NO_MODELS: Mapping[str, Collection[str]] = {}


def hello(
    status: SessionStatus,
    *,
    channel: Channel,
    version: str,
    models: Mapping[str, Collection[str]] = _NO_MODELS,
    allowed: bool = True,
    settings: Mapping[str, Any] | None = None,
    companion: bool = False,
) -> dict[str, Any]:
    message = HelloReply(
        protocol=PROTOCOL,
        version=version,
        channel=channel,
        model=status.model,
        engine=status.engine,
        precision=status.precision,
        state=cast(State, status.state),
        models=list(models),
        allowed=allowed,
        settings=dict(settings or {}),
        languages=replace(_LANGUAGES, models=_names_of(models)),
    )
    if companion:
        message.companion = True
    _add_load_details(message, status)
    return _builtins(message)


_LANGUAGES = Languages(
    magics=languages.of_cell_magics(),
    own=sorted(languages.OWN),
    files=sorted(languages.FILES),
    endings=dict(languages.ENDINGS),
    models={},
    after_enter={
        name: AfterEnter(syntax.comment, syntax.openers)
        for name, syntax in ((name, syntax_of(name)) for name in languages.LANGUAGES)
    },
)


def _names_of(models: Mapping[str, Collection[str]]) -> dict[str, list[str]]:
    """The languages of each model, by the names that requests have."""
    return {
        model: sorted({languages.canonical(name) for name in names})
        for model, names in models.items()
    }


def settings(values: Mapping[str, Any], saved: bool | None = None) -> dict[str, Any]:
    return _builtins(Settings(dict(values), UNSET if saved is None else saved))


def status(status: SessionStatus) -> dict[str, Any]:
    message = Status(
        state=cast(State, status.state),
        model=status.model,
        engine=status.engine,
        precision=status.precision,
    )
    _add_load_details(message, status)
    if status.progress is not None:
        message.progress = status.progress
    return _builtins(message)


def _add_load_details(message: HelloReply | Status, status: SessionStatus) -> None:
    if status.stage:
        message.stage = cast(Stage, status.stage)
    if status.seconds is not None:
        message.seconds = status.seconds
    if status.message is not None:
        message.message = _shortened(status.message, MAX_MESSAGE_CHARS)


def update(id: str, completion: Completion) -> dict[str, Any]:
    message = Update(
        id=replace_surrogates(id),
        index=completion.index,
        text=completion.text,
        finish_reason=completion.finish_reason,
        source=completion.source,
    )
    if completion.mean_logprob is not None and math.isfinite(completion.mean_logprob):
        message.mean_logprob = completion.mean_logprob
    if completion.attribution:
        message.attribution = [Attribution(**vars(one)) for one in completion.attribution]
        message.policy = cast(Policy, completion.policy)
    if completion.imports:
        message.imports = [Import(**vars(one)) for one in completion.imports]
    if completion.finish_reason is not None:
        message.reason = cast("Reason | None", completion.reason)
        message.model = completion.model
        message.engine = completion.engine
        if completion.revision:
            message.revision = completion.revision
        stats = {name: value for name, value in vars(completion.stats).items() if name != "load_ms"}
        message.stats = Stats(**stats)
        if completion.stats.load_ms is not None:
            message.stats.load_ms = completion.stats.load_ms
    return _builtins(message)


def error(code: Code, message: str, id: str | None = None) -> dict[str, Any]:
    answer = Error(code, _shortened(message), UNSET if id is None else replace_surrogates(id))
    return _builtins(answer)


def code_of(error: SC2Error) -> Code:
    """The code of this error in an `error` message."""
    if isinstance(error, ProtocolError):
        return error.code
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            return code
    return "internal"


_CODES: dict[type[SC2Error], Code] = {
    RequestError: "bad_request",
    SettingsError: "bad_setting",
    ModelLoadError: "model",
    GenerationError: "generation",
}


def _builtins(message: Reply) -> dict[str, Any]:
    """The message as a dict that a comm can send."""
    builtins: dict[str, Any]
    try:
        builtins = to_builtins(message)
    except TypeError:  # only then, as the hook takes 0.2 µs and an update may come with each token
        builtins = to_builtins(message, enc_hook=_plain)
    return builtins


def _plain(value: object) -> object:
    """What a JSON encoder makes of numpy's float64 and the like, which msgspec does not take for floats."""
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(f"{type(value).__name__} is not JSON.")


def _json_type(value: object) -> str:
    names = {
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        list: "an array",
    }
    return "null" if value is None else names.get(type(value), "something else")


def _quoted(value: object) -> str:
    return repr(value[:40]) if isinstance(value, str) else _json_type(value)


def _shortened(text: str, length: int = MAX_QUOTE_CHARS) -> str:
    """One line that every JSON encoder accepts: text from outside may have lone surrogates."""
    line = " ".join(replace_surrogates(text).split())
    return line if len(line) <= length else line[: length - 1] + "…"
