"""The settings of the command line: those of a kernel, from the config files of the IPython profile.

A kernel of the default profile reads `ipython_config` and `ipython_kernel_config`, each as .py and as .json, in the
system's and the environment's folders and in the profile's, and so do the commands: `c.SC2.model = "starcoder2-3b"`
counts in both. What is given on the command line counts more.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from traitlets.config import Config

from jupyter_sc2.errors import SettingsError
from jupyter_sc2.settings import SC2, in_order

# As BaseIPythonApplication and IPKernelApp name them; of one folder the later ones count more.
FILES = ("ipython_config", "ipython_kernel_config")
ENDINGS = (".py", ".json")


def add_config_options(parser: argparse.ArgumentParser, **settings: str) -> None:
    """Lets a command take defaults from the config: `settings` are those of its options, by the option's name."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="read settings (c.SC2.…) from this file instead of the IPython profile",
    )
    group.add_argument(
        "--no-config", action="store_true", help="ignore the settings of the IPython profile"
    )
    parser.set_defaults(configurable=(parser, settings))


def with_config(parser: argparse.ArgumentParser, argv: list[str]) -> argparse.Namespace:
    """The arguments, with the configured values for what is not given, and all of these as `configured`.

    Raises SettingsError in one line for a config file or a value that cannot be used.
    """
    args = parser.parse_args(argv)
    if "configurable" not in args:
        return args
    command, settings = args.configurable
    configured = {} if args.no_config else configured_settings(args.config)
    for action in command._actions:
        value = configured.get(settings.get(action.dest, ""))
        # What a command does not offer, as `serve` the precisions of torch, does not count there.
        if value is not None and (action.choices is None or value in action.choices):
            command.set_defaults(**{action.dest: value})
    args = parser.parse_args(argv)
    args.configured = configured
    return args


def configured_settings(file: Path | None = None) -> dict[str, Any]:
    """The settings that config files set, by name; of `file` alone if one is named. Raises SettingsError."""
    values: dict[str, tuple[object, Path]] = {}
    for path in [file] if file is not None else _profile_files():
        section = _load(path).get("SC2", {})
        if not isinstance(section, dict):
            raise SettingsError(
                f"{path} sets SC2 to {section!r}, which is not a table of settings. "
                "Correct it, or use --no-config."
            )
        values |= {name: (value, path) for name, value in section.items()}
    settings = SC2(config=Config())
    for name in in_order(values):
        value, path = values[name]
        try:
            settings.set(name, value)
        except SettingsError as error:
            raise SettingsError(f"{error} It is set in {path}.") from error
    return {name: getattr(settings, name) for name in values}


def _profile_files() -> Iterator[Path]:
    """The config files that there are, those that count more behind the others."""
    from IPython.core.application import ENV_CONFIG_DIRS, SYSTEM_CONFIG_DIRS
    from IPython.paths import get_ipython_dir

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a folder that cannot be written to
        profile = Path(get_ipython_dir()) / "profile_default"
    folders = [*map(Path, reversed([*ENV_CONFIG_DIRS, *SYSTEM_CONFIG_DIRS])), profile]
    for name in FILES:
        for folder in folders:
            for ending in ENDINGS:
                path = folder / f"{name}{ending}"
                if path.is_file():
                    yield path


def _load(path: Path) -> Config:
    """Reads one file. A .py file is run, as IPython runs it. Raises SettingsError."""
    from IPython.core.application import ProfileAwareConfigLoader
    from traitlets.config.loader import JSONFileConfigLoader

    if not path.is_file():
        raise SettingsError(f"There is no config file {path}.")
    kind = JSONFileConfigLoader if path.suffix == ".json" else ProfileAwareConfigLoader
    try:
        # stdout is for the command's own output.
        with redirect_stdout(sys.stderr):
            return kind(path.name, path=str(path.parent.absolute())).load_config()
    except (Exception, SystemExit) as error:
        message = " ".join(str(error).split())[:200]
        what = ": ".join(filter(None, (type(error).__name__, message)))
        raise SettingsError(
            f"The config file {path} fails ({what}). Correct it, or use --no-config."
        ) from error
