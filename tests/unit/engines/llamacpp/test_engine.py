"""The engine on llama.cpp: the same tokens as torch's, what is cached, cancelled and constrained, what ends with it."""

from __future__ import annotations

import contextlib
import math
import os
import random
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.support.paths import ROOT
from tests.support.tiny import make_tiny_model

pytest.importorskip("torch")
for package in ("xllamacpp", "libgguf", "gguf"):
    pytest.importorskip(package)

import jupyter_sc2  # noqa: E402
from jupyter_sc2.engines import load_engine  # noqa: E402
from jupyter_sc2.engines.decoding.prefix_cache import MAX_PREFIXES  # noqa: E402
from jupyter_sc2.engines.gguf import writer as gguf_writer  # noqa: E402
from jupyter_sc2.engines.gguf.vocabulary import CONTROL, USER_DEFINED, read_vocabulary  # noqa: E402
from jupyter_sc2.engines.llamacpp import engine as llamacpp_engine  # noqa: E402
from jupyter_sc2.engines.llamacpp import server as llama_server  # noqa: E402
from jupyter_sc2.errors import EngineLost, GenerationError, ModelLoadError  # noqa: E402
from jupyter_sc2.models.cache_dir import cache_folder  # noqa: E402
from jupyter_sc2.options import LoadOptions  # noqa: E402
from jupyter_sc2.pipeline.load_errors import is_transient  # noqa: E402
from jupyter_sc2.pipeline.session import Session  # noqa: E402
from jupyter_sc2.types import SamplingParams, SpellingConstraint, Token  # noqa: E402
from tests.unit.pipeline.test_session import invoke, submit, wait_until  # noqa: E402

GREEDY = SamplingParams(max_tokens=8)
PROMPT = list(range(20, 80))


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_SC2_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny", sliding_window=512)


@pytest.fixture(scope="module")
def engine(folder):
    engine = load_engine(str(folder), engine="llamacpp")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def torch_engine(folder):
    engine = load_engine(str(folder), precision="fp32", threads=1)
    yield engine
    engine.close()


@pytest.fixture
def passes(engine, monkeypatch):
    """How many ids of each prompt the server reads from now on, as it says itself."""
    counts: list[int] = []
    post, stream = engine._server.post, engine._server.stream

    def posted(path, body, *cancelled):
        fields = [*body.get("response_fields", []), "timings/prompt_n"]
        asked = {**body, "response_fields": fields} if path == "/completion" else body
        answer = post(path, asked, *cancelled)
        if path == "/completion" and answer is not None:
            counts.append(
                answer["prompt_n"] if "prompt_n" in answer else answer["timings/prompt_n"]
            )
        return answer

    def streamed(path, body, *cancelled):
        counts.append(0)
        for event in stream(path, body, *cancelled):
            if progress := event.get("prompt_progress"):
                counts[-1] = progress["processed"] - progress["cache"]
            yield event

    monkeypatch.setattr(engine._server, "post", posted)
    monkeypatch.setattr(engine._server, "stream", streamed)
    return counts


def never() -> bool:
    return False


def generate(engine, ids, sampling=GREEDY, stop=(), cancelled=never, suffix=b""):
    constraint = SpellingConstraint.for_suffix(suffix)
    return list(engine.generate(ids, sampling, stop, cancelled, constraint))


def ids_of(tokens: list[Token]) -> list[int]:
    return [token.id for token in tokens]


def forget(engine) -> None:
    """Fills the KV cache with something that begins otherwise, and forgets what was put aside."""
    engine.prefill([7, 8, 9], never)
    engine._stash.clear()


# The same as torch


@pytest.mark.slow
def test_the_embedded_model_writes_the_same_greedy_tokens_as_in_torch():
    texts = [
        path.read_text("utf-8") for path in sorted(Path(jupyter_sc2.__file__).parent.rglob("*.py"))
    ]
    choose = random.Random(0)
    reference = load_engine("embedded", precision="fp32")
    engine = load_engine("embedded", engine="llamacpp", precision="F16")
    special = reference.special_ids
    assert engine.special_ids == special
    same = 0
    for number in range(50):
        text = choose.choice(texts)
        start = choose.randrange(max(1, len(text) - 500))
        prefix, suffix = text[start : start + 300], text[start + 330 : start + 400]
        assert engine.encode(prefix) == reference.encode(prefix)
        above = reference.encode(prefix)
        healing = reference.decode_bytes(above[-1:]) if number % 3 == 0 else b""
        above = above[:-1] if healing else above
        ids = [special["<fim_prefix>"], special["<fim_suffix>"], *reference.encode(suffix)]
        ids += [special["<fim_middle>"], *above]
        stop = {special["<|endoftext|>"], special["<file_sep>"]}
        expected = generate(reference, ids, stop=stop, suffix=healing)
        tokens = generate(engine, ids, stop=stop, suffix=healing)
        for index, (one, other) in enumerate(zip(expected, tokens, strict=True)):
            if one.id != other.id:  # only where torch itself can hardly decide
                prompt = [*ids, *ids_of(expected[:index])]
                generate(reference, prompt, SamplingParams(max_tokens=1))
                gap = float(reference._logits[-1, one.id] - reference._logits[-1, other.id])
                assert gap < 0.05, f"prompt {number}, token {index}: {gap} between the logits"
                break
            assert other.logprob == pytest.approx(one.logprob, abs=0.05)
        else:
            same += 1
    reference.close(), engine.close()
    assert same >= 45


def test_text_becomes_the_same_ids_and_bytes_as_in_torch(engine, torch_engine):
    special = engine.special_ids
    assert special == torch_engine.special_ids
    for text in (
        "def mean(values):\n    return 12345 / x",
        "naïve = '東京 🎉'\n\t# \x00 ÿ",
        'stop = "<|endoftext|>"  # <fim_middle>x<file_sep>\n<repo_name>',
        "",
    ):
        ids = engine.encode(text)
        assert ids == torch_engine.encode(text)
        assert engine.decode_bytes(ids).decode() == text
        assert not set(ids) & set(special.values())
    assert engine.decode_bytes([special["<file_sep>"]]) == b""


def test_special_tokens_that_a_file_marks_as_the_users_stay_text(folder, tmp_path, monkeypatch):
    def marked(folder, size):
        vocabulary = read_vocabulary(folder, size)
        kinds = [USER_DEFINED if kind == CONTROL else kind for kind in vocabulary.kinds]
        vocabulary.kinds[:] = kinds
        return vocabulary

    monkeypatch.setattr(gguf_writer, "read_vocabulary", marked)
    gguf_writer.write_gguf(folder, tmp_path / "marked.gguf", "F16", name="marked")
    engine = load_engine(str(tmp_path / "marked.gguf"))
    text = "a <fim_middle><fim_middle> b<file_sep>"
    assert not set(engine.encode(text)) & set(engine.special_ids.values())
    assert engine.decode_bytes(engine.encode(text)).decode() == text
    engine.close()


def test_the_card_tells_what_the_file_says(engine, folder):
    assert (engine.card.context, engine.card.window) == (2048, 512)
    assert engine.precision == "F16" and engine.card.special["fim_prefix"] == "<fim_prefix>"


# The KV cache

EDITS = {
    "append": [*PROMPT, 90, 91],
    "delete at the end": PROMPT[:-7],
    "change in the middle": [*PROMPT[:25], 99, *PROMPT[26:]],
    "the same": PROMPT,
    "all different": PROMPT[::-1],
}


@pytest.mark.parametrize("edit", EDITS)
def test_after_an_edit_the_tokens_are_those_of_a_fresh_prompt(engine, edit):
    forget(engine)
    fresh = generate(engine, EDITS[edit])
    forget(engine)
    generate(engine, PROMPT)
    assert ids_of(generate(engine, EDITS[edit])) == ids_of(fresh)


def test_only_what_is_new_is_read(engine, passes):
    forget(engine)
    passes.clear()
    assert engine.prefill(PROMPT, never) == 60
    assert engine.prefill([*PROMPT, 90, 91], never) == 3
    assert passes == [59, 2]  # the last id of a prompt is read when the next token is asked for
    generate(engine, [*PROMPT, 90, 91], SamplingParams(max_tokens=3))
    assert passes == [59, 2, 1, 1, 1]


def test_what_was_decoded_stays_in_the_cache(engine, passes):
    tokens = ids_of(generate(engine, PROMPT))
    passes.clear()
    assert engine.prefill([*PROMPT, *tokens], never) == 1
    assert passes == []


def test_a_prompt_that_was_left_for_another_is_taken_up_again(engine, passes):
    forget(engine)
    trunk, below, above = PROMPT[:10], [*range(100, 200)], [*range(200, 260)]
    fresh = ids_of(generate(engine, [*trunk, *below]))
    assert engine.prefill([*trunk, *above], never) == 60
    passes.clear()
    assert engine.prefill([*trunk, *below], never) == 1
    assert ids_of(generate(engine, [*trunk, *below])) == fresh
    assert engine.prefill([*trunk, *above, 5], never) == 2
    assert sum(passes) < 8 + 5  # what was drawn, and what follows the prompts


def test_stashed_prompts_are_deleted_with_the_engine(torch_engine, folder, tmp_path):
    gguf_writer.write_gguf(folder, tmp_path / "model.gguf", "F16", name="model")
    engine = load_engine(str(tmp_path / "model.gguf"))
    kept = engine._server.process.folder / "kept"
    for index in range(MAX_PREFIXES + 3):
        engine.prefill([30 + index, *PROMPT[1:]], never)
    assert 0 < len(list(kept.iterdir())) <= MAX_PREFIXES
    engine.close()
    assert not kept.exists()


def test_a_cancelled_prefill_ends_after_the_running_pass_and_its_part_stays_cached(engine, passes):
    forget(engine)
    prompt = [20 + 7 * i % 300 for i in range(1500)]
    passes.clear()
    calls = []

    def soon() -> bool:
        calls.append(1)
        return len(calls) > 2

    read = engine.prefill(prompt, soon)
    assert 0 < read < 1500
    assert generate(engine, prompt, cancelled=lambda: True) == []
    # The pass that ran when the stream was closed went on to its end.
    assert engine.prefill(prompt, never) <= 1500 - read
    assert passes[0] == read and passes[1] <= 1500 - read - 1


def test_a_cancelled_decode_ends_at_the_next_token(engine):
    seen = []
    for token in engine.generate(PROMPT, GREEDY, (), lambda: len(seen) == 2):
        seen.append(token)
    assert len(seen) == 2
    stream = engine.generate(PROMPT, GREEDY, (), never)
    next(stream)
    stream.close()
    assert ids_of(generate(engine, PROMPT))[:2] == ids_of(seen)


def test_decoding_ends_at_a_stop_id_and_where_the_positions_end(engine):
    free = ids_of(generate(engine, PROMPT))
    stop = free[4]
    assert ids_of(generate(engine, PROMPT, stop={stop})) == free[: free.index(stop) + 1]
    long = [20 + i % 200 for i in range(engine.card.context - 3)]
    assert len(generate(engine, long, SamplingParams(max_tokens=50))) == 3
    with pytest.raises(GenerationError, match="5000 tokens"):
        generate(engine, [20] * 5000)
    with pytest.raises(GenerationError, match="empty"):
        generate(engine, [])


# Sampling and healing


@pytest.mark.parametrize("suffix", ["imp", "\n    ", "東京", "🎉!", "zq%"])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_the_suffix_is_spelled_first(engine, suffix, temperature):
    sampling = SamplingParams(max_tokens=10, temperature=temperature, seed=3)
    tokens = generate(engine, PROMPT, sampling, suffix=suffix.encode())
    assert engine.decode_bytes(ids_of(tokens)).startswith(suffix.encode())
    assert len(tokens) == 10  # they count towards the output


def test_healing_costs_one_pass_a_token(engine, passes):
    engine.prefill(PROMPT, never)
    passes.clear()
    generate(engine, PROMPT, SamplingParams(max_tokens=2), suffix=b"im")
    assert passes == [1, 1]


def test_healing_also_chooses_among_tokens_that_are_most_unlikely(engine, monkeypatch):
    expected = generate(engine, PROMPT, suffix=b"zq%")
    monkeypatch.setattr(llamacpp_engine, "ALLOWED_LOGIT_BIAS", 0.0)
    assert ids_of(generate(engine, PROMPT, suffix=b"zq%")) == ids_of(expected)


def test_probabilities_are_those_of_torch_also_where_a_token_begins_a_character(
    engine, torch_engine
):
    for suffix in (b"", "東京 🎉".encode()):
        expected = generate(torch_engine, PROMPT, suffix=suffix)
        tokens = generate(engine, PROMPT, suffix=suffix)
        assert ids_of(tokens) == ids_of(expected)
        assert [token.logprob for token in tokens] == pytest.approx(
            [token.logprob for token in expected], abs=0.1
        )


def test_the_next_likeliest_are_those_of_torch_where_the_server_tells_them(engine, torch_engine):
    expected = generate(torch_engine, PROMPT)
    told = [
        pair
        for pair in zip(generate(engine, PROMPT), expected, strict=True)
        if pair[0].alternatives
    ]
    assert told
    for token, reference in told:
        assert [id for id, _ in token.alternatives] == [id for id, _ in reference.alternatives]


def test_a_seed_repeats_and_another_does_not(engine):
    def draw(seed, **more):
        sampling = SamplingParams(max_tokens=8, temperature=1.5, seed=seed, **more)
        return ids_of(generate(engine, PROMPT, sampling))

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(None) != draw(None)
    assert draw(1, top_k=1) == draw(2, top_p=1e-6) == ids_of(generate(engine, PROMPT))


# Its process


def test_closing_ends_the_process_and_frees_its_memory(folder, capfd):
    import psutil

    engine = load_engine(str(folder), engine="llamacpp")
    generate(engine, PROMPT)
    pid, place = engine._server.process.pid, engine._server.process.folder
    assert engine.memory_bytes() >= psutil.Process(pid).memory_info().rss / 2 > 1e6
    engine.close()
    assert not psutil.pid_exists(pid) and not place.exists()
    assert engine.memory_bytes() == 0
    with pytest.raises(GenerationError, match="not loaded any more"):
        generate(engine, PROMPT)
    assert capfd.readouterr() == ("", "")


def test_the_end_of_its_process_is_an_error_in_one_line(folder):
    engine = load_engine(str(folder), engine="llamacpp")
    os.kill(engine._server.process.pid, signal.SIGKILL)
    with pytest.raises(
        GenerationError, match=r"process (has ended|does not answer).*load the model"
    ):
        generate(engine, PROMPT)
    engine.close()


def test_nobody_without_the_key_is_answered(engine, monkeypatch):
    options = replace(engine._server.options, key="guessed")
    monkeypatch.setattr(engine._server, "options", options)
    with pytest.raises(GenerationError, match="API"):
        engine.encode("x")


def test_the_interpreter_exits_at_once_in_the_middle_of_a_pass_and_the_server_with_it(folder):
    code = f"""
import threading, time
from jupyter_sc2.types import SamplingParams
from jupyter_sc2.engines import load_engine
busy = threading.Event()

def work():
    engine = load_engine({str(folder)!r}, engine="llamacpp")
    print(engine._server.process.pid, flush=True)
    first = 20
    while True:
        first += 1
        list(engine.generate([first % 300, *range(20, 220)] * 5, SamplingParams(max_tokens=20), (), lambda: False))
        busy.set()

threading.Thread(target=work, daemon=True).start()
busy.wait()
time.sleep(0.05)
"""
    import psutil

    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    deadline = time.monotonic() + 20
    while psutil.pid_exists(int(done.stdout)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not psutil.pid_exists(int(done.stdout))


@pytest.fixture
def stopped(folder):
    """An engine whose process is stopped when this is called."""
    engine = load_engine(str(folder), engine="llamacpp")
    yield engine, lambda: os.kill(engine._server.process.pid, signal.SIGSTOP)
    engine.close()


def within(seconds):
    """Cancelled after so long."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


@pytest.mark.parametrize("ids", [PROMPT, [20 + 7 * i % 300 for i in range(1500)]])
def test_who_is_cancelled_does_not_wait_for_a_process_that_was_stopped(stopped, ids):
    engine, stop = stopped
    stop()
    began = time.monotonic()
    assert generate(engine, ids, cancelled=within(0.3)) == []
    assert engine.prefill(ids[::-1], within(0.3)) == 0
    assert time.monotonic() - began < 3


def test_a_process_that_was_stopped_counts_as_lost_also_where_each_key_gives_up_the_one_before(
    stopped,
):
    engine, stop = stopped
    stop()
    began = time.monotonic()
    with pytest.raises(EngineLost, match="was stopped and does not answer"):
        while time.monotonic() - began < 20:
            generate(engine, PROMPT, cancelled=within(0.2))
    assert time.monotonic() - began < 5


def test_a_process_that_is_slow_is_waited_for(stopped, monkeypatch):
    engine, _ = stopped
    monkeypatch.setattr(llama_server, "STOPPED_AFTER_S", 0.0)
    monkeypatch.setattr(llama_server, "HEALTH_CHECK_AFTER_S", 0.0)
    monkeypatch.setattr(llama_server, "POLL_INTERVAL_S", 0.001)
    long = [20 + 7 * i % 300 for i in range(1500)]
    assert engine.prefill(long, never) == 1500
    assert len(generate(engine, long, SamplingParams(max_tokens=3))) == 3


def test_a_process_whose_server_says_nothing_counts_as_lost(engine, monkeypatch):
    monkeypatch.setattr(llama_server, "HEALTH_CHECK_AFTER_S", 0.5)
    monkeypatch.setattr(llama_server, "HEALTH_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # lets in, and never answers
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        monkeypatch.setattr(engine._server, "address", address)
        with pytest.raises(EngineLost, match="does not answer"):
            engine.encode("x")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGBUS, signal.SIGSTOP])
def test_a_session_goes_on_when_its_process_was_killed_or_stopped(folder, number):
    alternatives = set(psutil.Process().children(recursive=True))
    options = LoadOptions(model=str(folder), engine="llamacpp")
    session = Session(load_options=options)
    heard = []
    session.subscribe(lambda status: heard.append(status.message or ""))
    session.load()
    session.wait_ready(60)
    server = session.engine._server
    os.kill(server.process.pid, number)
    began = time.monotonic()
    assert submit(session, invoke("import numpy as ")).done.wait(10)
    wait_until(lambda: session.engine is not None and session.engine.name == "llamacpp")
    assert session.engine._server is not server and time.monotonic() - began < 15
    assert any("it is started again." in message for message in heard)
    wait_until(lambda: server.process.ended and not server.process.folder.exists())
    session.unload()
    wait_until(lambda: session.status.state == "unloaded")
    assert set(psutil.Process().children(recursive=True)) <= alternatives
    session.close()


@pytest.mark.skipif(sys.platform != "linux", reason="no limits for another process there")
def test_a_full_disk_only_prevents_stashing(folder, request):
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    request.addfinalizer(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before))
    engine = load_engine(str(folder), engine="llamacpp")
    fresh = ids_of(generate(engine, PROMPT))
    pid = engine._server.process.pid
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    assert engine.prefill(PROMPT[::-1], never) == 60
    assert ids_of(generate(engine, PROMPT)) == fresh
    assert list((engine._server.process.folder / "kept").iterdir()) == []
    engine.close()
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    file = next(cache_folder().rglob("*.gguf"))
    with pytest.raises(ModelLoadError, match="could not be started: File too large"):
        load_engine(str(file))


# What cannot be loaded


def write(file: Path, data: bytes) -> str:
    file.write_bytes(data)
    return str(file)


def test_what_cannot_be_loaded_is_refused_in_one_line(folder, tmp_path, monkeypatch):
    good = tmp_path / "good.gguf"
    gguf_writer.write_gguf(folder, good, "Q8_0", name="good")
    data = good.read_bytes()
    unknown = data.replace(b"starcoder2", b"starcoder9")
    for path, options, words in (
        (str(tmp_path / "absent.gguf"), {}, "does not exist"),
        (write(tmp_path / "cut.gguf", data[:-1000]), {}, "is cut off"),
        (write(tmp_path / "head.gguf", data[:1000]), {}, "damaged"),
        (write(tmp_path / "text.gguf", b"version https://git-lfs"), {}, "damaged or not a GGUF"),
        (write(tmp_path / "new.gguf", unknown), {}, "unknown model architecture: 'starcoder9'"),
        (str(good), {"precision": "Q2_K"}, "is in Q8_0, and Q2_K is set"),
        (str(folder), {"precision": "4bit"}, "no precision '4bit'"),
    ):
        with pytest.raises(ModelLoadError, match=words) as caught:
            load_engine(path, engine="llamacpp", **options)
        assert "\n" not in str(caught.value)
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(ModelLoadError, match=r'pip install "jupyter-sc2\[llamacpp\]"'):
        load_engine(str(good))


@pytest.mark.skipif(sys.platform != "linux", reason="no other system has such limits")
@pytest.mark.parametrize("megabytes", [20, 40, 80, 120])
def test_a_load_that_lacks_memory_says_so_and_may_be_tried_again(folder, megabytes, monkeypatch):
    import resource

    popen = subprocess.Popen

    def limited(*arguments, **options):
        size = (megabytes << 20, resource.RLIM_INFINITY)
        limit = lambda: resource.setrlimit(resource.RLIMIT_AS, size)  # noqa: E731
        return popen(*arguments, preexec_fn=limit, **options)

    load_engine(str(folder), engine="llamacpp").close()  # so that its file is there
    monkeypatch.setattr("jupyter_sc2.runtime.child_process.subprocess.Popen", limited)
    with pytest.raises(ModelLoadError, match="could not load") as raised:
        load_engine(str(folder), engine="llamacpp")
    assert is_transient(raised.value), raised.value
    assert "its process has ended" not in str(raised.value) or megabytes < 40


def test_who_asked_for_the_model_can_give_up_while_it_loads(folder):
    class GivenUp(Exception):
        pass

    def progress(state, share):
        if state == "loading":
            raise GivenUp

    with pytest.raises(GivenUp):
        load_engine(str(folder), engine="llamacpp", progress=progress)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no signals like these")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS])
def test_a_process_that_is_killed_while_it_loads_may_be_started_again(folder, number, monkeypatch):
    monkeypatch.setattr(
        "jupyter_sc2.runtime.child_process.POLL_INTERVAL_S", 0.001
    )  # a small model loads in a tenth
    load_engine(str(folder), engine="llamacpp").close()  # so that its file is there
    before = set(psutil.Process().children(recursive=True))

    def progress(state, share):
        for child in set(psutil.Process().children(recursive=True)) - before:
            with contextlib.suppress(psutil.NoSuchProcess):  # after the first signal
                if child.ppid() != os.getpid():  # not the guard
                    child.send_signal(number)

    with pytest.raises(EngineLost, match=f"signal {int(number)}, .* while it loaded"):
        load_engine(str(folder), engine="llamacpp", progress=progress)


def test_a_damaged_weight_is_an_error(tmp_path):
    import torch
    from safetensors.torch import load_file, save_file

    folder = make_tiny_model(tmp_path / "damaged")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], math.nan)
    save_file(tensors, folder / "model.safetensors")
    engine = load_engine(str(folder), engine="llamacpp")
    with pytest.raises(GenerationError, match="not a number"):
        generate(engine, PROMPT)
    engine.close()
