"""The composition root: connects settings, session, comm channel and magics in one kernel or terminal.

`%load_ext jupyter_sc2` does not import torch, prints nothing and takes no time. The model is loaded in the background
at the first `hello` of a front end or the first request, otherwise once no cell has run for a while. A notebook that is
executed from top to bottom therefore ends before a model is loaded that nobody needs.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, cast
from weakref import WeakKeyDictionary

from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
from traitlets.utils.bunch import Bunch

from jupyter_sc2 import engines
from jupyter_sc2.attribution.check import Checker
from jupyter_sc2.engines.base import Engine
from jupyter_sc2.errors import SettingsError
from jupyter_sc2.kernel.comm.channel import Channel
from jupyter_sc2.kernel.magics import SC2Magics
from jupyter_sc2.kernel.namespace import LiveNamespace
from jupyter_sc2.kernel.settings_sync import SettingsSync
from jupyter_sc2.options import LoadOptions
from jupyter_sc2.pipeline.feedback import Feedback
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.runtime import background
from jupyter_sc2.runtime.import_isolation import own_imports
from jupyter_sc2.runtime.output_filter import silence
from jupyter_sc2.settings import SC2, in_order
from jupyter_sc2.usage import LAST_LOCK_TIMEOUT_S, Usage, data_folder

LoadEngine = Callable[..., Engine]

# Seconds without a running cell after which the model is loaded without a request.
IDLE_SECONDS = 2.0
NO_COMMS = (
    "jupyter-sc2: ghost text is not available in this kernel, as extensions cannot talk to the page from it: use the "
    "kernel of the package ipykernel. %complete, %%complete and %sc2 work here."
)
# The settings that decide what is loaded; `offline` alone loads nothing.
LOADED_BY = tuple(field.name for field in fields(LoadOptions) if field.name != "offline")


def load(
    shell: InteractiveShell,
    *,
    load_engine: LoadEngine = engines.load_engine,
    idle_seconds: float = IDLE_SECONDS,
) -> None:
    """Starts jupyter-sc2 in this shell, unless it is already running."""
    if shell not in _running:
        _running[shell] = Extension(shell, load_engine, idle_seconds)


def unload(shell: InteractiveShell) -> None:
    """Undoes everything that `load` did."""
    extension = _running.pop(shell, None)
    if extension is not None:
        extension.close()


class Extension:
    """jupyter-sc2 in one shell."""

    def __init__(
        self, shell: InteractiveShell, load_engine: LoadEngine, idle_seconds: float
    ) -> None:
        self.shell = shell
        own_imports.install()
        self.settings = settings_of(shell)
        self._requested = self._initial = self.settings.load_options()
        # While a load starts because of a changed setting, or a failed one reverts it, on whatever thread.
        self._settings_lock = threading.RLock()
        self._completion_options = self.settings.completion_options()
        self._namespace = LiveNamespace(shell, self.settings)
        self.feedback = Feedback(
            data_folder() / "feedback.json", lambda: bool(self.settings.adaptive_confidence)
        )
        self.session = Session(
            load_engine=load_engine,
            options=self._completion_options,
            load_options=self._requested,
            low_priority=True,
            namespace=self._namespace,
            attributor=Checker(),
            feedback=self.feedback,
            taken_back=self._revert_settings,
        )
        self.settings_sync = SettingsSync(self.settings)
        self.settings.observe(self._setting_changed, list(SC2.settings()))
        self._configurables = cast(list[Any], shell.configurables)
        self._configurables.append(self.settings)
        self.usage = Usage(lambda: bool(self.settings.statistics))
        self.magics = SC2Magics(shell, self.settings, self.session, self.usage)
        self.magics.install()
        self.channel: Channel | None = None
        self.terminal: Any = None
        kernel = getattr(shell, "kernel", None)
        if getattr(kernel, "comm_manager", None) is not None:
            self.channel = Channel(self.session, self, kernel, self.usage)
            self.channel.install()
            self.magics.parts.on_saved = self._saved
        elif getattr(shell, "pt_app", None) is not None:
            # Only here: a kernel does not need prompt_toolkit.
            from jupyter_sc2.kernel.terminal import Terminal

            self.terminal = Terminal(shell, self.session, self)
            self.terminal.install()
        elif hasattr(shell, "kernel"):  # xeus-python's is None
            print(NO_COMMS, file=sys.stderr)
        self._idle = WhenIdle(shell, idle_seconds, self._on_idle)
        shell.events.register("pre_run_cell", self._cell_started)
        shell.events.register("post_run_cell", self._cell_ended)
        self._process = os.getpid()
        atexit.register(self._end)

    def close(self) -> None:
        self._idle.stop()
        self.shell.events.unregister("pre_run_cell", self._cell_started)
        self.shell.events.unregister("post_run_cell", self._cell_ended)
        self._namespace.close()
        if self.channel is not None:
            self.channel.close()
        if self.terminal is not None:
            self.terminal.remove()
        self.magics.remove()
        self.settings_sync.close()
        self.settings.unobserve(self._setting_changed, list(SC2.settings()))
        self._configurables[:] = [one for one in self._configurables if one is not self.settings]
        self._end()
        atexit.unregister(self._end)
        own_imports.uninstall()

    def _end(self) -> None:
        if os.getpid() != self._process:
            return  # a forked child ends: the kernel itself writes the usage data
        self.session.close()
        self.usage.flush(LAST_LOCK_TIMEOUT_S)
        self.feedback.flush()

    # The settings, for front ends

    def enabled(self) -> bool:
        return self.refusal("automatic") is None

    def refusal(self, trigger: str) -> str | None:
        if not self.allowed():
            return "not_allowed"
        on = ("automatic", "manual") if trigger == "invoke" else ("automatic",)
        return None if self.settings.mode in on else "disabled"

    def allowed(self) -> bool:
        return bool(self.settings.allowed)

    def values(self) -> dict[str, Any]:
        return self.settings_sync.values()

    def configure(self, values: Mapping[str, Any]) -> None:
        """Sets all of these or none. Raises SettingsError."""
        self.settings_sync.configure(values)

    def apply_lab_settings(self, values: Mapping[str, Any]) -> None:
        """Applies the changes in a front end's settings for all kernels. Raises SettingsError."""
        self.settings_sync.apply_lab_settings(values)

    def _saved(self, saved: bool) -> None:
        """Tells front ends that the settings were saved for new kernels, or that the saved ones were removed."""
        if not saved:
            self.settings_sync.forget()
        if self.channel is not None:
            self.channel.broadcast_settings(saved)

    def _setting_changed(self, change: Bunch) -> None:
        completion_options = self.settings.completion_options()
        if completion_options != self._completion_options:
            self._completion_options = completion_options
            self.session.configure(completion_options)
        if change.name in LOADED_BY:
            with self._settings_lock:
                options = self.settings.load_options()
                if options != self._requested:  # two settings changed together call this twice
                    self._requested = options
                    self.session.load(options)
        elif change.name == "offline":
            self.session.set_offline(bool(change.new))
        elif change.name == "mode" and self.enabled():
            self.session.ensure_loaded()
        elif change.name == "allowed" and not change.new:
            self.session.unload()
        if self.channel is not None:
            self.channel.broadcast_settings()

    def _revert_settings(self, failed: LoadOptions, instead: LoadOptions) -> bool:
        """Sets the model settings back to the model that answers, after another one failed to load.

        Returns whether it did: settings from the config files stay, and are tried again at the next request.
        """
        with self._settings_lock:
            if failed != self._requested or failed == self._initial:
                return False
            # So that this change loads nothing.
            self._requested = replace(instead, offline=failed.offline)
            with self.settings.hold_trait_notifications():
                for name in LOADED_BY:
                    setattr(self.settings, name, getattr(instead, name))
            return True

    def _cell_started(self, info: object = None) -> None:
        self.session.set_kernel_busy(True)
        own_imports.cell_begins()

    def _cell_ended(self, result: object = None) -> None:
        self.session.set_kernel_busy(False)
        own_imports.cell_ended()

    def _on_idle(self) -> None:
        with silence, own_imports:
            if self.enabled():
                self.session.ensure_loaded()


class WhenIdle:
    """Calls `act` once, on a separate thread, when no cell has run for some seconds."""

    def __init__(self, shell: InteractiveShell, seconds: float, act: Callable[[], None]) -> None:
        self._shell = shell
        self._act = act
        self._seconds = seconds
        self._timer: background.Timer | None = None
        self._stopped = False
        # Not pre_execute and post_execute, which also fire for comm messages and silent requests.
        shell.events.register("pre_run_cell", self._disarm)
        shell.events.register("post_run_cell", self._arm)
        self._arm()

    def stop(self) -> None:
        if not self._stopped:
            self._stopped = True
            self._disarm()
            self._shell.events.unregister("pre_run_cell", self._disarm)
            self._shell.events.unregister("post_run_cell", self._arm)

    def _arm(self, result: object = None) -> None:
        self._disarm()
        if not self._stopped:
            self._timer = background.Timer(self._seconds, self._fire)
            self._timer.start()

    def _disarm(self, info: object = None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _fire(self) -> None:
        self.stop()
        self._act()


def settings_of(shell: InteractiveShell) -> SC2:
    """The settings from the shell's config; each value that is not valid is reported in one line."""
    settings = SC2(parent=shell, config=Config())
    # One by one, as `SC2(parent=shell)` would raise at the first bad value. Such a value need not come from a config
    # file: IPython also leaves rejected values of `%config` in shell.config, and %reload_ext finds them there.
    section = shell.config.get("SC2", {})
    if not isinstance(section, Mapping):
        print(
            f"jupyter-sc2: SC2 is {section!r} in a config file, which is not a table of settings.",
            file=sys.stderr,
        )
        return settings
    for name in in_order(section):
        try:
            settings.set(name, section[name])
        except SettingsError as error:
            print(f"jupyter-sc2: {error}", file=sys.stderr)
    return settings


_running: WeakKeyDictionary[InteractiveShell, Extension] = WeakKeyDictionary()
