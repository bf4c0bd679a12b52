"""The engine for completions servers: what goes over the wire, what goes wrong there, and two real servers."""

from __future__ import annotations

import contextlib
import gc
import gzip
import importlib.util
import json
import os
import random
import signal
import socket
import stat
import threading
from dataclasses import replace
from unittest import mock

import pytest

from tests.support.servers import (
    breaks_off,
    never_answers,
    says,
    says_one_piece_and_waits,
    scripted,
    serving,
)

pytest.importorskip("httpx")
pytest.importorskip("tokenizers")

from jupyter_sc2.engines import load_engine
from jupyter_sc2.engines.decoding.tokenizer import Tokenizer
from jupyter_sc2.engines.openai import client as http_client
from jupyter_sc2.engines.openai import server_files
from jupyter_sc2.engines.openai.client import find_key, parse_address
from jupyter_sc2.engines.openai.discovery import choose_entry
from jupyter_sc2.engines.openai.engine import leaving
from jupyter_sc2.engines.openai.text_vocabulary import TextVocabulary
from jupyter_sc2.errors import GenerationError, ModelLoadError
from jupyter_sc2.models.cards import EMBEDDED, EMBEDDED_FOLDER, STARCODER2_STOP
from jupyter_sc2.runtime.characters import first_unseen
from jupyter_sc2.types import SamplingParams, SpellingConstraint

COMPLETIONS = "/v1/completions"
KEY = "sk-very-secret"
GREEDY = SamplingParams(max_tokens=8)


def never() -> bool:
    return False


def text_of(engine, tokens) -> str:
    return engine.decode_bytes([token.id for token in tokens]).decode()


# Addresses and keys


@pytest.mark.parametrize(
    "written",
    ["", "/", "/v1", "/v1/", "/v1/completions", "/v1/models"],
    ids=lambda text: text or "bare",
)
def test_an_address_counts_with_and_without_v1(written):
    assert parse_address(f"http://localhost:8000{written}").root == "http://localhost:8000"
    assert parse_address(f"https://hub.org/llm{written}").root == "https://hub.org/llm"


@pytest.mark.parametrize(
    "written",
    ["localhost:8000", "sk-secret", "ftp://h", "https://me:sk-secret@h", "http://h/?key=sk-secret"],
)
def test_what_is_no_address_is_refused_without_being_repeated(written):
    with pytest.raises(ModelLoadError) as caught:
        parse_address(written)
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_the_key_comes_from_its_own_variable_or_the_keyring(monkeypatch):
    address = parse_address("https://gpu.example.org")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another-product")
    assert find_key(address) is None
    monkeypatch.setattr(http_client, "_from_keyring", lambda host: f"of {host}".replace(" ", "-"))
    assert find_key(address) == "of-gpu.example.org"
    monkeypatch.setenv(http_client.KEY_VARIABLE, KEY)
    assert find_key(address) == KEY


def test_the_key_does_not_travel_unencrypted_to_another_machine(monkeypatch):
    monkeypatch.setenv(http_client.KEY_VARIABLE, KEY)
    with pytest.raises(ModelLoadError, match=r"unencrypted to gpu\.example\.org:8000"):
        load_engine("embedded", server="http://gpu.example.org:8000")


def test_offline_allows_this_machine_only(server):
    load_engine("embedded", server=server.url, offline=True).close()
    with pytest.raises(ModelLoadError, match=r"gpu\.example\.org is not this machine"):
        load_engine("embedded", server="https://gpu.example.org", offline=True)


def test_the_key_is_sent_and_never_shown(server, monkeypatch, caplog):
    monkeypatch.setenv(http_client.KEY_VARIABLE, KEY)
    caplog.set_level("DEBUG")
    engine = load_engine("embedded", server=server.url)
    assert set(server.keys) == {f"Bearer {KEY}"}
    server.queue(COMPLETIONS, says(400, {"error": {"message": f"bad request with {KEY}"}}))
    with pytest.raises(GenerationError) as caught:
        list(engine.generate([1, 2], GREEDY, (), never))
    assert "bad request with …" in str(caught.value)
    shown = [repr(caught.value), repr(vars(engine)), repr(vars(engine._client._http)), caplog.text]
    assert not [text for text in shown if KEY in text]
    engine.close()


def test_nothing_goes_to_a_proxy_for_this_machine(server, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    load_engine("embedded", server=server.url).close()


# What goes wrong while loading


def load_error(server, model="embedded") -> str:
    with pytest.raises(ModelLoadError) as caught:
        load_engine(model, server=server if isinstance(server, str) else server.url)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_server_that_is_not_there_is_named():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    said = load_error(f"http://127.0.0.1:{port}")
    assert f"127.0.0.1:{port} cannot be reached" in said and "refused" in said


def test_a_missing_and_a_wrong_key_have_an_error_each(server, monkeypatch):
    server.queue("/v1/models", says(401, {"error": "Unauthorized"}))
    assert f"wants a key: set the environment variable {http_client.KEY_VARIABLE}" in load_error(
        server
    )
    monkeypatch.setenv(http_client.KEY_VARIABLE, KEY)
    server.queue(COMPLETIONS, says(401, {"error": "Unauthorized"}))
    assert "does not take your key" in load_error(server)


def test_a_wrong_path_and_a_web_page_are_recognized(server):
    assert "/elsewhere a completions server?" in load_error(f"{server.url}/elsewhere")
    server.queue("/v1/models", says(200, "<html>Log in</html>", "text/html"))
    assert "answers with a web page" in load_error(server)
    server.queue("/v1/models", says(200, "hello"))
    assert "not JSON" in load_error(server)
    server.queue("/v1/models", says(200, {"data": []}))
    assert "lists no models" in load_error(server)


def test_a_model_that_the_server_lacks_brings_the_list_of_those_it_has(server):
    server.models = [{"id": "bigcode/starcoder2-7b"}, {"id": "qwen"}]
    assert "set model to one of bigcode/starcoder2-7b, qwen" in load_error(server, "starcoder2-3b")
    server.models = [{"id": "embedded"}]
    server.queue(COMPLETIONS, says(404, {"error": {"message": "The model does not exist."}}))
    assert "The model does not exist." in load_error(server)


def test_a_model_is_found_under_the_names_that_servers_give_it():
    def chosen(model, *names):
        return choose_entry(model, [{"id": name} for name in names], "host")["id"]

    assert chosen("starcoder2-3b", "x", "bigcode/starcoder2-3b") == "bigcode/starcoder2-3b"
    assert chosen("bigcode/starcoder2-3b", "x", "starcoder2:3b") == "starcoder2:3b"
    assert chosen("starcoder2-3b", "StarCoder2-3B-Q4_K_M.gguf") == "StarCoder2-3B-Q4_K_M.gguf"
    assert chosen("my-own", "x", "my-own") == "my-own"
    assert chosen("embedded", "whatever") == "whatever"


def test_a_busy_server_is_asked_again(server):
    server.queue("/v1/models", says(429, {}), says(503, {"error": "Loading model"}))
    engine = load_engine("embedded", server=server.url)
    server.asked.clear()
    server.queue(COMPLETIONS, says(502, "<html>", "text/html"))
    assert text_of(engine, engine.generate([20], GREEDY, (), never)) == "print(x)\n"
    assert len(server.asked) == 2
    engine.close()


def test_a_server_that_stays_busy_is_given_up(server):
    server.queue("/v1/models", *[says(503, {"error": "Loading model"})] * 4)
    assert "is too busy (503): Loading model" in load_error(server)
    assert len(server.asked) == 4


def test_waiting_for_a_busy_server_draws_no_number_of_the_users(server):
    server.queue("/v1/models", says(429, {}), says(503, {}))
    before = random.getstate()
    load_engine("embedded", server=server.url).close()
    assert random.getstate() == before


# What goes over the wire


def test_with_the_tokenizer_at_hand_prompts_are_ids(engine, server):
    ids = [engine.special_ids["<file_sep>"], *engine.encode("x = 1\n")]
    tokens = list(engine.generate(ids, GREEDY, (0, 6), never))
    assert server.prompts()[-1] == ids
    assert text_of(engine, tokens) == "print(x)\n"
    assert tokens[-1].id in STOPS and engine.decode_bytes([tokens[-1].id]) == b""
    assert {token.logprob for token in tokens} == {0.0}  # this server tells none
    as_long = replace(EMBEDDED, context=1024, window=1024)  # as the tests' own model
    assert engine.card == as_long and engine.memory_bytes() == 0
    assert (
        engine.notice
        == f"Code leaves this kernel: it is sent to {server.url[7:]}, on this machine."
    )


def test_of_a_server_elsewhere_it_is_said_that_code_leaves_the_machine():
    said = leaving(parse_address("https://gpu.example.org:8000/v1"))
    assert said == "Code leaves this machine: it is sent to gpu.example.org:8000."


STOPS = range(len(STARCODER2_STOP))


def test_a_server_that_refuses_ids_gets_text():
    with scripted() as server:
        server.queue(COMPLETIONS, says(422, {"error": "prompt must be a string"}))
        engine = load_engine("embedded", server=server.url)
        ids = [engine.special_ids["<file_sep>"], *engine.encode("x = 1\n")]
        list(engine.generate(ids, GREEDY, (), never))
        assert server.prompts()[-1] == "<file_sep>x = 1\n"
        engine.close()


def test_sampling_parameters_are_passed_on(engine, server):
    sampling = SamplingParams(max_tokens=5, temperature=0.7, top_k=3, top_p=0.9, seed=4)
    list(engine.generate([20], sampling, (0, 6), never))
    asked = server.asked[-1][1]
    wanted = {"max_tokens": 5, "temperature": 0.7, "top_k": 3, "top_p": 0.9, "seed": 4}
    assert {name: asked[name] for name in wanted} == wanted
    assert asked["stop"] == ["<|endoftext|>", "<file_sep>"] and asked["model"] == "embedded"


def test_prompt_and_completion_stay_within_what_the_server_takes():
    with scripted({"id": "embedded", "max_model_len": 100}) as server:
        engine = load_engine("embedded", server=server.url)
        assert engine.card.context == 100
        list(engine.generate([20] * 97, GREEDY, (), never))
        assert server.asked[-1][1]["max_tokens"] == 3
        with pytest.raises(GenerationError, match="lower context_tokens"):
            list(engine.generate([20] * 100, GREEDY, (), never))
        engine.close()


def test_only_much_new_text_is_prefilled_by_a_request_of_its_own(engine, server):
    ids = [20 + i for i in range(200)]
    before = len(server.asked)
    assert engine.prefill(ids, never) == 200 and server.asked[-1][1]["max_tokens"] == 1
    assert engine.prefill([*ids, 7, 8], never) == 2
    assert len(server.asked) == before + 1


def test_the_suffix_goes_back_to_the_prompt_of_a_server_without_constraints(text_engine):
    engine, server = text_engine
    tokens = list(
        engine.generate(
            engine.encode("import numpy as"), GREEDY, (), never, SpellingConstraint((b" n",))
        )
    )
    assert server.prompts()[-1] == "import numpy as n"
    assert text_of(engine, tokens) == " nprint(x)\n"


# Text in which nothing is special that should not be

WRITTEN = (
    'stop = "<|endoftext|>"  # <fim_middle>x<file_sep>\n<repo_name> <jupyter_code> <issue_start><a>'
)


def test_text_ids_are_exact_and_never_special():
    pieces = TextVocabulary(STARCODER2_STOP)
    for text in (WRITTEN, "naïve = '東京 🎉'\n\t# \x00 ÿ", "x" * 50, ""):
        ids = pieces.encode(text)
        assert pieces.decode_bytes(ids).decode() == text
        assert not set(ids) & set(pieces.special_ids.values())
    code = "import numpy as np\nfor index in range(10):\n    total += values[index]\n"
    tokenizer = Tokenizer(EMBEDDED_FOLDER / "tokenizer.json")
    assert 0.6 < len(pieces.encode(code)) / len(tokenizer.encode(code)) < 1.6


def test_a_users_literal_special_tokens_stay_text_for_the_servers_tokenizer():
    from tokenizers import Tokenizer as ServersTokenizer

    pieces = TextVocabulary(STARCODER2_STOP)
    special = pieces.special_ids
    # Also where a token is put together from what stands on both sides of a seam.
    halves = [*pieces.encode("<file_"), *pieces.encode("sep>")]
    ids = [special["<file_sep>"], *pieces.encode(WRITTEN), special["<fim_middle>"], *halves]
    server = ServersTokenizer.from_file(str(EMBEDDED_FOLDER / "tokenizer.json"))
    read = server.encode(pieces.render(ids, end="<fim_pad>"), add_special_tokens=False).ids
    assert [server.id_to_token(id) for id in read if id < 16] == ["<file_sep>", "<fim_middle>"]


def test_markup_that_is_no_special_token_is_left_alone():
    pieces = TextVocabulary(STARCODER2_STOP)
    html = "<div><a href='x'>a_b</a></div> List<int> x <| y |> z"
    assert pieces.render(pieces.encode(html)) == html


def test_a_special_token_that_comes_as_text_ends_the_answer(text_engine):
    engine, server = text_engine
    server.pieces = ["x", "<file_sep>", "y"]
    stop = {engine.special_ids["<file_sep>"]}
    tokens = list(engine.generate(engine.encode("a"), GREEDY, stop, never))
    assert [engine.decode_bytes([token.id]) for token in tokens] == [b"x", b""]


# What goes wrong in an answer


def test_a_stream_that_breaks_off_gives_what_came_and_then_an_error(engine, server):
    server.queue(COMPLETIONS, breaks_off)
    stream = engine.generate([20], GREEDY, (), never)
    assert engine.decode_bytes([next(stream).id]) == b"print"
    with pytest.raises(GenerationError, match="broke off in the middle of an answer"):
        list(stream)
    assert text_of(engine, engine.generate([20], GREEDY, (), never)) == "print(x)\n"


def test_an_error_within_a_stream_has_the_servers_message(engine, server):
    def fails(handler, body):
        handler.begin_stream()
        handler.event({"error": {"message": "out of memory", "code": 500}})

    server.queue(COMPLETIONS, fails)
    with pytest.raises(GenerationError, match="failed: out of memory"):
        list(engine.generate([20], GREEDY, (), never))


# Servers that misbehave


def sends(*parts: bytes, status: int = 200, type: str = "text/event-stream", **headers: str):
    """An answer that goes on and on with its last part."""

    def send(handler, body):
        handler.close_connection = True
        with contextlib.suppress(ConnectionError):
            handler.send_response(status)
            handler.send_header("Content-Type", type)
            for name, value in headers.items():
                handler.send_header(name.replace("_", "-"), value)
            handler.end_headers()
            for part in parts[:-1]:
                handler.wfile.write(part)
            while True:
                handler.wfile.write(parts[-1])

    return send


def stream_of(*lines: bytes):
    def send(handler, body):
        handler.begin_stream()
        for line in lines:
            handler.wfile.write(line + b"\n\n")

    return send


def said_in_one_line(act) -> str:
    with pytest.raises((GenerationError, ModelLoadError)) as caught:
        act()
    line = str(caught.value)
    assert "\n" not in line and len(line) < 500 and first_unseen(line) is None
    return line


def decode(engine) -> list[str]:
    ids = engine.encode("x")
    return [engine.decode_bytes([t.id]).decode() for t in engine.generate(ids, GREEDY, (), never)]


@pytest.mark.parametrize("piece", [b"data: " + b"x" * 99, b"x", b'{"a": ['], ids=range(3))
def test_a_line_without_an_end_is_given_up(engine, server, monkeypatch, piece):
    monkeypatch.setattr(http_client, "MAX_EVENT_BYTES", 1 << 16)
    server.queue(COMPLETIONS, sends(piece))
    assert said_in_one_line(lambda: decode(engine)).endswith("sends a line of more than 0 MB.")


@pytest.mark.parametrize(
    "line",
    [b": still there\n", b"\n", b"data: {}\n\n", b'data: {"choices": [{"text": ""}]}\n', b"x\r"],
    ids=range(5),
)
def test_an_answer_without_an_end_is_given_up(engine, server, monkeypatch, line):
    monkeypatch.setattr(http_client, "MAX_ANSWER_BYTES", 1 << 16)
    server.queue(COMPLETIONS, sends(line))
    assert said_in_one_line(lambda: decode(engine)).endswith("sends an answer of more than 0 MB.")


def test_no_more_tokens_are_taken_than_were_asked_for(engine, server):
    server.queue(COMPLETIONS, sends(b'data: {"choices": [{"text": "x"}]}\n\n'))
    assert len(decode(engine)) <= GREEDY.max_tokens + 1


@pytest.mark.parametrize("type", ["application/json", "text/plain", ""])
def test_a_list_of_models_without_an_end_is_given_up(server, monkeypatch, type):
    monkeypatch.setattr(http_client, "MAX_ANSWER_BYTES", 1 << 16)
    server.queue("/v1/models", sends(b'{"data": [', b'{"id": "x"},', type=type))
    line = said_in_one_line(lambda: load_engine("embedded", server=server.url))
    assert line.endswith("sends an answer of more than 0 MB.")


def test_an_endless_error_is_cut(engine, server):
    server.queue(COMPLETIONS, sends(b"too ", b"bad ", status=400, type="text/plain"))
    line = said_in_one_line(lambda: decode(engine))
    assert "refused the request (400): too bad bad" in line


def test_headers_without_an_end_are_given_up(engine, server):
    def send(handler, body):
        handler.close_connection = True
        with contextlib.suppress(ConnectionError):
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while True:
                handler.wfile.write(b"X-More: " + b"x" * 1000 + b"\r\n")

    server.queue(COMPLETIONS, send, send)
    assert "broke off" in said_in_one_line(lambda: decode(engine))


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "x, gzip"])
@pytest.mark.parametrize("status", [200, 500])
def test_what_is_compressed_is_not_unpacked(engine, server, encoding, status):
    bomb = gzip.compress(bytes(1 << 20))
    server.queue(COMPLETIONS, sends(bomb, status=status, Content_Encoding=encoding))
    line = said_in_one_line(lambda: decode(engine))
    assert "answers compressed, which was not asked for." in line or "failed (500)" in line


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"[" * 100_000, "with JSON that cannot be used: it is nested too deep."),
        (b'{"a":' * 100_000, "with JSON that cannot be used: it is nested too deep."),
        (b'{"choices": [{"text": "\\ud83d"}]}', "it has half of a surrogate pair."),
        (b'{"error": {"message": "\\udc00"}}', "it has half of a surrogate pair."),
        (b'{"choices": [{"text": "\xff"}]}', "with JSON that cannot be used: it is not UTF-8."),
        (b"{", "something that is not JSON"),
        (b'{"choices": 5}', "does not answer as a completions server does."),
        (b'{"choices": [5]}', "does not answer as a completions server does."),
        (b'{"choices": {"text": "x"}}', "does not answer as a completions server does."),
        (b'{"choices": [{"text": 5}]}', "does not answer as a completions server does."),
        (b'{"choices": [{"text": "x", "logprobs": [1]}]}', "does not answer as a completions"),
        (
            b'{"choices": [{"text": "x", "logprobs": {"token_logprobs": ["x"]}}]}',
            "does not answer as a completions",
        ),
        (
            b'{"choices": [{"text": "x", "logprobs": {"content": [{"id": "x"}]}}]}',
            "does not answer as a completions",
        ),
        (b"5", "does not answer as a completions server does."),
        (b'{"error": {"message": "\\u001b]0;x\\u0007\\u202e"}}', r"failed: \x1b]0;x\x07\u202e"),
        (b'{"error": ' + b"[" * 900 + b"]" * 900 + b"}", "failed: "),
    ],
    ids=range(16),
)
def test_an_event_that_is_none_is_one_line(engine, server, data, said):
    server.queue(COMPLETIONS, stream_of(b"data: " + data))
    assert said in said_in_one_line(lambda: decode(engine))


@pytest.mark.parametrize(
    "event",
    [
        {"usage": 5},
        {"usage": {"prompt_tokens": "x", "prompt_tokens_details": {"cached_tokens": 1}}},
        {"usage": {"prompt_tokens": 3, "prompt_tokens_details": []}},
        {"choices": [{"text": None}]},
        {"choices": [{"text": "", "logprobs": {"tokens": [1], "token_logprobs": [1e999]}}]},
    ],
)
def test_other_fields_of_an_answer_may_be_anything(engine, server, event):
    usual = b'data: {"choices": [{"text": "x", "finish_reason": "length"}]}'
    server.queue(COMPLETIONS, stream_of(b"data: " + json.dumps(event).encode(), usual))
    assert "".join(decode(engine)) == "x"


@pytest.mark.parametrize(
    "listing",
    [
        *(5, [], {"data": 5}, {"data": {"id": "x"}}, {"data": [5, {"id": 5}, {"id": ["x"]}]}),
        {"data": [{"id": "x" * 301}]},
    ],
    ids=range(6),
)
def test_a_list_of_models_that_is_none_is_one_line(server, listing):
    server.queue("/v1/models", says(200, listing))
    line = said_in_one_line(lambda: load_engine("embedded", server=server.url))
    assert "lists no models at /v1/models" in line


def test_a_list_of_models_that_is_nested_deep_is_one_line(server):
    server.queue("/v1/models", says(200, "[" * 100_000))
    line = said_in_one_line(lambda: load_engine("embedded", server=server.url))
    assert "it is nested too deep" in line


def test_a_models_name_is_displayed_without_what_nobody_sees():
    name = "owner/a\x1b]0;x\x07\u202e\u200b\0b\n"
    shown = r"owner/a\x1b]0;x\x07\u202e\u200b\x00b\n"
    with scripted({"id": name}, {"id": "other"}) as server:
        line = said_in_one_line(lambda: load_engine("none", server=server.url))
        assert shown in line
        engine = load_engine(shown, server=server.url)
        list(engine.generate(engine.encode("x"), GREEDY, (), never))
        assert server.asked[-1][1]["model"] == name
        assert first_unseen(engine.card.name) is None and "\n" not in engine.card.name
        engine.close()


def test_of_many_models_some_are_named():
    with scripted(*({"id": f"m{n}"} for n in range(1000))) as server:
        line = said_in_one_line(lambda: load_engine("none", server=server.url))
        assert line.endswith("m19 and 980 more.")


def test_cancelling_before_the_first_byte_closes_the_connection(engine, server):
    server.queue(COMPLETIONS, never_answers)
    asked = threading.Event()
    before = len(server.asked)

    def cancelled():
        if len(server.asked) > before:
            asked.set()
        return asked.is_set()

    assert list(engine.generate([20], GREEDY, (), cancelled)) == []
    assert server.closed.wait(10)


def test_cancelling_closes_the_connection_while_the_user_freezes_time(engine, server):
    with mock.patch("time.monotonic", return_value=0.0):
        test_cancelling_before_the_first_byte_closes_the_connection(engine, server)


@pytest.mark.parametrize("way", ["cancelled", "closed", "stop id"])
def test_giving_up_in_an_answer_closes_the_connection(engine, server, way, caplog):
    server.queue(COMPLETIONS, says_one_piece_and_waits)
    caplog.set_level("ERROR")
    seen = []
    stops = engine.encode("print") if way == "stop id" else []
    stream = engine.generate([20], GREEDY, stops, lambda: way == "cancelled" and bool(seen))
    seen.append(next(stream))
    if way == "closed":
        stream.close()
    else:
        assert list(stream) == []
    assert server.closed.wait(10)
    del stream
    engine.close()
    gc.collect()
    assert caplog.messages == []  # nothing that was pending when the loop ended


def test_loading_stops_when_something_else_is_wanted(server):
    class Superseded(Exception):
        pass

    def progress(state, share):
        if server.asked:
            raise Superseded

    server.queue("/v1/models", never_answers)
    with pytest.raises(Superseded):
        load_engine("embedded", server=server.url, progress=progress)
    assert server.closed.wait(10)


# A server of one's own


def test_a_running_server_is_found_with_its_key_and_a_dead_one_is_not(server, tmp_path):
    with pytest.raises(ModelLoadError, match="jupyter sc2 serve"):
        load_engine("embedded", server="auto")
    with server_files.announced(url=server.url, token=KEY, model="embedded") as running:
        file = next((tmp_path / "runtime").glob(server_files.PATTERN))
        assert stat.S_IMODE(file.stat().st_mode) == 0o600 or os.name == "nt"
        assert KEY not in repr(running)
        for address in ("auto", f"{server.url}/v1"):
            load_engine("embedded", server=address).close()
        assert set(server.keys) == {f"Bearer {KEY}"}
        text = json.loads(file.read_text())
        file.write_text(json.dumps({**text, "created": text["created"] - 100}))
        assert server_files.running_servers() == []
    assert list((tmp_path / "runtime").iterdir()) == []


@pytest.mark.parametrize(
    "text", ["[" * 60_000, "{}", "[]", " " * (1 << 17), '{"url": 5}'], ids=range(5)
)
def test_a_note_of_a_server_that_is_none_is_passed_over(tmp_path, text):
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "sc2-server-1.json").write_text(text)
    assert server_files.running_servers() == []


has_llamacpp = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="needs xllamacpp"
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    pytest.importorskip("torch")  # reads the weights that are served
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def llama(home):
    """`jupyter sc2 serve` with the embedded model in two slots."""
    with serving(home, "--precision", "F16", "--slots", "2") as (_, url):
        yield url


@pytest.fixture
def at_home(home, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(home / "runtime"))


SOURCES = [
    "import numpy as np\nimport pandas as pd\n\ndf = pd.read_csv('data.csv')\ndf.",
    "import matplotlib.pyplot as plt\n\nfig, ax = plt.subplots()\nax.",
    "def mean(values):\n    return ",
    "for i in range(10):\n    print(",
]


def diverges_by(local, remote, ids, suffix=b"") -> float:
    """How much likelier the local model's own token is where the two first differ; 0 if they do not."""
    import torch

    constraint = SpellingConstraint.for_suffix(suffix)
    ours = [t.id for t in local.generate(ids, GREEDY, (0,), never, constraint)]
    theirs = [t.id for t in remote.generate(ids, GREEDY, (0,), never, constraint)]
    common = 0
    while common < min(len(ours), len(theirs)) and ours[common] == theirs[common]:
        common += 1
    if ours == theirs:
        return 0.0
    with torch.inference_mode():
        read = torch.tensor([[*ids, *ours[:common]]])
        logits = local._model(input_ids=read, use_cache=False).logits[0, -1]
    return float(logits[ours[common]] - logits[theirs[common]])


@has_llamacpp
def test_llama_cpps_server_gives_the_tokens_of_the_same_weights_here(llama, at_home):
    pytest.importorskip("transformers")
    local = load_engine("embedded", precision="fp32")
    remote = load_engine("embedded", server=llama)
    for source in SOURCES:
        for suffix in (b"", b" n", "é".encode()):
            # Keys and values are rounded to 16 bits there: what is all but equally likely may change places.
            assert diverges_by(local, remote, local.encode(source), suffix) < 0.05
    remote.close()
    local.close()


@has_llamacpp
def test_the_suffix_is_spelled_by_llama_cpps_server(llama, at_home):
    remote = load_engine("embedded", server=llama)
    for suffix in ("imp", " tot", "\n    ", "naï", '"\\', "東京"):
        constraint = SpellingConstraint((suffix.encode(),))
        ids = remote.encode(SOURCES[0])
        tokens = list(remote.generate(ids, GREEDY, (), never, constraint))
        assert text_of(remote, tokens).startswith(suffix)
    remote.close()


@has_llamacpp
def test_each_kernel_keeps_its_prompt_on_the_server(llama, at_home):
    first, second = (load_engine("embedded", server="auto") for _ in range(2))
    prompts = [first.encode("import os\n" + f"print({word!r})\n" * 20) for word in ("one", "two")]
    read = [
        engine.prefill(ids, never) for engine, ids in zip((first, second), prompts, strict=True)
    ]
    assert read[0] > 100 and read[1] > 100
    for engine, ids in zip((first, second), prompts, strict=True):
        list(engine.generate([*ids, *engine.encode("x = ")], GREEDY, (), never))
        assert 0 < engine._read < 10
    first.close()
    second.close()


@has_llamacpp
def test_the_server_wants_its_token(llama):
    with pytest.raises(ModelLoadError, match="wants a key"):
        load_engine("embedded", server=llama)


@has_llamacpp
@pytest.mark.skipif(os.name == "nt", reason="no SIGINT for another process there")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_ctrl_c_ends_serve_cleanly(home, name):
    with serving(home, "--precision", "F16", "--slots", "1") as (process, _):
        assert process.stdout is not None
        assert list((home / "runtime").glob(f"*-{process.pid}.json"))
        process.send_signal(getattr(signal, name))
        rest = process.stdout.read()
        assert process.wait(20) == 0 and rest.endswith("Stopped.\n") and "Traceback" not in rest
    assert not list((home / "runtime").glob(f"*-{process.pid}.json"))


@pytest.mark.slow
@pytest.mark.skipif(
    "JUPYTER_SC2_VLLM_URL" not in os.environ, reason="needs a vLLM that serves the model"
)
@pytest.mark.parametrize("suffix", [b"", b" n", b"\n    re"])
def test_vllm_gives_the_tokens_of_the_same_weights_here(suffix):
    """A vLLM that serves the folder of the embedded model, in float32."""
    local = load_engine("embedded", precision="fp32")
    remote = load_engine("embedded", server=os.environ["JUPYTER_SC2_VLLM_URL"])
    for source in SOURCES:
        assert diverges_by(local, remote, local.encode(source), suffix) < 1e-3
    remote.close()
    local.close()
