"""Layers in 4 bits for the CPU: what they compute, how their weights are rounded, and who can have them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.support.paths import ROOT, SMALL_MODEL
from tests.support.tiny import make_tiny_model

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from torch import nn  # noqa: E402

from jupyter_sc2.engines import load_engine  # noqa: E402
from jupyter_sc2.engines.torch import int4_linear, model_builder  # noqa: E402
from jupyter_sc2.engines.torch.int4_linear import (  # noqa: E402
    INPUTS_PER_SCALE,
    Int4Linear,
    Int8Embedding,
    Int8Head,
    bytes_in_tile,
    fit,
    to_levels,
)
from jupyter_sc2.errors import ModelLoadError  # noqa: E402

pytestmark = pytest.mark.skipif(not bytes_in_tile(), reason="no 4-bit product on this CPU")

IDS = list(range(20, 80))


def quantized(layer, weight):
    for name, tensor in layer.quantize(weight).items():
        layer._buffers[name] = tensor
    return layer


def layer(rows, columns, dtype, bias=True):
    torch.manual_seed(0)
    plain = nn.Linear(columns, rows, bias=bias).to(dtype).requires_grad_(False)
    return quantized(int4_linear.int4_linear(plain, dtype), plain.weight), plain


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (192, 128), (1088, 4096)])
def test_many_tokens_are_multiplied_with_the_same_weights_as_few(rows, columns, dtype):
    ours, plain = layer(rows, columns, dtype)
    x = torch.randn(int4_linear.DEQUANTIZE_FROM_TOKENS, columns).to(dtype)
    with torch.inference_mode():
        many, few, exact = ours(x), torch.cat([ours(row[None]) for row in x]), plain(x)
    closeness = 0.01 if dtype == torch.bfloat16 else 1e-5
    assert (many - few).float().norm() < closeness * few.float().norm()
    assert 0.02 < (many - exact).float().norm() / exact.float().norm() < 0.1


def test_a_dequantized_weight_is_its_level_times_the_scale_plus_the_middle():
    ours, plain = layer(128, 128, torch.float32, bias=False)
    with torch.inference_mode():
        weight = ours(torch.eye(128)).t()
    groups = plain.weight.view(-1, INPUTS_PER_SCALE)
    scale, middle = fit(groups, torch.float32)
    expected = (to_levels(groups, scale, middle) - 8) * scale + middle
    assert torch.allclose(weight.reshape(groups.shape), expected, atol=1e-6)


def test_a_group_on_a_grid_of_16_levels_is_kept_exactly():
    levels = torch.arange(64).remainder(16)
    groups = torch.stack([levels * 0.5 - 3, levels * 0.25 + 1, torch.full((64,), 2.0)])
    scale, middle = fit(groups, torch.bfloat16)
    restored = (to_levels(groups, scale, middle) - 8) * scale + middle
    assert torch.equal(restored, groups)


@pytest.mark.parametrize("value", [0.0, -1.5, 3e-30])
def test_a_group_of_one_value_is_that_value(value):
    groups = torch.full((2, 64), value)
    scale, middle = fit(groups, torch.bfloat16)
    restored = (to_levels(groups, scale, middle) - 8) * scale + middle
    assert torch.isfinite(restored).all() and torch.allclose(restored, groups, rtol=0.01)


def test_the_fit_loses_less_than_the_range_of_each_group_and_less_than_nf4():
    functional = pytest.importorskip("bitsandbytes.functional")
    groups = torch.randn(4096, 64, generator=torch.Generator().manual_seed(0))
    scale, middle = fit(groups, torch.bfloat16)
    ours = (to_levels(groups, scale, middle) - 8) * scale + middle
    low, high = groups.amin(1, keepdim=True), groups.amax(1, keepdim=True)
    step = (high - low) / 15
    by_range = ((groups - low) / step).round() * step + low
    nf4 = functional.dequantize_4bit(*functional.quantize_4bit(groups, quant_type="nf4"))
    error, by_range, nf4 = ((w - groups).square().mean() for w in (ours, by_range, nf4))
    assert error < 0.9 * by_range and error < 0.9 * nf4


@pytest.mark.parametrize("tokens", [1, 40])
def test_embeddings_and_output_layer_are_one_table_in_8_bits(tokens):
    torch.manual_seed(0)
    table = nn.Embedding(100, 64).to(torch.bfloat16).requires_grad_(False)
    embedding = quantized(Int8Embedding(table, torch.bfloat16), table.weight)
    head = Int8Head(nn.Linear(64, 100, bias=False), torch.bfloat16)
    head._buffers.update(embedding._buffers)
    ids = torch.arange(tokens)[None]
    with torch.inference_mode():
        found = embedding(ids)
        assert torch.allclose(found, table(ids), atol=0.03)
        logits = head(found)
    assert logits.shape == (1, tokens, 100)
    assert torch.allclose(logits, found @ table.weight.t(), rtol=0.03, atol=0.3)


@torch.inference_mode()
def take_rounded_weights(exact, rounded) -> float:
    """Gives the layers and tables of a model in fp32 the weights that this one in int4 has.

    Returns by what share of its norm a weight has changed at most.
    """
    layers, changes = dict(exact.named_modules()), []
    for name, layer in rounded.named_modules():
        if isinstance(layer, Int8Head):
            found = layer.weight * layer.scales[:, None]
        elif isinstance(layer, Int4Linear):
            inputs = torch.eye(layers[name].in_features, dtype=rounded.dtype)
            found = (layer(inputs) - layer(torch.zeros_like(inputs))).T
        else:
            continue
        weight = layers[name].weight
        changes.append(float((found - weight).norm() / weight.norm()))
        weight.copy_(found)
    return max(changes)


@pytest.mark.parametrize("tie", [True, False])
def test_a_model_in_int4_has_its_tables_in_8_bits_once_if_they_are_one(tmp_path, tie):
    folder = make_tiny_model(tmp_path / "tiny", hidden=256, intermediate=1024, tie=tie)
    engine = load_engine(str(folder), engine="transformers", precision="int4")
    table, head = engine._model.get_input_embeddings(), engine._model.get_output_embeddings()
    assert table.weight.dtype == torch.int8 and engine.precision == "int4"
    assert (table.weight.data_ptr() == head.weight.data_ptr()) is tie
    assert (table.scales.data_ptr() == head.scales.data_ptr()) is tie
    engine.prefill(IDS, lambda: False)
    exact = load_engine(str(folder), precision="fp32")
    assert take_rounded_weights(exact._model, engine._model) < 0.1
    exact.prefill(IDS, lambda: False)
    ours, theirs = torch.from_numpy(engine._logits), torch.from_numpy(exact._logits)
    assert (ours - theirs).norm() < 0.1 * theirs.norm()


def test_layers_whose_sizes_do_not_suit_stay_exact(tmp_path):
    folder = make_tiny_model(tmp_path / "tiny", hidden=128, heads=4, kv_heads=1)
    engine = load_engine(str(folder), engine="transformers", precision="int4")
    kinds = {type(module).__name__ for module in engine._model.modules()}
    assert "Linear" in kinds and "Int4Linear" in kinds
    assert engine.prefill(IDS, lambda: False) == len(IDS)


def divergence(folder, precision, rows):
    """The mean Kullback-Leibler divergence from fp32, in nats."""
    found = {}
    for name in ("fp32", precision):
        engine = load_engine(str(folder), engine="transformers", precision=name)
        logits = []
        for row in rows:
            engine.prefill([row[0]], lambda: False)
            engine._forward(row[1:])
            logits.append(torch.from_numpy(engine._logits).log_softmax(-1))
        found[name] = torch.cat(logits)
        engine.close()
    exact, ours = found["fp32"], found[precision]
    return float((exact.exp() * (exact - ours)).sum(-1).mean())


@pytest.mark.slow
def test_int4_is_nearer_to_fp32_than_nf4(tmp_path):
    pytest.importorskip("bitsandbytes")
    folder = unpacked(SMALL_MODEL, tmp_path / "model")
    tokenizer = load_engine(str(folder), precision="fp32").tokenizer
    texts = [path.read_text() for path in sorted((ROOT / "jupyter_sc2").glob("*.py"))[:6]]
    rows = [tokenizer.encode(text)[:200] for text in texts]
    errors = {name: divergence(folder, name, rows) for name in ("int4", "4bit")}
    assert 0 < errors["int4"] < errors["4bit"]


def unpacked(source, folder):
    """The original weights of a packed model, in fp32."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    from jupyter_sc2.models import files, packed

    folder.mkdir()
    tensors = {}
    reader = model_builder.Reader(keep_open=True)
    with safe_open(str(source / "model.safetensors"), framework="pt") as file:
        names = [name for name in file.keys() if not name.endswith((".scales", ".middles"))]  # noqa: SIM118
        kept = set(file.keys())
    for name in names:
        is_packed = packed.parts(name)[0] in kept
        tensor = reader.read(source / "model.safetensors", name, is_packed=is_packed)
        tensors[name] = tensor.float().clone()
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((source / files.CONFIG).read_text())
    del config["packed"]
    (folder / files.CONFIG).write_text(json.dumps(config))
    (folder / "tokenizer.json").write_bytes((source / "tokenizer.json").read_bytes())
    return folder


# Who can have it


CHECK = """
import sys, torch
from jupyter_sc2.engines import load_engine
from jupyter_sc2.errors import ModelLoadError
try:
    engine = load_engine(sys.argv[1], engine="transformers", precision="int4")
    engine.prefill(list(range(20, 80)), lambda: False)
    torch.save(engine._logits, sys.argv[2])
except ModelLoadError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["avx2", "default"])
def test_older_cpus_have_their_own_order_or_one_line_that_says_what_to_set(tmp_path, kernels):
    folder = make_tiny_model(tmp_path / "tiny", hidden=256, intermediate=1024)
    result = tmp_path / "logits"
    done = subprocess.run(
        [sys.executable, "-c", CHECK, str(folder), str(result)],
        env={**os.environ, "ATEN_CPU_CAPABILITY": kernels, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    if kernels == "default":
        assert done.stdout == (
            "int4 is for CPUs with AVX2 or AVX-512; on this processor set precision 4bit.\n"
        )
        return
    engine = load_engine(str(folder), engine="transformers", precision="int4")
    engine.prefill(IDS, lambda: False)
    there = torch.from_numpy(torch.load(result, weights_only=False))
    here = torch.from_numpy(engine._logits)
    assert (here - there).norm() < 0.05 * here.norm()


def test_a_gpu_is_told_to_take_4bit(tmp_path):
    with pytest.raises(ModelLoadError) as caught:
        model_builder._int4_tile(torch.device("cuda"))
    assert str(caught.value) == (
        "int4 is for CPUs with AVX2 or AVX-512; on a GPU set precision 4bit."
    )
