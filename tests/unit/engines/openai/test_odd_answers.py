"""A server's answers with each field replaced by what it cannot be: one line, or as if the field were not there."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jupyter_sc2.engines import load_engine
from jupyter_sc2.errors import GenerationError, ModelLoadError
from jupyter_sc2.options import LoadOptions
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.runtime.characters import first_unseen
from jupyter_sc2.types import CompletionRequest, SamplingParams
from tests.support.odd import ODD, variants
from tests.support.servers import Handler, says

COMPLETIONS = "/v1/completions"
EVENT = {
    "id": "cmpl-1",
    "object": "text_completion",
    "created": 1,
    "model": "embedded",
    "choices": [
        {
            "index": 0,
            "text": "x",
            "finish_reason": "stop",
            "stop_reason": 5,
            "logprobs": {
                "tokens": ["token_id:20"],
                "token_logprobs": [-0.5],
                "content": [{"id": 20, "token": "x", "logprob": -0.5}],
            },
        }
    ],
    "usage": {
        "prompt_tokens": 3,
        "completion_tokens": 1,
        "total_tokens": 4,
        "prompt_tokens_details": {"cached_tokens": 1},
    },
    "error": None,
}
MODEL = {
    "id": "embedded",
    "object": "model",
    "owned_by": "x",
    "root": "embedded",
    "max_model_len": 900,
}
PROPS = {"default_generation_settings": {"n_ctx": 900}}
TOKENS = {"tokens": [1], "count": 1, "max_model_len": 900}
# What a server may answer in place of JSON.
BODIES = {
    "nothing": (b"", "application/json"),
    "a web page": (b"<html><body>Welcome</body></html>", "text/html"),
    "a web page as JSON": (b"<html>", "application/json"),
    "half of it": (b'{"data": [{"id": "emb', "application/json"),
    "UTF-16": (json.dumps({"data": []}).encode("utf-16"), "application/json"),
    "Latin 1": ('{"data": [{"id": "\u00e9"}]}'.encode("latin-1"), "application/json"),
    "a mark of the order of bytes": (b"\xef\xbb\xbf{}", "application/json"),
    "zeros": (bytes(100), "application/json"),
    "long digits": (b'{"data": ' + b"9" * 5000 + b"}", "application/json"),
    "text": (b"ok", "text/plain"),
}


def checked(act) -> Any:
    """What an act returns; if it fails, it does so in one line in our own words."""
    try:
        return act()
    except (GenerationError, ModelLoadError) as error:
        line = str(error)
        assert "\n" not in line and len(line) < 700 and first_unseen(line) is None, line
        assert "Error" not in line and "Traceback" not in line and "object" not in line, line
        return line


def event(data: Any):
    def answer(handler: Handler, body: Any) -> None:
        handler.begin_stream()
        handler.event(json.dumps(data))
        handler.event("[DONE]")

    return answer


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["", "vllm"])
def test_no_field_of_an_event_can_break_a_completion(server, kind):
    server.models[:] = [{"id": "embedded", "owned_by": kind}]
    engine = load_engine("embedded", server=server.url)
    ids = engine.encode("x")
    sampling = SamplingParams(max_tokens=4)
    for where, data in variants(EVENT, ODD if kind else ODD[::3]):
        server.queue(COMPLETIONS, event(data))

        def act():
            tokens = [*engine.generate(ids, sampling, (), lambda: False)]
            assert engine.decode_bytes([token.id for token in tokens]) is not None
            assert all(-1e5 < token.logprob <= 0 for token in tokens)

        try:
            checked(act)
        except Exception as error:
            raise AssertionError(where) from error
    engine.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "path"),
    [
        *(("", "/v1/models"), ("", COMPLETIONS)),
        *(("llamacpp", "/props"), ("llamacpp", "/tokenize"), ("vllm", "/tokenize")),
    ],
)
def test_no_field_of_what_a_server_says_of_itself_can_break_a_load(server, kind, path):
    usual = {
        "/v1/models": {"object": "list", "data": [MODEL]},
        "/props": PROPS,
        "/tokenize": TOKENS,
        COMPLETIONS: {"choices": [], "usage": {"prompt_tokens": 3}},
    }
    server.models[:] = [{**MODEL, "owned_by": kind}]
    for where, data in variants(usual[path], ODD[::8]):
        server.queued.clear()
        server.queue(path, says(200, json.dumps(data)))

        def act():
            engine = load_engine("embedded", server=server.url, offline=True)
            assert min(engine.card.window, engine.card.context) > 0
            engine.close()

        try:
            checked(act)
        except Exception as error:
            raise AssertionError(where) from error


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("path", ["/v1/models", "/props", "/tokenize", COMPLETIONS])
def test_what_is_not_json_is_one_line_when_a_model_loads(server, body, path):
    data, type = BODIES[body]
    server.models[:] = [{**MODEL, "owned_by": "llamacpp"}]
    server.queue(path, *[lambda handler, asked: handler.send(200, data, type)] * 9)
    checked(lambda: load_engine("embedded", server=server.url).close())


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("status", [200, 400, 500])
def test_what_is_not_json_is_one_line_in_the_place_of_a_completion(engine, server, body, status):
    data, type = BODIES[body]
    server.queue(COMPLETIONS, lambda handler, asked: handler.send(status, data, type))
    checked(lambda: [*engine.generate([20], SamplingParams(max_tokens=4), (), lambda: False)])


def test_a_request_whose_answer_has_odd_numbers_ends_with_numbers_that_json_has(server):
    session = Session(load_options=LoadOptions(model="embedded", server=server.url))
    try:
        session.load()
        session.wait_ready(10)
        for value in (float("-inf"), float("nan"), -1e308, 5):
            odd = {"choices": [{"text": "x = 1\n", "logprobs": {"token_logprobs": [value, value]}}]}
            server.queue(COMPLETIONS, *[event(odd)] * 4)
            *_, last = session.complete(CompletionRequest(text="y", offset=1, trigger="invoke"))
            json.dumps(last.mean_logprob, allow_nan=False)
    finally:
        session.close()
