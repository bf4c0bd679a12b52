"""The comm target `jupyter_sc2`: turns messages into requests to the session, and completions into messages.

Front ends prefer the control channel, which is served while a cell runs, on ipykernel 6 and 7; a subshell and the
shell channel work too. On each channel the handlers only parse and pass on: replies come from the session's thread.
Nothing is raised into the kernel's event loop: a message that cannot be handled gets one `error`.

Messages from the control channel are parsed on a thread of this package, one after the other. Interrupts, shutdown
and the debugger's requests use the same channel, so the channel's own thread must not wait for a lock or an import.
"""

from __future__ import annotations

import contextvars
import itertools
import logging
import queue
import threading
from collections.abc import Callable, Mapping, MutableMapping
from contextvars import Context, ContextVar
from dataclasses import replace
from typing import Any, Protocol

from jupyter_sc2.errors import SC2Error
from jupyter_sc2.kernel.comm import protocol
from jupyter_sc2.models.cards import card_errors, cards
from jupyter_sc2.notebook import Notebook
from jupyter_sc2.pipeline.job import CANCELLED
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.pipeline.status import Status
from jupyter_sc2.runtime import background
from jupyter_sc2.runtime.clock import monotonic
from jupyter_sc2.runtime.import_isolation import own_imports
from jupyter_sc2.runtime.output_filter import silence
from jupyter_sc2.runtime.warning_filters import unwarned
from jupyter_sc2.source.languages import canonical, language_at
from jupyter_sc2.types import Completion, CompletionRequest

logger = logging.getLogger(__name__)

TARGET = "jupyter_sc2"
COMM_MESSAGES = ("comm_open", "comm_msg", "comm_close")
# Seconds between two status messages that differ only in their progress: enough for a status bar.
PROGRESS_INTERVAL_S = 0.2
# A page that is reloaded leaves its comm open for ever, and with it a snapshot of its notebook. Front ends with open
# requests do not count; the request queue limits those (request_queue.py).
MAX_FRONT_ENDS = 16


class Comm(Protocol):
    """The part of a comm that is used here."""

    comm_id: str
    handle_msg: Callable[[dict[str, Any]], None]

    def send(self, data: dict[str, Any]) -> None: ...
    def close(self) -> None: ...
    def on_close(self, callback: Callable[[dict[str, Any]], None]) -> None: ...


class Settings(Protocol):
    """The settings that a front end may change and must respect."""

    def enabled(self) -> bool:
        """Whether ghost text appears automatically."""

    def refusal(self, trigger: str) -> str | None:
        """Why a request with this trigger is refused: "not_allowed" or "disabled"; None if it is not."""

    def allowed(self) -> bool:
        """Whether the configuration allows completion at all."""

    def values(self) -> Mapping[str, Any]:
        """All settings by name."""

    def configure(self, values: Mapping[str, Any]) -> None:
        """Sets all of these or none. Raises SettingsError."""

    def apply_lab_settings(self, values: Mapping[str, Any]) -> None:
        """Applies the front end's settings for all kernels, but not to what was set here. Raises SettingsError."""


class UsageCounter(Protocol):
    """Counts the suggestions that were shown and accepted."""

    def shown(self, notebook: str, request: str, characters: int, ms: float | None) -> None: ...
    def accepted(self, notebook: str, request: str, part: str, characters: int) -> None: ...
    def record_retention(self, notebook: str, request: str, when: str, kept: bool) -> None: ...


class Channel:
    """Serves all front ends that open a comm with this kernel."""

    def __init__(
        self,
        session: Session,
        settings: Settings,
        kernel: Any = None,
        usage: UsageCounter | None = None,
    ) -> None:
        self.session = session
        self.settings = settings
        self.usage = usage
        self.reported_cards = False  # errors in the user's models file, to a front end, once
        self._kernel = kernel
        self._front_ends: dict[str, FrontEnd] = {}
        self.ids = itertools.count(1)  # of requests
        self._installed_handlers: dict[str, Callable[..., None]] = {}
        self._last_status: Status | None = None
        self._last_status_at = 0.0
        self._unsubscribe = session.subscribe(self._push_status)
        self._inbox: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._reader: background.Thread | None = None  # of the inbox

    # Registration with the kernel

    def install(self) -> None:
        """Registers the comm target, and handlers for comm messages on the control channel.

        Existing handlers stay: those of spyder-kernels and Databricks also pass messages to the kernel's comm
        manager.
        """
        self._kernel.comm_manager.register_target(TARGET, self.on_open)
        handlers = getattr(self._kernel, "control_handlers", None)
        if not isinstance(handlers, MutableMapping):
            # Not ipykernel's: a subshell or the shell channel will do.
            return
        for name in COMM_MESSAGES:
            if name not in handlers:
                handlers[name] = self._installed_handlers[name] = getattr(
                    self._kernel.comm_manager, name
                )

    def close(self) -> None:
        """Closes the comms and removes everything that `install` added to the kernel."""
        self._unsubscribe()
        self._inbox.put(None)
        for front_end in list(self._front_ends.values()):
            front_end.close()
        self._front_ends.clear()
        if self._kernel is None:
            return
        targets = self._kernel.comm_manager.targets
        if targets.get(TARGET) == self.on_open:
            del targets[TARGET]
        for name, handler in self._installed_handlers.items():
            if self._kernel.control_handlers.get(name) == handler:
                del self._kernel.control_handlers[name]
        self._installed_handlers.clear()

    # Called by the kernel

    def on_open(self, comm: Comm, message: dict[str, Any]) -> None:
        front_end = FrontEnd(self, comm, self.context_of(message))
        self.hand_over(_channel_of(), lambda: self.add(front_end))
        if message.get("content", {}).get("data"):  # a hello may come with the opening
            front_end.comm.handle_msg(message)

    def hand_over(self, via: protocol.Channel, act: Callable[[], None]) -> None:
        """Calls `act`: at once, or for the control channel on the inbox's thread, as its own must not wait."""
        if via != "control":
            with unwarned:
                act()
            return
        if self._reader is None:
            self._reader = background.Thread(self._read_inbox, name="jupyter-sc2-inbox")
            self._reader.start()
        self._inbox.put(act)

    def _read_inbox(self) -> None:
        while (act := self._inbox.get()) is not None:
            with silence:
                try:
                    act()
                except Exception:  # the next message is to be read all the same
                    logger.debug("A message could not be handled", exc_info=True)

    def add(self, front_end: FrontEnd) -> None:
        """Makes this the most recent front end, and removes the least recent ones above the limit.

        Front ends with open requests stay.
        """
        previous = self._front_ends.pop(front_end.comm.comm_id, None)
        if previous is not None and previous is not front_end:
            previous.on_close()
        idle = [one for one in list(self._front_ends.values()) if not one.has_open_requests]
        self._front_ends[front_end.comm.comm_id] = front_end
        for one in idle[: max(0, len(self._front_ends) - MAX_FRONT_ENDS)]:
            self.remove(one)
            one.forget_notebook()

    def remove(self, front_end: FrontEnd) -> None:
        if self._front_ends.get(front_end.comm.comm_id) is front_end:
            del self._front_ends[front_end.comm.comm_id]

    def context_of(self, message: dict[str, Any]) -> Context:
        """The context in which replies to `message` have to be sent, from any thread.

        ipykernel 7.4 sends a comm's next message to the (sub)shell of the parent of what the comm sent last,
        and a thread without a context has the newest shell message for a parent: after an answer sent while a
        cell runs, the next keystroke would wait for that cell (measured: 3.6 s against 4 ms).
        """
        context = contextvars.copy_context()
        # The control thread's context holds no shell parent, which is what is looked up outside that thread:
        # without this an answer would go out as an output of the cell that happens to run.
        parent = getattr(self._kernel, "_shell_parent", None)
        if isinstance(parent, ContextVar):
            # The header is all that counts; the content may be a notebook of megabytes.
            context.run(parent.set, {"header": message.get("header", {})})
        return context

    # Messages to all front ends

    def broadcast_settings(self, saved: bool | None = None) -> None:
        """Sends the current settings, and whether they were just `saved` for new kernels or the saved ones removed."""
        message = protocol.settings(self.settings.values(), saved)
        for front_end in list(self._front_ends.values()):
            front_end.send(message)

    def _push_status(self, status: Status) -> None:
        now = monotonic()
        if (
            status.progress is not None
            and self._last_status
            == replace(status, progress=self._last_status.progress if self._last_status else None)
            and now - self._last_status_at < PROGRESS_INTERVAL_S
        ):
            return
        self._last_status, self._last_status_at = status, now
        message = protocol.status(status)
        for front_end in list(self._front_ends.values()):
            front_end.send(message)


class FrontEnd:
    """One front end: its comm, the last snapshot of its notebook, and its open requests."""

    def __init__(self, channel: Channel, comm: Comm, context: Context) -> None:
        self.comm = comm
        self._channel = channel
        self._context = context
        self._notebook: Notebook | None = None
        self._path = ""
        self._companion = False  # whether this kernel does not run the front end's document
        # The front end's ids of requests, by the session's.
        self._open_requests: dict[str, str] = {}
        # Not comm.on_msg: that fires pre_execute and post_execute for every message, and matplotlib then
        # shows the half-drawn figure of the cell that runs (ipykernel#432, #1564).
        comm.handle_msg = self._handle
        comm.on_close(lambda message: channel.hand_over(_channel_of(), self.on_close))

    def send(self, message: dict[str, Any], context: Context | None = None) -> None:
        """Sends from any thread. A context can be entered once at a time, a copy of it at any time."""
        try:
            (context or self._context).copy().run(self.comm.send, message)
        except Exception:
            # The kernel shuts down, or the connection is lost: nobody is left to notify.
            logger.debug("A message could not be sent", exc_info=True)

    @property
    def has_open_requests(self) -> bool:
        """Whether a request waits for its last message."""
        return bool(self._open_requests)

    def close(self) -> None:
        """Ends the open requests as cancelled, and closes the comm."""
        for id, client_id in list(self._open_requests.items()):
            if self._is_open(id, last=True):
                self.send(protocol.update(client_id, CANCELLED))
            self._channel.session.cancel(id)
        try:
            self.comm.close()
        except Exception:
            logger.debug("A comm could not be closed", exc_info=True)

    def on_close(self) -> None:
        """Cancels the open requests without a reply, as the front end has closed the comm."""
        waiting, self._open_requests = list(self._open_requests), {}
        self._channel.remove(self)
        self._notebook = None
        for id in waiting:
            self._channel.session.cancel(id)

    def forget_notebook(self) -> None:
        """Drops the snapshot, and asks for the whole notebook with the next message."""
        if self._notebook is not None:
            self._notebook = None
            text = "Other front ends have come, and this notebook was forgotten. Send it whole."
            self.send(protocol.error("unknown_base", text))

    def _handle(self, message: dict[str, Any]) -> None:
        # Both depend on the calling thread.
        via, context = _channel_of(), self._channel.context_of(message)
        self._channel.hand_over(via, lambda: self._handle_isolated(message, via, context))

    def _handle_isolated(
        self, message: dict[str, Any], via: protocol.Channel, context: Context
    ) -> None:
        with own_imports.without_user_modules():
            self._answer(message, via, context)

    def _answer(self, message: dict[str, Any], via: protocol.Channel, context: Context) -> None:
        data: object = None
        try:
            self._context = context
            self._channel.add(self)
            data = message["content"]["data"]
            self._act_on(protocol.parse(data), via)
        except SC2Error as error:
            self.send(protocol.error(protocol.code_of(error), str(error), self._id_of_failed(data)))
        except Exception as error:
            logger.debug("A message could not be handled", exc_info=True)
            text = f"The message could not be handled ({type(error).__name__})."
            self.send(protocol.error("bad_message", text, self._id_of_failed(data)))

    def _id_of_failed(self, data: object) -> str | None:
        """The id of a message that could not be handled, so that the front end knows which request failed.

        None where an open request has the same id: an error would end that one.
        """
        id = data.get("id") if isinstance(data, Mapping) else None
        return id if isinstance(id, str) and id not in self._open_requests.values() else None

    def _act_on(self, action: protocol.Message, via: protocol.Channel) -> None:
        match action:
            case protocol.Hello():
                self._path, self._companion = action.notebook, action.companion
                self._on_hello(via, action.settings)
            case protocol.NotebookState():
                self._notebook = action.notebook(self._notebook)
                self._prefetch(self._notebook, action)
            case protocol.Complete():
                self._complete(action)
            case protocol.Cancel():
                for id, client_id in list(self._open_requests.items()):
                    if client_id == action.id:
                        self._channel.session.cancel(id)
            case protocol.Configure():
                self._configure(action)
            case protocol.Accepted():
                self._count_accepted(action)

    def _on_hello(self, via: protocol.Channel, settings: Mapping[str, Any] | None) -> None:
        # Not at the top: looking it up in the installed metadata takes 20 ms.
        from jupyter_sc2 import __version__

        channel = self._channel
        refused: SC2Error | None = None
        if settings is not None:
            try:
                channel.settings.apply_lab_settings(settings)
            except SC2Error as error:  # reported after the hello, which must come first
                refused = error
        allowed = channel.settings.allowed()
        status = channel.session.status
        self.send(
            protocol.hello(
                status,
                channel=via,
                version=__version__,
                models={name: card.languages for name, card in cards().items()},
                allowed=allowed,
                settings=channel.settings.values(),
                companion=self._companion,
            )
        )
        # Another thread may have sent a newer status meanwhile, which the hello has just overtaken.
        while (newest := channel.session.status) is not status:
            status = newest
            self.send(protocol.status(status))
        wrong = [] if channel.reported_cards else card_errors()
        channel.reported_cards = True
        for one in wrong if refused is None else [refused, *wrong]:
            self.send(protocol.error(protocol.code_of(one), str(one)))
        if allowed and channel.settings.enabled():
            channel.session.ensure_loaded()

    def _configure(self, action: protocol.Configure) -> None:
        channel = self._channel
        if action.scope == "all":
            channel.settings.apply_lab_settings(action.settings)
        else:
            channel.settings.configure(action.settings)
        if action.load and channel.settings.allowed():
            channel.session.load()
        elif action.load is False:
            channel.session.unload()

    def _count_accepted(self, action: protocol.Accepted) -> None:
        usage = self._channel.usage
        if action.when is None:
            self._channel.session.accepted()
        if usage is None:
            return
        if action.when is None:
            usage.accepted(self._path, action.id, action.part, len(action.text))
        else:
            when = "later" if action.when == "30s" else action.when
            usage.record_retention(self._path, action.id, when, action.kept)

    def _count_shown(self, id: str, completion: Completion) -> None:
        usage = self._channel.usage
        if usage is not None and completion.text and completion.finish_reason != "cancelled":
            stats = completion.stats
            ms = stats.total_ms if stats.first_token_ms is None else stats.first_token_ms
            # The status reports how long a load takes.
            latency = ms if stats.load_ms is None else None
            usage.shown(self._path, id, len(completion.text), latency)

    def _complete(self, action: protocol.Complete) -> None:
        # Front ends choose their ids, so two of them may choose the same one.
        id = f"{self.comm.comm_id}/{next(self._channel.ids)}"
        request = action.request(
            self._notebook or Notebook(), id, self.comm.comm_id, companion=self._companion
        )
        reason = self._channel.settings.refusal(action.trigger)
        if reason is None and language_at(request) in map(canonical, action.languages_off):
            reason = "disabled"
        if reason is not None:
            self.send(
                protocol.update(action.id, Completion(text="", finish_reason="stop", reason=reason))
            )
            return
        context = self._context

        def update(completion: Completion) -> None:
            last = completion.finish_reason is not None
            if self._is_open(id, last=last):
                self.send(protocol.update(action.id, completion), context)
                if last:
                    self._count_shown(action.id, completion)

        def fail(error: SC2Error) -> None:
            if self._is_open(id, last=True):
                self.send(protocol.error(protocol.code_of(error), str(error), action.id), context)

        self._open_requests[id] = action.id
        try:
            self._channel.session.submit(request, update, fail)
        except Exception:  # reported like any other error of a message
            self._open_requests.pop(id, None)
            self._channel.session.cancel(id)
            raise
        except BaseException:  # an interrupt, on the shell channel
            update(CANCELLED)
            self._channel.session.cancel(id)
            raise

    def _prefetch(self, notebook: Notebook, state: protocol.NotebookState) -> None:
        """Prefills the prompt at the idle cursor, where the user may type next."""
        for cell in notebook.cells:
            if (
                cell.id == state.active
                and cell.cell_type == "code"
                and self._channel.settings.enabled()
            ):
                request = CompletionRequest(
                    text=cell.source,
                    offset=len(cell.source) if state.offset is None else state.offset,
                    notebook=notebook,
                    cell_id=cell.id,
                    language=state.language or "python",
                    front_end=self.comm.comm_id,
                    companion=self._companion,
                )
                self._channel.session.prefetch(request)

    def _is_open(self, id: str, *, last: bool) -> bool:
        """Whether a request still waits for its last message; `last` ends it."""
        waiting = self._open_requests
        return (waiting.pop(id, None) if last else waiting.get(id)) is not None


def _channel_of() -> protocol.Channel:
    """The channel of the message. The thread decides, as ipykernel 7.4 may override the header's subshell_id."""
    name = threading.current_thread().name
    if name == "Control":
        return "control"
    return "subshell" if name.startswith("subshell") else "shell"
