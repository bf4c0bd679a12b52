"""Servers that decode for longer than they were asked to, or do not end what they began."""

from __future__ import annotations

import contextlib
import json
import time

import pytest

from jupyter_sc2.engines import load_engine
from jupyter_sc2.engines.openai import client as http_client
from jupyter_sc2.engines.openai import engine as openai_engine
from jupyter_sc2.engines.openai.text_vocabulary import TextVocabulary
from jupyter_sc2.errors import GenerationError, ModelLoadError
from jupyter_sc2.options import LoadOptions
from jupyter_sc2.pipeline.session import Session
from jupyter_sc2.types import CompletionRequest, SamplingParams
from tests.support.servers import Handler, says, scripted

COMPLETIONS = "/v1/completions"
GREEDY = SamplingParams(max_tokens=8)


def never() -> bool:
    return False


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Short limits of time, in the proportions of the real ones."""
    monkeypatch.setattr(http_client, "READ_TIMEOUT_S", 1.0)
    monkeypatch.setattr(http_client, "QUICK_ANSWER_S", 1.0)
    monkeypatch.setattr(http_client, "MAX_PAUSE_S", 0.3)
    monkeypatch.setattr(http_client, "MAX_LINGER_S", 0.2)
    monkeypatch.setattr(http_client, "MAX_LINGER_DONE_S", 0.1)
    monkeypatch.setattr(openai_engine, "MIN_DECODE_S", 0.6)
    monkeypatch.setattr(openai_engine, "DECODE_S_PER_TOKEN", 0.01)


def stream(*texts: str, pause: float = 0.0, then: str = ""):
    """Events with these texts, the last of them again and again; with `then` once, and that kind of end."""

    def answer(handler: Handler, body):
        handler.begin_stream()
        with contextlib.suppress(OSError):
            for text in texts:
                handler.event({"choices": [{"text": text}]})
                time.sleep(pause)
            while not then:
                handler.event({"choices": [{"text": texts[-1]}]})
                time.sleep(pause)
            if then == "done":
                handler.event({"choices": [{"text": "", "finish_reason": "length"}]})
                handler.event("[DONE]")
            elif then == "finished":
                handler.event({"choices": [{"text": "", "finish_reason": "length"}]})
            handler.wait_for_close()

    return answer


def whole(text: str, repeat: int = 1):
    """An answer in one piece, although a stream was asked for."""
    return says(200, {"choices": [{"text": text}] * repeat, "usage": {"prompt_tokens": 3}})


def decode(engine) -> str:
    tokens = [*engine.generate(engine.encode("x"), GREEDY, (), never)]
    assert len(tokens) <= GREEDY.max_tokens + 1
    return engine.decode_bytes([token.id for token in tokens]).decode()


ENDLESS = {
    "words": stream("x "),
    "blanks": stream(" "),
    "line ends": stream("\n"),
    "nothing": stream("", pause=0.02),
    "nothing after a word": stream("x", "", pause=0.02),
    "a token now and then": stream("x", pause=5.0),
    "no more after a word": stream("x", then="silence"),
    "no end after the finish": stream("x", then="finished"),
    "no end after the mark of the end": stream("x", then="done"),
    "long pieces": stream("word " * 2000),
    "a megabyte at once": whole("word " * 200_000),
    "a megabyte of blanks": whole(" " * 1_000_000),
    "many choices": whole("x", 10_000),
}
TYPICAL = ("words", "blanks", "nothing", "a token now and then", "a megabyte at once")


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize("vocabulary", ["ids", "text"])
def test_an_answer_that_does_not_end_is_ended_here_and_its_connection_closed(
    server, kind, vocabulary
):
    model = "embedded" if vocabulary == "ids" else "acme/coder"
    server.models[:] = [{"id": model}]
    engine = load_engine(model, server=server.url, offline=True)
    server.queue(COMPLETIONS, ENDLESS[kind])
    began = time.monotonic()
    assert len(decode(engine)) <= openai_engine.MAX_CHARS_PER_TOKEN * (GREEDY.max_tokens + 1)
    assert time.monotonic() - began < 3
    assert decode(engine) == "print(x)\n"  # the next is complete
    engine.close()


@pytest.mark.parametrize("kind", TYPICAL)
def test_an_invoked_request_ends_with_a_final_whatever_the_server_streams(server, kind):
    server.queue(COMPLETIONS)
    session = Session(load_options=LoadOptions(model="embedded", server=server.url))
    try:
        session.load()
        session.wait_ready(10)
        server.queue(COMPLETIONS, *[ENDLESS[kind]] * 8)
        request = CompletionRequest(text="import os\n", offset=10, trigger="invoke")
        began = time.monotonic()
        *_, last = session.complete(request)
        assert last.finish_reason in ("stop", "length")
        assert time.monotonic() - began < 5
    finally:
        session.close()


@pytest.mark.parametrize("kind", TYPICAL)
def test_a_model_loads_although_its_server_does_not_keep_to_one_token(server, kind):
    server.queue(COMPLETIONS, *[ENDLESS[kind]] * 2)
    began = time.monotonic()
    load_engine("embedded", server=server.url).close()
    assert time.monotonic() - began < 8


def test_prefilling_reads_a_few_tokens_at_most(engine, server):
    server.queue(COMPLETIONS, stream("x"))
    ids = engine.encode("a = 1\n" * 40)
    assert engine.prefill(ids, never) == len(ids)
    assert decode(engine) == "print(x)\n"


def comments(handler: Handler, body):
    """Signs of life, and nothing else."""
    handler.begin_stream()
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(b": still there\n\n")
            time.sleep(0.02)


def bytewise(handler: Handler, body):
    """One byte of an answer now and then."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(b" ")
            time.sleep(0.02)


@pytest.mark.parametrize("answer", [comments, bytewise])
def test_signs_of_life_without_a_token_end_in_one_line(engine, server, answer):
    server.queue(COMPLETIONS, answer)
    with pytest.raises(GenerationError, match=r"has said nothing for 1 s\.$"):
        decode(engine)
    assert decode(engine) == "print(x)\n"


def test_a_list_of_models_that_comes_byte_by_byte_is_given_up():
    with scripted() as server:
        server.queue("/v1/models", bytewise)
        with pytest.raises(ModelLoadError, match=r"has not finished its answer within 1 s\.$"):
            load_engine("embedded", server=server.url)


def test_a_connection_is_kept_where_the_server_ends_its_stream(engine, server):
    def with_length(handler: Handler, body):
        data = f"data: {json.dumps({'choices': [{'text': 'x'}]})}\n\ndata: [DONE]\n\n".encode()
        handler.send(200, data, "text/event-stream")

    clients = set()

    def noting(handler: Handler, body):
        clients.add(handler.client_address)
        with_length(handler, body)

    server.queue(COMPLETIONS, noting, noting, noting)
    assert [decode(engine) for _ in range(3)] == ["x"] * 3
    assert len(clients) == 1


def test_a_long_piece_of_text_counts_as_more_than_one_token(text_engine):
    engine, server = text_engine
    assert isinstance(engine.vocabulary, TextVocabulary)
    server.queue(COMPLETIONS, whole("one two three four five six seven eight nine ten eleven"))
    assert decode(engine) == "one two three four five six seven eight nine"


def test_a_short_piece_is_one_token_as_before(text_engine):
    engine, server = text_engine
    server.queue(COMPLETIONS, whole("one two three"))
    assert len([*engine.generate(engine.encode("x"), GREEDY, (), never)]) == 1
