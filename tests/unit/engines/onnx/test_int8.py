"""A small model in 8 bits throughout: what it computes, when it is made, and what is kept."""

import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest

from jupyter_sc2.engines import load_engine
from jupyter_sc2.engines.onnx import eight_bits, int8
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

FIRST_OF_MLP = ("gate_proj.weight", "up_proj.weight", "c_fc.weight")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of what is kept; small models count as worth it."""
    if not eight_bits.adds_exactly(onnxruntime):
        pytest.skip("this processor adds up products of 8 bits with an overflow")
    monkeypatch.setenv("JUPYTER_SC2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(int8, "MIN_BYTES", 0)
    return tmp_path / "cache" / "int8"


@pytest.fixture
def starcoder2(tmp_path):
    return make_windowed_model(tmp_path / "tiny")


def loaded(folder=SMALL_MODEL):
    return load_engine(str(folder), threads=2)


def packed_only(folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(int8, "make", lambda *_: None)
        return loaded(folder)


def made(cache):
    (place,) = (path for path in cache.iterdir() if path.is_dir())
    return place


@pytest.mark.parametrize("kind", ["llama", "starcoder2"])
def test_it_answers_as_the_packed_model(cache, request, monkeypatch, kind):
    folder = SMALL_MODEL if kind == "llama" else request.getfixturevalue("starcoder2")
    engine = loaded(folder)
    assert (made(cache) / packed.GRAPH).is_file()
    # 0.018 and 0.071, of random weights. A window that is one token longer or shorter makes 0.32 at least.
    assert difference(engine, packed_only(folder, monkeypatch)) < 0.1


def test_it_decodes_the_same_text(monkeypatch):
    assert greedy_ids(loaded()) == greedy_ids(packed_only(SMALL_MODEL, monkeypatch))


@pytest.mark.parametrize("kind", ["llama", "starcoder2"])
def test_inputs_that_are_far_larger_than_the_others_leave_these_their_levels(
    cache, request, tmp_path, monkeypatch, kind
):
    source = SMALL_MODEL if kind == "llama" else request.getfixturevalue("starcoder2")
    folder = tmp_path / "uneven"
    shutil.copytree(source, folder)
    exact = packed_only(with_a_large_input(folder), monkeypatch)
    smoothed = difference(loaded(folder), exact)
    shutil.rmtree(cache)
    monkeypatch.setattr(int8, "_factors", lambda *_: {})
    assert smoothed < 0.7 * difference(loaded(folder), exact)


def with_a_large_input(folder):
    """The folder, with one of each norm's outputs 30 times as large, and its weights as small as they can be."""
    tensors = packed.read_tensors(folder / packed.WEIGHTS)
    changed = []
    for name, tensor in tensors.items():
        data = tensor.data.copy()
        if "layernorm" in name:
            data[5] = (30 * packed.as_float(data[5:6])).view(np.uint32)[0] >> 16
        elif name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight", *FIRST_OF_MLP)):
            scales, middles = (tensors[part].data[:, 0] for part in packed.parts(name))
            level = np.rint(8 - packed.as_float(middles) / scales).clip(0, 15)
            data[:, 2] = data[:, 2] & 15 | level.astype(np.uint8) << 4
        changed.append(packed.Tensor(name, tensor.kind, tensor.shape, data))
    packed.write_tensors(folder / packed.WEIGHTS, changed)
    return folder


def test_one_pass_reads_a_prompt_and_gives_its_logits(monkeypatch):
    engine, computed = loaded(), []
    run = onnx_engine.Computation.run

    def counted(self, cache, rotations, inputs, logits=None, options=None):
        computed.append((len(inputs["ids"]), len(logits)))
        run(self, cache, rotations, inputs, logits, options)

    monkeypatch.setattr(onnx_engine.Computation, "run", counted)
    engine.prefill(IDS[:100], never)
    assert computed == [(100, 1)]


def test_it_is_made_once(cache):
    loaded()
    written = (made(cache) / packed.WEIGHTS).stat().st_mtime_ns
    loaded()
    assert (made(cache) / packed.WEIGHTS).stat().st_mtime_ns == written


@pytest.mark.parametrize("name", [packed.WEIGHTS, packed.GRAPH, "made.json"])
def test_what_is_damaged_is_made_again(cache, name):
    expected = logits(loaded())
    sound = (made(cache) / name).read_bytes()
    damaged = bytearray(sound)
    damaged[len(damaged) // 2] ^= 1
    (made(cache) / name).write_bytes(damaged)
    assert (logits(loaded()) == expected).all()
    assert (made(cache) / packed.WEIGHTS).stat().st_size == json.loads(
        (made(cache) / "made.json").read_text()
    )["files"][packed.WEIGHTS]["size"]


@pytest.mark.parametrize("lacks", ["exact sums", "memory", "a disk", "onnx", "a run"])
def test_where_it_is_no_use_or_has_no_room_the_packed_model_is_used(cache, monkeypatch, lacks):
    if lacks == "a run":
        monkeypatch.setattr(int8._Observed, "build_with", lambda *_: onnx.ModelProto())
    else:
        take_away(lacks, cache, monkeypatch)
    assert len(logits(loaded()))
    assert not [*cache.glob("*/made.json")]
