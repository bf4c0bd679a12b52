"""Code completion in Jupyter by a model that runs in the kernel.

Importing this package imports nothing heavy: a kernel or a command line that only asks for the version,
or that never completes anything, pays next to nothing. `%load_ext jupyter_sc2` starts the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell

    __version__: str


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Called by `%load_ext jupyter_sc2`."""
    from jupyter_sc2.runtime.import_isolation import own_imports
    from jupyter_sc2.runtime.warning_filters import unwarned

    own_imports.install()  # and once more while the extension runs
    try:
        with unwarned, own_imports.without_user_modules():
            from jupyter_sc2.extension import load

            load(shell)
    finally:
        own_imports.uninstall()


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Called by `%unload_ext jupyter_sc2`."""
    from jupyter_sc2.extension import unload

    unload(shell)


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    """Where `jupyter-builder develop` finds the built front end; a normal install does not ask."""
    return [{"src": "labextension", "dest": "jupyter-sc2"}]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _version() -> str:
    """The installed version; that of the source tree, or "0+unknown", where this package was not installed."""
    # Not at the top: looking it up takes 20 ms.
    import json
    from importlib.metadata import PackageNotFoundError, version
    from pathlib import Path

    try:
        return version("jupyter-sc2")
    except PackageNotFoundError:
        pass  # a source tree on the path, or a frozen application that left the metadata out
    try:
        package = Path(__file__).parents[1] / "labextension" / "package.json"
        return str(json.loads(package.read_text("utf-8"))["version"])
    except (OSError, ValueError, KeyError):
        return "0+unknown"
