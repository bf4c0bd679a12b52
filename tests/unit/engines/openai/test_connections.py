"""Servers to which there is no connection: one line says why, and what to do."""

from __future__ import annotations

import os
import socket

import pytest

pytest.importorskip("cryptography")

from jupyter_sc2.engines import load_engine
from jupyter_sc2.errors import ModelLoadError
from jupyter_sc2.runtime import connection_errors
from tests.support.certificates import certificate, refusing_proxy, secure
from tests.support.servers import scripted

TRUST = "if it is yours, name the certificate of its authority, or its own, in the environment variable SSL_CERT_FILE."


@pytest.fixture(autouse=True)
def no_proxy_of_this_machine(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("SSL_CERT"):
            monkeypatch.delenv(name)


def line_of(url: str) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load_engine("embedded", server=url).close()
    line = str(caught.value)
    assert "\n" not in line and len(line) < 400
    return line.replace(url.partition("//")[2], "HOST")


@pytest.fixture
def secured(tmp_path):
    """Makes the address of a completions server that speaks TLS with a certificate."""
    import contextlib

    with contextlib.ExitStack() as stack:

        def start(file) -> str:
            server = stack.enter_context(scripted())
            stack.enter_context(secure(server, file))
            return server.url.replace("http:", "https:")

        yield start


def test_a_certificate_that_nobody_signed_is_not_trusted(secured, tmp_path):
    line = line_of(secured(certificate(tmp_path)))
    assert line.startswith("HOST cannot be used: its certificate is not trusted (self")
    assert line.endswith(TRUST)


def test_it_is_trusted_where_it_is_named(secured, tmp_path, monkeypatch):
    file = certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    load_engine("embedded", server=secured(file)).close()


def test_a_certificate_that_has_expired_is_named_so(secured, tmp_path, monkeypatch):
    file = certificate(tmp_path, days=(-9, -2))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    assert line_of(secured(file)) == (
        "HOST cannot be used: its certificate has expired: it has to be renewed, unless this machine's clock is wrong."
    )


def test_a_certificate_of_tomorrow_is_named_so(secured, tmp_path, monkeypatch):
    file = certificate(tmp_path, days=(2, 9))
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    assert line_of(secured(file)) == (
        "HOST cannot be used: its certificate is not valid yet: check this machine's clock."
    )


def test_a_certificate_for_another_host_is_named_so(secured, tmp_path, monkeypatch):
    file = certificate(tmp_path, address="192.0.2.7")
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    line = line_of(secured(file))
    assert line.startswith("HOST cannot be used: its certificate is for another host (")
    assert line.endswith("): use a name that is in it.")


def test_https_where_only_http_is_spoken_is_named_so():
    with scripted() as server:
        assert line_of(server.url.replace("http:", "https:")) == (
            "HOST cannot be used: it does not speak TLS at this port: write http:// in place of https://, or "
            "another port."
        )


def test_http_where_only_https_is_spoken_is_one_line(secured, tmp_path):
    line = line_of(secured(certificate(tmp_path)).replace("https:", "http:"))
    assert line == (
        "HOST broke off before it answered: does it speak HTTP, or only https:// at this port?"
    )


def test_a_name_that_nobody_knows_is_named_so():
    line = line_of("http://no-such-host.invalid:8000")
    assert line == (
        "HOST cannot be reached: no host of this name is found: check the name, or the network. "
        "Is the server running?"
    )


def test_a_closed_port_is_named_so():
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    line = line_of(f"http://127.0.0.1:{port}")
    assert line == "HOST cannot be reached: connection refused. Is the server running?"
    assert line_of(f"http://localhost:{port}") == line


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses_is_named(monkeypatch, scheme):
    with refusing_proxy() as proxy:
        monkeypatch.setenv(f"{scheme}_proxy", proxy)
        line = line_of(f"{scheme}://gpu.example:8000")
    host = proxy.partition("//")[2]
    assert (
        line
        == {
            "http": f"HOST, or the proxy {host} before it, refuses (403): check the settings of the proxy, and the "
            "key in JUPYTER_SC2_API_KEY.",
            "https": f"HOST cannot be reached through the proxy {host}: the proxy refuses (403 Not from here). "
            "Is the server running?",
        }[scheme]
    )


def test_a_proxy_that_is_not_there_is_named_and_its_password_is_not(monkeypatch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    monkeypatch.setenv("http_proxy", f"http://me:secret@127.0.0.1:{port}")
    assert line_of("http://gpu.example:8000") == (
        f"HOST cannot be reached through the proxy 127.0.0.1:{port}: connection refused. Is the server running?"
    )


@pytest.mark.parametrize("proxy", ["", "x", "http://", "http://[", "http://h:x", "socks5://h:1"])
def test_a_proxy_that_is_no_address_is_no_error_of_ours(monkeypatch, proxy):
    monkeypatch.setenv("http_proxy", proxy)
    assert connection_errors.proxy_for("http://gpu.example:8000") in ("", "h", "h:1", "x")
    assert line_of("http://gpu.example:8000").startswith(
        (
            "HOST cannot be reached",
            "The environment's settings for connections to HOST cannot be used",
        )
    )


def test_a_proxy_that_cannot_be_used_does_not_matter_to_a_server_on_this_machine(monkeypatch):
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    with scripted() as server:
        load_engine("embedded", server=server.url).close()
