"""Reading prompts with weights in 8 bits: what it computes, when it is used, and what is kept."""

import shutil
import time

import numpy as np
import onnxruntime
import pytest

from jupyter_sc2.engines import load_engine
from jupyter_sc2.engines.onnx import eight_bits, prefill
from jupyter_sc2.engines.onnx import engine as onnx_engine
from jupyter_sc2.models import packed
from tests.support.eight_bits import (
    IDS,
    difference,
    greedy_ids,
    logits,
    make_windowed_model,
    never,
    take_away,
)
from tests.support.paths import SMALL_MODEL

ADDS_EXACTLY = eight_bits.adds_exactly


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of what is kept; on any processor small models count as worth it."""
    monkeypatch.setenv("JUPYTER_SC2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(eight_bits, "adds_exactly", lambda runtime: True)
    monkeypatch.setattr(prefill, "MIN_BYTES", 0)
    return tmp_path / "cache" / "prefill"


@pytest.fixture
def exact(cache):
    """Skips the test where the processor cannot compute what is compared."""
    if not ADDS_EXACTLY(onnxruntime):
        pytest.skip("this processor adds up products of 8 bits with an overflow")


@pytest.fixture
def starcoder2(tmp_path):
    return make_windowed_model(tmp_path / "tiny")


def loaded(folder=SMALL_MODEL, threads=2):
    return load_engine(str(folder), threads=threads)


def without_prefill(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(prefill, "make", lambda *_: None)
        return loaded(folder)


# What it computes


@pytest.mark.parametrize("kind", ["llama", "starcoder2"])
def test_a_prompt_is_read_as_with_the_packed_weights(exact, request, monkeypatch, kind):
    folder = SMALL_MODEL if kind == "llama" else request.getfixturevalue("starcoder2")
    engine = loaded(folder)
    # Activations are rounded to 8 bits, of a token and not of 64 inputs: 0.015 and 0.037. A window that is one token
    # longer or shorter makes 0.22.
    assert difference(engine, without_prefill(folder, monkeypatch)) < 0.06
    assert engine._reading


def test_what_was_read_is_decoded_from(exact, monkeypatch):
    engine, other = loaded(), without_prefill(SMALL_MODEL, monkeypatch)
    assert greedy_ids(engine) == greedy_ids(other)


def test_a_few_tokens_are_read_with_the_packed_weights(monkeypatch):
    engine, computed = loaded(), passes(monkeypatch)
    engine.prefill(IDS[: onnx_engine.MIN_FIRST_PREFILL_TOKENS - 1], never)
    assert not engine._reading
    engine._forget()
    engine.prefill(IDS, never)
    assert engine._reading
    engine._forget()
    computed.clear()
    engine.prefill(IDS[: onnx_engine.MIN_PREFILL_TOKENS], never)
    engine._forget()
    engine.prefill(IDS[: onnx_engine.MIN_PREFILL_TOKENS - 1], never)
    assert computed == [0, 1, 1]


def passes(monkeypatch):
    """Of each pass from now on the number of logits: 0 of one that reads with weights in 8 bits."""
    computed = []
    run = onnx_engine.Computation.run

    def counted(self, cache, rotations, inputs, logits=None, options=None):
        computed.append(0 if logits is None else len(logits))
        run(self, cache, rotations, inputs, logits, options)

    monkeypatch.setattr(onnx_engine.Computation, "run", counted)
    return computed


def test_logits_are_computed_behind_the_prompt_only(monkeypatch):
    engine, computed = loaded(), passes(monkeypatch)
    engine.chunk = 130
    engine.prefill(IDS, never)
    assert computed == [0, 0, 1]  # 130, 29 and the last token


def test_one_thread_reads_with_them_too(monkeypatch):
    monkeypatch.setattr(onnx_engine.prepacked, "MIN_MODEL_BYTES", 0)
    engine = loaded()
    engine.use_threads(1)
    engine.prefill(IDS, never)
    (session,) = (computation.session for computation in engine._reading.values())
    assert session.get_session_options().intra_op_num_threads == 1


def test_after_reading_the_weights_are_not_in_the_memory_of_the_process():
    psutil = pytest.importorskip("psutil")
    engine = loaded()
    engine.prefill(IDS, never)
    maps = [one for one in psutil.Process().memory_maps() if "-int8-" in one.path]
    assert maps and sum(one.rss for one in maps) < 1 << 20


def test_a_pass_of_a_large_model_ends_when_it_is_aborted(monkeypatch):
    monkeypatch.setattr(onnx_engine, "LARGE_BYTES", 0)
    monkeypatch.setattr(onnx_engine, "ABORT_CHECK_S", 0.0)
    engine, expected = loaded(), greedy_ids(loaded())
    asked = []

    def from_the_second_time():
        asked.append(time.monotonic())
        return len(asked) > 1

    long = IDS * 6
    engine.chunk = len(long)
    assert engine.prefill(long, from_the_second_time) == 0
    assert engine._cache.length == len(engine._cache.ids) == 0
    assert greedy_ids(engine) == expected


# What is kept


def test_the_second_load_takes_what_the_first_has_written(cache):
    loaded()
    (place,) = (path for path in cache.iterdir() if path.is_dir())
    written = (place / packed.WEIGHTS).stat().st_mtime_ns
    loaded()
    assert (place / packed.WEIGHTS).stat().st_mtime_ns == written


@pytest.mark.parametrize("name", [packed.WEIGHTS, packed.GRAPH, "made.json"])
def test_what_is_damaged_is_not_read_with_and_written_again(cache, monkeypatch, name):
    expected = logits(loaded())
    (place,) = (path for path in cache.iterdir() if path.is_dir())
    sound = (place / packed.WEIGHTS).read_bytes()
    damaged = bytearray((place / name).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    (place / name).write_bytes(damaged)
    first = logits(loaded())
    assert np.linalg.norm(first - expected) < 0.06 * np.linalg.norm(expected)
    engine = loaded()
    assert (logits(engine) == expected).all() and engine._reading
    assert (place / packed.WEIGHTS).read_bytes() == sound


@pytest.mark.parametrize("lacks", ["exact sums", "memory", "a disk", "onnx"])
def test_where_they_are_no_use_or_have_no_room_nothing_is_written(cache, monkeypatch, lacks):
    take_away(lacks, cache, monkeypatch)
    engine = loaded()
    engine.prefill(IDS, never)
    assert not engine._reading and not [*cache.glob("*/made.json")]


def test_the_weights_of_a_few_models_are_kept(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(eight_bits, "MAX_MODELS", 1)
    loaded()
    shutil.copytree(SMALL_MODEL, tmp_path / "another")
    loaded(tmp_path / "another")
    (place,) = (path for path in cache.iterdir() if path.is_dir())
    assert place.name.startswith("another-")


def test_a_damaged_probe_is_written_again(cache):
    probe = cache.parent / eight_bits.PROBE
    known = ADDS_EXACTLY(onnxruntime)
    probe.write_bytes(b"not a model")
    ADDS_EXACTLY(onnxruntime)
    assert ADDS_EXACTLY(onnxruntime) is known
