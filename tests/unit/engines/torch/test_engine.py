"""The engine on torch, on tiny random models: what is cached, sampled, constrained and left alone."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading

import pytest

from tests.support.paths import ROOT
from tests.support.tiny import make_tiny_model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from jupyter_sc2.engines import load_engine  # noqa: E402
from jupyter_sc2.engines.base import no_draft  # noqa: E402
from jupyter_sc2.errors import GenerationError, ModelLoadError  # noqa: E402
from jupyter_sc2.types import SamplingParams, SpellingConstraint, Token  # noqa: E402

WINDOW = 16
GREEDY = SamplingParams(max_tokens=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny", context=256)


@pytest.fixture(scope="module")
def windowed(tmp_path_factory):
    return make_tiny_model(
        tmp_path_factory.mktemp("models") / "windowed", sliding_window=WINDOW, seed=1
    )


@pytest.fixture
def engine(folder):
    engine = load_engine(str(folder), precision="fp32")
    yield engine
    engine.close()


def never() -> bool:
    return False


def generate(
    engine, ids, sampling=GREEDY, stop=(), cancelled=never, suffix=b"", draft=no_draft, names=()
):
    constraint = SpellingConstraint.for_suffix(suffix)
    if names:
        constraint = SpellingConstraint(names, whole_names=True)
    return list(engine.generate(ids, sampling, stop, cancelled, constraint, draft))


def ids_of(tokens: list[Token]) -> list[int]:
    return [token.id for token in tokens]


def passes(engine) -> list[int]:
    """The number of tokens of each forward pass from now on."""
    lengths: list[int] = []
    engine._model.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    return lengths


def plain_greedy(engine, ids, count):
    """What the model itself says, without any cache: the reference."""
    ids = list(ids)
    with torch.inference_mode():
        for _ in range(count):
            logits = engine._model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            ids.append(int(logits.argmax()))
    return ids[-count:]


# The KV cache

PROMPT = list(range(20, 80))
EDITS = {
    "append": [*PROMPT, 90, 91],
    "delete at the end": PROMPT[:-7],
    "change in the middle": [*PROMPT[:25], 99, *PROMPT[26:]],
    "much shorter": PROMPT[:3],
    "the same": PROMPT,
    "all different": PROMPT[::-1],
}


@pytest.mark.parametrize("edit", EDITS)
def test_after_an_edit_the_tokens_are_those_of_a_fresh_engine(folder, windowed, edit):
    for model in (folder, windowed):
        engine = load_engine(str(model), precision="fp32")
        generate(engine, PROMPT)
        assert ids_of(generate(engine, EDITS[edit])) == plain_greedy(engine, EDITS[edit], 8)


def test_the_sliding_window_is_respected_and_matters(windowed):
    engine = load_engine(str(windowed), precision="fp32")
    far = [*PROMPT[:10], 200, *PROMPT[11:]]  # differs only far behind two layers' windows
    reach = 2 * WINDOW
    assert len(PROMPT) - 11 > reach
    first = generate(engine, PROMPT, SamplingParams(max_tokens=1))
    assert generate(engine, far, SamplingParams(max_tokens=1))[0].logprob == pytest.approx(
        first[0].logprob, abs=1e-4
    )
    near = [*PROMPT[:-5], 200, *PROMPT[-4:]]
    assert generate(engine, near, SamplingParams(max_tokens=1))[0].logprob != pytest.approx(
        first[0].logprob, abs=1e-4
    )


def fresh_greedy(folder, ids, count):
    """What transformers says by itself: its own cache, its own sliding window."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([ids])
    options = {"do_sample": False, "max_new_tokens": count, "eos_token_id": -1, "pad_token_id": 0}
    return model.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, -count:].tolist()


def test_a_prompt_longer_than_the_window_is_cut_back_and_read_again_correctly(tmp_path):
    folder = make_tiny_model(tmp_path / "windowed", sliding_window=64, seed=2)
    engine = load_engine(str(folder), precision="fp32")
    engine.chunk = 50
    prompt = [20 + index * index % 300 for index in range(300)]
    for ids in (
        prompt,
        [*prompt[:250], 7, *prompt[250:]],  # cut back within the last window
        prompt[:150],  # and by more than a window
        [*prompt[:140], *prompt[::-1]],
    ):
        assert ids_of(generate(engine, ids)) == fresh_greedy(folder, ids, 8)
    assert engine.prefill([*prompt[:140], *prompt[::-1]], never) == 0


def test_5000_tokens_with_a_window_of_4096(tmp_path):
    folder = make_tiny_model(
        tmp_path / "long",
        sliding_window=4096,
        context=8192,
        hidden=32,
        heads=2,
        kv_heads=1,
        layers=1,
    )
    engine = load_engine(str(folder), precision="fp32")
    prompt = [20 + index * index % 300 for index in range(5000)]
    expected = fresh_greedy(folder, prompt, 4)
    assert ids_of(generate(engine, prompt, SamplingParams(max_tokens=4))) == expected
    behind = [5, 6, 7, *prompt[3:]]  # what differs lies behind the window of the only layer
    assert ids_of(generate(engine, behind, SamplingParams(max_tokens=4))) == expected
    edited = [*prompt[:4990], 5, 6, 7]
    assert engine.prefill(edited, never) == 3  # the first prompt was put aside
    assert engine.prefill(prompt, never) == 10
    assert engine.prefill(edited, never) == 3
    assert ids_of(generate(engine, edited)) == fresh_greedy(folder, edited, 8)


def test_only_what_is_new_is_read(engine):
    lengths = passes(engine)
    assert engine.prefill(PROMPT, never) == 60
    assert engine.prefill([*PROMPT, 90, 91], never) == 2
    assert engine.prefill([*PROMPT[:50], 7], never) == 1
    assert lengths == [60, 2, 1]


def test_a_prompt_that_was_prefilled_costs_only_its_decoding(engine):
    engine.prefill(PROMPT, never)
    lengths = passes(engine)
    first = generate(engine, PROMPT, SamplingParams(max_tokens=3))
    second = generate(engine, PROMPT, SamplingParams(max_tokens=3))
    assert ids_of(first) == ids_of(second)
    assert lengths == [1, 1, 1, 1]  # the first token of each comes from the prompt's own logits


def test_what_was_decoded_stays_in_the_cache(engine):
    tokens = ids_of(generate(engine, PROMPT))
    assert engine.prefill([*PROMPT, *tokens], never) == 1  # the last token was drawn, not read


def test_chunks_do_not_change_the_tokens(folder, windowed):
    for model in (folder, windowed):
        whole = load_engine(str(model), precision="fp32")
        chunked = load_engine(str(model), precision="fp32")
        chunked.chunk = 7
        lengths = passes(chunked)
        assert ids_of(generate(chunked, PROMPT)) == ids_of(generate(whole, PROMPT))
        assert lengths[:9] == [7] * 8 + [4]


def after(count: int):
    """Cancelled from the question number `count` on: one comes before each chunk, one in each layer."""
    asked = iter(range(10**6))
    return lambda: next(asked) >= count


def test_a_cancelled_prefill_ends_at_the_next_layer_and_whole_chunks_stay_cached(engine):
    engine.chunk = 10  # and the model has two layers
    assert engine.prefill(PROMPT, after(0)) == 0
    assert engine.prefill(PROMPT, after(2)) == 0
    assert engine.prefill(PROMPT[::-1], after(5)) == 10
    assert len(engine._cache.ids) == 10
    assert all(layer.length == 10 for layer in engine._cache.layers)
    assert engine.prefill(PROMPT[::-1], never) == 50
    assert ids_of(generate(engine, PROMPT)) == plain_greedy(engine, PROMPT, 8)


def test_a_chunk_that_was_given_up_once_is_read_to_its_end_the_next_time(engine):
    engine.chunk = 20
    lengths = passes(engine)
    assert engine.prefill(PROMPT, after(2)) == 0
    assert engine.prefill([*PROMPT, 90], after(1)) == 20
    assert lengths == [20, 20]
    assert generate(engine, PROMPT, cancelled=after(2)) == []
    assert len(engine._cache.ids) == engine._cache.get_seq_length() == 20
    assert ids_of(generate(engine, PROMPT)) == plain_greedy(engine, PROMPT, 8)


def test_a_short_chunk_can_be_given_up_again_and_again(engine):
    assert [engine.prefill(PROMPT[:9], after(2)) for _ in range(3)] == [0, 0, 0]


def test_a_pass_over_a_drawn_token_ends_at_the_next_layer_too(engine):
    engine.prefill(PROMPT, never)
    lengths = passes(engine)
    assert len(generate(engine, PROMPT, cancelled=after(3))) == 1
    assert lengths == [1] and engine._cache.ids == PROMPT
    assert ids_of(generate(engine, PROMPT)) == plain_greedy(engine, PROMPT, 8)


def test_a_new_prompt_after_an_interrupted_one_is_read_as_by_a_fresh_engine(engine, folder):
    generate(engine, PROMPT)
    engine.prefill([*PROMPT[:30], *range(100, 160)], after(2))
    other = [*PROMPT[:40], 7, 8, 9]
    assert ids_of(generate(engine, other)) == plain_greedy(engine, other, 8)


# Guesses


def test_correct_drafts_save_passes_and_change_no_token(engine):
    expected = plain_greedy(engine, PROMPT, 8)
    engine.prefill(PROMPT, never)
    lengths = passes(engine)
    tokens = generate(engine, PROMPT, draft=lambda drawn: expected[len(drawn) : len(drawn) + 3])
    assert ids_of(tokens) == expected
    assert lengths == [4, 3]


@pytest.mark.parametrize("wrong_from", [0, 1, 2])
def test_wrong_drafts_change_no_token(engine, wrong_from):
    expected = plain_greedy(engine, PROMPT, 8)

    def draft(drawn):
        right = expected[len(drawn) : len(drawn) + wrong_from]
        return [*right, *((id + 1) % 300 for id in expected[len(drawn) + wrong_from :])]

    assert ids_of(generate(engine, PROMPT, draft=draft)) == expected
    # and what was guessed wrongly is not taken for read
    other = [*PROMPT, *expected[:4], 7]
    assert ids_of(generate(engine, other)) == plain_greedy(engine, other, 8)


def test_drafts_do_not_change_what_a_seed_samples(engine):
    sampling = SamplingParams(max_tokens=8, temperature=1.5, seed=3)
    expected = ids_of(generate(engine, PROMPT, sampling))
    tokens = generate(engine, PROMPT, sampling, draft=lambda drawn: expected[len(drawn) :])
    assert ids_of(tokens) == expected


def test_a_draft_does_not_exceed_the_tokens_that_are_left(engine):
    engine.prefill(PROMPT, never)
    lengths = passes(engine)
    sampling = SamplingParams(max_tokens=3)
    assert len(generate(engine, PROMPT, sampling, draft=lambda drawn: [1] * 20)) == 3
    assert max(lengths) <= 2


# Prompts that are put aside


def test_a_prompt_that_was_left_for_another_is_taken_up_again(engine):
    trunk, below, above = PROMPT[:10], [*range(100, 200)], [*range(200, 260)]
    engine.prefill([*trunk, *below], never)
    assert engine.prefill([*trunk, *above], never) == 60
    assert engine.prefill([*trunk, *below, 5], never) == 1
    assert engine.prefill([*trunk, *above, 5], never) == 1
    assert ids_of(generate(engine, [*trunk, *below])) == plain_greedy(engine, [*trunk, *below], 8)


def test_stashed_prompts_count_as_memory_and_have_a_limit(engine, monkeypatch):
    one = len(PROMPT) * 2 * 2 * 2 * 16 * 4  # keys and values, layers, heads, their size, bytes
    monkeypatch.setattr(engine._cache._stash, "_limit", 2 * one)
    for index in range(5):
        engine.prefill([30 + index, *PROMPT[1:]], never)
        kept = engine._cache._stash.nbytes()
        assert kept == min(index, 2) * one
    assert engine.memory_bytes() > kept
    engine.close()
    assert engine.memory_bytes() == 0


def test_a_cancelled_decode_ends_at_the_next_token(engine):
    lengths = passes(engine)
    tokens = generate(engine, PROMPT, cancelled=lambda: len(lengths) == 3)
    assert len(tokens) == 2 and lengths == [60, 1, 1]
    assert ids_of(generate(engine, PROMPT)) == plain_greedy(engine, PROMPT, 8)


def test_a_stream_that_is_closed_leaves_a_sound_cache(engine):
    stream = engine.generate(PROMPT, GREEDY, (), never)
    next(stream), next(stream)
    stream.close()
    assert len(engine._cache.ids) == engine._cache.get_seq_length()
    assert ids_of(generate(engine, [*PROMPT, 5])) == plain_greedy(engine, [*PROMPT, 5], 8)


def test_a_failing_pass_leaves_a_usable_engine(engine):
    generate(engine, PROMPT[:20])
    layer = engine._model.model.layers[
        1
    ]  # the first layer has taken the ids in already when this one fails
    hook = layer.register_forward_pre_hook(
        lambda module, args: (_ for _ in ()).throw(MemoryError("no memory"))
    )
    with pytest.raises(MemoryError):
        generate(engine, PROMPT)
    hook.remove()
    assert ids_of(generate(engine, PROMPT)) == plain_greedy(engine, PROMPT, 8)


def test_a_long_decode_outgrows_its_block(folder):
    # Blocks are 256 tokens; the context is raised past that.
    engine = load_engine(str(folder), precision="fp32")
    prompt = [20 + i % 200 for i in range(250)]
    assert ids_of(generate(engine, prompt, SamplingParams(max_tokens=5))) == plain_greedy(
        engine, prompt, 5
    )
    engine.close()


def test_decoding_ends_where_the_positions_end(engine):
    prompt = [20 + i % 200 for i in range(250)]
    assert engine.card.context == 256
    assert len(generate(engine, prompt, SamplingParams(max_tokens=50))) == 6
    with pytest.raises(GenerationError, match="300 tokens"):
        generate(engine, [20] * 300)
    with pytest.raises(GenerationError, match="empty"):
        generate(engine, [])


def test_a_stop_id_comes_last_and_has_no_text(engine):
    free = ids_of(generate(engine, PROMPT))
    stop = free[4]
    stopped = ids_of(generate(engine, PROMPT, stop={stop}))
    assert stopped == free[: free.index(stop) + 1]
    assert engine.decode_bytes([engine.special_ids["<file_sep>"]]) == b""


# Text


def test_special_tokens_in_the_users_text_stay_text(engine):
    text = 'stop = "<|endoftext|>"  # <fim_middle>x<file_sep>\n<repo_name>'
    ids = engine.encode(text)
    assert not set(ids) & set(engine.special_ids.values())
    assert engine.decode_bytes(ids).decode() == text
    assert engine.special_ids["<fim_middle>"] == 2


def test_bytes_are_exact_token_by_token_also_inside_a_character(engine):
    text = "naïve = '東京 🎉'\n\t# \x00 ÿ"
    pieces = [engine.decode_bytes([id]) for id in engine.encode(text)]
    assert b"".join(pieces) == text.encode()
    assert any(
        piece[:1] >= b"\x80" and piece.decode(errors="replace").count("\ufffd") for piece in pieces
    )


# Sampling


def test_a_seed_repeats_and_another_does_not(engine):
    def draw(seed):
        return ids_of(
            generate(engine, PROMPT, SamplingParams(max_tokens=12, temperature=1.5, seed=seed))
        )

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    assert draw(None) != draw(None)


# Token healing


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_the_model_chooses_one_of_several_names(engine, temperature):
    names = (b"values", b"total", b"index")
    sampling = SamplingParams(max_tokens=12, temperature=temperature, seed=3)
    tokens = ids_of(generate(engine, PROMPT, sampling, names=names))
    assert engine.decode_bytes(tokens).startswith(names)


@pytest.mark.parametrize("suffix", ["imp", " tot", "\n    ", "naï", "東京", "🎉!", "zq%"])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_the_suffix_is_spelled_first(engine, suffix, temperature):
    sampling = SamplingParams(max_tokens=24, temperature=temperature, seed=3)
    tokens = ids_of(generate(engine, PROMPT, sampling, suffix=suffix.encode()))
    assert engine.decode_bytes(tokens).startswith(suffix.encode())
    spelled = b""
    for token in tokens:
        assert token not in engine.special_ids.values()
        spelled += engine.decode_bytes([token])
        if len(spelled) >= len(suffix.encode()):
            break
    assert len(tokens) == 24  # they count towards the output


def test_after_the_suffix_the_model_is_free(engine):
    tokens = generate(engine, PROMPT, suffix=b"i")
    prompt = [*PROMPT, tokens[0].id]
    assert ids_of(tokens[1:]) == plain_greedy(engine, prompt, 7)


# Precisions


def test_each_precision_loads_and_takes_less_memory_than_the_one_before(tmp_path):
    pytest.importorskip("bitsandbytes")
    folder = make_tiny_model(tmp_path / "wide", hidden=128, intermediate=512)
    memory = {}
    for precision in ("fp32", "bf16", "fp16", "8bit", "4bit", "4bit-double"):
        engine = load_engine(str(folder), precision=precision)
        weights = engine.memory_bytes()
        tokens = generate(engine, PROMPT)
        assert len(tokens) == 8 and all(token.logprob <= 0 for token in tokens)
        assert engine.precision == precision and engine.memory_bytes() > weights
        memory[precision] = weights
        engine.close()
        assert engine.memory_bytes() == 0
    assert memory["bf16"] < 0.51 * memory["fp32"]  # the frequencies of the positions stay fp32
    assert memory["bf16"] == memory["fp16"] > memory["8bit"] > memory["4bit"]
    assert memory["4bit"] >= memory["4bit-double"]


def test_what_torch_cannot_compute_is_said_in_one_line(folder, monkeypatch):
    def refuse(self, ids, aborted=None):
        raise RuntimeError("\"addmm_impl_cpu_\" not implemented for 'Half'")

    monkeypatch.setattr("jupyter_sc2.engines.torch.engine.TransformersEngine._forward", refuse)
    with pytest.raises(ModelLoadError) as caught:
        load_engine(str(folder), precision="fp16")
    assert str(caught.value) == (
        "The installed torch cannot compute tiny in fp16 on this machine: try precision bf16 or fp32."
    )


@pytest.mark.parametrize("precision", ["fp32", "8bit"])
def test_unloading_gives_the_memory_back(tmp_path, precision):
    psutil = pytest.importorskip("psutil")
    pytest.importorskip("bitsandbytes")
    folder = make_tiny_model(tmp_path / "wide", hidden=1024, intermediate=4096, heads=8, layers=2)
    engine = load_engine(str(folder), precision=precision)
    generate(engine, PROMPT)  # what libraries need once
    engine.close()
    del engine
    gc.collect()
    before = psutil.Process().memory_info().rss
    engine = load_engine(str(folder), precision=precision)
    generate(engine, PROMPT)
    size = engine.memory_bytes()
    taken = psutil.Process().memory_info().rss - before
    engine.close()
    left = psutil.Process().memory_info().rss - before
    assert size > 10e6 and taken > 0.8 * size
    assert left < 0.25 * size


def test_bitsandbytes_does_not_write_into_the_cell(folder, capfd, caplog):
    pytest.importorskip("bitsandbytes")
    for precision in ("8bit", "4bit"):
        generate(load_engine(str(folder), precision=precision), PROMPT)
    assert caplog.messages == []
    assert capfd.readouterr() == ("", "")


# What belongs to the user


def test_loading_and_completing_change_nothing_of_the_process(folder, capfd):
    import transformers

    state = torch.random.get_rng_state()
    before = (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        transformers.logging.get_verbosity(),
        transformers.logging.is_progress_bar_enabled(),
    )
    seen = []

    def work():
        engine = load_engine(str(folder), precision="bf16", threads=1)
        seen.append(torch.get_num_threads())
        for _ in engine.generate(PROMPT, SamplingParams(max_tokens=4, temperature=1.0), (), never):
            seen.append(torch.is_inference_mode_enabled())

    torch.set_num_threads(2)
    before = (2, *before[1:])
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [1, False, False, False, False]
    assert before == (
        torch.get_num_threads(),
        torch.get_default_dtype(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        transformers.logging.get_verbosity(),
        transformers.logging.is_progress_bar_enabled(),
    )
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert later == [2]  # also threads that begin to use torch only now
    assert torch.equal(state, torch.random.get_rng_state())
    assert capfd.readouterr() == ("", "")


def test_threads_to_use_count_for_the_thread_that_says_so(folder):
    engine = load_engine(str(folder), precision="bf16", threads=2)
    seen = []

    def work():
        for count in (1, 2, 9):  # no more than the user has set
            engine.use_threads(count)
            seen.append(torch.get_num_threads())

    before = torch.get_num_threads()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert (seen, torch.get_num_threads()) == ([1, 2, 2], before)


def test_importing_the_engines_is_light():
    code = "import sys, jupyter_sc2.engines; print([m for m in ('torch', 'numpy', 'transformers') if m in sys.modules])"
    assert run(code).stdout == "[]\n"


def test_the_interpreter_exits_at_once_in_the_middle_of_a_pass(folder):
    """Without the gate this aborts with code 134 in 29 of 30 runs. As a session's worker minds it."""
    run(f"""
import threading, time
from jupyter_sc2.types import SamplingParams
from jupyter_sc2.engines import load_engine
from jupyter_sc2.runtime.exit_gate import gate
busy = threading.Event()

def work():
    engine = load_engine({str(folder)!r}, precision="fp32")
    first = 0
    while True:
        first = (first + 1) % 200
        list(engine.generate([first, *range(20, 220)], SamplingParams(max_tokens=20), (), lambda: False))
        busy.set()

def minded():
    with gate.guarded():
        work()

threading.Thread(target=minded, daemon=True).start()
busy.wait()
time.sleep(0.05)
""")


def run(code: str) -> subprocess.CompletedProcess[str]:
    root = ROOT
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=180
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done
