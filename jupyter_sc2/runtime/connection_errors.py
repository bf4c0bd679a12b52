"""Why a connection failed, in words: for the errors of Python's sockets and TLS under those of any HTTP library."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

# Numbers of OpenSSL's X509_verify_cert_error_string.
NOT_YET_VALID, EXPIRED, WRONG_HOST, WRONG_ADDRESS = 9, 10, 62, 64
# OpenSSL's words for an answer that is not TLS.
NO_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG")


def failure_reason(error: BaseException) -> str:
    """A clause without a full stop, such as "connection refused"; for a certificate also what to do."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _certificate(cause)
        if isinstance(cause, ssl.SSLError):
            return _tls(cause)
        if isinstance(cause, socket.gaierror):
            return "no host of this name is found: check the name, or the network"
    for cause in causes:
        if type(cause).__name__ == "ProxyError":
            return f"the proxy refuses ({_plain(cause)})"
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno:
            # Its own words, and not those of asyncio.
            text = os.strerror(cause.errno)
            return text[:1].lower() + text[1:]
    return _plain(causes[-1]) or type(error).__name__


def is_mistrust(error: BaseException) -> bool:
    """Whether the server was reached and is not trusted, or does not speak TLS: another try would fail as well."""
    return any(
        isinstance(cause, ssl.SSLCertVerificationError)
        or (isinstance(cause, ssl.SSLError) and cause.reason in NO_TLS)
        for cause in _causes(error)
    )


def proxy_for(url: str) -> str:
    """The host of the proxy that the environment names for a URL; "" for none."""
    try:
        parts = urlsplit(url)
        if not parts.hostname or proxy_bypass(parts.hostname):
            return ""
        proxies = getproxies()
        proxy = urlsplit(proxies.get(parts.scheme) or proxies.get("all") or "")
        port = f":{proxy.port}" if proxy.port else ""
        return f"{proxy.hostname}{port}" if proxy.hostname else ""
    except ValueError:
        return ""


def _certificate(error: ssl.SSLCertVerificationError) -> str:
    said = _plain_text(error.verify_message)
    if error.verify_code == EXPIRED:
        return "its certificate has expired: it has to be renewed, unless this machine's clock is wrong"
    if error.verify_code == NOT_YET_VALID:
        return "its certificate is not valid yet: check this machine's clock"
    if error.verify_code in (WRONG_HOST, WRONG_ADDRESS):
        return f"its certificate is for another host ({said}): use a name that is in it"
    return (
        f"its certificate is not trusted ({said}): if it is yours, name the "
        "certificate of its authority, or its own, in the environment variable SSL_CERT_FILE"
    )


def _tls(error: ssl.SSLError) -> str:
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return "the connection ended early"
    if error.reason in NO_TLS:
        return "it does not speak TLS at this port: write http:// in place of https://, or another port"
    reason = (error.reason or "").replace("_", " ").lower()
    return f"the TLS handshake failed ({reason or _plain(error)})"


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and those that led to it, the first that happened last; of a group its first."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        group = getattr(cause, "exceptions", None)  # of Python 3.11, or of a package for 3.10
        cause = group[0] if group else cause.__cause__ or cause.__context__


def _plain(error: BaseException) -> str:
    return _plain_text(str(error))


def _plain_text(text: str) -> str:
    return " ".join(text.split())[:200].rstrip(".")
