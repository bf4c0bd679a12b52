"""Failures of the hub: which of them pass, waiting until the next try, and what to tell the user."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, TypeVar

from jupyter_sc2.runtime.connection_errors import failure_reason, is_mistrust
from jupyter_sc2.runtime.http_retries import DOWNLOADS, PASSING_STATUSES, retry_after, wait
from jupyter_sc2.runtime.progress import Noted, Progress

T = TypeVar("T")

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)


class Incomplete(ConnectionError):
    """An answer ended early, or is not the part of the file that was asked for."""


def status_of(error: Exception) -> int | None:
    """The HTTP status of an answer that was an error."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status if isinstance(status, int) else None


def is_network(error: Exception) -> bool:
    """Whether the connection failed; an answer with an error is none of these."""
    # httpx of this or the next major version: which one, the hub's client decides.
    library = type(error).__module__.partition(".")[0]
    has_answer = status_of(error) is not None
    return not has_answer and (
        library in ("httpx", "httpx2") or isinstance(error, (ConnectionError, TimeoutError))
    )


def is_unreachable(error: Exception) -> bool:
    """Whether there was no connection at all: then there is no network, most likely, and no use in waiting."""
    names = ("ConnectError", "ConnectTimeout", "ProxyError", "UnsupportedProtocol")
    return isinstance(error, ConnectionRefusedError) or type(error).__name__ in names


def may_pass(error: Exception) -> bool:
    return is_network(error) or status_of(error) in PASSING_STATUSES


def what_failed(error: Exception) -> str:
    """A clause about a failure of the hub's, such as "the hub answers 503"."""
    if (status := status_of(error)) is not None:
        return f"the hub answers {status}"
    if isinstance(error, Incomplete):
        return str(error)
    if "Timeout" in type(error).__name__ or isinstance(error, TimeoutError):
        return "the hub does not answer in time"
    return failure_reason(error)


def why_not(error: Exception) -> str:
    """Why something is not to be had from the hub."""
    if status_of(error) is not None:
        return f"{what_failed(error)} again and again"
    return f"the hub cannot be reached ({failure_reason(error)})"


# Trying again


def retried(act: Callable[[], T], may_pass: Callable[[Exception], bool], tell: Progress) -> T:
    """What `act` returns, tried again by the policy for downloads while `may_pass` holds for what it raises."""
    failures = 0
    while True:
        try:
            return act()
        except Exception as error:
            failures += 1
            if not may_pass(error) or not wait_after(
                error, failures, lambda note: tell(Noted("downloading", note), None)
            ):
                raise


def wait_after(error: Exception, failures: int, tell: Callable[[str], None]) -> bool:
    """Waits until the next try, and tells of it; False where there is none. What `tell` raises ends the wait."""
    if is_mistrust(error):
        return False
    headers = getattr(getattr(error, "response", None), "headers", {})
    seconds = DOWNLOADS.delay(failures, retry_after(headers))
    if seconds is None:
        return False
    note = f"{what_failed(error)}: next try in {max(1, round(seconds))} s."
    wait(seconds, lambda: tell(note[:1].upper() + note[1:]))
    return True


def explain(hub: Any, hub_id: str, revision: str | None, error: Exception) -> str | None:
    """What to tell the user; None where the hub cannot be reached at all."""
    log_in = "log in with `hf auth login`"
    status = status_of(error)
    match error:
        case hub.errors.GatedRepoError():
            return (
                f"{hub_id} asks you to accept its licence first: do so on its page on the hub, then "
                f"{log_in}."
            )
        case hub.errors.RevisionNotFoundError():
            return f"{hub_id} has no revision {revision!r}."
        case hub.errors.HFValidationError():
            return f"{hub_id!r} cannot be the name of a model on the hub (owner/name)."
        case _ if status == 401 and hub.get_token():
            return f"The hub refused your token for {hub_id}: {log_in} again, or check the name."
        case hub.errors.RepositoryNotFoundError():
            return f"The hub has no model {hub_id}, or it is private: check the name, or {log_in}."
        case _ if status in (401, 403):
            return f"The hub does not let you read {hub_id} ({status}): {log_in}, or check your token's rights."
        case _ if status == 429:
            return f"The hub is too busy for {hub_id} (429): try again in some minutes."
        case OSError() if error.errno in DISK_ERRORS:
            return f"{hub_id} cannot be stored: {error.strerror}."
    return None
