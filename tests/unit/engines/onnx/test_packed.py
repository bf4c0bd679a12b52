"""Packed models: how weights are rounded, how they lie in the file, and that older files are renewed."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from jupyter_sc2.engines import load_engine  # noqa: E402
from jupyter_sc2.engines.onnx.graph import write_graph  # noqa: E402
from jupyter_sc2.engines.onnx.packing import (  # noqa: E402
    RANGES,
    best_grid,
    nearest_levels,
    pack,
    quantize_int4,
    quantize_int8,
    renew,
)
from jupyter_sc2.engines.torch import quantized_cache  # noqa: E402
from jupyter_sc2.errors import ModelLoadError  # noqa: E402
from jupyter_sc2.models.packed import GRAPH, Tensor, as_float, read_tensors, unpacked, write_tensors  # noqa: E402
from tests.support.tiny import make_tiny_model  # noqa: E402


@pytest.fixture
def weight():
    return torch.randn(96, 128, generator=torch.Generator().manual_seed(0)) * 0.05


@pytest.fixture
def packed(tmp_path):
    folder = make_tiny_model(tmp_path / "model", hidden=64, intermediate=128)
    pack(folder, tmp_path / "packed")
    write_graph(tmp_path / "packed")
    return tmp_path / "packed"


def restored(parts):
    """The weights of a linear layer from its parts."""
    full = unpacked(
        parts["weight"].numpy(), parts["scales"].numpy(), parts["middles"].float().numpy()
    )
    return torch.from_numpy(full)


# Rounding


def test_four_bits_keep_a_weight_within_a_step(weight):
    parts = quantize_int4(weight)
    assert (restored(parts) - weight).abs().max() <= 2 * parts["scales"].max()
    assert (restored(parts) - weight).std() < 0.09 * weight.std()


def test_rounding_is_made_up_for_by_the_inputs_that_go_together(weight):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(500, 8, generator=generator) @ torch.randn(8, 128, generator=generator)
    x += 0.1 * torch.randn(500, 128, generator=generator)
    errors = [
        (x @ (restored(parts) - weight).T).square().mean()
        for parts in (quantize_int4(weight, x.T @ x), quantize_int4(weight))
    ]
    assert errors[0] < errors[1] / 3


def test_a_groups_range_is_chosen_by_what_it_does_to_the_results(weight):
    costs = torch.tensor([100.0] * 16 + [0.01] * 16)
    group = weight[:, :32]
    errors = []
    for by in (costs, torch.ones(32)):
        step, middle = (x[:, None] for x in best_grid(group, by, RANGES))
        rounded = (nearest_levels(group, step, middle) - 8) * step + middle
        errors.append(((rounded - group).square() * costs).sum())
    assert errors[0] < 0.9 * errors[1]


def test_a_model_is_packed_by_what_it_reads(tmp_path):
    folder = make_tiny_model(tmp_path / "tiny")
    for name, rows in (("by itself", ()), ("by rows", [[20 + 7 * n % 300 for n in range(200)]])):
        pack(folder, tmp_path / name, rows)
    weights = [
        (tmp_path / name / "model.safetensors").read_bytes() for name in ("by itself", "by rows")
    ]
    assert len(weights[0]) == len(weights[1]) and weights[0] != weights[1]


def test_a_group_of_equal_weights_stays_what_it_is():
    parts = quantize_int4(torch.full((4, 64), 0.25))
    assert torch.allclose(restored(parts), torch.full((4, 64), 0.25))


def test_cutting_off_a_groups_ends_can_only_make_the_error_smaller(weight):
    errors = [
        (restored(parts) - weight).square().mean()
        for parts in (quantize_int4(weight, ranges=(1.0,)), quantize_int4(weight))
    ]
    assert errors[1] < errors[0]


def test_a_table_in_eight_bits_is_within_half_a_step(weight):
    parts = quantize_int8(weight)
    scales = parts["scales"].float()
    table = torch.from_numpy(unpacked(parts["weight"].numpy(), scales.numpy(), None))
    assert ((table - weight).abs() <= 0.51 * scales[:, None] + 0.005 * weight.abs()).all()


# The file


def test_tensors_lie_in_the_order_in_which_they_are_given(tmp_path):
    bits = np.array([0x3F80, 0xC000], np.uint16)  # 1 and -2 in bfloat16
    given = [Tensor("b", "U8", (2, 3), np.arange(6, dtype=np.uint8).reshape(2, 3))]
    given += [Tensor("a", "BF16", (2,), bits), Tensor("c", "F32", (1,), np.ones(1, np.float32))]
    write_tensors(tmp_path / "some.safetensors", given)
    found = read_tensors(tmp_path / "some.safetensors")
    assert list(found) == ["b", "a", "c"]
    assert found["a"].offset == found["b"].offset + 6
    assert as_float(found["a"].data).tolist() == [1.0, -2.0]
    assert found["b"].data.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_the_file_is_one_that_safetensors_reads(packed):
    from safetensors import safe_open

    ours = read_tensors(packed / "model.safetensors")
    with safe_open(str(packed / "model.safetensors"), framework="pt") as file:
        assert set(file.keys()) == set(ours)
        name = "model.layers.0.self_attn.q_proj.weight"
        assert np.array_equal(file.get_tensor(name).numpy(), ours[name].data)


def test_queries_keys_and_values_are_neighbours_in_the_file(packed):
    tensors = read_tensors(packed / "model.safetensors")
    for part in ("weight", "scales", "middles", "bias"):
        q, k, v = (tensors[f"model.layers.1.self_attn.{name}_proj.{part}"] for name in "qkv")
        assert q.offset + q.data.nbytes == k.offset
        assert k.offset + k.data.nbytes == v.offset


def test_a_packed_model_takes_a_quarter_of_the_disk(packed):
    sizes = [
        (folder / "model.safetensors").stat().st_size
        for folder in (packed, packed.parent / "model")
    ]
    assert sizes[0] < 0.3 * sizes[1]


def test_what_an_earlier_version_packed_is_renewed_number_by_number(packed):
    tensors = read_tensors(packed / "model.safetensors")
    now = {name: np.array(tensor.data) for name, tensor in tensors.items()}
    write_tensors(packed / "model.safetensors", earlier(tensors))
    renew(packed)
    again = read_tensors(packed / "model.safetensors")
    assert list(again) == list(now)
    assert all(np.array_equal(again[name].data, data) for name, data in now.items())
    assert not (packed / GRAPH).exists()  # it would point into the file of before


def earlier(tensors):
    """The same in the form of version 1: scale and middle together by groups, the table around 0."""
    for name, tensor in tensors.items():
        data = np.array(tensor.data)
        if name.endswith(".scales") and data.ndim == 2:
            bits = (data.view(np.uint32) >> 16).astype(np.uint16)
            middles = np.array(tensors[name.replace(".scales", ".middles")].data)
            both = np.ascontiguousarray(np.stack([bits.T, middles.T], axis=-1))
            yield Tensor(name, "BF16", both.shape, both)
        elif name == "model.embed_tokens.weight":
            table = (data.astype(np.int16) - 128).astype(np.int8)
            yield Tensor(name, "I8", table.shape, table)
        elif not name.endswith(".middles"):
            yield Tensor(name, tensor.kind, tensor.shape, data)


def test_a_graph_is_written_for_packed_models_only(packed):
    config = json.loads((packed / "config.json").read_text())
    del config["packed"]
    (packed / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelLoadError, match="is not a packed model"):
        write_graph(packed)


# The torch engine


def test_torch_computes_with_the_weights_unpacked(packed):
    engine = load_engine(str(packed), engine="transformers", precision="fp32")
    try:
        name = "model.layers.0.mlp.c_fc"
        tensors = read_tensors(packed / "model.safetensors")
        weight, scales, middles = (
            tensors[f"{name}.{part}"] for part in ("weight", "scales", "middles")
        )
        full = unpacked(weight.data, scales.data, as_float(middles.data))
        assert np.array_equal(engine._model.get_submodule(name).weight.numpy(), full)
    finally:
        engine.close()


def test_a_packed_model_cannot_be_quantized_again(packed):
    with pytest.raises(ModelLoadError, match="is packed in 4 bits already"):
        quantized_cache.make(packed, "4bit", lambda state, share: None)


@pytest.mark.parametrize("precision", ["auto", "4bit", "8bit"])
def test_torch_does_not_round_a_packed_model_again(packed, precision):
    engine = load_engine(str(packed), engine="transformers", precision=precision)
    assert engine.precision in ("bf16", "fp32")
    engine.close()
