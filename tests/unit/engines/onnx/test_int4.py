"""StarCoder2 in int4 on ONNX Runtime: what it computes, what is kept, and that torch is not needed."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from jupyter_sc2 import engines  # noqa: E402
from jupyter_sc2.cli import main  # noqa: E402
from jupyter_sc2.engines import load_engine  # noqa: E402
from jupyter_sc2.engines.onnx import int4, prepacked  # noqa: E402
from jupyter_sc2.engines.torch import int4_linear  # noqa: E402
from jupyter_sc2.errors import ModelLoadError  # noqa: E402
from jupyter_sc2.models import files, kept, packed  # noqa: E402
from jupyter_sc2.runtime.hardware import Machine  # noqa: E402
from tests.support.damage import flip_a_bit  # noqa: E402
from tests.support.paths import ROOT  # noqa: E402
from tests.support.tiny import make_tiny_model  # noqa: E402

IDS = [20 + 7 * index % 300 for index in range(90)]


@pytest.fixture
def folder(tmp_path):
    """The original weights of a StarCoder2 whose layers look back 32 tokens."""
    return make_tiny_model(tmp_path / "tiny", hidden=128, intermediate=256, sliding_window=32)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_SC2_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "quantized"


def loaded(folder, **settings):
    return load_engine(
        str(folder), **{"engine": "onnxruntime", "precision": "int4", "threads": 1, **settings}
    )


def logits(engine, ids=IDS):
    """The logits (T, V) of all these ids but the first."""
    engine.prefill([ids[0]], lambda: False)
    engine._forward(ids[1:])
    return np.array(engine._logits)


# What it computes


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_it_computes_what_torch_computes_with_the_rounded_weights(tmp_path, tie, dtype):
    folder = make_tiny_model(
        tmp_path / "it", hidden=128, intermediate=256, sliding_window=32, tie=tie, dtype=dtype
    )
    engine = loaded(folder)
    assert (engine.name, engine.precision) == ("onnxruntime", "int4")
    rounded = load_engine(str(int4.make(folder)), engine="transformers", precision="fp32")
    theirs, ours = logits(rounded), logits(engine)
    # Activations are rounded to 8 bits: 0.034. A window that is one token longer or shorter makes 0.22.
    assert np.linalg.norm(ours - theirs) < 0.05 * np.linalg.norm(theirs)


def test_the_rounded_weights_are_as_near_as_torchs(folder):
    weights = {
        name: tensor.data for name, tensor in packed.read_tensors(folder / packed.WEIGHTS).items()
    }
    made = packed.read_tensors(int4.make(folder) / packed.WEIGHTS)
    for name in ("self_attn.k_proj", "mlp.c_proj"):
        name = f"model.layers.1.{name}.weight"
        parts = [made[part].data for part in (name, *packed.parts(name))]
        ours = packed.unpacked(parts[0], parts[1], packed.as_float(parts[2]))
        groups = torch.from_numpy(np.array(weights[name])).reshape(-1, 64)
        scale, middle = int4_linear.fit(groups, torch.float32)
        levels = int4_linear.to_levels(groups, scale, middle)
        theirs = ((levels - 8) * scale + middle).numpy().reshape(ours.shape)
        errors = [np.square(one - weights[name]).sum() for one in (ours, theirs)]
        assert errors[0] < 1.01 * errors[1]


# Where it comes from


def test_starcoder2_in_int4_needs_no_torch(folder):
    code = (
        "import sys; from jupyter_sc2.engines import load_engine; "
        "engine = load_engine(sys.argv[1], engine='onnxruntime'); "
        "engine.prefill(list(range(20, 80)), lambda: False); "
        "print(engine.name, [name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "onnxruntime []\n"


@pytest.fixture
def here(monkeypatch):
    """Sets what this machine has."""

    def set_to(*features):
        monkeypatch.setattr(engines, "machine", lambda by_torch: Machine(features=features))

    return set_to


@pytest.mark.parametrize("features", [(), ("AVX2",), ("AVX-512", "AMX")])
def test_starcoder2_in_int4_runs_on_onnx_runtime_on_each_processor(folder, here, features):
    here(*features)
    assert loaded(folder, engine="auto").name == "onnxruntime"


def test_another_precision_is_not_taken_for_int4(folder):
    with pytest.raises(ModelLoadError) as caught:
        loaded(folder, precision="bf16")
    assert str(caught.value) == (
        "ONNX Runtime has tiny in int4 only: for bf16 set the engine to transformers."
    )


def test_other_models_in_int4_stay_torchs(tmp_path, here):
    here("AVX2")
    odd = make_tiny_model(tmp_path / "odd", hidden=96, heads=3, kv_heads=1)  # no groups of 64
    assert loaded(odd, engine="auto").name == "transformers"


def test_the_command_makes_what_loading_takes(folder, here, capsys):
    here("AVX2")
    assert main(["quantize", str(folder), "--to", "int4", "--json"]) == 0
    place = json.loads(capsys.readouterr().out)["path"]
    before = os.stat(os.path.join(place, packed.WEIGHTS)).st_mtime_ns
    loaded(folder)
    assert os.stat(os.path.join(place, packed.WEIGHTS)).st_mtime_ns == before


# What is kept


def test_it_is_made_once(folder, monkeypatch):
    first = logits(loaded(folder))
    monkeypatch.setattr(int4, "_write", None)
    assert np.array_equal(logits(loaded(folder)), first)


@pytest.mark.parametrize("change", ["the original", "config.json", "the weights", "the graph"])
def test_it_is_made_again_when_it_does_not_match(folder, change):
    place = int4.make(folder)
    before = (place / kept.RECORD).stat().st_mtime_ns
    if change == "the original":
        os.utime(folder / packed.WEIGHTS, ns=(1, 1))
    elif change == "config.json":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "rope_theta": 5000.0}))
    else:
        flip_a_bit(place / (packed.WEIGHTS if change == "the weights" else packed.GRAPH))
    assert int4.make(folder) == place
    assert (place / kept.RECORD).stat().st_mtime_ns != before


def test_a_graph_that_is_gone_is_written_again(folder, monkeypatch):
    monkeypatch.setattr(prepacked, "MIN_MODEL_BYTES", 0)
    first = logits(loaded(folder))
    (int4.make(folder) / packed.GRAPH).unlink()
    assert np.array_equal(logits(loaded(folder)), first)


def test_where_what_onnx_runtime_stored_is_damaged_the_rounded_weights_are_compared_too(
    folder, cache, monkeypatch
):
    monkeypatch.setattr(prepacked, "MIN_MODEL_BYTES", 0)
    first = logits(loaded(folder))
    (stored,) = (cache.parent / "onnxruntime").glob("*/weights.bin")
    for file in (stored, int4.make(folder) / packed.WEIGHTS):
        flip_a_bit(file)
    assert np.array_equal(logits(loaded(folder)), first)


def test_what_breaks_off_leaves_nothing_behind(folder, cache):
    def stop(state, share):
        if share:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        int4.make(folder, stop)
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


def test_where_nothing_can_be_kept_torch_rounds_in_memory(folder, here, cache):
    here("AVX2")
    cache.parent.mkdir()
    cache.write_text("")
    assert loaded(folder, engine="auto").name == "transformers"
    with pytest.raises(ModelLoadError, match="cannot be written: "):
        loaded(folder)


def test_weights_that_are_missing_are_named(folder):
    tensors = packed.read_tensors(folder / packed.WEIGHTS)
    kept = [one for name, one in tensors.items() if name != "model.layers.1.mlp.c_fc.bias"]
    packed.write_tensors(folder / packed.WEIGHTS, kept)
    with pytest.raises(ModelLoadError, match=r"lack model\.layers\.1\.mlp\.c_fc\.bias"):
        loaded(folder)


def test_a_folder_without_a_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelLoadError, match=r"has no tokenizer\.json"):
        loaded(folder)


def test_numbers_that_are_no_weights_are_refused(folder):
    tensors = packed.read_tensors(folder / packed.WEIGHTS)
    name = "model.norm.weight"
    odd = packed.Tensor(name, "U8", tensors[name].shape, np.ones(tensors[name].shape, np.uint8))
    packed.write_tensors(folder / packed.WEIGHTS, {**tensors, name: odd}.values())
    assert files.read_headers(folder)[name].dtype == "U8"
    with pytest.raises(ModelLoadError, match="numbers of the kind U8"):
        loaded(folder)
