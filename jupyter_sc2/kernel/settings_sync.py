"""One value for each setting, no matter who sets it: code in the kernel, the panel, or a front end for all kernels.

A kernel starts with the values of the config files. A front end sends its settings for all kernels with each hello
and after each change. Only those that have changed are applied: a value that was set in this kernel stays, even when
the page is reloaded, until the front end's setting changes again. A setting that is removed there gets back the
value it had at the start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from traitlets import TraitError
from traitlets.utils.bunch import Bunch

from jupyter_sc2.errors import SettingsError
from jupyter_sc2.settings import SC2, in_order


class SettingsSync:
    """The settings of one kernel, kept in step with those of its front ends."""

    def __init__(self, settings: SC2) -> None:
        self._settings = settings
        self._initial = self.values()
        # The front end's settings for all kernels, as sent last.
        self._lab_values: dict[str, Any] | None = None
        # Settings changed in this kernel before the front end sent any.
        self._set_in_kernel: set[str] = set()
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
        """Applies the values that have changed, each that is valid. Raises SettingsError for the others."""
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
            self.configure(
                wanted
            )  # together, as each change of the model's settings alone would load
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
        """Keeps the current values when the front end's settings for all kernels are removed."""
        self._lab_values = {}

    def _note(self, change: Bunch) -> None:
        if self._lab_values is None:
            self._set_in_kernel.add(change.name)
