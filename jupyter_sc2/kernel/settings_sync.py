"""One value for each setting, whoever sets it: code in the kernel, the panel, or a front end for all its kernels.

A kernel starts with what the config files say. A front end tells it, at each hello and at each change, all that its
own settings say for every kernel. Of that only what is new counts: a value that was set in this kernel stays,
also when the page is loaded again, until it is changed in the front end's settings once more. What is taken out
there comes back as it was at the start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from traitlets import TraitError
from traitlets.utils.bunch import Bunch

from jupyter_sc2.errors import SettingsError
from jupyter_sc2.settings import SC2, in_order


class SettingsSync:
    """The settings of one kernel, as they are shared with its front ends."""

    def __init__(self, settings: SC2) -> None:
        self._settings = settings
        self._initial = self.values()
        self._lab_values: dict[str, Any] | None = None  # by the front end for every kernel
        self._set_in_kernel: set[str] = set()  # before it told anything
        settings.observe(self._note, list(SC2.settings()))

    def close(self) -> None:
        self._settings.unobserve(self._note, list(SC2.settings()))

    def values(self) -> dict[str, Any]:
        return {name: getattr(self._settings, name) for name in SC2.settings()}

    def configure(self, values: Mapping[str, Any]) -> None:
        """Sets all of these or none. Raises SettingsError."""
        try:
            with self._settings.hold_trait_notifications():  # takes all back on a TraitError
                for name, value in values.items():
                    try:
                        self._settings.set(name, value)
                    except SettingsError as error:
                        raise TraitError(str(error)) from error
        except TraitError as error:
            raise SettingsError(str(error)) from error

    def apply_lab_settings(self, values: Mapping[str, Any]) -> None:
        """Sets what is new in a front end's values for every kernel; each that can be. Raises SettingsError."""
        previous, self._lab_values = self._lab_values, dict(values)
        if previous is None:
            wanted = {
                name: value for name, value in values.items() if name not in self._set_in_kernel
            }
        else:
            missing = object()
            names = dict.fromkeys([*values, *previous])
            changed = [n for n in names if values.get(n, missing) != previous.get(n, missing)]
            now = {**self._initial, **values}
            wanted = {name: now[name] for name in changed if name in now}
        try:
            self.configure(wanted)  # at once, as each that changes what is loaded would load
        except SettingsError:
            refused = []
            for name in in_order(wanted):
                try:
                    self.configure({name: wanted[name]})
                except SettingsError as error:
                    refused.append(str(error))
            if refused:
                raise SettingsError(f"JupyterLab's settings: {' '.join(refused)}") from None

    def forget(self) -> None:
        """The front end's values for every kernel are about to go, and here all stays as it is."""
        self._lab_values = {}

    def _note(self, change: Bunch) -> None:
        if self._lab_values is None:
            self._set_in_kernel.add(change.name)
