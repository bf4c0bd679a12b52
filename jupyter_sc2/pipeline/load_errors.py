"""Why a model could not be loaded, or failed later, in the user's terms; and whether a later attempt may succeed."""

from __future__ import annotations

from jupyter_sc2.errors import EngineLost, ModelLoadError, SC2Error
from jupyter_sc2.options import LoadOptions
from jupyter_sc2.runtime.import_isolation import own_imports
from jupyter_sc2.runtime.scarcity import ERRNOS, tells_of_scarcity


def in_one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def load_error(options: LoadOptions, error: Exception) -> ModelLoadError:
    """The error of a load as a ModelLoadError; itself if it is one, unless that is about a package to install.

    A package that was not imported for want of memory is installed.
    """
    if isinstance(error, ModelLoadError) and isinstance(error.__cause__, ImportError):
        error = error.__cause__ if is_transient(error.__cause__) else error
    if (hiding := own_imports.to_blame(error)) is not None:
        name, file = hiding
        failure = ModelLoadError(
            f"{options.model} could not be loaded: {file} hides the package {name}. "
            "Rename the file and restart the kernel."
        )
    elif isinstance(error, ModelLoadError):
        return error
    elif is_transient(error):
        failure = ModelLoadError(
            f"{options.model} could not be loaded, as there is no memory for it ({in_one_line(error)}). "
            "A later request tries again."
        )
    else:
        failure = ModelLoadError(f"{options.model} could not be loaded: {in_one_line(error)}")
    failure.__cause__ = error
    return failure


def no_thread(options: LoadOptions, error: BaseException) -> ModelLoadError:
    failure = ModelLoadError(
        f"{options.model} could not be loaded, as the system starts no thread for it (a limit on processes or on "
        "memory). A later request tries again."
    )
    failure.__cause__ = error
    return failure


def model_failed(error: BaseException) -> EngineLost:
    """For a model that fails one request after the other."""
    lost = EngineLost(f"The model failed ({in_one_line(error)})")
    if is_transient(error):  # not the error itself: it would keep the model in memory
        lost.__cause__ = MemoryError()
    return lost


def is_transient(error: BaseException) -> bool:
    """Whether the cause is a lack of memory, threads or descriptors, of which there may be enough a moment later."""
    reason: BaseException | None = error
    seen: set[int] = set()
    while reason is not None and id(reason) not in seen:
        seen.add(id(reason))
        if isinstance(reason, MemoryError):
            return True
        if isinstance(reason, OSError) and reason.errno in ERRNOS:
            return True
        if not isinstance(reason, SC2Error) and tells_of_scarcity(str(reason)):
            return True
        reason = reason.__cause__ or reason.__context__
    return False
